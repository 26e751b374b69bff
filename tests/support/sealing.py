"""A real ledger in a temporary directory, on a disk that can be told to fail and a clock that can be set."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path

from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger, LedgerOptions
from klyra_collector.seal.reader import LedgerReader, SealedRecord

OPTIONS = LedgerOptions(software="klyra-audit test", schemas={"klyra.audit/1#moderation.created": "ab" * 32})
MICROSECONDS = 1_000_000
MIDSUMMER_US = 1_782_000_000 * MICROSECONDS  # 2026-06-21


class SetClock:
    """A clock that stands still until it is moved."""

    def __init__(self, wall_us: int = MIDSUMMER_US) -> None:
        self.wall = wall_us
        self.boottime = 1000 * MICROSECONDS
        self.is_synchronised = False

    def wall_us(self) -> int:
        """See `Clock`."""
        return self.wall

    def boottime_us(self) -> int:
        """See `Clock`."""
        return self.boottime

    def synchronised(self) -> bool:
        """See `Clock`."""
        return self.is_synchronised

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass as it does: on both clocks."""
        self.wall += int(seconds * MICROSECONDS)
        self.boottime += int(seconds * MICROSECONDS)

    def set_forward(self, seconds: float) -> None:
        """Set the wall clock, forward or back, as an operator or an attacker would."""
        self.wall += int(seconds * MICROSECONDS)


class DiskFullError(OSError):
    """What a full disk raises."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "No space left on device")


class DiskBrokenError(OSError):
    """What a broken disk raises."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "Input/output error")


class Killed(BaseException):
    """The process ends here; nothing after this happens."""


@dataclass
class Fault:
    """Fail at the n-th call of a step, before it happens, after it, or (an append) in the middle of it.

    `path` narrows it to calls on a path that ends so (below the data directory); `error` is what is raised.
    """

    step: str
    moment: str
    at: int = 0
    path: str = ""
    error: type[BaseException] = DiskFullError
    seen: int = field(default=0, init=False)
    struck: bool = field(default=False, init=False)

    def strikes(self, step: str, path: str = "") -> bool:
        """Say whether this call is the one."""
        if step != self.step or self.struck or not path.endswith(self.path):
            return False
        self.seen += 1
        self.struck = self.seen > self.at
        return self.struck


class FaultyDisk(Disk):
    """A real disk that fails once where it is told to, and notes every (step, path) in order."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Fault | None = None
        self.steps: list[tuple[str, str]] = []

    def append(self, descriptor, content) -> None:
        """See `Disk`; a torn append leaves half of it."""
        half = content[: len(content) // 2]
        self._around(
            "append", _path_of(descriptor), lambda part=content: super(FaultyDisk, self).append(descriptor, part), half
        )

    def overwrite(self, descriptor, content, offset) -> None:
        """See `Disk`; a torn one leaves half of it."""
        half = content[: len(content) // 2]
        self._around(
            "overwrite",
            _path_of(descriptor),
            lambda part=content: super(FaultyDisk, self).overwrite(descriptor, part, offset),
            half,
        )

    def sync(self, descriptors) -> None:
        """See `Disk`."""
        listed = list(descriptors)
        self._around("sync", _path_of(listed[0]), lambda: super(FaultyDisk, self).sync(listed))

    def replace(self, path, content, *, mode=0o640) -> None:
        """See `Disk`; its own writing is not counted apart."""
        self._around("replace", str(path), lambda: Disk.replace(_WHOLE, path, content, mode=mode))

    def sync_new_file(self, path, root) -> None:
        """See `Disk`."""
        self._around("sync_new_file", str(path), lambda: super(FaultyDisk, self).sync_new_file(path, root))

    def _around(self, step, path, work, torn=None) -> None:
        self.steps.append((step, path))
        fault = self.fault
        if fault is None or not fault.strikes(step, path):
            work()
            return
        if fault.moment == "after":
            work()
        elif fault.moment == "torn":
            work(torn)
        raise fault.error


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


_WHOLE = Disk()


def open_ledger(root: Path, clock: SetClock, disk: Disk | None = None) -> Ledger:
    """Open the ledger of a data directory."""
    return Ledger.open(DataDirectory(root), disk or Disk(), clock, OPTIONS)


def crash(ledger: Ledger) -> None:
    """Leave the files as they are, as a kill does, and let the next writer in."""
    ledger._recent.close()
    ledger._files.close()
    ledger._own.close()
    ledger._lock.release()


def read_shard(root: Path, shard: str) -> list[SealedRecord]:
    """Return every committed record of a shard, as a follower sees it."""
    reader = LedgerReader(DataDirectory(root).ledger)
    try:
        origin = next(origin for origin in reader.origins() if origin.endswith(f"/{shard}"))
        return reader.read(origin, 0, reader.committed(origin))
    finally:
        reader.close()


def read_all(root: Path, start: int = 0) -> list[SealedRecord]:
    """Return every committed record of the newest shard from `start` on, as a follower sees it."""
    reader = LedgerReader(DataDirectory(root).ledger)
    try:
        origin = reader.origins()[-1]
        return reader.read(origin, start, reader.committed(origin))
    finally:
        reader.close()
