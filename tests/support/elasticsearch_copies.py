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
    from collections.abc import Callable, Iterator

    from klyra_collector.seal.reader import SealedRecord
    from support.forge import Forge

FIELDS = MetadataFields({"client_ip": {"type": "ip"}, "user_agent": {"type": "keyword"}})
BUNDLE = 256


def stored_of(forge: Forge, data: Path) -> list[Stored]:
    """Return the documents of every shard of a forged ledger that was written to `data`."""

    def placed(record: SealedRecord) -> Placing:
        shard = next(shard for shard in forge.shards if shard.origin == record.origin)
        expire_day, held = forge.effective_expire(shard, record.index), forge.is_held(shard, record.index)
        return Placing(policy="business", expire_day=expire_day, held=held)

    return stored_of_ledger(data, placed)


def placed_plainly(record: SealedRecord) -> Placing:
    """Keep a record as long as its leaf says."""
    return Placing(policy="business", expire_day=record.leaf.expire_day)


def stored_of_ledger(data: Path, placed: Callable[[SealedRecord], Placing] = placed_plainly) -> list[Stored]:
    """Return the documents of every shard of a ledger on disk."""
    with closing(LedgerReader(data / "ledger")) as reader:
        return [stored for origin in reader.origins() for stored in _shard(origin, reader, data, placed)]


def _shard(origin: str, reader, data, placed) -> Iterator[Stored]:
    records: list[SealedRecord] = []
    while len(records) < reader.committed(origin):
        records += reader.read(origin, len(records), 1024)
    for record in records:
        if record.body is not None:
            yield _body(reader, record, placed(record))
    for first in range(0, len(records), BUNDLE):
        yield _bundle(origin, first, records[first : first + BUNDLE])
    folder = data / "ledger" / origin.rpartition("/")[2]
    notes = [path.read_bytes() for path in (*sorted((folder / "checkpoints").glob("*")), folder / "checkpoint")]
    yield from (note_document(note) for note in dict.fromkeys(notes))


def _body(reader, record: SealedRecord, placing: Placing) -> Stored:
    if record.leaf.kind == Kind.QUARANTINE:
        raw = reader.quarantined(record)
        row = quarantine_row_of(record, raw)
        document = quarantine_document(record, placing, row, raw)
        return Stored("klyra-audit-quarantine-business", f"{record.origin}:{record.index}", document)
    document = entry_document(record, placing, FIELDS, erased_sections(record.body))
    identity = document_id(document["organization_id"], document["id"])
    return Stored("klyra-audit-held" if placing.held else "klyra-audit-business", identity, document)


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
    identity = f"{log}:{first}" if kind == "bundle" else f"{log}:{first}:{size}"
    return Stored("klyra-audit-ledger", identity, source)


def note_document(note: bytes) -> Stored:
    """Return the document of a checkpoint."""
    log, size, root = note.decode().split("\n")[:3]
    source = {"kind": "checkpoint", "log": log, "size": int(size), "root": root, "note": note.decode()}
    return Stored("klyra-audit-ledger", f"{log}:checkpoint:{size}:{hash(note)}", source)
