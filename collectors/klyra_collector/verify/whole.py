"""Verify all shards of a ledger as one: read each, join what they say, then judge each by all of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from klyra_audit.format.control import REASON_DISASTER
from klyra_audit.format.errors import NoteError
from klyra_audit.format.keys import VerifyingKey
from klyra_collector.verify import witnesses
from klyra_collector.verify.emitters import EmitterKeys, Sequences
from klyra_collector.verify.facts import ControlFacts
from klyra_collector.verify.keyring import KeyRing, read_ring
from klyra_collector.verify.ledger import Around, Options, ShardVerification, head_shard
from klyra_collector.verify.lineage import Lineage, Link, closing, opening
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY, QuorumTimes
from klyra_collector.verify.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.report import ShardReport
    from klyra_collector.verify.work import Crew

TURNING_US: Final = 600_000_000  # a collector opens the next shard at once, or cannot sign and says so
LATE_US: Final = 60_000_000  # what an emitter sends again may arrive so late in a running ledger

_PIN: Final = (
    "After a disaster the new shard's key must be pinned: take the policy file that the operator published since."
)


class LedgerVerification:
    """One run over a row of shards, oldest first.

    Attributes:
        shards: what was found in each, and what it was found by.
        around: what they were judged by; None before `run`.
    """

    def __init__(self, folders: Sequence[ShardFolder], options: Options, crew: Crew) -> None:
        self._options = options
        self.shards = [ShardVerification(folder, options, crew, number) for number, folder in enumerate(folders)]
        self._facts = ControlFacts()
        self.around: Around | None = None

    def run(self) -> list[ShardReport]:
        """Return what was found in each shard."""
        self._read()
        self._check_lineage()
        self._check_witnesses()
        around = self.around = self._around()
        for shard in self.shards:
            shard.check(around)
        self._check_expiries()
        self._check_emitters()
        self._check_expectations()
        return [shard.report() for shard in self.shards]

    def _read(self) -> None:
        inherited: list[VerifyingKey] = []
        for shard in self.shards:
            ring, findings = read_ring(shard.folder, self._options.policy, inherited)
            for finding in findings:
                shard.findings.add(finding)
            self._refuse_unpinned(shard, ring)
            shard.read(ring, self._facts)
            inherited = self._next_keys(shard)

    def _refuse_unpinned(self, shard: ShardVerification, ring: KeyRing) -> None:
        """Say so when nothing that is pinned leads to a shard behind the first: that is no bad signature."""
        name = shard.folder.root.name
        if shard.number and not any(key.name.rpartition("/")[2] == name for key in ring.trusted):
            shard.say(Verdict.UNVERIFIABLE, "no pinned key leads to it", shard.folder.checkpoint, _PIN)
            ring.trusted.clear()
            ring.announced.clear()

    def _next_keys(self, shard: ShardVerification) -> list[VerifyingKey]:
        """Return the key that a shard names for the next one, if a head that satisfies the policy covers that."""
        close = closing(self._facts, shard.log)
        policy = self._options.policy
        if close is None or shard.heads.newest is None:
            return []
        good = shard.heads.cosigned if policy is not None and policy.needs_witnesses else [shard.heads.newest]
        if not any(head.checkpoint.size > close.place.index for head in good):
            return []
        try:
            key = VerifyingKey.parse(close.document.next_vkey)
        except NoteError as error:
            shard.complain(Verdict.BAD_SIGNATURE, close.place.index, f"next_vkey is no verifier key: {error}")
            return []
        return [key] if key.name == close.document.next_origin else []

    def _check_lineage(self) -> None:
        links = [_link(shard) for shard in self.shards]
        lineage = Lineage(
            links,
            self._facts,
            is_whole=self.shards[0].folder.is_ledger,
            turning_since_us=_turning_since_us() if self.shards[-1].is_interrupted else None,
            quorum=self._quorum(),
        )
        for found in lineage.check():
            shard = self.shards[found.shard]
            if found.index is None:
                shard.say(found.problem.verdict, found.problem.reason, shard.folder.root)
            else:
                shard.complain(found.problem.verdict, found.index, found.problem.reason)
        for shard in self.shards[1:]:
            opened = opening(self._facts, shard.log)
            if opened is not None and opened.document.reason == REASON_DISASTER:
                shard.notes.append(
                    "an operator opened this shard after a loss; see SHARD, record 0, and START behind it"
                )

    def _check_witnesses(self) -> None:
        policy = self._options.policy
        shard = self.shards[-1]
        if policy is None or not policy.needs_witnesses or shard.heads.newest is None:
            return
        present = self._options.now_us
        if present is None:  # a head that nobody renewed gets old, even where the records behind it were deleted
            present = max(time.time_ns() // 1000, shard.last_us)
        problem = witnesses.judge_age(shard.heads, present, self._options.max_witness_age)
        if problem is not None:
            shard.say(problem.verdict, problem.reason, shard.heads.newest.path)

    def _around(self) -> Around:
        seen = [head for shard in self.shards for head in shard.heads.seen]
        times = [self._options.now_us or 0, witnesses.newest_time(seen) * 1_000_000]
        newest_us = max(*times, *(shard.last_us for shard in self.shards))
        return Around(
            facts=self._facts,
            quorum=self._quorum(),
            day=newest_us // MICROSECONDS_PER_DAY,
            keys=EmitterKeys.of(self._facts),
        )

    def _quorum(self) -> QuorumTimes | None:
        """Return by when the policy's quorum had cosigned what; None if the policy asks for no witnesses."""
        policy = self._options.policy
        if policy is None or not policy.needs_witnesses:
            return None
        return QuorumTimes(
            (head.checkpoint.origin, head.checkpoint.size, head.quorum_time or 0)
            for shard in self.shards
            for head in shard.heads.cosigned
        )

    def _check_expiries(self) -> None:
        """Judge EXPIRY records where they stand, by the leaves of the shards they speak of."""
        if not all(shard.is_complete for shard in self.shards):
            return  # another record would have to be counted in, and is not here
        by_log = {shard.log: shard for shard in self.shards}
        for about in self.shards:
            for expiry, reason in about.wrong_expiries():
                by_log[expiry.log].complain(Verdict.CONTROL_ALTERED, expiry.place.index, reason)

    def _check_emitters(self) -> None:
        """Find what emitters sent that was never sealed, and what was sealed in two shards."""
        sealed = Sequences()
        for shard in self.shards:
            for ordinal, span in sealed.merge(shard.chains.sequences, shard.number):
                reason = f"sequences {span.first} to {span.last} of boot {ordinal} are sealed in a shard before as well"
                shard.complain(Verdict.DUPLICATE, span.index, reason)
        if not all(shard.is_complete for shard in self.shards):
            return  # what an emitter sent may stand where a leaf cannot be read
        newest = self.shards[-1]
        starts_here = opening(self._facts, self.shards[0].log) is None
        for ordinal, first, last, behind in sealed.gaps():
            is_late = newest.is_interrupted and behind.ingest_us > newest.last_us - LATE_US
            if not is_late and (starts_here or first):
                reason = f"sequences {first} to {last} of its emitter's boot {ordinal} were never sealed"
                self.shards[behind.shard].complain(Verdict.EMITTER_GAP, behind.index, reason)

    def _check_expectations(self) -> None:
        """Compare with what the reader knows from before."""
        newest = self.shards[-1]
        expected_size, expected_us = self._options.expect_size, self._options.expect_after_us
        size = sum(shard.heads.newest.checkpoint.size for shard in self.shards if shard.heads.newest is not None)
        if expected_size is not None and size < expected_size:
            reason = f"{size} records are signed, and {expected_size} were expected"
            newest.say(Verdict.ROLLBACK, reason, newest.folder.checkpoint)
        if expected_us is not None and newest.last_us < expected_us:
            reason = "its newest record is older than was expected: the end was cut off, or it is an older state"
            newest.say(Verdict.TRUNCATED, reason, newest.folder.leaves)
        brought = self._options.expect_checkpoint
        if brought is not None and all(head_shard(brought[1]) != shard.folder.root.name for shard in self.shards):
            reason = f"{brought[0].name} is a head of {head_shard(brought[1]) or 'no shard'}, which is not here"
            newest.say(Verdict.MISSING, reason, newest.folder.root)


def _link(shard: ShardVerification) -> Link:
    first = shard.leaf(0)
    newest = shard.heads.newest
    return Link(
        log=shard.log,
        size=None if newest is None else newest.checkpoint.size,
        root_at=shard.root_at,
        last_us=shard.last_us,
        first_us=None if first is None else first.ingest_us,
    )


def _turning_since_us() -> int:
    """Return since when a closed shard may be waiting for the next one; by this machine's clock, not by the ledger's.

    The file that says that a collector runs is signed by nobody, so it excuses a moment only.
    """
    return time.time_ns() // 1000 - TURNING_US
