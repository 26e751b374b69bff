"""Whether the leaves lead to the signed root, and which of them do not (steps 3 to 5 of a shard's verification)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import tiles
from klyra_collector.verify.alignment import Aligner, Alignment, Segment
from klyra_collector.verify.files import open_if_readable, open_or_empty
from klyra_collector.verify.scan import TileTask, scan_tiles
from klyra_collector.verify.tiles import TILE_LEAVES, Account
from klyra_collector.verify.verdicts import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from klyra_audit.format.checkpoint import Checkpoint
    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.work import Crew

TILES_PER_TASK: Final = 256


class Extent(NamedTuple):
    """How much of a shard is looked at.

    Attributes:
        signed: number of signed records; without a head, of all that are looked at.
        size: number of records looked at: signed ones, and those that followers may read behind them.
        leaves: number of whole leaves in the file.
    """

    signed: int
    size: int
    leaves: int


@dataclass(slots=True)
class Tree:
    """What is known of a shard's leaves.

    Attributes:
        segments: where the leaves to trust stand.
        skipped: (index, hash) of leaves that cannot be trusted, ascending.
        end: position in the file behind the last signed leaf.
        vouched: how many records, from the first on, a signed head vouches for.
        account: the tree itself, as far as it is known.
        from_hashes: roots of its full tiles as hashes/0 has them.
        findings: what is wrong.
    """

    account: Account
    from_hashes: bytes
    segments: tuple[Segment, ...] = ()
    skipped: list[tuple[int, bytes]] = field(default_factory=list)
    end: int = 0
    vouched: int = 0
    findings: list[Finding] = field(default_factory=list)


class _Accounts(NamedTuple):
    """Roots of the full tiles as the leaves, hashes/0 and hashes/1 have them; where the first two differ."""

    computed: bytes
    from_hashes: bytes
    stored: bytes
    differing: list[int]


class TreeReader:
    """Compares a shard's leaves, its hashes and what was signed."""

    def __init__(self, folder: ShardFolder, extent: Extent, crew: Crew, progress: Callable[[int, int], None]) -> None:
        self._folder = folder
        self._extent = extent
        self._crew = crew
        self._progress = progress
        self._name = folder.name(folder.leaves)

    def read(self, head: Checkpoint | None, kept: Iterable[Checkpoint]) -> Tree:
        """Return what is known of the leaves.

        Args:
            head: what was signed; None when there is nothing to trust.
            kept: older signed heads, by ascending size; they narrow down where leaves that lead to no signed root
                begin to differ.
        """
        accounts = self._read_accounts()
        number = self._extent.signed // TILE_LEAVES
        own, stored = self._leaf_hashes_of(number), self._stored_hashes_of(number)
        computed = Account(accounts.computed, own)
        if head is None:
            return self._trust(computed, accounts.from_hashes, vouched=0)
        if computed.root(head.size) == head.root:
            return self._trust(computed, accounts.from_hashes, vouched=head.size)
        from_hashes = Account(accounts.from_hashes, stored)
        if from_hashes.root(head.size) == head.root:
            return self._align(from_hashes, accounts)
        mixed = tiles.majority(accounts.computed, accounts.from_hashes, accounts.stored)
        authentic = tiles.find_authentic(
            head.root, head.size, (accounts.stored, accounts.computed, mixed), (own, stored)
        )
        if authentic is not None:
            return self._localise(authentic, accounts)
        return self._give_up(computed, accounts, kept)

    def _read_accounts(self) -> _Accounts:
        """Read everything once; full tiles are spread over the crew."""
        full = self._extent.size // TILE_LEAVES
        leaves, hashes = self._folder.leaves, self._folder.hashes(0)
        starts = range(0, full, TILES_PER_TASK)
        tasks = [TileTask(leaves, hashes, start, min(start + TILES_PER_TASK, full)) for start in starts]
        computed, from_hashes = bytearray(), bytearray()
        differing: list[int] = []
        for task, result in zip(tasks, self._crew.map(scan_tiles, tasks), strict=True):
            computed += result.computed
            from_hashes += result.stored
            differing += result.differing
            self._progress(task.last, full)
        stored = _read(self._folder.hashes(1), 0, full * HASH_SIZE)
        return _Accounts(bytes(computed), bytes(from_hashes), stored, differing)

    def _trust(self, account: Account, from_hashes: bytes, *, vouched: int) -> Tree:
        """Take the leaves as they stand."""
        there = min(self._extent.size, self._extent.leaves)
        segments = (Segment(0, 0, there),) if there else ()
        return Tree(account, from_hashes, segments, end=min(self._extent.signed, self._extent.leaves), vouched=vouched)

    def _align(self, authentic: Account, accounts: _Accounts) -> Tree:
        """The hashes beside the leaves are authentic: say of each leaf what happened to it."""
        signed = self._extent.signed
        starts = [number * TILE_LEAVES for number in accounts.differing if number * TILE_LEAVES < signed]
        starts.append(signed // TILE_LEAVES * TILE_LEAVES)
        with open_or_empty(self._folder.leaves) as leaves, open_if_readable(self._folder.hashes(0)) as hashes:

            def stored(first: int, count: int) -> list[bytes]:
                return tiles.split_hashes(hashes.read(first * HASH_SIZE, count * HASH_SIZE))

            def actual(first: int, count: int) -> list[bytes]:
                count = max(min(count, self._extent.leaves - first), 0)
                return tiles.split_hashes(tiles.leaf_hashes(leaves.read(first * LEAF_SIZE, count * LEAF_SIZE)))

            aligned = Aligner(stored, actual, starts[0], signed).run(_skipper(starts))
            tree = Tree(authentic, accounts.from_hashes, end=aligned.end, vouched=signed)
            absent = sorted([*aligned.missing, *(index for index, _ in aligned.altered)])
            tree.skipped = [(index, stored(index, 1)[0]) for index in absent]
        tree.segments = (*aligned.segments, *self._unsigned(aligned))
        tree.findings = list(self._describe(aligned))
        return tree

    def _unsigned(self, aligned: Alignment) -> tuple[Segment, ...]:
        """Return where the records behind the signed ones stand."""
        signed, size, leaves = self._extent
        count = min(size - signed, leaves - aligned.end)
        known = aligned.cut is None and aligned.given_up is None and count > 0
        return (Segment(signed, aligned.end, count),) if known else ()

    def _describe(self, aligned: Alignment) -> Iterator[Finding]:
        if aligned.altered or aligned.missing or aligned.moved or aligned.extra or aligned.given_up is not None:
            reason = "the leaves do not lead to the signed root; hashes/0 does, and shows which of them differ"
            yield Finding(verdict=Verdict.ROOT_MISMATCH, reason=reason, file=self._name)
        for index, position in aligned.altered:
            yield self._about(Verdict.ALTERED, index, index, "its leaf is not the one that was sealed", position)
        for first, last in ranges(aligned.missing):
            yield self._about(Verdict.MISSING, first, last, "its leaf was sealed and is not in the file")
        for index in aligned.moved:
            yield self._about(Verdict.REORDERED, index, index, "its leaf stands in another place than its own")
        for position in aligned.extra:
            reason = "a leaf that was never sealed"
            yield Finding(verdict=Verdict.EXTRA, reason=reason, file=self._name, offset=position * LEAF_SIZE)
        if aligned.cut is not None:
            yield self._truncated(aligned.cut)
        if aligned.given_up is not None:
            yield self._mismatch(aligned.given_up, "from here on the leaves are others than those that were sealed")

    def _localise(self, authentic: Account, accounts: _Accounts) -> Tree:
        """Some accounts are wrong in places, but together they lead to the signed root: go tile by tile."""
        tree = self._trust(authentic, accounts.from_hashes, vouched=self._extent.signed)
        reason = "the leaves do not lead to the signed root"
        tree.findings.append(Finding(verdict=Verdict.ROOT_MISMATCH, reason=reason, file=self._name))
        full = self._extent.signed // TILE_LEAVES * HASH_SIZE
        for number in tiles.differing(accounts.computed[:full], authentic.tiles[:full]):
            if _nth(accounts.from_hashes, number) == _nth(authentic.tiles, number):
                self._compare_leaves(tree, number, self._stored_hashes_of(number))
            else:
                first = number * TILE_LEAVES
                reason = "one or more of these leaves are not those that were sealed"
                tree.findings.append(self._about(Verdict.ROOT_MISMATCH, first, first + TILE_LEAVES - 1, reason))
        self._compare_leaves(tree, self._extent.signed // TILE_LEAVES, authentic.partial)
        if self._extent.leaves < self._extent.signed:
            tree.findings.append(self._truncated(self._extent.leaves))
        tree.segments = tuple(_without(tree.segments, [index for index, _ in tree.skipped]))
        return tree

    def _compare_leaves(self, tree: Tree, number: int, authentic: bytes) -> None:
        """Note the leaves of a tile that differ from its authentic hashes."""
        first = number * TILE_LEAVES
        count = max(min(TILE_LEAVES, self._extent.signed - first, self._extent.leaves - first), 0)
        computed = self._leaf_hashes_of(number)[: count * HASH_SIZE]
        for place in tiles.differing(computed, authentic[: count * HASH_SIZE]):
            index = first + place
            tree.skipped.append((index, _nth(authentic, place)))
            reason = "its leaf is not the one that was sealed"
            tree.findings.append(self._about(Verdict.ALTERED, index, index, reason, index))

    def _give_up(self, computed: Account, accounts: _Accounts, kept: Iterable[Checkpoint]) -> Tree:
        """Nothing leads to the signed root: say from which older head on."""
        known = [head for head in kept if head.size <= self._extent.leaves]
        roots = tiles.roots_at([head.size for head in known], computed.tiles, self._leaf_hashes_of)
        vouched = max((head.size for head, root in zip(known, roots, strict=True) if root == head.root), default=0)
        tree = self._trust(computed, accounts.from_hashes, vouched=vouched)
        if self._extent.leaves < self._extent.signed:
            tree.findings.append(self._truncated(self._extent.leaves))
        else:
            reason = "neither the leaves nor the hashes beside them lead to the signed root"
            tree.findings.append(self._mismatch(vouched, reason))
        return tree

    def leaf_hashes_of(self, tree: Tree, number: int) -> bytes:
        """Return the authentic leaf hashes of a tile, as far as there are any."""
        if number == self._extent.signed // TILE_LEAVES:
            return tree.account.partial
        stored = self._stored_hashes_of(number)
        if tiles.tile_root(stored) == _nth(tree.account.tiles, number):
            return stored
        return self._leaf_hashes_of(number)

    def _leaf_hashes_of(self, number: int) -> bytes:
        count = max(min(TILE_LEAVES, self._extent.leaves - number * TILE_LEAVES), 0)
        return tiles.leaf_hashes(_read(self._folder.leaves, number * TILE_LEAVES * LEAF_SIZE, count * LEAF_SIZE))

    def _stored_hashes_of(self, number: int) -> bytes:
        return _read(self._folder.hashes(0), number * tiles.TILE_BYTES, tiles.TILE_BYTES)

    def _truncated(self, first: int) -> Finding:
        last = self._extent.signed - 1
        reason = f"{last - first + 1} signed leaves are cut off"
        return self._about(Verdict.TRUNCATED, first, last, reason, first)

    def _mismatch(self, first: int, reason: str) -> Finding:
        if first >= self._extent.signed:
            return Finding(verdict=Verdict.ROOT_MISMATCH, reason=reason, file=self._name)
        return self._about(Verdict.ROOT_MISMATCH, first, self._extent.signed - 1, reason)

    def _about(self, verdict: Verdict, first: int, last: int, reason: str, position: int | None = None) -> Finding:
        return Finding(
            verdict=verdict,
            reason=reason,
            first=first,
            last=last,
            file=self._name,
            offset=None if position is None else position * LEAF_SIZE,
            count=last - first + 1,
        )


def ranges(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the inclusive ranges of ascending indexes."""
    first: int | None = None
    for index, following in pairwise([*indexes, -1]):
        first = index if first is None else first
        if following != index + 1:
            yield first, index
            first = None


def _skipper(starts: list[int]) -> Callable[[int], int]:
    """Return a function to the next of ascending tile starts whose tile is not wholly behind an index."""
    waiting = iter(starts)
    current = next(waiting)

    def skip_to(index: int) -> int:
        nonlocal current
        while current + TILE_LEAVES <= index:
            following = next(waiting, None)
            if following is None:
                break
            current = following
        return max(index, current)

    return skip_to


def _without(segments: tuple[Segment, ...], indexes: list[int]) -> Iterator[Segment]:
    """Yield identical segments with single, ascending indexes left out."""
    for segment in segments:
        start = segment.index
        for index in indexes:
            if start <= index < segment.index + segment.count:
                if index > start:
                    yield Segment(start, start, index - start)
                start = index + 1
        if start < segment.index + segment.count:
            yield Segment(start, start, segment.index + segment.count - start)


def _nth(hashes: bytes, number: int) -> bytes:
    return hashes[number * HASH_SIZE : (number + 1) * HASH_SIZE]


def _read(path: Path, offset: int, length: int) -> bytes:
    with open_if_readable(path) as file:
        return file.read(offset, length)
