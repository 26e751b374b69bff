"""Join a copy's documents of one shard with the ledger's leaves: what is wrong, missing, doubled or too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from klyra_audit.format.leaf import LEAF_SIZE, Kind, Leaf
from klyra_collector.verify.scan import known_leaf
from klyra_collector.verify.verdicts import Finding, Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from klyra_audit.format.frame import BodyFrame
    from klyra_collector.verify.copies import CopyDocument, CopyReader
    from klyra_collector.verify.copies_documents import DocumentChecker
    from klyra_collector.verify.facts import Place
    from klyra_collector.verify.findings import Findings
    from klyra_collector.verify.retention import Retention
    from klyra_collector.verify.scan import LeafReader

_BETWEEN_PROGRESS: Final = 4096
_UNSEEN: Final = 0
_INTACT: Final = 1
_FLAGGED: Final = 2
_SPARE: Final = 3  # intact, and there may be another document of it
_ABOUT_COPIES: Final = frozenset({Verdict.DUPLICATE, Verdict.EXTRA})  # the entry itself may be as it was sealed


class Bodies(Protocol):
    """Where the ledger's bodies are read."""

    def at(self, index: int) -> BodyFrame | None:
        """Return a body, None where there is none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """What a copy of a shard is compared with.

    Attributes:
        origin: of the shard.
        size: how many of its records are known.
        leaves: those that can be trusted.
        bodies: the ledger's own.
        applied: how far the copy has got in all shards.
        retention: what may be gone and what must be, by the records that the copy has applied.
        day: the UTC day, since 1970, on which the copy is looked at.
        progress: called with how many records were reached, and how many there are.
        grown: where documents may have come in since it was looked up how far the copy has got, returns how many
            records there are by now; None for a copy that is of one moment.
    """

    origin: str
    size: int
    leaves: LeafReader
    bodies: Bodies
    applied: Place
    retention: Retention
    day: int
    progress: Callable[[int, int], None]
    grown: Callable[[], int] | None = None


class CopyJoin:
    """One pass over a copy's documents of a shard, and one over the leaves below its cursor.

    Attributes:
        newer: how many documents are of records that were sealed after the ledger was looked at, and not judged.
    """

    def __init__(self, reader: CopyReader, sealed: Sealed, checker: DocumentChecker, findings: Findings) -> None:
        self._reader = reader
        self._sealed = sealed
        self._checker = checker
        self._findings = findings
        self._cursor = min(reader.cursors().get(sealed.origin, 0), sealed.size)
        self._reach = self._cursor if sealed.grown is None else sealed.size
        self._marks = bytearray(self._reach)  # one of those above for each record
        self._last = -1
        self.newer = 0

    @property
    def cursor(self) -> int:
        """How many records the copy has applied, of those that are known."""
        return self._cursor

    def run(self) -> None:
        """Judge every document, then every entry without one, and count the entries that are as they should be."""
        for number, document in enumerate(self._reader.documents(self._sealed.origin)):
            self._take(document)
            if number % _BETWEEN_PROGRESS == 0:
                self._sealed.progress(min(document.index, self._cursor), self._cursor)
        self._sealed.progress(self._cursor, self._cursor)
        self._look_for_missing()

    def _take(self, document: CopyDocument) -> None:
        index = document.index
        if index >= self._reach:
            if self._sealed.grown is not None and index < self._sealed.grown():
                self.newer += 1
                return
            reason = f"the copy has applied {self._cursor} records, and this claims to be number {index}"
            self._say(Problem(Verdict.EXTRA, reason), index, document)
            return
        leaf = known_leaf(self._sealed.leaves.at(index))
        if leaf is None:
            self._say(Problem(Verdict.UNVERIFIABLE, "the ledger's own leaf cannot be trusted"), index, document)
        elif leaf.kind != Kind.EVENT:
            reason = f"it claims the place of a {Kind(leaf.kind).name} record, which is no entry"
            self._say(Problem(Verdict.EXTRA, reason), index, document)
        else:
            self._place(document, leaf)

    def _place(self, document: CopyDocument, leaf: Leaf) -> None:
        index, before = document.index, self._marks[document.index]
        if before not in (_UNSEEN, _SPARE) and not document.is_spare:
            self._say(Problem(Verdict.DUPLICATE, "the entry is there already"), index, document)
            return
        if before in (_UNSEEN, _SPARE):
            self._marks[index] = _SPARE if document.is_spare else _INTACT
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
        return [*problems, *self._judge_day(document, leaf)]

    def _judge_day(self, document: CopyDocument, leaf: Leaf) -> Iterator[Problem]:
        expected = self._sealed.retention.effective_expire(leaf, self._sealed.applied)
        if document.expire_day != expected:
            reason = f"it is shown until day {document.expire_day}, and its retention ends on day {expected}"
            yield Problem(Verdict.ALTERED, reason)
        if document.hidden_until > self._sealed.day:
            reason = f"it is hidden until day {document.hidden_until}, and no earlier entry of its id is kept as long"
            yield Problem(Verdict.ALTERED, reason)

    def _look_for_missing(self) -> None:
        for first, block in self._sealed.leaves.runs():
            for place in range(min(len(block) // LEAF_SIZE, self._cursor - first)):
                if self._marks[first + place] != _UNSEEN:
                    continue
                leaf = known_leaf(block[place * LEAF_SIZE : (place + 1) * LEAF_SIZE])
                if leaf is not None and leaf.kind == Kind.EVENT:
                    self._say(self._sealed.retention.absent(leaf), first + place, None)
        self._findings.count(Verdict.OK, self._marks.count(_INTACT) + self._marks.count(_SPARE))

    def _say(self, problem: Problem, index: int, document: CopyDocument | None) -> None:
        if problem.verdict not in _ABOUT_COPIES:
            self._marks[index] = _FLAGGED
        if problem.verdict.is_good:
            self._findings.count(problem.verdict, 1)
            return
        self._findings.add(
            Finding(
                verdict=problem.verdict,
                reason=problem.reason,
                first=index,
                last=index,
                file=self._reader.name,
                organization_id=None if document is None else document.organization_id,
            )
        )
