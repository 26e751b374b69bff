"""What emitters vouch for: sequences without gaps, and signatures over batches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from klyra_audit.format import merkle, note
from klyra_audit.format.batch import BatchNote, Evidence
from klyra_audit.format.control import Key
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import NO_PREVIOUS, Kind, Leaf
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.verify import Verdict
from klyra_collector.verify.emitters import EmitterKeys, EvidenceChecker, Sequences, Span

EMITTER, BOOT, ORDINAL = "api-1", "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b10", 7
ACME = b"a" * 16
KEY = SigningKey.from_seed(EMITTER, bytes(range(32)))
COMMITS = [bytes([number]) * 32 for number in range(5)]


class TestSequences:
    """Each place in a boot's sequence is sealed once, and all are."""

    @pytest.mark.parametrize("order", [range(9), reversed(range(9)), (3, 4, 0, 8, 7, 1, 2, 6, 5)])
    def test_any_order_closes_every_gap(self, order) -> None:
        """Records may arrive late."""
        sequences = Sequences()
        assert all(sequences.add(ORDINAL, sequence, index, 0) for index, sequence in enumerate(order))
        assert list(sequences.gaps()) == []
        assert [(span.first, span.last) for span in sequences.spans[ORDINAL]] == [(0, 8)]

    def test_what_is_missing_is_named(self) -> None:
        """In front of the record that shows it, from the very first number on."""
        sequences = Sequences()
        for index, sequence in enumerate((2, 3, 6)):
            sequences.add(ORDINAL, sequence, index, 10 * index)
        assert list(sequences.gaps()) == [(ORDINAL, 0, 1, Span(2, 3, 0, 0)), (ORDINAL, 4, 5, Span(6, 6, 2, 20))]

    @pytest.mark.parametrize("sequence", [0, 3, 5])
    def test_a_place_that_is_taken(self, sequence) -> None:
        """At the beginning, in the middle and at the end."""
        sequences = Sequences()
        for number in range(6):
            sequences.add(ORDINAL, number, number, 0)
        assert not sequences.add(ORDINAL, sequence, 9, 0)

    def test_they_go_on_in_the_next_shard(self) -> None:
        """Without a gap, and without a repetition."""
        first, second = Sequences(), Sequences()
        whole = Sequences()
        for number in range(3):
            first.add(ORDINAL, number, number, 0)
        for index, number in enumerate((3, 5)):
            second.add(ORDINAL, number, index, 0)
        assert list(whole.merge(first, 0)) == []
        assert list(whole.merge(second, 1)) == []
        assert [(first, last, span.shard) for _, first, last, span in whole.gaps()] == [(4, 4, 1)]
        assert [span.first for _, span in whole.merge(second, 2)] == [3, 5]


def leaf(position: int, **fields: object) -> Leaf:
    """Return the leaf of an event of the batch."""
    made = Leaf(Kind.EVENT, 1, 20_600, ACME, position, 0, ORDINAL, position, NO_PREVIOUS, COMMITS[position])
    return made._replace(**fields)


def evidence(position: int, key: SigningKey = KEY, **changes: object) -> bytes:
    """Return what the emitter's signature leaves with one event."""
    batch = replace(BatchNote.over(EMITTER, BOOT, 0, COMMITS), **changes)
    path = merkle.inclusion_proof([merkle.leaf_hash(commit) for commit in COMMITS], position)
    return Evidence(note.sign(batch.text(), [key]), position, tuple(path)).encode()


def keys(*documents: Key) -> EmitterKeys:
    """Return what KEY records say: key and boot, and whatever comes behind them."""
    known = EmitterKeys()
    announced = (
        Key(6, EMITTER, None, KEY.vkey, ACME),
        Key(ORDINAL, EMITTER, BOOT, None, ACME),
    )
    for index, document in enumerate((*announced, *documents)):
        known.note(document, (0, index))
    return known


def judge(attachment: bytes, sealed: Leaf, known: EmitterKeys | None = None, index: int = 100) -> str | None:
    """Return the reason for EMITTER_SIG, None for an event that its emitter signed."""
    problem = EvidenceChecker(known or keys(), 0).check(index, sealed, attachment)
    assert problem is None or problem.verdict is Verdict.EMITTER_SIG
    return None if problem is None else problem.reason


class TestEvidence:
    """A record whose emitter is said to have signed it shows the signature."""

    @pytest.mark.parametrize("position", range(5))
    def test_what_the_emitter_signed(self, position) -> None:
        """Every event of the batch."""
        assert judge(evidence(position), leaf(position)) is None

    def test_a_batch_is_checked_once(self) -> None:
        """And each event against it."""
        checker = EvidenceChecker(keys(), 0)
        assert [checker.check(n, leaf(n), evidence(n)) for n in range(5)] == [None] * 5
        assert len(checker._opened) == 1

    @pytest.mark.parametrize(
        ("attachment", "sealed", "reason"),
        [
            (b"", leaf(1), "no evidence"),
            (b"{}", leaf(1), "other members"),
            (evidence(1), leaf(1, emitter=9), "no KEY record announces the boot"),
            (evidence(1), leaf(1, commit=COMMITS[2]), "not in the batch"),
            (evidence(1), leaf(1, emitter_seq=2), "another place"),
            (evidence(1, first_seq=4), leaf(1), "another place"),
            (evidence(1, boot="0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b11"), leaf(1), "another place"),
            (evidence(1), leaf(1, org_ref=b"b" * 16), "another organization"),
            (evidence(1, SigningKey.from_seed(EMITTER, bytes(32))), leaf(1), "no key of api-1"),
        ],
    )
    def test_what_it_did_not_sign(self, attachment, sealed, reason) -> None:
        """Each with its reason."""
        assert reason in judge(attachment, sealed)

    def test_a_key_of_all_organizations(self) -> None:
        """An emitter may serve them all."""
        shared = EmitterKeys()
        shared.note(Key(6, EMITTER, None, KEY.vkey, OPERATOR_REFERENCE), (0, 0))
        shared.note(Key(ORDINAL, EMITTER, BOOT, None, None), (0, 1))
        assert judge(evidence(1), leaf(1), shared) is None

    def test_a_key_that_is_none_vouches_for_nothing(self) -> None:
        """It is passed over."""
        broken = EmitterKeys()
        broken.note(Key(6, EMITTER, BOOT, "no key", ACME), (0, 0))
        assert "no key of" in judge(evidence(1), leaf(1, emitter=6), broken)


class TestRevoked:
    """A revoked key is believed up to a place in the sequence."""

    @pytest.mark.parametrize(("position", "revoked"), [(1, False), (2, False), (3, True), (4, True)])
    def test_of_one_boot(self, position, revoked) -> None:
        """Whenever the record was sealed."""
        known = keys(Key(9, EMITTER, BOOT, KEY.vkey, ACME, 2))
        assert (judge(evidence(position), leaf(position), known, index=1) is not None) == revoked

    @pytest.mark.parametrize(("index", "revoked"), [(1, False), (3, True)])
    def test_of_every_boot(self, index, revoked) -> None:
        """Sequences of boots cannot be compared, so what was sealed before stays believed."""
        known = keys(Key(9, EMITTER, None, KEY.vkey, ACME, 2))
        assert (judge(evidence(4), leaf(4), known, index=index) is not None) == revoked

    def test_of_another_boot(self) -> None:
        """It says nothing of this one."""
        known = keys(Key(9, EMITTER, "0192f3c1-7c3e-7d1a-9a55-2f6c1d9e8b11", KEY.vkey, ACME, 2))
        assert judge(evidence(4), leaf(4), known) is None
