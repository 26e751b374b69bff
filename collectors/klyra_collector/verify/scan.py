"""The passes over a shard's leaves: each is one function from a task to a result, so that any process can do it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from klyra_audit.format.errors import LeafError
from klyra_audit.format.leaf import LEAF_SIZE, Leaf
from klyra_collector.verify import tiles
from klyra_collector.verify.emitters import Sequences
from klyra_collector.verify.files import NoFile, RegularFile, open_if_readable, open_or_empty
from klyra_collector.verify.leaves import ChainChecker, HeadsRecords, Policies
from klyra_collector.verify.tiles import TILE_BYTES, TILE_LEAVES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_collector.verify.alignment import Segment
    from klyra_collector.verify.verdicts import Problem, Verdict

_LEAVES_PER_READ: Final = 4096


class LeafReader:
    """Reads the leaves that can be trusted to be those of their index."""

    def __init__(self, file: RegularFile | NoFile, segments: tuple[Segment, ...]) -> None:
        self._file = file
        self._segments = segments
        self._starts = [segment.index for segment in segments]
        self._block = b""
        self._block_position = 0

    def at(self, index: int) -> bytes | None:
        """Return the 112 bytes of a leaf, None if there is none to trust."""
        place = bisect_right(self._starts, index) - 1
        if place < 0:
            return None
        segment = self._segments[place]
        if index >= segment.index + segment.count:
            return None
        return self._at_position(segment.position + index - segment.index)

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """Yield (first index, whole leaves) for all of them, in order of index."""
        for segment in self._segments:
            for done in range(0, segment.count, _LEAVES_PER_READ):
                count = min(_LEAVES_PER_READ, segment.count - done)
                block = self._file.read((segment.position + done) * LEAF_SIZE, count * LEAF_SIZE)
                yield segment.index + done, block[: len(block) // LEAF_SIZE * LEAF_SIZE]

    def _at_position(self, position: int) -> bytes | None:
        offset = (position - self._block_position) * LEAF_SIZE
        if not 0 <= offset < len(self._block):
            self._block_position = position
            self._block = self._file.read(position * LEAF_SIZE, _LEAVES_PER_READ * LEAF_SIZE)
            offset = 0
        encoded = self._block[offset : offset + LEAF_SIZE]
        return encoded if len(encoded) == LEAF_SIZE else None


def known_leaf(encoded: bytes | None) -> Leaf | None:
    """Return a leaf that is understood, None for any other."""
    if encoded is None:
        return None
    try:
        return Leaf.unpack(encoded)
    except LeafError:
        return None


@dataclass(frozen=True, slots=True)
class TileTask:
    """Full tiles [first, last) of a shard."""

    leaves: Path
    hashes: Path
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class TileResult:
    """Roots of the tiles, from the leaves and from hashes/0, and the numbers of those whose leaf hashes differ."""

    computed: bytes
    stored: bytes
    differing: tuple[int, ...]


def scan_tiles(task: TileTask) -> TileResult:
    """Compute the roots of a range of tiles, and compare their leaf hashes with hashes/0."""
    computed, stored = bytearray(), bytearray()
    differing: list[int] = []
    with open_or_empty(task.leaves) as leaves, open_if_readable(task.hashes) as hashes:
        for number in range(task.first, task.last):
            ours = tiles.leaf_hashes(leaves.read(number * TILE_LEAVES * LEAF_SIZE, TILE_LEAVES * LEAF_SIZE))
            theirs = hashes.read(number * TILE_BYTES, TILE_BYTES)
            root = tiles.tile_root(ours)
            computed += root
            if ours == theirs:
                stored += root
            else:
                stored += tiles.tile_root(theirs)
                differing.append(number)
    return TileResult(bytes(computed), bytes(stored), tuple(differing))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTask:
    """All leaves of a shard.

    Attributes:
        leaves: the file.
        segments: where the leaves to trust stand.
        skipped: (index, hash) of those that cannot be trusted, ascending.
        policies, heads: see `ChainChecker`.
        keep: how many problems to describe; all are counted.
    """

    leaves: Path
    segments: tuple[Segment, ...]
    skipped: tuple[tuple[int, bytes], ...]
    policies: Policies
    heads: HeadsRecords
    keep: int


@dataclass(slots=True)
class ChainResult:
    """What the leaves' fields and chains have to say.

    Attributes:
        problems: (index, problem), the first ones.
        counts: of all problems.
        flagged: indexes of all records with a problem.
        first_us, last_us: ingest times of the first and of the last leaf; None without leaves.
        sequences: of the emitters' boots.
    """

    problems: list[tuple[int, Problem]] = field(default_factory=list)
    counts: Counter[Verdict] = field(default_factory=Counter)
    flagged: array[int] = field(default_factory=lambda: array("Q"))
    first_us: int | None = None
    last_us: int | None = None
    sequences: Sequences = field(default_factory=Sequences)


def scan_chain(task: ChainTask) -> ChainResult:
    """Follow every organization's chain through the leaves."""
    checker = ChainChecker(task.policies, task.heads)
    result = ChainResult()
    skipped = iter((*task.skipped, (1 << 64, b"")))
    next_skip, hashed = next(skipped)
    with open_or_empty(task.leaves) as file:
        for first, block in LeafReader(file, task.segments).runs():
            while next_skip < first:
                checker.skip(next_skip, hashed)
                next_skip, hashed = next(skipped)
            for index, problem in checker.check_block(first, block):
                _note(result, index, problem, task.keep)
    result.first_us = checker.first_us
    result.last_us = None if checker.first_us is None else checker.last_us
    result.sequences = checker.sequences
    return result


def _note(result: ChainResult, index: int, problem: Problem, keep: int) -> None:
    result.counts[problem.verdict] += 1
    result.flagged.append(index)
    if len(result.problems) < keep:
        result.problems.append((index, problem))
