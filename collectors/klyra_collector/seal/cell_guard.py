"""What the cell outside this disk says about this ledger, at start and at each signing.

At each signing: first `last-signed` is durable here, then the cell moves on, then the checkpoint is shown. A crash
after the first leaves the cell one head behind, which the next start finds to be a prefix; a crash after the second
leaves an older checkpoint public, which stays true.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit.format.checkpoint import Checkpoint
from klyra_audit.format.errors import FormatError
from klyra_audit.format.merkle import HASH_SIZE, root_from
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.errors import (
    CellConflict,
    CellUnreachable,
    CellUnusable,
    LedgerRolledBack,
)
from klyra_collector.seal.cell import open_cell
from klyra_collector.seal.reader import shard_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_collector.seal.cell import Cell
    from klyra_collector.seal.durable import Disk

_CHOICES = (
    "See what is known with `klyra-audit ledger explain`; bring the newest copy of the data directory back, or, if it "
    "is lost for good, go on in a new shard with `klyra-audit ledger continue --after-disaster`."
)


class CellGuard:
    """Keeps a cell at the newest signed head of one collector.

    Args:
        cell: the cell.
        url: where it is, without credentials; noted in the data directory once it was written.
        prefix: `<ledger name>/<collector id>/`, with which every origin of this collector begins.
        folder: the ledger's folder of shards.
        disk: to note with.
    """

    def __init__(self, cell: Cell, url: str, prefix: str, folder: Path, disk: Disk) -> None:
        self._cell = cell
        self._url = url
        self._prefix = prefix
        self._folder = folder
        self._disk = disk
        self._note = folder / "cell"
        self._present: bytes | None = None
        self._in_doubt: set[bytes] = set()

    @property
    def head(self) -> Checkpoint | None:
        """The head that the cell held when `check` read it; None if it held none."""
        return None if self._present is None else _parse(self._present)

    def check(self, shards: Sequence[ShardDirectory]) -> None:
        """Compare the cell with the disk, once at start and after recovery.

        What an operator consented to lose (`state/consent` of a shard opened after a disaster) is not missed again:
        the next signing moves the cell on to the shard that goes on.

        Args:
            shards: every shard on this disk, the one to be written last.

        Raises:
            CellUnusable: `cell_unreachable`, `cell_foreign` or `cell_malformed`.
            LedgerRolledBack: `restored_image` when the cell holds a head that this disk does not, `cell_emptied`
                when it held one before and holds none.
        """
        self._present = self._read()
        if self._present is None:
            self._refuse_emptied(shards[-1])
            return
        head = _parse(self._present)
        name = head.origin.removeprefix(self._prefix)
        if not head.origin.startswith(self._prefix) or "/" in name or name in ("", ".", ".."):
            raise CellUnusable(
                f"The cell {self._url} belongs to {head.origin}, another collector's log.",
                remedy="Give each collector a cell of its own in ledger.cell.",
                code="cell_foreign",
            )
        if not _is_settled(name, shards):
            self._refuse_newer(head, ShardDirectory(self._folder / name))

    def move(self, encoded: bytes) -> None:
        """Move the cell on to a signed head.

        Raises:
            CellUnreachable: it may or may not have moved; try again with a head at least as new.
            CellConflict: someone else moved it.
        """
        self._in_doubt.add(_digest(encoded))
        try:
            self._cell.compare_and_swap(self._present, encoded)
        except CellConflict:
            # A write of ours whose answer was lost looks like another's.
            present = self._cell.read()
            if present is None or _digest(present) not in self._in_doubt:
                raise
            self._present = present
            self._cell.compare_and_swap(present, encoded)
        self._present = encoded
        self._in_doubt.clear()
        self._note_use()

    def _read(self) -> bytes | None:
        try:
            return self._cell.read()
        except CellUnreachable as error:
            raise CellUnusable(
                f"The ledger cannot be checked against its cell. {error}",
                remedy="Start again once it answers.",
                code="cell_unreachable",
            ) from error

    def _refuse_emptied(self, newest: ShardDirectory) -> None:
        if newest.consent.exists() and not newest.last_signed.exists():
            return
        if self._note.exists() and self._note.read_text() == self._url:
            raise LedgerRolledBack(
                f"The cell {self._url} held a head of this ledger and is empty now.",
                remedy=f"Check that its place is mounted and not restored itself. {_CHOICES}",
                code="cell_emptied",
            )

    def _refuse_newer(self, head: Checkpoint, shard: ShardDirectory) -> None:
        signed = _last_signed(shard)
        if signed is None or signed.size < head.size:
            raise LedgerRolledBack(
                f"The cell {self._url} knows {head.size} signed records of {head.origin}, this disk "
                f"{0 if signed is None else signed.size}: it is a restored disk image, or a copy.",
                remedy=_CHOICES,
                code="restored_image",
            )
        root = signed.root if signed.size == head.size else _root(shard, head.size)
        if root != head.root:
            raise LedgerRolledBack(
                f"The first {head.size} records of {head.origin} on this disk are not those that the cell "
                f"{self._url} knows: this is a copy that went on by itself.",
                remedy=_CHOICES,
                code="restored_image",
            )

    def _note_use(self) -> None:
        if not self._note.exists() or self._note.read_text() != self._url:
            self._disk.replace(self._note, self._url.encode())


def guard_of(url: str | None, prefix: str, folder: Path, disk: Disk) -> CellGuard | None:
    """Return what keeps the configured cell, None without one; raises as `open_cell`."""
    if url is None:
        return None
    return CellGuard(open_cell(url), url.partition("?")[0], prefix, folder, disk)


def _is_settled(name: str, shards: Sequence[ShardDirectory]) -> bool:
    """Say whether an operator went on from a shard after a disaster, which may have taken it from this disk whole."""
    try:
        order = shard_order(Path(name))
    except ValueError:
        return False
    return any(shard.consent.exists() and shard_order(shard.root) > order for shard in shards)


def _parse(value: bytes) -> Checkpoint:
    """Read a head without asking who signed it: who may write the cell can stop this collector in any case."""
    try:
        return Checkpoint.parse(value.decode().rpartition("\n\n")[0] + "\n")
    except (FormatError, UnicodeDecodeError) as error:
        raise CellUnusable(
            f"The cell holds no checkpoint: {error}.",
            remedy="Give the cell a place of its own, and see who writes there.",
            code="cell_malformed",
        ) from error


def _last_signed(shard: ShardDirectory) -> Checkpoint | None:
    try:
        return _parse(shard.last_signed.read_bytes())
    except FileNotFoundError:
        return None


def _root(shard: ShardDirectory, size: int) -> bytes:
    """Return the root over the first leaves, out of the hashes that recovery has compared with them."""

    def read(level: int, first: int, count: int) -> bytes:
        with shard.hashes(level).open("rb") as file:
            file.seek(first * HASH_SIZE)
            return file.read(count * HASH_SIZE)

    return root_from(read, size)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()
