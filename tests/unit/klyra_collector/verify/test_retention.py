"""When a body may be gone, must be gone, and may have lost a section, by the ledger's own records."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from klyra_audit.format.control import ControlDocument, Erasure, Expiry, Extend, Hold, Release
from klyra_audit.format.leaf import NEVER, NO_PREVIOUS, Kind, Leaf
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_collector.verify import Verdict
from klyra_collector.verify.facts import ControlFacts
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY, SECONDS_PER_DAY, QuorumTimes, Retention

ACME, OTHER = b"a" * 16, b"b" * 16
LOG, LATER = "klyra-audit.test/collector-1/2026", "klyra-audit.test/collector-1/2027"
DAYS = 30
SEALED = 20_500
DUE = SEALED + 1 + DAYS


@dataclass
class Ledger:
    """Leaves and control documents, sealed one after another, a day at a time."""

    facts: ControlFacts = field(default_factory=ControlFacts)
    log: str = LOG
    day: int = SEALED
    index: int = 0
    sequences: dict[tuple[str, bytes], int] = field(default_factory=dict)

    def leaf(self, kind: int = Kind.EVENT, org_ref: bytes = ACME, expire_day: int | None = None) -> Leaf:
        """Return the next leaf of an organization."""
        sequence = self.sequences.get((self.log, org_ref), 0)
        self.sequences[self.log, org_ref] = sequence + 1
        self.index += 1
        until = self.day + 1 + DAYS if expire_day is None else expire_day
        return Leaf(kind, 6, until, org_ref, sequence, self.now_us, 0, 0, NO_PREVIOUS, bytes(32))

    @property
    def now_us(self) -> int:
        """Noon of the day."""
        return self.day * MICROSECONDS_PER_DAY + MICROSECONDS_PER_DAY // 2

    def seal(self, document: ControlDocument) -> int:
        """Seal a document in the chain that it names; return its index."""
        org_ref = getattr(document, "org_ref", OPERATOR_REFERENCE)
        leaf = self.leaf(document.KIND, org_ref, NEVER)
        self.facts.note(self.log, self.index - 1, leaf, document)
        return self.index - 1

    def expire(self, org_ref: bytes = ACME, cutoff: int | None = None, **members: object) -> int:
        """Seal an EXPIRY; what it counts is not looked at here."""
        return self.seal(Expiry(org_ref, self.day if cutoff is None else cutoff, 0, bytes(32), **members))

    def judge(self, **options: object) -> Retention:
        """Return the judge of the first shard's bodies."""
        return Retention(self.facts, LOG, **options)


@pytest.fixture
def ledger() -> Ledger:
    """An empty ledger."""
    return Ledger()


class TestAbsent:
    """A body is gone."""

    def test_an_expiry_of_its_day(self, ledger) -> None:
        """It was due."""
        leaf = ledger.leaf()
        ledger.day = DUE
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_a_later_expiry(self, ledger) -> None:
        """Also by the one of a later day, when the collector was off on the day itself."""
        leaf = ledger.leaf()
        ledger.day = DUE + 3
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    @pytest.mark.parametrize("difference", [-1, -20])
    def test_an_expiry_before_its_day(self, ledger, difference) -> None:
        """It was not due."""
        leaf = ledger.leaf()
        ledger.day = DUE + difference
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is Verdict.MISSING

    def test_no_expiry_at_all(self, ledger) -> None:
        """Nobody said it would go."""
        assert ledger.judge().absent(ledger.leaf()).verdict is Verdict.MISSING

    def test_an_expiry_of_another_organization(self, ledger) -> None:
        """It speaks of others."""
        leaf = ledger.leaf()
        ledger.day = DUE
        ledger.expire(OTHER)
        assert ledger.judge().absent(leaf).verdict is Verdict.MISSING

    def test_an_expiry_of_a_day_to_come(self, ledger) -> None:
        """Sealed before the day that it speaks of."""
        leaf = ledger.leaf()
        ledger.day = DUE - 5
        ledger.expire(cutoff=DUE)
        problem = ledger.judge().absent(leaf)
        assert (problem.verdict, "before the day" in problem.reason) == (Verdict.MISSING, True)

    def test_a_rightful_expiry_behind_a_wrong_one(self, ledger) -> None:
        """The first named it too early; by the second it is due."""
        leaf = ledger.leaf()
        ledger.day = DUE - 5
        ledger.expire(cutoff=DUE)
        ledger.day = DUE
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_an_expiry_in_a_later_shard(self, ledger) -> None:
        """It names the shard."""
        leaf = ledger.leaf()
        ledger.seal(Release("none"))
        ledger.log, ledger.index, ledger.day = LATER, 0, DUE
        ledger.expire(log=LOG)
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_an_expiry_of_a_later_shard_about_itself(self, ledger) -> None:
        """Without `log` it speaks of its own shard."""
        leaf = ledger.leaf()
        ledger.seal(Release("none"))
        ledger.log, ledger.index, ledger.day = LATER, 0, DUE
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is Verdict.MISSING

    def test_an_expiry_sealed_before_the_record(self, ledger) -> None:
        """It cannot have named it."""
        ledger.expire(cutoff=DUE)
        assert ledger.judge().absent(ledger.leaf()).verdict is Verdict.MISSING


class TestExtended:
    """EXTEND moves the day, for what it names, from when it is sealed."""

    @pytest.mark.parametrize(("first", "last", "expected"), [(0, 0, Verdict.MISSING), (1, 9, Verdict.EXPIRED_OK)])
    def test_only_what_it_names(self, ledger, first, last, expected) -> None:
        """Others are due on their own day."""
        leaf = ledger.leaf()
        ledger.seal(Extend(ACME, first, last, 90))
        ledger.day = DUE
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is expected

    def test_it_is_due_on_the_new_day(self, ledger) -> None:
        """Counted from the day it was sealed."""
        leaf = ledger.leaf()
        ledger.seal(Extend(ACME, 0, 0, 90))
        ledger.day = SEALED + 1 + 90
        ledger.expire()
        judge = ledger.judge()
        assert judge.effective_expire(leaf) == SEALED + 91
        assert judge.file_days(leaf) == {DUE, SEALED + 91}
        assert judge.absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_an_extension_behind_the_expiry_comes_too_late(self, ledger) -> None:
        """The body was gone by then."""
        leaf = ledger.leaf()
        ledger.day = DUE
        ledger.expire()
        ledger.seal(Extend(ACME, 0, 0, 90))
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_a_shorter_one_changes_nothing(self, ledger) -> None:
        """Nothing sealed is ever shortened."""
        leaf = ledger.leaf()
        ledger.seal(Extend(ACME, 0, 0, 1))
        assert ledger.judge().effective_expire(leaf) == DUE


class TestHeld:
    """A legal hold stops expiry and erasure."""

    def test_an_expiry_that_names_what_is_held(self, ledger) -> None:
        """It must not have gone."""
        leaf = ledger.leaf()
        ledger.seal(Hold("case", ACME, 0))
        ledger.day = DUE
        ledger.expire()
        judge = ledger.judge()
        assert judge.absent(leaf).verdict is Verdict.MISSING
        assert [number for number, _ in judge.misheld(leaf)] == [0]

    def test_a_hold_with_a_selection_may_keep_it_or_not(self, ledger) -> None:
        """What it selects is not told."""
        leaf = ledger.leaf()
        ledger.seal(Hold("case", ACME, 0, None, bytes(32)))
        ledger.day = DUE
        ledger.expire()
        judge = ledger.judge()
        assert judge.absent(leaf).verdict is Verdict.EXPIRED_OK
        assert list(judge.misheld(leaf)) == []
        assert judge.present(ledger.leaf(), DUE + 50) is None

    def test_what_is_held_may_be_here_for_ever(self, ledger) -> None:
        """The EXPIRY says that it is held."""
        leaf = ledger.leaf()
        ledger.seal(Hold("case", ACME, 0))
        ledger.day = DUE
        ledger.expire(held=((0, 0),))
        judge = ledger.judge()
        assert judge.present(leaf, DUE + 500) is None
        assert list(judge.misheld(leaf)) == []
        assert judge.absent(leaf).verdict is Verdict.MISSING

    def test_a_window_that_does_not_cover_it(self, ledger) -> None:
        """The hold ends before it was sealed."""
        leaf = ledger.leaf()
        ledger.seal(Hold("case", ACME, 0, leaf.ingest_us - 1))
        ledger.day = DUE
        ledger.expire()
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_it_goes_once_released(self, ledger) -> None:
        """Named by the EXPIRY behind RELEASE."""
        leaf = ledger.leaf()
        ledger.seal(Hold("case", ACME, 0))
        ledger.day = DUE
        ledger.expire(held=((0, 0),))
        ledger.seal(Release("case"))
        ledger.day = DUE + 1
        ledger.expire()
        judge = ledger.judge()
        assert judge.absent(leaf).verdict is Verdict.EXPIRED_OK
        assert list(judge.misheld(leaf)) == []

    def test_a_hold_that_a_new_shard_repeats_is_the_same(self, ledger) -> None:
        """Released there, it is released."""
        leaf = ledger.leaf()
        ledger.seal(Hold("case", ACME, 0))
        ledger.log, ledger.index = LATER, 0
        ledger.seal(Hold("case", ACME, 0))
        ledger.seal(Release("case"))
        ledger.day = DUE
        ledger.expire(log=LOG)
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK

    def test_what_nobody_holds_cannot_be_called_held(self, ledger) -> None:
        """The EXPIRY is wrong."""
        leaf = ledger.leaf()
        ledger.day = DUE
        ledger.expire(held=((0, 0),))
        assert [number for number, _ in ledger.judge().misheld(leaf)] == [0]


class TestWitnessed:
    """With a quorum, the witnesses' time must have come to the day as well."""

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(DUE * SECONDS_PER_DAY, Verdict.EXPIRED_OK), (DUE * SECONDS_PER_DAY - 1, Verdict.MISSING)],
    )
    def test_the_first_head_that_covers_the_expiry(self, ledger, seconds, expected) -> None:
        """Later ones do not make up for it."""
        leaf = ledger.leaf()
        ledger.day = DUE
        index = ledger.expire()
        cosigned = [(LOG, index, 0), (LOG, index + 1, seconds), (LOG, index + 9, DUE * SECONDS_PER_DAY * 2)]
        assert ledger.judge(quorum=QuorumTimes(cosigned)).absent(leaf).verdict is expected

    def test_an_expiry_that_no_witness_has_seen(self, ledger) -> None:
        """Nothing may go before."""
        leaf = ledger.leaf()
        ledger.day = DUE
        index = ledger.expire()
        judge = ledger.judge(quorum=QuorumTimes([(LOG, index, DUE * SECONDS_PER_DAY)]))
        assert judge.absent(leaf).verdict is Verdict.MISSING
        assert judge.present(leaf, DUE) is None  # and it is not deleted yet, rightly


class TestPresent:
    """A body is here."""

    @pytest.mark.parametrize(("day", "over"), [(DUE - 1, False), (DUE, False), (DUE + 1, True)])
    def test_a_day_of_grace(self, ledger, day, over) -> None:
        """The day on which it goes is not held against anyone."""
        problem = ledger.judge().present(ledger.leaf(), day)
        assert (problem is not None) == over
        assert problem is None or problem.verdict is Verdict.OVER_RETAINED

    def test_a_body_that_an_expiry_named(self, ledger) -> None:
        """At once: it was said to be deleted."""
        leaf = ledger.leaf()
        ledger.day = DUE
        ledger.expire()
        assert ledger.judge().present(leaf, DUE).verdict is Verdict.OVER_RETAINED
        assert ledger.judge(settled_us=ledger.now_us - 1).present(leaf, DUE) is None  # a running ledger gets a moment

    def test_control_records_stay(self, ledger) -> None:
        """They never expire."""
        assert ledger.judge().present(ledger.leaf(Kind.START, expire_day=NEVER), DUE * 2) is None


class TestErased:
    """A section is gone, or should be."""

    @pytest.fixture
    def leaf(self, ledger) -> Leaf:
        """The record whose actor is erased."""
        return ledger.leaf()

    def test_named(self, ledger, leaf) -> None:
        """By section and sequence."""
        ledger.leaf()
        ledger.seal(Erasure(ACME, ((0, 0),), (), "art17", ledger.day))
        judge = ledger.judge()
        assert judge.redacted(leaf, "actor") is Verdict.REDACTED_OK
        assert judge.redacted(leaf, "target") is Verdict.REDACTED_UNAUTHORISED
        assert judge.unredacted(leaf, "actor").verdict is Verdict.NOT_ERASED
        assert judge.unredacted(leaf, "target") is None
        assert judge.redacted(leaf, "core") is Verdict.REDACTED_UNAUTHORISED

    def test_not_named(self, ledger, leaf) -> None:
        """By an ERASURE of other records."""
        ledger.leaf()
        ledger.seal(Erasure(ACME, ((1, 5),), (), "art17", ledger.day))
        assert ledger.judge().redacted(leaf, "actor") is Verdict.REDACTED_UNAUTHORISED
        assert ledger.judge().unredacted(leaf, "actor") is None

    def test_a_hold_forbids_it(self, ledger, leaf) -> None:
        """An ERASURE sealed under a hold erases nothing."""
        ledger.seal(Hold("case", ACME, 0))
        ledger.seal(Erasure(ACME, ((0, 0),), (), "art17", ledger.day))
        assert ledger.judge().redacted(leaf, "actor") is Verdict.REDACTED_UNAUTHORISED
        assert ledger.judge().unredacted(leaf, "actor") is None

    def test_erased_and_then_expired(self, ledger, leaf) -> None:
        """In either order."""
        ledger.seal(Erasure(ACME, ((0, 0),), (), "art17", ledger.day))
        ledger.day = DUE
        ledger.expire()
        ledger.seal(Erasure(ACME, ((0, 0),), (), "art17", ledger.day))
        assert ledger.judge().absent(leaf).verdict is Verdict.EXPIRED_OK
