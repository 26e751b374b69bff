"""What the API lists and shows quarantined input from, out of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klyra_collector.query.quarantine import Quarantine
from klyra_collector.seal.quarantined import QuarantinedBytes

if TYPE_CHECKING:
    from klyra_collector.config import Settings
    from klyra_collector.store.quarantined import QuarantineStore


def quarantine_of(settings: Settings, store: QuarantineStore) -> Quarantine:
    """Return the store's lists with the bytes that lie in the data directory."""

    def read(origin: str, index: int, expire_day: int) -> bytes | None:
        return QuarantinedBytes(settings.data_directory).find(origin, index, expire_day)

    return Quarantine(store, read)
