"""Whether `hashes/<L>` and the kept checkpoints say what the tree says (step 5 of a shard's verification)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klyra_audit.format.merkle import HASH_SIZE
from klyra_collector.verify import files, tiles
from klyra_collector.verify.files import Unreadable, open_if_readable, open_or_empty
from klyra_collector.verify.tiles import TILE_LEAVES
from klyra_collector.verify.verdicts import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from klyra_collector.verify.heads import SignedHead
    from klyra_collector.verify.layout import ShardFolder
    from klyra_collector.verify.tree import Extent, Tree, TreeReader

_REMEDY: Final = "served proofs would be wrong; the leaves are right: a start of the collector writes this file again"


def check_kept(folder: ShardFolder, tree: Tree, reader: TreeReader, kept: Sequence[SignedHead]) -> Iterator[Finding]:
    """Yield kept heads that the tree does not lead to, although the newest head vouches for the tree."""
    sizes = [head.checkpoint.size for head in kept]
    roots = tiles.roots_at(sizes, tree.account.tiles, lambda number: reader.leaf_hashes_of(tree, number))
    for head, root in zip(kept, roots, strict=True):
        if root != head.checkpoint.root:
            reason = f"it is signed for {head.checkpoint.size} records, and the newest signed head is of other ones"
            yield Finding(verdict=Verdict.FORK, reason=reason, file=folder.name(head.path))


class HashChecker:
    """Compares each file of hashes with the tree. `leaves_now` is the number of leaves, read after these files."""

    def __init__(self, folder: ShardFolder, extent: Extent, tree: Tree, reader: TreeReader) -> None:
        self._folder = folder
        self._signed = extent.signed
        self._tree = tree
        self._reader = reader

    def check(self) -> Iterator[Finding]:
        """Yield what is wrong with the files of hashes, level by level."""
        yield from self._check_leaf_hashes()
        expected = self._tree.account.tiles[: self._signed // TILE_LEAVES * HASH_SIZE]
        level = 1
        while expected:
            yield from self._check_level(level, expected)
            expected = _next_level(expected)
            level += 1

    def check_lengths(self, leaves_now: int, *, interrupted: bool) -> Iterator[Finding]:
        """Yield the files that say more than there are leaves for."""
        try:
            levels = self._folder.hash_levels()
        except Unreadable as error:
            folder = self._folder.hashes(0).parent
            yield self._finding(Verdict.UNVERIFIABLE, folder, None, f"it cannot be read: {error}")
            return
        for level in levels:
            path = self._folder.hashes(level)
            with open_if_readable(path) as file:
                count, rest = divmod(file.size, HASH_SIZE)
            allowed = max(leaves_now, self._signed) // TILE_LEAVES**level
            if count > allowed:
                reason = f"it has {count} hashes, and there are leaves for {allowed}"
                yield self._finding(Verdict.EXTRA, path, allowed, reason)
            elif rest and not interrupted:
                yield self._finding(Verdict.EXTRA, path, count, f"it ends with {rest} bytes that are no hash")

    def _check_leaf_hashes(self) -> Iterator[Finding]:
        path = self._folder.hashes(0)
        yield from self._check_length(path, self._signed)
        full = self._signed // TILE_LEAVES
        suspects = tiles.differing(
            self._tree.from_hashes[: full * HASH_SIZE], self._tree.account.tiles[: full * HASH_SIZE]
        )
        for number in (*suspects, full):
            authentic = self._reader.leaf_hashes_of(self._tree, number)
            authentic = authentic[: (self._signed - number * TILE_LEAVES) * HASH_SIZE]
            with open_if_readable(path) as file:
                stored = file.read(number * tiles.TILE_BYTES, len(authentic))
            yield from self._compare(path, number * TILE_LEAVES, stored, authentic[: len(stored)])

    def _check_level(self, level: int, expected: bytes) -> Iterator[Finding]:
        path = self._folder.hashes(level)
        yield from self._check_length(path, len(expected) // HASH_SIZE)
        with open_if_readable(path) as file:
            stored = file.read(0, len(expected))
        yield from self._compare(path, 0, stored, expected[: len(stored)])

    def _check_length(self, path: Path, expected: int) -> Iterator[Finding]:
        if expected and not files.exists(path):
            yield self._finding(Verdict.MISSING, path, None, f"{expected} hashes are not here")
            return
        try:
            with open_or_empty(path) as file:
                count = file.size // HASH_SIZE
        except Unreadable as error:
            yield self._finding(Verdict.UNVERIFIABLE, path, None, f"it cannot be read: {error}")
            return
        if count < expected:
            yield self._finding(Verdict.TRUNCATED, path, count, f"it has {count} of {expected} hashes")

    def _compare(self, path: Path, first: int, stored: bytes, expected: bytes) -> Iterator[Finding]:
        for place in tiles.differing(stored, expected):
            reason = "it is not the hash of what stands in the leaves"
            yield self._finding(Verdict.ROOT_MISMATCH, path, first + place, reason)

    def _finding(self, verdict: Verdict, path: Path, place: int | None, reason: str) -> Finding:
        return Finding(
            verdict=verdict,
            reason=reason,
            file=self._folder.name(path),
            offset=None if place is None else place * HASH_SIZE,
            remedy=_REMEDY,
        )


def _next_level(hashes: bytes) -> bytes:
    """Return the roots of the full tiles over hashes of one level."""
    full = range(0, len(hashes) - tiles.TILE_BYTES + 1, tiles.TILE_BYTES)
    return b"".join(tiles.tile_root(hashes[at : at + tiles.TILE_BYTES]) for at in full)
