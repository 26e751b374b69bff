"""From a QUARANTINE record, and from the entries that tell of replays, to rows of a store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import orjson

from klyra_audit import timestamps
from klyra_audit.format.quarantined import UNKNOWN, KeptInput, quarantine_reference
from klyra_collector.quarantine import REPLAYED
from klyra_collector.store.quarantined import QuarantineRow, ReplayNote
from klyra_collector.store.rows import unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klyra_collector.seal.reader import SealedRecord
    from klyra_collector.store.rows import Row

ERASED = ""  # which entry it became was erased with the person it is about


def quarantine_row_of(record: SealedRecord, raw: bytes | None) -> QuarantineRow:
    """Return the row of a QUARANTINE record that has a body, as `check` has found it.

    Args:
        record: the record.
        raw: the bytes kept of it; those that are gone, or are not those that were sealed, say nothing of a source.

    Raises:
        RecordUnusable: its core is not that of a QUARANTINE record.
    """
    assert record.body is not None  # noqa: S101 - the caller has looked
    leaf = record.leaf
    try:
        core = orjson.loads(record.body.sections.core)
        intact = raw is not None and hashlib.sha256(raw).hexdigest() == core["sha256"]
        kept = KeptInput.unpack(raw) if raw is not None and intact else KeptInput(UNKNOWN, None, b"")
        return QuarantineRow(
            record.index,
            leaf.org_ref,
            quarantine_reference(record.leaf_bytes),
            leaf.ingest_us,
            leaf.expire_day,
            timestamps.day_of(leaf.ingest_us),
            leaf.org_seq,
            kept.encoding,
            kept.key_id,
            core["reason"],
            core["pointer"],
            core["sha256"],
            core["size"],
            record.leaf_bytes,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unusable(record, f"its core is not that of quarantined input ({type(error).__name__})") from error


def replays_of(rows: Iterable[Row]) -> Iterator[ReplayNote]:
    """Yield what entries tell of replays that succeeded."""
    for row in rows:
        if row.event_type == REPLAYED and row.status == "success" and row.resource_id is not None:
            entry_id = orjson.loads(row.entry)["metadata"].get("entry_id", ERASED)
            if isinstance(entry_id, str):
                yield ReplayNote(row.org_ref, row.resource_id, entry_id)
