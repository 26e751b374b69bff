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

_RECORDS_PER_READ = 2048


def catch_up(recent: RecentIds, reader: LedgerReader, origin: str, size: int, tag_key: bytes) -> None:
    """Note every event of the kept days that the file does not cover yet, and write it.

    The shard's `state/committed` must say that it has `size` leaves.
    """
    shard = origin.rpartition("/")[2]
    position = min(recent.covered(shard), size)
    if position < size:
        position = max(position, reader.first_of_day(origin, recent.first_day))
    last_us = 0
    while position < size:
        records = reader.read(origin, position, _RECORDS_PER_READ)
        for record in records:
            _note(recent, shard, record, tag_key)
        if not records:
            raise LedgerDamaged(
                f"{origin} says that it has {position} records, but {size} were recovered.",
                remedy="See what is wrong with: klyra-audit verify",
            )
        position += len(records)
        last_us = records[-1].leaf.ingest_us
    recent.flush(shard, size, max(recent.day, day_of(last_us)))


def _note(recent: RecentIds, shard: str, record: SealedRecord, tag_key: bytes) -> None:
    if record.body is None or day_of(record.leaf.ingest_us) < recent.first_day:
        return
    if record.leaf.kind == Kind.EVENT:
        document = sections.join(record.body.sections)
        content, record_id = canonical.encode(document), document["id"]
    else:
        digest = canonical.parse_canonical(record.body.sections.core)["sha256"]
        content, record_id = digest.encode(), quarantine_id(digest)
    tag = hmac.digest(tag_key, content, "sha256")
    recent.remember(record.leaf.org_ref + record_id.encode(), Seen(shard, record.index, tag))
