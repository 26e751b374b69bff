"""A cell in a file on another mount: a network share, a second disk, a volume with snapshots of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from klyra_audit.errors import Rejected
from klyra_collector.errors import CellConflict, CellUnreachable
from klyra_collector.seal.cell import MAX_CELL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK_SECONDS = 5.0
_LOCK_POLL_SECONDS = 0.05


class FileCell:
    """One file, replaced as a whole under a lock beside it."""

    def __init__(self, path: Path, *, lock_seconds: float = _LOCK_SECONDS) -> None:
        self._path = path
        self._lock_seconds = lock_seconds

    @classmethod
    def at(cls, url: str) -> Self:
        """Return the cell of a URL `file:/path`; `Rejected` (`bad_cell`) for a relative one."""
        path = Path(url.removeprefix("file:"))
        if not path.is_absolute() or not path.name:
            raise Rejected(
                "ledger.cell: a file's path must be absolute.", remedy="Write file:/mount/cell.", code="bad_cell"
            )
        return cls(path)

    def read(self) -> bytes | None:
        """See `Cell`."""
        with _translated(self._path):
            return self._read()

    def compare_and_swap(self, expected: bytes | None, new: bytes) -> None:
        """See `Cell`.

        A crash before the rename leaves the old value (and a `.new` file that the next writer overwrites), a crash
        after it the new one; the kernel gives the lock back either way.
        """
        with _translated(self._path), self._locked():
            if self._read() != expected:
                raise CellConflict(
                    f"The cell {self._path} holds a head that this collector did not put there.",
                    remedy="Find the other collector that writes this ledger, and stop one of them.",
                )
            self._replace(new)

    def _read(self) -> bytes | None:
        # The folder is never made: where a mount is missing, its empty place must not look like an empty cell.
        if not self._path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {self._path.parent}")
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_CELL_BYTES)
        except FileNotFoundError:
            return None

    def _replace(self, new: bytes) -> None:
        temporary = self._path.with_name(self._path.name + ".new")
        with temporary.open("wb") as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(
            self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
        try:
            self._wait_for_lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._lock_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOCK_POLL_SECONDS)
            else:
                return


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CellUnreachable(
            f"The cell {path} cannot be used: {error}.",
            remedy="Mount its folder, or let this user write there.",
        ) from error
