"""Which records have no content, and whether a damaged place in its file is why. Reads leaves, decides on bytes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format.leaf import LEAF_SIZE, VERSION, Kind
from klyra_collector.verify.leaves import KINDS_WITH_BODY
from klyra_collector.verify.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klyra_collector.verify.order import Gap

CONTROL: Final = -1  # the file of control documents, where other files are named by their day

EXPIRED: Final = 2  # in place of "seen": without content, and rightly so

_NAMED: Final = 64  # so many single records of a run are remembered


@dataclass(slots=True)
class Run:
    """Records of one file, next to each other in it, whose content was not seen.

    Attributes:
        file: day of the file of bodies, or `CONTROL`.
        after: index of the last record before them whose content was seen in that file, -1 if there is none.
        indexes: the first of them.
        last, count: the last one, and how many.
    """

    file: int
    after: int
    indexes: list[int] = field(default_factory=list)
    last: int = 0
    count: int = 0

    def add(self, index: int) -> None:
        """Take in the next record."""
        if len(self.indexes) < _NAMED:
            self.indexes.append(index)
        self.last = index
        self.count += 1


@dataclass(frozen=True, slots=True)
class Explained:
    """A verdict on records without content. `gap` is the damaged place, None where there is nothing at all."""

    verdict: Verdict
    first: int
    last: int
    count: int
    gap: Gap | None


class Absences:
    """Finds the runs of records whose content was not seen; feed it all leaves in order of index."""

    def __init__(self) -> None:
        self._after: defaultdict[int, int] = defaultdict(lambda: -1)
        self._open: dict[int, Run] = {}

    def feed(self, first: int, leaves: bytes, seen: bytes | bytearray) -> Iterator[Run]:
        """Yield the runs that end within these leaves; `seen` has a byte for each, zero for one without content."""
        for place, is_seen in enumerate(seen):
            if is_seen == EXPIRED:
                continue
            file = _file_of(leaves, place * LEAF_SIZE)
            if file is None:
                continue
            if not is_seen:
                run = self._open.get(file)
                if run is None:
                    run = self._open[file] = Run(file, self._after[file])
                run.add(first + place)
                continue
            self._after[file] = first + place
            if file in self._open:
                yield self._open.pop(file)

    def finish(self) -> Iterator[Run]:
        """Yield the runs that reach to the end."""
        yield from self._open.values()


def _file_of(leaves: bytes, offset: int) -> int | None:
    """Return in which file a leaf's content belongs; None for a leaf that is not understood."""
    version, kind = leaves[offset], leaves[offset + 1]
    if version != VERSION or kind > Kind.QUARANTINE:
        return None
    return int.from_bytes(leaves[offset + 4 : offset + 8]) if kind in KINDS_WITH_BODY else CONTROL


def without_bodies(leaves: bytes, seen: bytearray) -> bytearray:
    """Return `seen` for leaves whose bodies are elsewhere: only control documents must be here."""
    for place in range(len(seen)):
        if leaves[place * LEAF_SIZE + 1] in KINDS_WITH_BODY:
            seen[place] = EXPIRED
    return seen


def absent_of(day: int, expected: Iterable[int], seen: Iterable[int]) -> Iterator[Run]:
    """Yield the runs of expected indexes that were not seen in a file of which the expected ones are known."""
    wanted, there = set(expected), set(seen)
    run = Run(day, -1)
    for index in sorted(wanted | there):
        if index not in there:
            run.add(index)
            continue
        if run.count:
            yield run
        run = Run(day, index)
    if run.count:
        yield run


def explain(run: Run, gaps: Iterable[Gap]) -> Iterator[Explained]:
    """Yield what became of a run's records, given the damaged places between the records around it."""
    places = list(gaps)
    if not places:
        yield Explained(Verdict.MISSING, run.indexes[0], run.last, run.count, None)
    elif len(places) == run.count == len(run.indexes):
        for index, gap in zip(run.indexes, places, strict=True):
            yield Explained(_verdict(run, gap), index, index, 1, gap)
    else:
        yield Explained(_verdict(run, places[-1]), run.indexes[0], run.last, run.count, places[0])


def _verdict(run: Run, gap: Gap) -> Verdict:
    if gap.damage.torn:
        return Verdict.TRUNCATED
    return Verdict.CONTROL_ALTERED if run.file == CONTROL else Verdict.ALTERED
