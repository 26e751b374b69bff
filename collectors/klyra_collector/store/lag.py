"""How far a store is behind the ledger, told by anyone who can read both."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klyra_audit import timestamps

if TYPE_CHECKING:
    from collections.abc import Callable

    from klyra_collector.seal.reader import LedgerReader
    from klyra_collector.store.searching import Store


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a follower is behind.

    Attributes:
        entries: records committed and not applied, of every kind.
        seconds: since the oldest of them was sealed; 0 when there is none.
    """

    entries: int
    seconds: float


class LagMeter:
    """Measures one store. May be called from any thread."""

    def __init__(self, reader: LedgerReader, store: Store, clock: Callable[[], int]) -> None:
        """Prepare to measure.

        Args:
            reader: of the ledger; nobody else uses it.
            store: that follows it.
            clock: present time in microseconds since 1970.
        """
        self._reader = reader
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()  # guards the reader

    def measure(self) -> Lag:
        """Return how far the store is behind now.

        Raises:
            RetryLater, Halted: ledger or store cannot be read.
        """
        with self._lock:
            applied = self._store.snapshot()
            behind = {  # a store may have more than is left of a shard after a disaster
                origin: max(0, self._reader.committed(origin) - applied.get(origin, 0))
                for origin in self._reader.origins()
            }
            oldest = next((origin for origin in behind if behind[origin] > 0), None)
            if oldest is None:
                return Lag(0, 0.0)
            (record,) = self._reader.read(oldest, applied.get(oldest, 0), 1)
        seconds = (self._clock() - record.leaf.ingest_us) / timestamps.MICROSECONDS
        return Lag(sum(behind.values()), max(seconds, 0.0))
