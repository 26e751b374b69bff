"""Check the fields of leaves and what runs through them: chains, time, plans, sequences and HEADS. Pure.

Leaves go in in index order, problems come out. A leaf that cannot be trusted is skipped, and what depended on it is not
judged any more.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import LeafError, UnknownLeafError
from klyra_audit.format.heads import Head, HeadsTree
from klyra_audit.format.leaf import LEAF_SIZE, NEVER, NO_PREVIOUS, VERSION, Flag, Kind, Leaf
from klyra_collector.verify.emitters import Sequences
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS_WITH_BODY: Final = frozenset(kind.value for kind in Kind if kind.has_body)
MICROSECONDS_PER_DAY: Final = 86_400_000_000

_STRUCT: Final = struct.Struct(">BBHI16sQQII32s32x")  # of a leaf, all but its commit
_UNKNOWN_DAYS: Final = -1  # a POLICY is in force, and its document cannot be trusted
_RESERVED_FLAGS: Final = 0xFFFF & ~sum(flag.value for flag in Flag)
_HEADS: Final = Kind.HEADS.value
_POLICY: Final = Kind.POLICY.value
_CLEARED_FLAGS: Final = slice(2, 4)

_sha256 = hashlib.sha256


# org_ref and retention days, by index of the POLICY record; None for one that says nothing of them.
Policies = Mapping[int, tuple[bytes, int] | None]


@dataclass(frozen=True, slots=True)
class HeadsSaid:
    """What a HEADS record says."""

    size: int
    count: int
    root: bytes


class HeadsRecords:
    """The HEADS records of a shard, by index: 56 bytes each, since there is one every minute."""

    _STRUCT: Final = struct.Struct(">QQQ32s")

    def __init__(self) -> None:
        self._packed = bytearray()

    def note(self, index: int, said: HeadsSaid) -> None:
        """Take in the record of the next index."""
        self._packed += self._STRUCT.pack(index, said.size, said.count, said.root)

    def __iter__(self) -> Iterator[tuple[int, HeadsSaid]]:
        for index, size, count, root in self._STRUCT.iter_unpack(self._packed):
            yield index, HeadsSaid(size, count, root)


@dataclass(slots=True)
class _Chain:
    """The end of one organization's chain, and the retention days of the POLICY in force."""

    next_seq: int = 0
    previous: bytes = NO_PREVIOUS
    days: int | None = None
    last: int = 0
    is_changed: bool = False  # since the last HEADS


class ChainChecker:
    """Follows one shard's leaves.

    Args:
        policies: what POLICY records say; one that is not there cannot be trusted.
        heads: what HEADS records say.

    Attributes:
        first_us, last_us: ingest times of the first and of the last leaf seen.
        sequences: of the emitters' boots.
    """

    def __init__(self, policies: Policies, heads: HeadsRecords | None = None) -> None:
        self._policies = policies
        self._heads = iter(heads or HeadsRecords())
        self._next_heads = next(self._heads, None)
        self._heads_tree: HeadsTree | None = HeadsTree()
        self._changed: list[bytes] = []
        self._chains: dict[bytes, _Chain] = {}
        self._skipped: set[bytes] = set()
        self.first_us: int | None = None
        self.last_us = 0
        self.sequences = Sequences()

    def check_block(self, first: int, leaves: bytes) -> Iterator[tuple[int, Problem]]:
        """Judge whole leaves from an index on; yield (index, problem)."""
        chains, sequences, changed = self._chains, self.sequences.spans, self._changed
        last_us = self.last_us
        offset, index = 0, first - 1
        for leaf in _STRUCT.iter_unpack(leaves):
            version, kind, flags, expire_day, org_ref, org_seq, ingest_us, emitter, emitter_seq, org_prev = leaf
            encoded = leaves[offset : offset + LEAF_SIZE]
            offset += LEAF_SIZE
            index += 1
            chain = chains.get(org_ref)
            if (
                chain is None
                or version != VERSION
                or flags & _RESERVED_FLAGS
                or kind not in KINDS_WITH_BODY
                or org_seq != chain.next_seq
                or org_prev != chain.previous
                or ingest_us < last_us
                or expire_day != ingest_us // MICROSECONDS_PER_DAY + 1 + (chain.days or 0)
                or chain.days is None
            ):
                self.last_us = last_us
                for problem in self.check(index, encoded):
                    yield index, problem
                last_us = self.last_us
                continue
            # Everything is as it should be, which is said here in the fewest steps.
            chain.next_seq = org_seq + 1
            chain.previous = _sha256(b"\x00" + encoded).digest()
            chain.last = index
            last_us = ingest_us
            if not chain.is_changed:
                chain.is_changed = True
                changed.append(org_ref)
            if emitter:
                spans = sequences.get(emitter)
                if spans is not None and emitter_seq == spans[-1].last + 1:
                    spans[-1].last = emitter_seq
                elif not self.sequences.add(emitter, emitter_seq, index, ingest_us):
                    yield index, _repeated(emitter, emitter_seq)
        self.last_us = last_us

    def check(self, index: int, encoded: bytes) -> Sequence[Problem]:
        """Judge the leaf at the next index; usually there is nothing to say."""
        try:
            leaf = Leaf.unpack(encoded)
        except LeafError as error:
            return self._check_unknown(index, encoded, error)
        return self._check_known(index, encoded, leaf)

    def skip(self, index: int, hashed: bytes) -> None:
        """Pass over an index whose leaf cannot be trusted, of which only the hash is known.

        Its chain is not known either, so any chain may go on from it, and no HEADS behind it can be computed.
        """
        self._skipped.add(hashed)
        self._heads_tree = None
        self._apply_policy(index)

    def _check_unknown(self, index: int, encoded: bytes, error: LeafError) -> Sequence[Problem]:
        """Follow the chains through a leaf that is sealed and not understood, as far as its layout is known."""
        problem = Problem(Verdict.UNVERIFIABLE, f"{error}; a newer verifier may know it")
        if isinstance(error, UnknownLeafError):
            self.skip(index, _sha256(b"\x00" + encoded).digest())
            return [problem]
        cleared = bytearray(encoded)
        cleared[_CLEARED_FLAGS] = bytes(2)
        return [problem, *self._check_known(index, encoded, Leaf.unpack(bytes(cleared)))]

    def _check_known(self, index: int, encoded: bytes, leaf: Leaf) -> Sequence[Problem]:
        problems: list[Problem] = []
        if leaf.kind == _HEADS:
            problems += self._check_heads(index)
        chain = self._chains.get(leaf.org_ref)
        if chain is None:
            chain = self._chains[leaf.org_ref] = _Chain()
        if leaf.org_seq != chain.next_seq or leaf.org_prev != chain.previous:
            problems += self._judge_break(chain, leaf)
        self._go_on(chain, index, leaf, _sha256(b"\x00" + encoded).digest())
        if leaf.ingest_us < self.last_us:
            reason = f"it was ingested {self.last_us - leaf.ingest_us} microseconds before the record in front of it"
            problems.append(Problem(Verdict.CLOCK, reason))
        self.last_us = leaf.ingest_us
        if self.first_us is None:
            self.first_us = leaf.ingest_us
        if leaf.emitter and not self.sequences.add(leaf.emitter, leaf.emitter_seq, index, leaf.ingest_us):
            problems.append(_repeated(leaf.emitter, leaf.emitter_seq))
        if leaf.kind == _POLICY:
            chain.days = chain.days if index in self._policies else _UNKNOWN_DAYS
            self._apply_policy(index)
        plan = _check_plan(leaf, chain.days)
        return problems if plan is None else [*problems, plan]

    def _go_on(self, chain: _Chain, index: int, leaf: Leaf, hashed: bytes) -> None:
        chain.next_seq = leaf.org_seq + 1
        chain.previous = hashed
        chain.last = index
        if not chain.is_changed:
            chain.is_changed = True
            self._changed.append(leaf.org_ref)

    def _check_heads(self, index: int) -> list[Problem]:
        """Compare a HEADS record with the chains' ends in front of it, and begin to note changes anew."""
        while self._next_heads is not None and self._next_heads[0] < index:
            self._next_heads = next(self._heads, None)
        if self._heads_tree is None or self._next_heads is None or self._next_heads[0] != index:
            return []
        tree = self._heads_tree
        for org_ref in self._changed:
            chain = self._chains[org_ref]
            chain.is_changed = False
            tree.put(Head(org_ref, chain.next_seq - 1, chain.previous, chain.last))
        self._changed.clear()
        expected = HeadsSaid(index, tree.count, tree.root())
        if self._next_heads[1] == expected:
            return []
        reason = "it says that the newest records are others than those in front of it"
        return [Problem(Verdict.CONTROL_ALTERED, reason)]

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


def _repeated(ordinal: int, sequence: int) -> Problem:
    reason = f"sequence {sequence} of the emitter's boot {ordinal} was sealed before"
    return Problem(Verdict.DUPLICATE, reason)


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
