"""Read again, from leaves and bodies, the recent ids that a crash took from their file."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from klyra_audit.format import canonical, sections
from klyra_audit.format.leaf import Kind
from klyra_audit.timestamps import day_of
from klyra_collector.errors import LedgerDamaged
from klyra_collector.quarantine import quarantine_id
from klyra_collector.seal.recent import Seen

if TYPE_CHECKING:
    from klyra_collector.seal.reader import LedgerReader, SealedRecord
    from klyra_collector.seal.recent import RecentIds
    from klyra_collector.seal.state import LedgerState

_RECORDS_PER_READ = 2048


def catch_up(recent: RecentIds, reader: LedgerReader, origin: str, state: LedgerState, tag_key: bytes) -> None:
    """Note every event of the kept days that the file does not cover yet, and write it.

    The shard's `state/committed` must say its size already.
    """
    position = min(recent.covered, state.size)
    while position < state.size:
        records = reader.read(origin, position, _RECORDS_PER_READ)
        for record in records:
            _note(recent, record, tag_key)
        if not records:
            raise LedgerDamaged(
                f"{origin} says that it has {position} records, but {state.size} were recovered.",
                remedy="See what is wrong with: klyra-audit verify",
            )
        position += len(records)
    recent.flush(state.size, day_of(state.last_us) if state.last_us else recent.first_day)
    reader.close()


def _note(recent: RecentIds, record: SealedRecord, tag_key: bytes) -> None:
    if record.body is None or day_of(record.leaf.ingest_us) < recent.first_day:
        return
    if record.leaf.kind == Kind.EVENT:
        document = sections.join(record.body.sections)
        content, record_id = canonical.encode(document), document["id"]
    else:
        digest = canonical.parse_canonical(record.body.sections.core)["sha256"]
        content, record_id = digest.encode(), quarantine_id(digest)
    tag = hmac.digest(tag_key, content, "sha256")
    recent.remember(record.leaf.org_ref + record_id.encode(), Seen(record.index, tag))
