"""Join a copy's documents of one shard with the ledger's leaves: what is wrong, missing, doubled or too many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.verify.scan import known_leaf
from klyra_collector.verify.verdicts import Finding, Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from klyra_audit.format.frame import BodyFrame
    from klyra_collector.verify.copies import CopyDocument
    from klyra_collector.verify.facts import Place
    from klyra_collector.verify.findings import Findings
    from klyra_collector.verify.retention import Retention
    from klyra_collector.verify.scan import LeafReader

_BETWEEN_PROGRESS: Final = 4096
_UNSEEN: Final = 0
_INTACT: Final = 1
_FLAGGED: Final = 2
_ABOUT_COPIES: Final = frozenset({Verdict.DUPLICATE, Verdict.EXTRA})  # the entry itself may be as it was sealed


class Bodies(Protocol):
    """Where the ledger's bodies are read."""

    def at(self, index: int) -> BodyFrame | None:
        """Return a body, None where there is none."""
        ...


class Checker(Protocol):
    """Judges one document."""

    def check(self, document: CopyDocument, leaf: Leaf, body: BodyFrame | None, retention: Retention) -> list[Problem]:
        """Return what is wrong with a document of the record of a leaf."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What a copy of a shard is compared with.

    Attributes:
        kind: of the records that have documents here.
        cursor: how many records the copy has applied: all of these that should have a document must have it.
        reach: how many records may have one.
        known: how many are known to be there, though those behind `reach` cannot be judged.
        behind_us: ingest time of the newest record known, where that may be behind the copy; else None.
        leaves: those that can be trusted.
        bodies: the ledger's own.
        applied: how far the copy has got in all shards.
        retention: what may be gone and what must be, by the records that the copy has applied.
        day: the UTC day, since 1970, on which the copy is looked at.
        progress: called with how many records were reached, and how many there are.
    """

    kind: Kind = Kind.EVENT
    cursor: int
    reach: int
    known: int
    behind_us: int | None
    leaves: LeafReader
    bodies: Bodies
    applied: Place
    retention: Retention
    day: int
    progress: Callable[[int, int], None]


class CopyJoin:
    """One pass over a copy's documents of a shard, and one over the leaves below its cursor."""

    def __init__(self, name: str, sealed: Sealed, checker: Checker, findings: Findings) -> None:
        self._name = name
        self._sealed = sealed
        self._checker = checker
        self._findings = findings
        self._marks = bytearray(sealed.reach)  # one of those above for each record
        self._last = -1
        self._newer = 0
        self._run: Finding | None = None

    def run(self, documents: Iterable[CopyDocument]) -> int:
        """Judge every document, then every record without one; return how many documents are too new to be judged."""
        cursor = self._sealed.cursor
        for number, document in enumerate(documents):
            self._take(document)
            if number % _BETWEEN_PROGRESS == 0:
                self._sealed.progress(min(document.index, cursor), cursor)
        self._sealed.progress(cursor, cursor)
        self._look_for_missing()
        self._end_run()
        return self._newer

    def _take(self, document: CopyDocument) -> None:
        index = document.index
        if index < self._sealed.reach:
            self._judge_place(document)
        elif index < self._sealed.known:
            self._newer += 1
        else:
            self._say(self._beyond(document), index, document)

    def _beyond(self, document: CopyDocument) -> Problem:
        """Judge a document of a record behind all that are known."""
        known, behind_us = self._sealed.known, self._sealed.behind_us
        if behind_us is None:
            return Problem(Verdict.EXTRA, f"it claims a place behind the {known} records that there can be")
        leaf = known_leaf(document.leaf)
        # Ingest times never decrease: what was sealed behind a record cannot be older than it.
        if leaf is None or leaf.kind != self._sealed.kind or leaf.ingest_us < behind_us:
            return Problem(Verdict.EXTRA, f"it claims a place behind {known} records, and is none that came later")
        reason = (
            f"nothing kept of the ledger there covers it, only {known} records: a collector that was killed leaves "
            "that until it runs again, and so does whoever adds entries"
        )
        return Problem(Verdict.UNVERIFIABLE, reason)

    def _judge_place(self, document: CopyDocument) -> None:
        index = document.index
        leaf = known_leaf(self._sealed.leaves.at(index))
        if leaf is None:
            self._say(Problem(Verdict.UNVERIFIABLE, "the ledger's own leaf cannot be trusted"), index, document)
        elif leaf.kind != self._sealed.kind:
            reason = f"it claims the place of a {Kind(leaf.kind).name} record, which is none of its kind"
            self._say(Problem(Verdict.EXTRA, reason), index, document)
        elif self._marks[index] != _UNSEEN and not self._sealed.retention.is_changing(leaf, self._sealed.applied):
            self._say(Problem(Verdict.DUPLICATE, "it is there already"), index, document)
        else:
            self._place(document, leaf)

    def _place(self, document: CopyDocument, leaf: Leaf) -> None:
        index = document.index
        if self._marks[index] == _UNSEEN:
            self._marks[index] = _INTACT
        if index < self._last:
            self._say(Problem(Verdict.REORDERED, f"it stands behind record {self._last}"), index, document)
        self._last = max(self._last, index)
        for problem in self._judge(document, leaf):
            self._say(problem, index, document)

    def _judge(self, document: CopyDocument, leaf: Leaf) -> Sequence[Problem]:
        sealed = self._sealed
        body = None if document.sections is not None else sealed.bodies.at(document.index)
        problems = self._checker.check(document, leaf, body, sealed.retention)
        if any(problem.verdict.is_broken for problem in problems):
            return problems
        late = sealed.retention.present(leaf, sealed.day)
        if late is not None:  # once the ledger has no body, that it could not be compared says nothing more
            return [late]
        return [*problems, *self._judge_keeping(document, leaf)]

    def _judge_keeping(self, document: CopyDocument, leaf: Leaf) -> Iterator[Problem]:
        """Yield what would keep an entry longer than it should be, or shorter, or out of sight."""
        retention, applied = self._sealed.retention, self._sealed.applied
        if document.expire_day not in retention.expire_days(leaf, applied):
            expected = retention.effective_expire(leaf, applied)
            reason = f"it is shown until day {document.expire_day}, and its retention ends on day {expected}"
            yield Problem(Verdict.ALTERED, reason)
        if document.held is True and not retention.was_held(leaf):
            yield Problem(Verdict.ALTERED, "it stands among what legal holds keep, and no hold ever covered it")
        if document.held is False and self._must_be_held(leaf):
            yield Problem(Verdict.ALTERED, "a legal hold covers it, and it stands where it is deleted by its age")
        if document.hidden_until > self._sealed.day:
            reason = f"it is hidden until day {document.hidden_until}, and no earlier entry of its id is kept as long"
            yield Problem(Verdict.ALTERED, reason)

    def _must_be_held(self, leaf: Leaf) -> bool:
        retention, applied = self._sealed.retention, self._sealed.applied
        return bool(retention.holds_on(leaf, applied)) and not retention.is_changing(leaf, applied)

    def _look_for_missing(self) -> None:
        for first, block in self._sealed.leaves.runs():
            for place in range(min(len(block) // LEAF_SIZE, self._sealed.cursor - first)):
                if self._marks[first + place] != _UNSEEN:
                    continue
                leaf = known_leaf(block[place * LEAF_SIZE : (place + 1) * LEAF_SIZE])
                if leaf is not None and leaf.kind == self._sealed.kind:
                    self._say(self._sealed.retention.absent(leaf), first + place, None)
        self._findings.count(Verdict.OK, self._marks.count(_INTACT))

    def _say(self, problem: Problem, index: int, document: CopyDocument | None) -> None:
        if problem.verdict not in _ABOUT_COPIES and index < len(self._marks):
            self._marks[index] = _FLAGGED
        if problem.verdict.is_good:
            self._findings.count(problem.verdict, 1)
            return
        found = Finding(
            verdict=problem.verdict,
            reason=problem.reason,
            first=index,
            last=index,
            file=self._name,
            organization_id=None if document is None else document.organization_id,
        )
        run = self._run
        if run is not None and _goes_on(run, found):
            self._run = replace(run, last=index, count=run.count + 1)
            return
        self._end_run()
        self._run = found

    def _end_run(self) -> None:
        """Take in what was found of records next to each other as one finding: somebody has to read it."""
        if self._run is not None:
            self._findings.add(self._run)
            self._run = None


def _goes_on(run: Finding, found: Finding) -> bool:
    same = (run.verdict, run.reason, run.organization_id) == (found.verdict, found.reason, found.organization_id)
    return same and run.last is not None and found.first == run.last + 1
