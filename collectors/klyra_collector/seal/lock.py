"""One writer per ledger: an advisory lock that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from klyra_collector.errors import LedgerLocked

if TYPE_CHECKING:
    from pathlib import Path


class LedgerLock:
    """Held from construction until `release`; a second holder is refused."""

    def __init__(self, ledger: Path) -> None:
        ledger.mkdir(parents=True, exist_ok=True)
        self._path = ledger / "lock"
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "another process"
            os.close(self._descriptor)
            raise LedgerLocked(
                f"The ledger in {ledger} is being written by process {holder}.",
                remedy="Stop that process first, or give this collector a data directory of its own.",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another writer in."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
