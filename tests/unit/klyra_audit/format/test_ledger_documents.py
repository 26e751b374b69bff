"""Control documents, heads of organizations, and batches of emitters."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klyra_audit.format import canonical, control, heads, merkle, note
from klyra_audit.format.batch import BatchNote, Evidence
from klyra_audit.format.errors import ControlError, NoteError, ProofError
from klyra_audit.format.heads import Head, HeadProof, HeadsTree, PlacedHead
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import Kind

HASH = hashlib.sha256(b"any").digest()
REF = HASH[:16]
DOCUMENTS = [
    control.Heads(3, 2, HASH),
    control.Expiry(REF, 20_600, 5, HASH, ((1, 2), (4, 4)), "name/collector/2026"),
    control.Expiry(REF, 20_600, 0, HASH),
    control.Erasure(REF, ((1, 1),), (), "art17", 20_500),
    control.Hold("hold_1", REF, 0, 10, HASH),
    control.Hold("hold_1", REF, 5),
    control.Release("hold_1"),
    control.Extend(REF, 0, 3, 90),
    control.Key(1, "emitter", "boot", None, REF),
    control.Key(2, "collector", None, "vkey", None, 17),
    control.PolicyRecord(REF, "startup", "startup", 30),
    control.DroppedShard("name/collector/2025", 9, HASH),
    control.SchemaRecord("klyra.audit/1#moderation.created", HASH),
    control.Export(HASH),
    control.ShardClose("name/collector/2027", "vkey"),
    control.ShardOpen("name/collector/2026", 9, HASH, control.REASON_YEAR),
    control.Start("klyra-audit 1", "synchronised", HASH),
    control.Start("klyra-audit 1", "synchronised", HASH, control.Recovered(7, 2, "torn")),
]


class TestControl:
    """One class for each form of document."""

    @pytest.mark.parametrize("made", DOCUMENTS, ids=lambda made: type(made).__name__)
    def test_documents_read_back(self, made) -> None:
        """Written, encoded and parsed, a document is the same again."""
        document = canonical.parse_canonical(made.encode())
        assert document["type"] == made.KIND.name.lower()
        assert control.parse(made.KIND, document) == made

    def test_every_kind_but_events_and_quarantine_has_a_form(self) -> None:
        """No record of the ledger is without a document class."""
        assert {made.KIND for made in DOCUMENTS} == {kind for kind in Kind if not kind.has_body}

    @pytest.mark.parametrize("made", DOCUMENTS, ids=lambda made: type(made).__name__)
    def test_other_members_and_types_are_refused(self, made) -> None:
        """One member more, one less, or one of another type."""
        document = made.document()
        broken = [{**document, "more": 1}, {**document, "type": "other"}]
        broken += [{**document, name: value} for name in document for value in ({}, -1, "", "\u00e9" * 5000)]
        broken += [{key: value for key, value in document.items() if key != name} for name in document if name != "log"]
        for wrong in broken:
            with pytest.raises(ControlError):
                control.parse(made.KIND, wrong)

    @pytest.mark.parametrize(
        "ranges", [[[2, 1]], [[1, 2], [2, 3]], [[1]], [1], [["1", 2]], [[0, 0]] * 1001, [[True, 2]]]
    )
    def test_ranges_ascend(self, ranges) -> None:
        """Backwards, overlapping, malformed or too many are refused."""
        document = {**control.Erasure(REF, (), (), "b", 1).document(), "actor": ranges}
        with pytest.raises(ControlError):
            control.parse(Kind.ERASURE, document)

    @pytest.mark.parametrize("kind", [Kind.EVENT, Kind.QUARANTINE, 14, 255])
    def test_kinds_without_documents_are_refused(self, kind) -> None:
        """A body is no control document."""
        with pytest.raises(ControlError, match="no control document"):
            control.parse(kind, {})

    def test_only_some_documents_name_a_log(self) -> None:
        """A log where none belongs is refused."""
        with pytest.raises(ControlError, match="wrong members: log"):
            control.parse(Kind.RELEASE, {"type": "release", "hold_id": "h", "log": "l"})

    @given(st.sets(st.integers(0, 200)))
    def test_ranges_hold_exactly_their_numbers(self, numbers) -> None:
        """Ascending numbers become ranges that hold them and no others."""
        ranges = control.to_ranges(sorted(numbers))
        assert {number for number in range(201) if control.in_ranges(ranges, number)} == numbers

    def test_digests_are_those_of_the_format(self) -> None:
        """seq_digest and selection_c, from their definitions."""
        assert control.seq_digest([1, 2]) == hashlib.sha256((1).to_bytes(8) + (2).to_bytes(8)).digest()
        expected = hashlib.sha256(b"klyra/kl1/hold\0" + bytes(16) + b'{"a":1}').digest()
        assert control.hold_commitment(bytes(16), {"a": 1}) == expected

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            (control.Key(1, "collector", None, "vkey", None), True),
            (control.Key(1, "collector", None, "vkey", None, 5), True),
            (control.Key(1, "collector", "boot", "vkey", None), False),
            (control.Key(1, "collector", None, "vkey", REF), False),
            (control.Key(1, "collector", None, None, None), False),
            (control.Key(1, "name/collector/2026", None, "vkey", None), False),
            (control.Key(1, "name/collector/2026", None, "vkey", REF), False),
        ],
    )
    def test_an_emitters_key_signs_no_log_whatever_it_is_called(self, key, expected) -> None:
        """Only the collector's own, which belong to no organization and no boot."""
        assert key.signs_log("name/collector/2026") == expected
        assert not key.signs_log("collector")

    def test_a_hold_covers_its_window(self) -> None:
        """Both ends included; without an end, for ever."""
        hold = control.Hold("h", REF, 5, 10)
        assert [hold.covers(time) for time in (4, 5, 10, 11)] == [False, True, True, False]
        assert control.Hold("h", REF, 5).covers(2**60)


def head_of(number: int, sequence: int = 0) -> Head:
    """Return a head of one of many organizations."""
    org_ref = hashlib.sha256(number.to_bytes(4)).digest()[:16]
    return Head(org_ref, sequence, hashlib.sha256(b"%d %d" % (number, sequence)).digest(), 7 * sequence)


class TestHeads:
    """The newest record of each organization under one root."""

    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), max_size=80))
    def test_the_kept_tree_is_the_tree_over_all_heads(self, puts) -> None:
        """However heads come in, the root is that of RFC 6962 over them in order."""
        tree, expected = HeadsTree(), {}
        for sequence, (number, look) in enumerate(puts):
            head = head_of(number, sequence)
            tree.put(head)
            expected[head.org_ref] = head
            if look:
                tree.root()
        ordered = sorted(expected.values())
        assert tree.root() == merkle.root_of([merkle.leaf_hash(head.encode()) for head in ordered])
        assert (tree.count, tree.heads()) == (len(ordered), ordered)

    @given(st.integers(0, 30), st.integers(0, 40))
    def test_presence_and_absence_are_proved(self, count, number) -> None:
        """An organization's newest record, or that it has none."""
        everyone = [head_of(each) for each in range(count)]
        root = merkle.root_of([merkle.leaf_hash(head.encode()) for head in sorted(everyone)])
        proof = heads.head_proof(everyone, head_of(number).org_ref)
        assert proof.verify(root, count) == (head_of(number) if number < count else None)

    def test_false_proofs_are_refused(self) -> None:
        """Another's head, neighbours apart or on the wrong side, another root or count."""
        everyone = sorted(head_of(each) for each in range(10))
        hashes = [merkle.leaf_hash(head.encode()) for head in everyone]
        root = merkle.root_of(hashes)
        placed = [PlacedHead(head, n, tuple(merkle.inclusion_proof(hashes, n))) for n, head in enumerate(everyone)]
        stranger = bytes([everyone[4].org_ref[0]]) + b"\xff" * 15
        good = heads.head_proof(everyone, stranger)
        assert good.verify(root, 10) is None
        for wrong in (
            HeadProof(stranger, present=placed[4]),
            HeadProof(stranger, before=placed[3], after=placed[5]),
            HeadProof(stranger, before=placed[5], after=placed[6]),
            HeadProof(stranger, before=placed[3], after=placed[4]),
            HeadProof(stranger, before=placed[4]),
            HeadProof(stranger, after=placed[5]),
            HeadProof(stranger),
            HeadProof(b"short", before=placed[9]),
            HeadProof(everyone[4].org_ref, present=placed[4], before=placed[3]),
            HeadProof(everyone[4].org_ref, present=PlacedHead(head_of(4, 1), 4, placed[4].path)),
            HeadProof(stranger, before=PlacedHead(Head(b"x", 0, HASH, 0), 4, ()), after=placed[5]),
            HeadProof(stranger, before=PlacedHead(Head(REF, -1, HASH, 0), 4, ()), after=placed[5]),
        ):
            with pytest.raises(ProofError):
                wrong.verify(root, 10)
        for wrong_root, wrong_count in ((HASH, 10), (root, 4)):
            with pytest.raises(ProofError):
                good.verify(wrong_root, wrong_count)

    def test_a_head_is_64_bytes(self) -> None:
        """It reads back, and other lengths are refused."""
        assert Head.parse(head_of(3, 4).encode()) == head_of(3, 4)
        with pytest.raises(ProofError, match="64"):
            Head.parse(bytes(63))


class TestBatch:
    """What emitters sign."""

    KEY = SigningKey.from_seed("emitter-1", bytes([5]) * 32)
    BOOT = "0190b4a1-0000-7000-8000-000000000001"
    COMMITS = tuple(hashlib.sha256(bytes([n])).digest() for n in range(5))
    NOTE = BatchNote.over("emitter-1", BOOT, 10, COMMITS)

    def evidence(self, position: int = 2, key: SigningKey | None = None) -> Evidence:
        """Return the evidence of one event."""
        hashes = [merkle.leaf_hash(commit) for commit in self.COMMITS]
        signed = note.sign(self.NOTE.text(), [key or self.KEY])
        return Evidence(signed, position, tuple(merkle.inclusion_proof(hashes, position)))

    def test_an_event_is_shown_to_be_signed(self) -> None:
        """Through its encoded form."""
        evidence = Evidence.parse(self.evidence().encode())
        assert evidence.verify(self.COMMITS[2], self.KEY.verifying_key) == self.NOTE

    def test_another_event_position_or_key_is_not(self) -> None:
        """ProofError for what is not in the batch, NoteError for what the key did not sign."""
        with pytest.raises(ProofError):
            self.evidence().verify(self.COMMITS[3], self.KEY.verifying_key)
        with pytest.raises(ProofError):
            Evidence(self.evidence().note, 3, self.evidence().path).verify(self.COMMITS[2], self.KEY.verifying_key)
        stranger = SigningKey.from_seed("emitter-1", bytes(32))
        with pytest.raises(NoteError):
            self.evidence(key=stranger).verify(self.COMMITS[2], self.KEY.verifying_key)

    def test_a_key_signs_for_its_own_emitter_only(self) -> None:
        """The emitter named is the key's."""
        other = SigningKey.from_seed("emitter-2", bytes([5]) * 32)
        with pytest.raises(NoteError, match="another emitter"):
            BatchNote.open(note.sign(self.NOTE.text(), [other]), other.verifying_key)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("/v1", "/v2"),
            ("emitter-1\n", "\n"),
            ("10 5", "010 5"),
            ("10 5", "10 0"),
            ("10 5", "4294967290 9"),
            ("0190b4a1", "0190B4A1"),
            ("0190b4a1-", "0190b4a1a"),
            ("\n", "\n\n"),
        ],
    )
    def test_malformed_batches_are_refused(self, old, new) -> None:
        """NoteError."""
        with pytest.raises(NoteError):
            BatchNote.parse(self.NOTE.text().replace(old, new, 1) if old != "\n" else self.NOTE.text() + "more\n")

    def test_a_root_of_another_length_is_refused(self) -> None:
        """It is 32 bytes."""
        short = base64.b64encode(bytes(31)).decode()
        lines = self.NOTE.text().split("\n")
        with pytest.raises(NoteError):
            BatchNote.parse("\n".join([*lines[:3], short, ""]))

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"note": 1, "position": 0, "path": []},
            {"note": "n", "position": "0", "path": []},
            {"note": "n", "position": 0, "path": {}},
            {"note": "n", "position": 0, "path": [1]},
            {"note": "n", "position": 0, "path": ["*"]},
        ],
    )
    def test_malformed_evidence_is_refused(self, document) -> None:
        """ProofError."""
        with pytest.raises(ProofError):
            Evidence.of_document(document)
        with pytest.raises(ProofError):
            Evidence.parse(canonical.encode(document) + b" ")
