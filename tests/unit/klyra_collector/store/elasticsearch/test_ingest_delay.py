"""How long events take from happening to their sealing, as health documents say it."""

from __future__ import annotations

from klyra_audit.format.leaf import Flag
from klyra_collector.store.elasticsearch.health import _ingest_delay
from support.entries import ORIGIN, TODAY_US, MemoryLedger, document


def sealed(ledger: MemoryLedger, timestamp: str):
    """Seal an event that happened then."""
    return ledger.seal(document(timestamp=timestamp), ingest_us=TODAY_US)


def test_the_slowest_of_the_newest_counts() -> None:
    """In milliseconds; noon is when they are sealed."""
    ledger = MemoryLedger()
    for timestamp in ("2026-03-10T11:59:59.5Z", "2026-03-10T11:59:58.75Z", "2026-03-10T11:59:59Z"):
        sealed(ledger, timestamp)
    assert _ingest_delay(ledger, ORIGIN) == {"ingest_delay_ms": 1250}


def test_older_ones_are_forgotten() -> None:
    """After a hundred others."""
    ledger = MemoryLedger()
    for timestamp in ("2026-03-01T00:00:00Z", *["2026-03-10T11:59:59Z"] * 100):
        sealed(ledger, timestamp)
    assert _ingest_delay(ledger, ORIGIN) == {"ingest_delay_ms": 1000}


def test_a_clock_ahead_of_ours_is_no_delay() -> None:
    """Nor is it less than none."""
    ledger = MemoryLedger()
    sealed(ledger, "2026-03-10T12:00:05Z")
    assert _ingest_delay(ledger, ORIGIN) == {"ingest_delay_ms": 0}


def test_without_an_event_nothing_is_said() -> None:
    """What was backfilled, quarantined or erased whole says nothing of today; nor does no ledger."""
    ledger = MemoryLedger()
    backfilled = sealed(ledger, "2020-01-01T00:00:00Z")
    ledger.change(backfilled, leaf=backfilled.leaf._replace(flags=backfilled.leaf.flags | Flag.BACKFILLED))
    ledger.change(sealed(ledger, "2026-03-10T11:00:00Z"), body=None)
    ledger.quarantine()
    assert _ingest_delay(ledger, ORIGIN) == {}
    assert _ingest_delay(ledger, "") == {}
