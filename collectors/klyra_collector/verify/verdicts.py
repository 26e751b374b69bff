"""Verdicts: the closed set of DESIGN section 9, and what each of them means to a reader."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Verdict(StrEnum):
    """What verification says of one record, or of a range, or of a file."""

    OK = "OK"
    ALTERED = "ALTERED"
    MISSING = "MISSING"
    EXTRA = "EXTRA"
    DUPLICATE = "DUPLICATE"
    REORDERED = "REORDERED"
    ORG_CHAIN = "ORG_CHAIN"
    TRUNCATED = "TRUNCATED"
    EXPIRED_OK = "EXPIRED_OK"
    OVER_RETAINED = "OVER_RETAINED"
    REDACTED_OK = "REDACTED_OK"
    REDACTED_UNAUTHORISED = "REDACTED_UNAUTHORISED"
    NOT_ERASED = "NOT_ERASED"
    EMITTER_SIG = "EMITTER_SIG"
    EMITTER_GAP = "EMITTER_GAP"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    ROOT_MISMATCH = "ROOT_MISMATCH"
    ROLLBACK = "ROLLBACK"
    FORK = "FORK"
    STALE_WITNESS = "STALE_WITNESS"
    CLOCK = "CLOCK"
    CONTROL_ALTERED = "CONTROL_ALTERED"
    PLAN_MISMATCH = "PLAN_MISMATCH"
    UNVERIFIABLE = "UNVERIFIABLE"

    @property
    def is_good(self) -> bool:
        """Whether a record of this verdict is as it should be."""
        return self in _GOOD

    @property
    def is_broken(self) -> bool:
        """Whether this verdict says that something is wrong, rather than that it could not be checked."""
        return self not in _GOOD and self is not Verdict.UNVERIFIABLE


_GOOD = frozenset({Verdict.OK, Verdict.EXPIRED_OK, Verdict.REDACTED_OK})

# From the gravest: what is said of a whole ledger is the first of these that was found.
GRAVITY = (
    Verdict.FORK,
    Verdict.ROLLBACK,
    Verdict.BAD_SIGNATURE,
    Verdict.ROOT_MISMATCH,
    Verdict.TRUNCATED,
    Verdict.MISSING,
    Verdict.ALTERED,
    Verdict.CONTROL_ALTERED,
    Verdict.REDACTED_UNAUTHORISED,
    Verdict.ORG_CHAIN,
    Verdict.EXTRA,
    Verdict.DUPLICATE,
    Verdict.REORDERED,
    Verdict.NOT_ERASED,
    Verdict.OVER_RETAINED,
    Verdict.EMITTER_SIG,
    Verdict.EMITTER_GAP,
    Verdict.PLAN_MISMATCH,
    Verdict.CLOCK,
    Verdict.STALE_WITNESS,
    Verdict.UNVERIFIABLE,
    Verdict.REDACTED_OK,
    Verdict.EXPIRED_OK,
    Verdict.OK,
)

MEANINGS = {
    Verdict.OK: "as it was sealed",
    Verdict.ALTERED: "its bytes are not those that were sealed; restore them from a copy and find out who could write",
    Verdict.MISSING: "it was sealed and is not here; restore it from a copy",
    Verdict.EXTRA: "it is here and was never sealed; nothing in the ledger vouches for it",
    Verdict.DUPLICATE: "a second copy of one record; only one was sealed",
    Verdict.REORDERED: "it does not stand where it was sealed",
    Verdict.ORG_CHAIN: "an organization's chain of records is broken: one was left out, added or given to another",
    Verdict.TRUNCATED: "the end was cut off; restore it from a copy",
    Verdict.EXPIRED_OK: "deleted when its plan said so",
    Verdict.OVER_RETAINED: "kept longer than its plan allows",
    Verdict.REDACTED_OK: "personal data erased, as an ERASURE record says",
    Verdict.REDACTED_UNAUTHORISED: "erased without an ERASURE record",
    Verdict.NOT_ERASED: "an ERASURE record says it was erased, and it is here",
    Verdict.EMITTER_SIG: "its emitter did not sign it",
    Verdict.EMITTER_GAP: "its emitter sent something before it that never arrived",
    Verdict.BAD_SIGNATURE: "not signed by the key that should have signed it; trust nothing that rests on it",
    Verdict.ROOT_MISMATCH: "not what the signed checkpoint stands for",
    Verdict.ROLLBACK: "a newer head was signed than the one shown: an older state was put in its place",
    Verdict.FORK: "two heads were signed that cannot both be true: history was rewritten with the signing key",
    Verdict.STALE_WITNESS: "no witness has seen this head lately",
    Verdict.CLOCK: "time goes back between two records",
    Verdict.CONTROL_ALTERED: "a control document is not the one that was sealed; restore control/frames from a copy",
    Verdict.PLAN_MISMATCH: "it would be kept for another time than the organization's policy says",
    Verdict.UNVERIFIABLE: "could not be checked, which is never counted as intact",
}


class Problem(NamedTuple):
    """A verdict on one record, with its reason."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that verification has to say about a record, a range of records, or a file.

    Attributes:
        verdict: what.
        reason: one sentence about this case.
        first, last: inclusive range of record indexes; None when no record can be named.
        file: path below the target; None when it is about no file.
        offset: byte in the file.
        organization_id: whose record, where that is known for certain.
        count: how many records it stands for, at least 1.
        remedy: what to do, where it is not simply the verdict's meaning.
    """

    verdict: Verdict
    reason: str
    first: int | None = None
    last: int | None = None
    file: str | None = None
    offset: int | None = None
    organization_id: str | None = None
    count: int = 1
    remedy: str | None = None

    @property
    def meaning(self) -> str:
        """What a reader should make of it."""
        return self.remedy or MEANINGS[self.verdict]


def about(verdict: Verdict, index: int, reason: str, *, file: str | None = None, offset: int | None = None) -> Finding:
    """Return a finding about one record."""
    return Finding(verdict=verdict, reason=reason, first=index, last=index, file=file, offset=offset)
