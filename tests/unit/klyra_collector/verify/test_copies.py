"""Documents of a copy against the ledger's leaves: each kind of tampering has its verdict, and nothing else suffers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from klyra_audit.format import control
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.format.packet_lines import Erased, Opened
from klyra_collector.verify import Verdict
from klyra_collector.verify.alignment import Segment
from klyra_collector.verify.copies_documents import DocumentChecker
from klyra_collector.verify.copies_join import CopyJoin, Sealed
from klyra_collector.verify.facts import ControlFacts, Place
from klyra_collector.verify.findings import Findings
from klyra_collector.verify.retention import Retention
from klyra_collector.verify.scan import LeafReader
from support.baseline import ENTERPRISE, LAST_DAY, STARTUP, baseline
from support.copies import ListedCopy

V = Verdict


class Scene:
    """A forged ledger in memory, and documents with sections to tamper with."""

    def __init__(self) -> None:
        self.forge = baseline()
        self.copy = ListedCopy.of(self.forge)
        self.newest = self.forge.newest

    def first(self, organization_id: str = ENTERPRISE, section: str = "core") -> int:
        """Return the place of the first document of an organization that has a section."""
        return next(
            place
            for place, document in enumerate(self.copy.listed)
            if document.organization_id == organization_id and isinstance(getattr(document.sections, section), Opened)
        )

    def find(self) -> dict[Verdict, int]:
        """Judge everything; return how many records have each verdict."""
        facts = self._facts()
        findings = Findings(1000)
        checker = DocumentChecker(self.copy, self.newest.org_salt)
        for number, shard in enumerate(self.forge.shards):
            encoded = b"".join(shard.leaves)
            source = SimpleNamespace(
                size=len(encoded), read=lambda offset, length, encoded=encoded: encoded[offset : offset + length]
            )
            cursor = min(self.copy.cursors().get(shard.origin, 0), shard.size)
            sealed = Sealed(
                cursor=cursor,
                reach=cursor,
                known=cursor,
                behind_us=None,
                leaves=LeafReader(source, (Segment(0, 0, shard.size),)),
                bodies=SimpleNamespace(at=lambda _index: None),
                applied=Place(len(self.forge.shards) - 1, self.newest.size),
                retention=Retention(facts, shard.origin),
                day=LAST_DAY,
                progress=lambda _done, _total: None,
            )
            assert sealed.applied >= Place(number, 0)
            CopyJoin(self.copy.name, sealed, checker, findings).run(self.copy.documents(shard.origin))
        return {verdict: count for verdict, count in findings.counts.items() if count}

    def _facts(self) -> ControlFacts:
        facts = ControlFacts()
        for shard in self.forge.shards:
            for blob in shard.controls:
                leaf = Leaf.unpack(shard.leaves[blob.index])
                facts.note(
                    shard.origin,
                    blob.index,
                    leaf,
                    control.parse(leaf.kind, control.canonical.parse_canonical(blob.payload)),
                )
        return facts


@pytest.fixture
def scene() -> Scene:
    """The baseline, to be changed."""
    return Scene()


GOOD = {V.OK, V.EXPIRED_OK, V.REDACTED_OK}


def bad(found: dict[Verdict, int]) -> dict[Verdict, int]:
    """Return what is wrong."""
    return {verdict: count for verdict, count in found.items() if verdict not in GOOD}


def test_an_untouched_copy_is_as_it_was_sealed(scene) -> None:
    """Entries are OK, expired ones were deleted, erased ones are redacted; all of them add up."""
    found = scene.find()
    kinds = Counter(Leaf.unpack(leaf).kind for shard in scene.forge.shards for leaf in shard.leaves)
    assert found.keys() == GOOD
    assert found[V.REDACTED_OK] > 3
    erased = sum(1 for document in scene.copy.listed if any(isinstance(s, Erased) for s in document.sections))
    assert found[V.OK] + found[V.EXPIRED_OK] + erased == kinds[Kind.EVENT]


def test_nothing_behind_the_cursor_is_missing(scene) -> None:
    """What the copy has not applied yet is not looked for, and must not be there."""
    scene.copy.applied[scene.newest.origin] -= 30
    cursor = scene.copy.applied[scene.newest.origin]
    before = len(scene.copy.listed)
    scene.copy.listed = [item for item in scene.copy.listed if item.log != scene.newest.origin or item.index < cursor]
    assert len(scene.copy.listed) < before
    assert not bad(scene.find())


class TestDocuments:
    """One document changed: exactly one finding."""

    @pytest.mark.parametrize("member", ["event_type", "actor_id", "timestamp", "client_ip"])
    def test_a_field_alone(self, scene, member) -> None:
        """What is searched by is not what was sealed."""
        document = scene.copy.listed[0]
        scene.copy.change(0, fields=document.fields | {member: "other"})
        assert bad(scene.find()) == {V.ALTERED: 1}

    def test_an_unknown_field(self, scene) -> None:
        """What was never sealed is not shown."""
        scene.copy.change(0, fields=scene.copy.listed[0].fields | {"colour": "red"})
        assert bad(scene.find()) == {V.ALTERED: 1}

    def test_three_and_three_point_nought(self, scene) -> None:
        """Equal to Python, different in a document."""
        document = scene.copy.listed[0]
        scene.copy.change(0, fields=document.fields | {"timestamp": float(document.fields["timestamp"])})
        assert bad(scene.find()) == {V.ALTERED: 1}

    @pytest.mark.parametrize("section", ["core", "actor"])
    def test_content_and_fields_together(self, scene, section) -> None:
        """A careful forger without the ledger is caught by the leaf."""
        change = {
            "core": lambda content: content.update(status="failure"),
            "actor": lambda content: content.update({"/actor/id": "usr_other"}),
        }[section]
        scene.copy.retell(scene.first(section=section), section, change)
        assert bad(scene.find()) == {V.ALTERED: 1}

    def test_another_salt(self, scene) -> None:
        """The commitment needs the very salt."""
        section = scene.copy.listed[0].sections.core
        scene.copy.change_section(0, "core", section._replace(salt=bytes(16)))
        assert bad(scene.find()) == {V.ALTERED: 1}

    def test_another_leaf(self, scene) -> None:
        """The leaf that is kept with it is the ledger's."""
        scene.copy.change(0, leaf=scene.copy.listed[1].leaf)
        assert bad(scene.find()) == {V.ALTERED: 1}

    @pytest.mark.parametrize("difference", [-1, 1])
    def test_another_end_of_retention(self, scene, difference) -> None:
        """Hidden too early, or shown too long."""
        scene.copy.change(0, expire_day=scene.copy.listed[0].expire_day + difference)
        assert bad(scene.find()) == {V.ALTERED: 1}

    def test_another_organization(self, scene) -> None:
        """It was never sealed for those who see it now."""
        scene.copy.change(scene.first(ENTERPRISE), organization_id=STARTUP)
        assert bad(scene.find()) == {V.EXTRA: 1}


class TestPlaces:
    """Documents missing, too many, or in the wrong place."""

    @pytest.mark.parametrize("place", [0, 40, -1])
    def test_deleted(self, scene, place) -> None:
        """The first, any, and the newest."""
        del scene.copy.listed[place]
        assert bad(scene.find()) == {V.MISSING: 1}

    def test_doubled(self, scene) -> None:
        """The same once more."""
        scene.copy.listed.insert(7, scene.copy.listed[6])
        assert bad(scene.find()) == {V.DUPLICATE: 1}

    def test_exchanged(self, scene) -> None:
        """Two documents claim each other's place."""
        one, other = scene.copy.listed[3], scene.copy.listed[5]
        scene.copy.change(3, index=other.index)
        scene.copy.change(5, index=one.index)
        scene.copy.listed.sort(key=lambda document: (document.log, document.index))
        assert bad(scene.find()) == {V.ALTERED: 2}

    def test_reordered(self, scene) -> None:
        """Whole documents in another order."""
        listed = scene.copy.listed
        listed[3], listed[4] = listed[4], listed[3]
        assert bad(scene.find()) == {V.REORDERED: 1}

    def test_beyond_the_end(self, scene) -> None:
        """No record was sealed there."""
        scene.copy.listed.append(replace(scene.copy.listed[-1], index=scene.newest.size))
        assert bad(scene.find()) == {V.EXTRA: 1}

    def test_on_a_control_record(self, scene) -> None:
        """There is no entry there."""
        scene.copy.listed.insert(0, replace(scene.copy.listed[0], index=0))
        assert bad(scene.find()) == {V.EXTRA: 1}


class TestErasure:
    """Sections that are erased, and ones that should be."""

    def test_without_an_erasure_record(self, scene) -> None:
        """Only the ledger may say that something is erased."""
        place = scene.first(STARTUP, "actor")
        leaf = Leaf.unpack(scene.copy.listed[place].leaf)
        assert leaf.flags & 2
        body = scene.forge.shards[0].frame_of(scene.copy.listed[place].index)
        scene.copy.change_section(place, "actor", Erased(body.commitments.actor))
        scene.copy.show_again(place)
        assert bad(scene.find()) == {V.REDACTED_UNAUTHORISED: 1}

    def test_a_section_left_out_without_a_mark(self, scene) -> None:
        """What is erased still shows its commitment."""
        place = next(p for p, d in enumerate(scene.copy.listed) if isinstance(d.sections.actor, Erased))
        scene.copy.change_section(place, "actor", None)
        assert bad(scene.find()) == {V.ALTERED: 1}

    def test_an_erased_value_restored(self, scene) -> None:
        """Even the very bytes may not come back."""
        place = scene.first(ENTERPRISE, "actor")
        document = scene.copy.listed[place]
        shard = next(shard for shard in scene.forge.shards if shard.origin == document.log)
        shard.erase(ENTERPRISE, actor=[document.index], into=scene.newest)
        scene.copy.applied[scene.newest.origin] = scene.newest.size
        assert bad(scene.find()) == {V.NOT_ERASED: 1}


class TestRetention:
    """What should be gone, and what should not."""

    def test_kept_beyond_its_day(self, scene) -> None:
        """A document whose record an EXPIRY names."""
        kept = ListedCopy.of(scene.forge).listed
        scene.newest.now_us += 300 * 86_400_000_000
        gone = scene.forge.expire()
        assert gone
        scene.copy.applied[scene.newest.origin] = scene.newest.size
        expired = {item.index for item in kept} - {item.index for item in ListedCopy.of(scene.forge).listed}
        assert bad(scene.find())[V.OVER_RETAINED] >= len(expired)
