"""The committed leaves of a ledger, for whoever compares a copy with them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from klyra_collector.seal.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


class CommittedLeaves:
    """Reads leaves where they lie. Any thread may call it.

    Args:
        ledger: the folder of shards.
    """

    def __init__(self, ledger: Path) -> None:
        self._reader = LedgerReader(ledger)
        self._lock = threading.Lock()

    def at(self, origin: str, indexes: Collection[int]) -> Mapping[int, bytes]:
        """Return the 112 bytes of each leaf that is committed there; none of a shard that is not this ledger's.

        Raises:
            LedgerDamaged: a committed leaf cannot be read.
        """
        with self._lock:
            return self._reader.leaves(origin, indexes)

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._reader.close()
