"""How each destination is doing: a file that its delivery writes and that commands and metrics read.

Nothing durable depends on it: the cursor has a file of its own.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import orjson

from klyra_audit import timestamps
from klyra_collector.self_service_settings import PREFIX as SELF_SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from klyra_collector.seal.reader import LedgerReader

SUFFIX: Final = ".status.json"


class Circuit(StrEnum):
    """Whether batches are sent to a destination."""

    CLOSED = "closed"  # as many as may be
    OPEN = "open"  # none
    HALF_OPEN = "half_open"  # one, to see


class State(StrEnum):
    """What a destination's delivery is doing."""

    DELIVERING = "delivering"
    RETRYING = "retrying"
    PAUSED = "paused"
    HALTED = "halted"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationStatus:
    """One destination at one moment; times are microseconds since 1970, 0 for never.

    Attributes:
        name, kind, endpoint: as configured.
        state, since_us: what it does, and since when.
        circuit: whether batches are sent.
        origin, index: the next record to look at; "" and 0 before the first.
        entries, batches: delivered since the process started.
        retried, warned: attempts that failed, and answers that carried a warning, since then.
        skipped: records of that time that are not delivered, by reason.
        dead_letters: all that are on file.
        succeeded_us: when the destination confirmed last.
        error, error_us: what went wrong last, and when.
        window_seconds: how old an entry may be for the destination to take it under its own time; 0 for any age.
        waiting_us: time of the oldest entry that was tried and not yet taken; 0 for none.
        written_us: when this was written.
        lag_entries, lag_seconds: filled in by whoever reads it.
    """

    name: str
    kind: str
    endpoint: str
    state: State = State.DELIVERING
    since_us: int = 0
    circuit: Circuit = Circuit.CLOSED
    origin: str = ""
    index: int = 0
    entries: int = 0
    batches: int = 0
    retried: int = 0
    warned: int = 0
    skipped: dict[str, int]
    dead_letters: int = 0
    succeeded_us: int = 0
    error: str = ""
    error_us: int = 0
    window_seconds: int = 0
    waiting_us: int = 0
    written_us: int = 0
    lag_entries: int = 0
    lag_seconds: float = 0.0

    def window_left(self, now_us: int) -> float | None:
        """Return the seconds until the oldest entry that waits is too old for the destination; None if none can be."""
        if not self.window_seconds or not self.waiting_us:
            return None
        return self.window_seconds - (now_us - self.waiting_us) / timestamps.MICROSECONDS

    def is_window_closing(self, now_us: int) -> bool:
        """Say whether less than a quarter of the window is left, or none."""
        left = self.window_left(now_us)
        return left is not None and left < self.window_seconds / 4


def write_status(cursors: Path, status: DestinationStatus) -> None:
    """Replace a destination's file; not synced, for what a crash loses of it is written again."""
    path = cursors / f"{status.name}{SUFFIX}"
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(orjson.dumps(asdict(status)))
    temporary.replace(path)


def read_statuses(cursors: Path) -> list[DestinationStatus]:
    """Return the status of every destination that has ever run, by name; a file that cannot be read is left out."""
    found = []
    for path in sorted(cursors.glob(f"*{SUFFIX}")):
        try:
            members = orjson.loads(path.read_bytes())
            words = {"state": State(members["state"]), "circuit": Circuit(members["circuit"])}
            found.append(DestinationStatus(**members | words))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


class DestinationMeter:
    """Measures how far each destination is behind the ledger. May be called from any thread."""

    def __init__(self, cursors: Path, names: Collection[str], reader: LedgerReader, clock: Callable[[], int]) -> None:
        """Prepare to measure.

        Args:
            names: the destinations that are configured; what former ones left behind is not measured. Those that
                organizations have set up are measured besides: when one is deleted its files are, too.
            cursors: the folder of status files.
            reader: of the ledger; nobody else uses it.
            clock: present time in microseconds since 1970.
        """
        self._cursors = cursors
        self._names = frozenset(names)
        self._reader = reader
        self._clock = clock
        self._lock = threading.Lock()  # guards the reader

    def measure(self) -> list[DestinationStatus]:
        """Return every destination's status with its lag as it is now; `LedgerDamaged` if the ledger is unreadable."""
        with self._lock:
            return [self._measured(status) for status in read_statuses(self._cursors) if self._is_measured(status.name)]

    def _is_measured(self, name: str) -> bool:
        return name in self._names or name.startswith(SELF_SERVICE)

    def _measured(self, status: DestinationStatus) -> DestinationStatus:
        origins = self._reader.origins()
        first = origins.index(status.origin) if status.origin in origins else 0
        start = status.index if status.origin in origins else 0
        behind, oldest = 0, None
        for origin in origins[first:]:
            waiting = max(0, self._reader.committed(origin) - start)
            if waiting and oldest is None:
                (record,) = self._reader.read(origin, start, 1)
                oldest = record.leaf.ingest_us
            behind, start = behind + waiting, 0
        seconds = 0.0 if oldest is None else max(0.0, (self._clock() - oldest) / timestamps.MICROSECONDS)
        return replace(status, lag_entries=behind, lag_seconds=seconds)
