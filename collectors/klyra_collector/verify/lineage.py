"""Whether the shards of a ledger follow one another: what one closed, the next one has to continue. Pure.

A shard may be gone if a POLICY record says that it was dropped, and nothing in it can have been in force by then. What
was in force in it, only its own records told in full: so a verifier goes by the longest that anything here is kept,
and by ten years where that is less (KL1 specification, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.format.control import (
    REASON_YEAR,
    DroppedShard,
    Extend,
    Hold,
    Key,
    PolicyRecord,
    Release,
    SchemaRecord,
    ShardClose,
    ShardOpen,
)
from klyra_collector.verify.facts import Place
from klyra_collector.verify.retention import MICROSECONDS_PER_DAY, SECONDS_PER_DAY, hold_spans
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klyra_audit.format.control import ControlDocument
    from klyra_collector.verify.facts import ControlFacts, Sealed
    from klyra_collector.verify.retention import QuorumTimes

LEAST_DAYS_UNTIL_DROPPED: Final = 3_650


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What is known of one shard.

    Attributes:
        log: its origin; of a shard without a signed head, whatever it is called instead.
        size: number of its signed records, None without a signed head.
        root_at: returns the root of so many records from its beginning, None where they are not all here.
        last_us: ingest time of its newest record.
        first_us: of its first one; None without any.
    """

    log: str
    size: int | None
    root_at: Callable[[int], bytes | None]
    last_us: int
    first_us: int | None


@dataclass(frozen=True, slots=True)
class Break:
    """Something wrong between two shards: the number of the shard and the index it is said about, if any."""

    shard: int
    index: int | None
    problem: Problem


def closing(facts: ControlFacts, log: str) -> Sealed[ShardClose] | None:
    """Return the record that closes a shard."""
    return next(facts.of_log(ShardClose, log), None)


def opening(facts: ControlFacts, log: str) -> Sealed[ShardOpen] | None:
    """Return the record that opens a shard, if that is its first."""
    first = next(facts.of_log(ShardOpen, log), None)
    return first if first is not None and first.place.index == 0 else None


class Lineage:
    """Looks at a row of shards, oldest first.

    Args:
        links: the shards.
        facts: of all of them.
        is_whole: all shards there are should be here.
        turning_since_us: a collector may be opening a shard behind one that it closed after this time, in microseconds
            since 1970; None where none runs.
        quorum: by when witnesses had cosigned what; None where the policy asks for none.
    """

    def __init__(
        self,
        links: list[Link],
        facts: ControlFacts,
        *,
        is_whole: bool,
        turning_since_us: int | None,
        quorum: QuorumTimes | None = None,
    ) -> None:
        self._links = links
        self._facts = facts
        self._is_whole = is_whole
        self._turning_since_us = turning_since_us
        self._quorum = quorum

    def check(self) -> Iterator[Break]:
        """Yield what is wrong."""
        for number, link in enumerate(self._links):
            yield from self._check_close(number, link)
            if number:
                yield from self._check_open(number)
        if self._links and self._is_whole:
            yield from self._check_oldest()

    def _check_close(self, number: int, link: Link) -> Iterator[Break]:
        close = closing(self._facts, link.log)
        is_last = number + 1 == len(self._links)
        if close is None:
            return
        if link.size is not None and close.place.index + 1 < link.size:
            problem = Problem(Verdict.EXTRA, "it stands behind the record that closes the shard")
            yield Break(number, close.place.index + 1, problem)
        following = close.document.next_origin
        is_turning = self._turning_since_us is not None and close.leaf.ingest_us > self._turning_since_us
        if is_last and self._is_whole and not is_turning:
            yield Break(number, None, Problem(Verdict.MISSING, f"{following}, which follows it, is not here"))
        elif not is_last and self._links[number + 1].log != following and opening_known(self._links[number + 1]):
            reason = f"{following} should follow it, where {self._links[number + 1].log} stands"
            yield Break(number, None, Problem(Verdict.MISSING, reason))

    def _check_open(self, number: int) -> Iterator[Break]:
        link, before = self._links[number], self._links[number - 1]
        if link.size is None:
            return
        opened = opening(self._facts, link.log)
        if opened is None:
            reason = "the first record of a shard behind another must be SHARD open"
            yield Break(number, 0, Problem(Verdict.CONTROL_ALTERED, reason))
            return
        document = opened.document
        if document.previous_origin != before.log:
            gone = list(self._check_gone(number, opened))
            yield from gone
            if gone:
                return
        yield from self._compare(number, before, document)
        if document.reason == REASON_YEAR:
            if closing(self._facts, before.log) is None and before.size is not None:
                reason = "it has no record that closes it, and another shard follows"
                yield Break(number - 1, None, Problem(Verdict.MISSING, reason))
            yield from self._check_carried(number)
        if link.first_us is not None and link.first_us < before.last_us:
            yield Break(number, 0, Problem(Verdict.CLOCK, "it was sealed before the last record of the shard before"))

    def _compare(self, number: int, before: Link, document: ShardOpen) -> Iterator[Break]:
        """Compare the shard before with what this one says it was."""
        size = document.previous_size
        if before.size is None:
            return
        if before.size < size:
            reason = f"{size} records of it were signed before the next shard was opened, and {before.size} are shown"
            yield Break(number - 1, None, Problem(Verdict.ROLLBACK, reason))
        elif before.root_at(size) not in (None, document.previous_root):
            reason = f"its first {size} records are others than those that the next shard goes on from"
            yield Break(number - 1, None, Problem(Verdict.FORK, reason))
        elif before.size > size and document.reason == REASON_YEAR:
            reason = f"the next shard goes on from {size} records, and {before.size} are signed"
            yield Break(number - 1, size, Problem(Verdict.EXTRA, reason))

    def _check_oldest(self) -> Iterator[Break]:
        opened = opening(self._facts, self._links[0].log)
        if opened is not None:
            yield from self._check_gone(0, opened)

    def _check_gone(self, number: int, opened: Sealed[ShardOpen]) -> Iterator[Break]:
        """Find a shard missing that is not here, unless a POLICY record says that it was deleted whole, and may."""
        why = [self._judge_drop(opened, dropped) for dropped in self._drops(opened)]
        if None not in why:
            reason = f"{opened.document.previous_origin}, which it goes on from, is not here"
            yield Break(number, None, Problem(Verdict.MISSING, "; ".join([reason, *filter(None, why)])))

    def _drops(self, opened: Sealed[ShardOpen]) -> Iterator[Sealed[DroppedShard]]:
        """Yield the records that say that the shard before one was deleted whole."""
        document = opened.document
        gone = DroppedShard(document.previous_origin, document.previous_size, document.previous_root)
        for dropped in self._facts.of(DroppedShard):
            if dropped.document == gone and dropped.place > opened.place:
                yield dropped

    def _judge_drop(self, opened: Sealed[ShardOpen], dropped: Sealed[DroppedShard]) -> str | None:
        """Return why a shard could not be dropped yet when a record said so; None if it could.

        Its last record is at most as young as the first of the shard behind it.
        """
        name = f"POLICY, record {dropped.place.index} of {dropped.log}, which drops it,"
        due = opened.leaf.ingest_us // MICROSECONDS_PER_DAY + 1 + self._longest_kept()
        if dropped.leaf.ingest_us // MICROSECONDS_PER_DAY < due:
            return f"{name} was sealed before day {due}, and until then something in it could be in force"
        for spans in hold_spans(self._facts).values():
            for span in spans:
                if span.begin < dropped.place <= span.end and span.hold.from_us <= opened.leaf.ingest_us:
                    return f"{name} was sealed while the legal hold {span.hold.hold_id} was in force"
        if self._quorum is None:
            return None
        seen = self._quorum.covering(dropped.log, dropped.place.index)
        if seen is None:
            return f"no quorum of witnesses has cosigned a kept checkpoint that covers {name[:-1]}"
        return None if seen >= due * SECONDS_PER_DAY else f"{name} was seen by witnesses before day {due}"

    def _longest_kept(self) -> int:
        """Return for how many days after it was sealed a body may be in force, at least."""
        policies = (sealed.document.retention_days for sealed in self._facts.of(PolicyRecord))
        extensions = (sealed.document.retention_days for sealed in self._facts.of(Extend))
        return max([LEAST_DAYS_UNTIL_DROPPED, *policies, *extensions])

    def _check_carried(self, number: int) -> Iterator[Break]:
        """Yield what was in force at the end of the shard before and is not sealed again."""
        before, log = self._links[number - 1].log, self._links[number].log
        repeated = {_subject(sealed.document) for kind in _CARRIED for sealed in self._facts.of_log(kind, log)}
        for document in in_force(self._facts, before):
            if _subject(document) not in repeated:
                what = document.KIND.name
                reason = f"a {what} in force in the shard before is not sealed again: {_subject(document)[1]}"
                yield Break(number, None, Problem(Verdict.CONTROL_ALTERED, reason))


_CARRIED: tuple[type[Key | PolicyRecord | SchemaRecord | Hold], ...] = (Key, PolicyRecord, SchemaRecord, Hold)


def opening_known(link: Link) -> bool:
    """Say whether a shard's origin is known for certain."""
    return link.size is not None


def in_force(facts: ControlFacts, log: str) -> Iterator[ControlDocument]:
    """Yield the documents that the shard behind one must repeat; boots and the collector's own keys are announced."""
    revoked = {
        (sealed.document.emitter_id, sealed.document.vkey)
        for sealed in facts.of_log(Key, log)
        if sealed.document.revoked_after_seq is not None
    }
    for sealed in facts.of_log(Key, log):
        key = sealed.document
        own = key.vkey is not None and key.vkey.startswith(f"{log}+")
        if key.boot is None and not own and (key.emitter_id, key.vkey) not in revoked:
            yield key
    for plan in facts.of_log(PolicyRecord, log):
        yield plan.document
    for schema in facts.of_log(SchemaRecord, log):
        yield schema.document
    for hold in facts.of_log(Hold, log):
        end = Place(hold.place.shard + 1, 0)
        released = (release for release in facts.of(Release) if release.document.hold_id == hold.document.hold_id)
        if not any(hold.place < release.place < end for release in released):
            yield hold.document


def _subject(document: ControlDocument) -> tuple[str, str]:
    """Return what a document is about: a later one of the same subject takes its place."""
    match document:
        case Key():
            return "key", f"{document.ordinal} {document.emitter_id} {document.vkey}"
        case PolicyRecord():
            return "policy", document.org_ref.hex()
        case SchemaRecord():
            return "schema", document.id
        case Hold():
            return "hold", document.hold_id
    return "", ""
