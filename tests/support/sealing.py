"""A real ledger in a temporary directory, on a disk that can be told to fail and a clock that can be set."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klyra_collector.data_directory import DataDirectory
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.ledger import Ledger, LedgerOptions
from klyra_collector.seal.reader import LedgerReader, SealedRecord

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass
class Fault:
    """Fail at the n-th call of a step, before it happens, after it, or (an append) in the middle of it."""

    step: str
    moment: str
    at: int = 0
    seen: int = field(default=0, init=False)
    struck: bool = field(default=False, init=False)

    def strikes(self, step: str) -> bool:
        """Say whether this call is the one."""
        if step != self.step or self.struck:
            return False
        self.seen += 1
        self.struck = self.seen > self.at
        return self.struck


class FaultyDisk(Disk):
    """A real disk that fails once where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Fault | None = None

    def append(self, descriptor, content) -> None:
        """See `Disk`; a torn append leaves half of it."""
        if self.fault and self.fault.strikes("append"):
            if self.fault.moment == "torn":
                super().append(descriptor, content[: len(content) // 2])
            elif self.fault.moment == "after":
                super().append(descriptor, content)
            raise DiskFullError
        super().append(descriptor, content)

    def sync(self, descriptors) -> None:
        """See `Disk`."""
        self._around("sync", lambda: super(FaultyDisk, self).sync(descriptors))

    def replace(self, path, content, *, mode=0o640) -> None:
        """See `Disk`."""
        self._around("replace", lambda: super(FaultyDisk, self).replace(path, content, mode=mode))

    def sync_new_file(self, path, root) -> None:
        """See `Disk`."""
        self._around("sync_new_file", lambda: super(FaultyDisk, self).sync_new_file(path, root))

    def _around(self, step, work) -> None:
        if self.fault and self.fault.strikes(step):
            if self.fault.moment == "after":
                work()
            raise DiskFullError
        work()


def open_ledger(root: Path, clock: SetClock, disk: Disk | None = None) -> Ledger:
    """Open the ledger of a data directory."""
    return Ledger.open(DataDirectory(root), disk or Disk(), clock, OPTIONS)


def read_all(root: Path, start: int = 0) -> list[SealedRecord]:
    """Return every committed record of the newest shard from `start` on, as a follower sees it."""
    reader = LedgerReader(DataDirectory(root).ledger)
    try:
        origin = reader.origins()[-1]
        return reader.read(origin, start, reader.committed(origin))
    finally:
        reader.close()
