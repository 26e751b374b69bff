"""A comparison of rows with a ledger in memory."""

from __future__ import annotations

import json

from klyra_audit import timestamps
from klyra_collector.fanout.source import EntrySource, Wanted
from klyra_collector.reconcile.reconciling import Expected, Ledger, Reconciliation
from klyra_siem.formats import record_format
from support.entries import ORIGIN, TODAY, MemoryLedger
from support.siem.events import CATALOG, EVENT_TYPES, Everyone, event

FROM, TO = (timestamps.to_nanoseconds(f"2026-03-{day}T00:00:00Z") for day in ("10", "11"))


def sealed_in(ledger: MemoryLedger, *events: dict, origin: str = ORIGIN) -> None:
    """Seal events, one of each type if none is given."""
    for one in events or [event(name, number) for number, name in enumerate(EVENT_TYPES)]:
        ledger.seal(one, marks=CATALOG.marks(one["event_type"]), origin=origin)


def record(entry, name: str = "native") -> object:
    """Return an entry as a row of an export."""
    encoded = record_format(name, None).encode(entry)
    return encoded.decode() if name in {"cef", "leef"} else json.loads(encoded)


def reconcile(ledger: MemoryLedger, rows, *, today: int = TODAY, wanted: Wanted | None = None, **members):
    """Return all answers, and the summary."""
    source = EntrySource(ledger, Everyone(), lambda: today, wanted)
    expected = Expected(**({"from_ns": FROM, "to_ns": TO, "delivered": None} | members))

    def leaf(origin: str, index: int) -> bytes:
        return ledger.read(origin, index, 1)[0].leaf_bytes

    comparison = Reconciliation(Ledger(ledger, source, leaf), expected)
    return list(comparison.answers(rows)), comparison.summary
