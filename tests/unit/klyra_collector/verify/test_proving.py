"""What is proven in the fewest steps is exactly what would be found to be right with all of them."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from klyra_audit.format import frame, sections
from klyra_audit.format.frame import BodyFrame
from klyra_audit.format.leaf import Flag, Kind, Leaf
from klyra_audit.format.sections import Sections
from klyra_collector.verify.contents import BodyChecker
from klyra_collector.verify.filing import FrameReport
from klyra_collector.verify.proving import BodyProver
from klyra_collector.verify.scan import known_leaf
from support.ledgers import ACME, ORG_SALT, LedgerBuilder, salts_of, small_ledger

CORE = b'{"actor":{"type":"user"},"metadata":{},"organization_id":"org_acme","resource":{"type":"user"}}'
ACTOR = b'{"/actor/id":"usr_1","/actor/name":null}'


class Bytes:
    """A file in memory."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)

    def read(self, offset: int, length: int) -> bytes:
        """See `Source`."""
        return self.content[offset : offset + length]


class Leaves:
    """Leaves by index."""

    def __init__(self, leaves: dict[int, bytes]) -> None:
        self._leaves = leaves

    def at(self, index: int) -> bytes | None:
        """See `LeafReader`."""
        return self._leaves.get(index)


def both(content: bytes, leaves: dict[int, bytes], day: int, checker: BodyChecker | None = None) -> tuple[int, bool]:
    """Return how far a file is proven, and whether the full check finds all of that to be right."""
    known = checker or BodyChecker(ORG_SALT)
    known._names[sections.organization_reference(ORG_SALT, ACME)] = ACME
    report = FrameReport()
    prover = BodyProver(Bytes(content), Leaves(leaves), known, day, max(leaves) + 1)
    end = prover.prove(0, len(content), report)
    judged = list(frame.read_body_frames(content[:end]))
    assert [body.index for _, _, body in judged] == list(report.indexes)
    assert [offset for offset, _, _ in judged] == list(report.offsets)
    right = True
    for _, _, body in judged:
        leaf = known_leaf(leaves.get(body.index))
        judgement = BodyChecker(ORG_SALT).check(body, leaf)
        right = right and judgement.problem is None and not judgement.erased and leaf.expire_day == day
    return end, right


def sealed(core: bytes, actor: bytes | None = None, target: bytes | None = None) -> tuple[bytes, dict[int, bytes]]:
    """Return the frame and the leaf of any sections, as if they had been sealed."""
    parts, salts = Sections(core, actor, target), salts_of(0)
    proofs = sections.commitments(parts, salts)
    flags = (Flag.HAS_ACTOR if actor is not None else 0) | (Flag.HAS_TARGET if target is not None else 0)
    builder = LedgerBuilder()
    builder.leaf(Kind.EVENT, ACME, proofs.event_commit(), flags=int(flags), expire_day=100)
    return frame.encode_body(BodyFrame(0, parts, salts, proofs)), {0: builder.leaves[0]}


def test_ordinary_bodies_are_proven() -> None:
    """All events of a ledger, whatever sections they have; what is quarantined is not ordinary."""
    builder = small_ledger()
    leaves = dict(enumerate(builder.leaves))
    proven = 0
    for day, bodies in builder.bodies.items():
        events = [body for body in bodies if Leaf.unpack(leaves[body.index]).org_ref == builder.reference(ACME)]
        events = [body for body in events if Leaf.unpack(leaves[body.index]).kind == Kind.EVENT]
        content = b"".join(map(frame.encode_body, events))
        assert both(content, leaves, day) == (len(content), True)
        proven += len(events)
    assert proven == 5


@pytest.mark.parametrize("seed", range(40))
def test_nothing_that_was_changed_is_proven(seed) -> None:
    """Any change of bytes, in a frame or in its leaf, stops the proof in front of it or is found by nobody."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, and no secret
    builder = LedgerBuilder().begin(ACME)
    for _ in range(4):
        builder.event(ACME) if chance.random() < 0.5 else builder.about_user(ACME)
    ((day, bodies),) = builder.bodies.items()
    content = bytearray(b"".join(map(frame.encode_body, bodies)))
    leaves = {index: bytearray(leaf) for index, leaf in enumerate(builder.leaves)}
    where = content if chance.random() < 0.7 else leaves[chance.choice(bodies).index]
    where[chance.randrange(len(where))] ^= 1 << chance.randrange(8)
    _, right = both(bytes(content), {index: bytes(leaf) for index, leaf in leaves.items()}, day)
    assert right


@pytest.mark.parametrize(
    ("core", "actor", "target"),
    [
        (CORE.replace(b"{}", b'{"a":1.5}'), None, None),
        (CORE.replace(b"{}", b'{"a":9007199254740992}'), None, None),
        (CORE.replace(b"{}", b'{"a":{"b":{"c":{"d":{"e":{"f":{"g":{}}}}}}}}'), None, None),
        (CORE.replace(b"{}", b'{"a b":1}'), None, None),
        (CORE.replace(b"{}", b'{"a":1,"a":1}'), None, None),
        (CORE.replace(b"{}", b'{"b":1,"a":1}'), None, None),
        (CORE.replace(b"{}", b'{"' + b"a" * 129 + b'":1}'), None, None),
        (CORE.replace(b'"org_acme"', b'"org_other"'), None, None),
        (CORE.replace(b'"org_acme"', b"null"), None, None),
        (CORE + b" ", None, None),
        (b"[]", None, None),
        (b"", None, None),
        (CORE, b"{}", None),
        (CORE, b"[]", None),
        (CORE, b'{"/actor/id":1.5}', None),
        (CORE, b'{"/actor/type":"user"}', None),
        (CORE, b'{"/resource/id":"usr_1"}', None),
        (CORE, b'{"/metadata/a/b":"c"}', None),
        (CORE, b'{"/metadata/~2":"c"}', None),
        (CORE, b'{"/metadata/' + b"a" * 200 + b'":"c"}', None),
        (CORE, b'{"/metadata/a":"c"}', b'{"/metadata/a":"c"}'),
        (CORE.replace(b'"type":"user"},"m', b'"id":"x","type":"user"},"m'), ACTOR, None),
        (CORE.replace(b'"resource":{"type":"user"}', b'"resource":{"type":"job"}'), None, b'{"/resource/id":"u"}'),
        (CORE.replace(b'"resource":{"type":"user"}', b'"resource":null'), None, b'{"/resource/id":"u"}'),
    ],
)
def test_what_no_split_gives_is_not_proven(core, actor, target) -> None:
    """Though a leaf commits to it."""
    content, leaves = sealed(core, actor, target)
    assert both(content, leaves, 100) == (0, True)


def test_what_a_split_gives_is_proven() -> None:
    """The control of the cases above."""
    content, leaves = sealed(CORE, ACTOR, b'{"/metadata/subject":"usr_2","/resource/id":"usr_3"}')
    assert both(content, leaves, 100) == (len(content), True)


@pytest.mark.parametrize(
    "change",
    [
        {"salts": replace(salts_of(0), actor=bytes(16)), "sections": Sections(CORE, bytes(len(ACTOR)))},
        {"attachment": b"evidence"},
        {"index": 1},
    ],
)
def test_what_is_out_of_the_ordinary_is_left_alone(change) -> None:
    """Erased, signed by an emitter, or without a leaf."""
    content, leaves = sealed(CORE, ACTOR)
    ((_, _, body),) = frame.read_body_frames(content)
    changed = frame.encode_body(replace(body, **change))
    assert both(changed, leaves, 100) == (0, True)


def test_a_file_of_many_windows_is_proven_whole(monkeypatch) -> None:
    """Frames that reach over the end of what was read are read again."""
    monkeypatch.setattr("klyra_collector.verify.proving.WINDOW_BYTES", 2000)
    builder = LedgerBuilder().begin(ACME)
    for _ in range(30):
        builder.event(ACME)
    ((day, bodies),) = builder.bodies.items()
    content = b"".join(map(frame.encode_body, bodies))
    assert both(content, dict(enumerate(builder.leaves)), day) == (len(content), True)
