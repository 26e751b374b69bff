"""From a batch of checked records to the lines that are sent: one for each entry and each quarantined input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    from collections.abc import Callable, Collection, Iterator, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.seal.expiry_facts import RetentionFacts
    from klyra_collector.seal.reader import SealedRecord
    from klyra_collector.store.changes import Batch, CheckedEntry
    from klyra_collector.store.elasticsearch.documents import MetadataFields, Placing
    from klyra_collector.store.elasticsearch.repeats import Repeats
    from klyra_collector.store.elasticsearch.streams import Streams


_AT_ONCE: Final = 1000  # entries whose ids are looked up by one search


class DocumentLines:
    """Makes lines."""

    def __init__(
        self,
        streams: Streams,
        fields: MetadataFields,
        facts: Callable[[], RetentionFacts],
        repeats: Repeats | None = None,
    ) -> None:
        """Prepare to make lines.

        Args:
            streams: where documents go.
            fields: which metadata has a field.
            facts: what the ledger says about retention up to now.
            repeats: finds what was sealed with the same id before; None for whoever needs not know.
        """
        self._repeats = repeats
        self._streams = streams
        self._fields = fields
        self._facts = facts

    def of(self, batch: Batch, present: Collection[int] = ()) -> Iterator[Line]:
        """Yield the lines of a batch, without those of records that the store has already.

        Raises:
            RecordUnusable: the sections of an entry do not join.
        """
        facts = self._facts()
        entries = [entry for entry in batch.entries if entry.record.index not in present]
        for start in range(0, len(entries), _AT_ONCE):
            yield from self._entries(entries[start : start + _AT_ONCE], facts)
        yield from self._quarantined(batch, facts, present)

    def _entries(self, entries: Sequence[CheckedEntry], facts: RetentionFacts) -> Iterator[Line]:
        placings = [self._streams.placing(entry.record, facts) for entry in entries]
        documents = [self._document(*each) for each in zip(entries, placings, strict=True)]
        days = [None] * len(documents) if self._repeats is None else self._repeats.shown_from(documents)
        for entry, placing, document, day in zip(entries, placings, documents, days, strict=True):
            line = self._line(entry.record, placing, document)
            if day is None:
                yield line
            else:
                document["klyra"]["shown_from"] = day
                yield repeated(line)._replace(source=orjson.dumps(document))

    def _document(self, entry: CheckedEntry, placing: Placing) -> JsonObject:
        try:
            return entry_document(entry.record, placing, self._fields, entry.erased)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise unusable(entry.record, f"its sections do not join to an entry ({type(error).__name__})") from error

    def _line(self, record: SealedRecord, placing: Placing, document: JsonObject) -> Line:
        organization_id = document["organization_id"]
        stream = self._streams.of_entry(placing, organization_id)
        identity = document_id(organization_id, document["id"])
        return Line(stream, identity, orjson.dumps(document), record.origin, record.index)

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
