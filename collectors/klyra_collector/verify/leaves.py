"""Check the fields of leaves and the chains that run through them. Pure: leaves in index order in, problems out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import LeafError, UnknownLeafError
from klyra_audit.format.leaf import NEVER, NO_PREVIOUS, Kind, Leaf
from klyra_audit.format.merkle import leaf_hash
from klyra_collector.verify.contents import Problem
from klyra_collector.verify.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KINDS_WITH_BODY: Final = frozenset(kind.value for kind in Kind if kind.has_body)
MICROSECONDS_PER_DAY: Final = 86_400_000_000

_NOTHING: Final[Sequence[Problem]] = ()
_UNKNOWN_DAYS: Final = -1  # a POLICY is in force, and its document cannot be trusted
_RESERVED_FLAGS: Final = slice(2, 4)


@dataclass(slots=True)
class _Chain:
    """The end of one organization's chain, and the retention days of the POLICY in force."""

    next_seq: int = 0
    previous: bytes = NO_PREVIOUS
    days: int | None = None


class ChainChecker:
    """Follows one shard's leaves.

    Attributes:
        first_us, last_us: ingest times of the first and of the last leaf seen.
    """

    def __init__(self, policies: Mapping[int, tuple[bytes, int]]) -> None:
        self._policies = policies
        self._chains: dict[bytes, _Chain] = {}
        self._skipped: set[bytes] = set()
        self.first_us: int | None = None
        self.last_us = 0

    def check(self, index: int, encoded: bytes) -> Sequence[Problem]:
        """Judge the leaf at the next index; usually there is nothing to say."""
        try:
            leaf = Leaf.unpack(encoded)
        except LeafError as error:
            return self._check_unknown(index, encoded, error)
        return self._check_known(index, encoded, leaf)

    def skip(self, index: int, hashed: bytes) -> None:
        """Pass over an index whose leaf cannot be trusted, of which only the hash is known.

        Its chain is not known either, so any chain may go on from it.
        """
        self._skipped.add(hashed)
        self._apply_policy(index)

    def _check_unknown(self, index: int, encoded: bytes, error: LeafError) -> Sequence[Problem]:
        """Follow the chains through a leaf that is sealed and not understood, as far as its layout is known."""
        problem = Problem(Verdict.UNVERIFIABLE, f"{error}; a newer verifier may know it")
        if isinstance(error, UnknownLeafError):
            self.skip(index, leaf_hash(encoded))
            return [problem]
        cleared = bytearray(encoded)
        cleared[_RESERVED_FLAGS] = bytes(2)
        return [problem, *self._check_known(index, encoded, Leaf.unpack(bytes(cleared)))]

    def _check_known(self, index: int, encoded: bytes, leaf: Leaf) -> Sequence[Problem]:
        problems: list[Problem] | None = None
        chain = self._chains.get(leaf.org_ref)
        if chain is None:
            chain = self._chains[leaf.org_ref] = _Chain()
        if leaf.org_seq != chain.next_seq or leaf.org_prev != chain.previous:
            problems = self._judge_break(chain, leaf)
        chain.next_seq = leaf.org_seq + 1
        chain.previous = leaf_hash(encoded)
        if leaf.ingest_us < self.last_us:
            reason = f"it was ingested {self.last_us - leaf.ingest_us} microseconds before the record in front of it"
            problems = [*(problems or ()), Problem(Verdict.CLOCK, reason)]
        self.last_us = leaf.ingest_us
        if self.first_us is None:
            self.first_us = leaf.ingest_us
        if leaf.kind == Kind.POLICY:
            chain.days = _UNKNOWN_DAYS
            self._apply_policy(index)
        plan = _check_plan(leaf, chain.days)
        return problems or _NOTHING if plan is None else [*(problems or ()), plan]

    def _judge_break(self, chain: _Chain, leaf: Leaf) -> list[Problem]:
        gap = leaf.org_seq - chain.next_seq
        if leaf.org_prev in self._skipped and 0 < gap <= len(self._skipped):
            self._skipped.discard(leaf.org_prev)
            chain.days = _UNKNOWN_DAYS if chain.days is None else chain.days
            return []
        if leaf.org_seq != chain.next_seq:
            reason = f"its org_seq is {leaf.org_seq} where {chain.next_seq} comes next in its organization's chain"
        else:
            reason = "its org_prev is not the hash of its organization's record before it"
        return [Problem(Verdict.ORG_CHAIN, reason)]

    def _apply_policy(self, index: int) -> None:
        policy = self._policies.get(index)
        if policy is not None:
            org_ref, days = policy
            self._chains.setdefault(org_ref, _Chain()).days = days


def _check_plan(leaf: Leaf, days: int | None) -> Problem | None:
    if leaf.kind not in KINDS_WITH_BODY:
        if leaf.expire_day == NEVER:
            return None
        return Problem(Verdict.PLAN_MISMATCH, "it is a control record and has a day of expiry")
    if days == _UNKNOWN_DAYS:
        return None
    kept = leaf.expire_day - leaf.ingest_us // MICROSECONDS_PER_DAY - 1
    if days is None:
        return Problem(Verdict.PLAN_MISMATCH, f"it is kept for {kept} days, and no POLICY is in force for it")
    if kept != days:
        reason = f"it is kept for {kept} days where the POLICY in force says {days}"
        return Problem(Verdict.PLAN_MISMATCH, reason)
    return None
