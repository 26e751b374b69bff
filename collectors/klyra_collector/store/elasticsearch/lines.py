"""From a batch of checked records to the lines that are sent: one for each entry and each quarantined input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from klyra_collector.store.elasticsearch.bulk import Line
from klyra_collector.store.elasticsearch.documents import (
    document_id,
    entry_document,
    quarantine_document,
    repeated_id,
)
from klyra_collector.store.rows import unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.store.changes import Batch, CheckedEntry
    from klyra_collector.store.elasticsearch.documents import MetadataFields
    from klyra_collector.store.elasticsearch.streams import Streams


class DocumentLines:
    """Makes lines."""

    def __init__(self, streams: Streams, fields: MetadataFields, facts: Callable[[], RetentionFacts]) -> None:
        """Prepare to make lines.

        Args:
            streams: where documents go.
            fields: which metadata has a field.
            facts: what the ledger says about retention up to now.
        """
        self._streams = streams
        self._fields = fields
        self._facts = facts

    def of(self, batch: Batch, present: Collection[int] = ()) -> Iterator[Line]:
        """Yield the lines of a batch, without those of records that the store has already.

        Raises:
            RecordUnusable: the sections of an entry do not join.
        """
        facts = self._facts()
        for entry in batch.entries:
            if entry.record.index not in present:
                yield self._entry(entry, facts)
        yield from self._quarantined(batch, facts, present)

    def _entry(self, entry: CheckedEntry, facts: RetentionFacts) -> Line:
        record = entry.record
        placing = self._streams.placing(record, facts)
        try:
            document = entry_document(record, placing, self._fields, entry.erased)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unusable(record, f"its sections do not join to an entry ({type(error).__name__})") from error
        organization_id = document["organization_id"]
        return Line(
            self._streams.of_entry(placing, organization_id),
            document_id(organization_id, document["id"]),
            orjson.dumps(document),
            record.origin,
            record.index,
        )

    def _quarantined(self, batch: Batch, facts: RetentionFacts, present: Collection[int]) -> Iterator[Line]:
        for row in batch.quarantined:
            index = row.leaf_index
            if index in present:
                continue
            record = batch.records[index - batch.start]
            placing = self._streams.placing(record, facts)
            document = quarantine_document(record, placing, row, batch.kept.get(index))
            stream = self._streams.of_quarantined(placing)
            yield Line(stream, f"{record.origin}:{index}", orjson.dumps(document), record.origin, index)


def repeated(line: Line) -> Line:
    """Return the line of a later sealing of an entry id that another record has."""
    return line._replace(id=repeated_id(line.id, line.origin, line.number))
