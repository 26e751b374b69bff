"""What Elasticsearch holds of a ledger on disk, made with the writer's own functions."""

from __future__ import annotations

import base64
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from klyra_audit.format import canonical
from klyra_audit.format.leaf import Kind
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.store.elasticsearch.documents import (
    MetadataFields,
    Placing,
    document_id,
    entry_document,
    quarantine_document,
)
from klyra_collector.store.quarantine_rows import quarantine_row_of
from klyra_collector.store.rows import erased_sections
from support.elasticsearch_reading import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_collector.seal.reader import SealedRecord
    from support.forge import Forge

FIELDS = MetadataFields({"client_ip": {"type": "ip"}, "user_agent": {"type": "keyword"}})
BUNDLE = 256


def stored_of(forge: Forge, data: Path) -> list[Stored]:
    """Return the documents of every shard of a forged ledger that was written to `data`."""
    with closing(LedgerReader(data / "ledger")) as reader:
        return [stored for shard in forge.shards for stored in _shard(forge, shard, reader, data)]


def _shard(forge, shard, reader, data) -> Iterator[Stored]:
    records = list(reader.read(shard.origin, 0, shard.size))
    for record in records:
        if record.body is not None:
            yield _body(forge, shard, reader, record)
    for first in range(0, len(records), BUNDLE):
        yield _bundle(shard.origin, first, records[first : first + BUNDLE])
    folder = data / "ledger" / shard.origin.rpartition("/")[2]
    notes = [path.read_bytes() for path in (*sorted((folder / "checkpoints").glob("*")), folder / "checkpoint")]
    yield from (note_document(note) for note in notes)


def _body(forge, shard, reader, record: SealedRecord) -> Stored:
    held = forge.is_held(shard, record.index)
    placing = Placing(policy="business", expire_day=forge.effective_expire(shard, record.index), held=held)
    if record.leaf.kind == Kind.QUARANTINE:
        raw = reader.quarantined(record)
        row = quarantine_row_of(record, raw)
        document = quarantine_document(record, placing, row, raw)
        return Stored("klyra-audit-quarantine-business", f"{record.origin}:{record.index}", document)
    document = entry_document(record, placing, FIELDS, erased_sections(record.body))
    identity = document_id(document["organization_id"], document["id"])
    return Stored("klyra-audit-held" if held else "klyra-audit-business", identity, document)


def _bundle(log: str, first: int, records: list[SealedRecord]) -> Stored:
    size = first + len(records)
    kind = "bundle" if len(records) == BUNDLE else "partial"
    controls = [
        {"index": record.index, "document": canonical.encode(record.control).decode()}
        for record in records
        if record.control is not None
    ]
    leaves = base64.b64encode(b"".join(record.leaf_bytes for record in records)).decode()
    source = {"kind": kind, "log": log, "first": first, "size": size, "leaves": leaves, "controls": controls}
    return Stored("klyra-audit-ledger", f"{log}:{kind}:{first}:{size}", source)


def note_document(note: bytes) -> Stored:
    """Return the document of a checkpoint."""
    log, size, root = note.decode().split("\n")[:3]
    source = {"kind": "checkpoint", "log": log, "size": int(size), "root": root, "note": note.decode()}
    return Stored("klyra-audit-ledger", f"{log}:checkpoint:{size}:{hash(note)}", source)
