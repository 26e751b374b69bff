"""Take quarantined input in again, once what it failed at is mended: a schema, a mapping, a catalog file.

Each replay is a command of the outbox. It is read, mapped and validated like anything received, and sealed together
with the `quarantine.replayed` entry that tells of it, in one commit. A crash before that commit leaves a command that
is taken again; one after it, a command whose two records are recognised as sealed.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import TYPE_CHECKING, Protocol

from klyra_audit import ids, timestamps
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.event import Actor, AuditEvent, Resource
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind
from klyra_audit.format.quarantined import KeptInput
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.forward.message import decode_message
from klyra_collector.errors import Conflict
from klyra_collector.quarantine import DOCUMENT, REPEAT, REPLAYED
from klyra_collector.receive.forward.record import FORWARD, FORWARD_UNACKNOWLEDGED, ForwardRecord, Source
from klyra_collector.receive.senders import Sender
from klyra_collector.receive.wire import OTLP_JSON, OTLP_PROTOBUF, decode_protobuf
from klyra_collector.receive.wire_json import decode_json
from klyra_collector.stages import Submission

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.pipeline import Pipeline
    from klyra_collector.receive.forward.tags import TagTypes
    from klyra_collector.receive.wire import WireRecord
    from klyra_collector.registry.keys import ApiKey
    from klyra_collector.registry.outbox import OutboxCommand
    from klyra_collector.seal.reader import LedgerReader, SealedRecord
    from klyra_collector.stages import Record, Seal, Sealed


class ReplayRegistry(Protocol):
    """What replaying asks of the registry; calls may block on its database."""

    def keys(self, organization_id: str | None = None) -> list[ApiKey]:
        """Return one organization's keys, the operator's under its own name."""
        ...


class Replays:
    """Carries out the outbox's commands to replay. One at a time."""

    def __init__(
        self,
        *,
        pipeline: Pipeline,
        seal: Seal,
        registry: ReplayRegistry,
        reader: LedgerReader,
        org_salt: bytes,
        types: TagTypes,
    ) -> None:
        """Prepare to replay.

        Args:
            pipeline: opens, maps and validates.
            seal: takes the records.
            registry: knows what the keys may do now.
            reader: of the ledger that is written; nobody else uses it.
            org_salt: of the ledger, for whose its records are.
            types: which event types tags of Forward stand for.
        """
        self._pipeline = pipeline
        self._seal = seal
        self._registry = registry
        self._reader = reader
        self._org_salt = org_salt
        self._types = types

    async def seal(self, command: OutboxCommand, record_of: Callable[[JsonObject, str], Awaitable[Record]]) -> Sealed:
        """Seal an input as the event it is by now, or that it still is none; return where the entry about it stands.

        Args:
            command: of kind `replay`.
            record_of: gives the record of a document of the product's own in an organization's log.

        Raises:
            Rejected: there is no such input, or the command was carried out before, with another outcome.
            RetryLater: nothing was sealed.
        """
        record, raw = await asyncio.to_thread(self._find, command)
        try:
            event = await self._reopen(record, raw, command.organization_id)
            outcome = {"accepted": 1, "refused": 0, "entry_id": event.record_id}
            told = await record_of(_told(command, outcome), command.organization_id)
            return await self._commit(event, told)
        except Conflict:
            refusal: Rejected = InvalidEvent("was sealed before with other content", pointer="/id", code=Conflict.code)
        except Rejected as error:
            refusal = error
        told = await record_of(_told(command, _refused(refusal), "failure"), command.organization_id)
        return await self._commit(told)

    async def _commit(self, *records: Record) -> Sealed:
        size = sum(len(record.content) for record in records)
        outcomes = await self._seal.seal(Submission(records, strict=True, size=size))
        return outcomes[-1].sealed

    def _find(self, command: OutboxCommand) -> tuple[SealedRecord, bytes | None]:
        """Return the record that a command names, and the bytes kept of it."""
        origin, index = command.payload["log"], command.payload["index"]
        found = self._reader.read(origin, index, 1) if origin in self._reader.origins() else []
        reference = sections.organization_reference(self._org_salt, command.organization_id)
        if not found or found[0].leaf.kind != Kind.QUARANTINE or found[0].leaf.org_ref != reference:
            raise Rejected(
                f"Record {index} of {origin} is no quarantined input of {command.organization_id} in this ledger.",
                remedy="Replay it where its ledger is.",
                code="no_such_input",
            )
        return found[0], self._reader.quarantined(found[0])

    async def _reopen(self, record: SealedRecord, raw: bytes | None, organization_id: str) -> Record:
        if raw is None or not _is_intact(record, raw):
            raise InvalidEvent("what was kept of it is not there any more, or is not what was sealed")
        kept = KeptInput.unpack(raw)
        owner = None if organization_id == OPERATOR_ORGANIZATION_ID else organization_id
        keys = await asyncio.to_thread(self._registry.keys, organization_id)
        bound = next((key.emitter_ids for key in keys if key.key_id == kept.key_id), ())
        sender = Sender(kept.key_id or "", owner, bound)
        item = wire_record(kept, self._types)
        return await self._pipeline.reopen(
            item, raw, sender, record.leaf.ingest_us, replayed_from=f"{record.origin}#{record.index}"
        )


def wire_record(kept: KeptInput, types: TagTypes) -> WireRecord:
    """Return the record that was kept.

    Raises:
        Rejected: it cannot be read, or must not be taken in again.
    """
    if kept.encoding == OTLP_PROTOBUF:
        return _only(decode_protobuf(kept.content))
    if kept.encoding == OTLP_JSON:
        return _only(decode_json(kept.content))
    if kept.encoding in (FORWARD, FORWARD_UNACKNOWLEDGED):
        return _forward_record(kept, types)
    if kept.encoding == DOCUMENT:
        # Its id is recognised for a while only; after that it would become a second entry of the same id.
        raise InvalidEvent("its id belongs to another entry; send it again under an id of its own", pointer="/id")
    if kept.encoding == REPEAT:
        raise InvalidEvent("it repeats an entry that is sealed", pointer="/id")
    raise InvalidEvent("it was kept by a version that did not note how it is written; have it sent again")


def _forward_record(kept: KeptInput, types: TagTypes) -> WireRecord:
    message = decode_message(kept.content)
    if message is None or len(message.entries) != 1:
        raise InvalidEvent("what was kept is not one record")
    source = Source(message.tag, message.raw_tag, kept.encoding == FORWARD, types)
    return ForwardRecord(source, message.entries[0])


def _only(records: Sequence[WireRecord]) -> WireRecord:
    if len(records) != 1:
        raise InvalidEvent("what was kept is not one record")
    return records[0]


def _is_intact(record: SealedRecord, raw: bytes) -> bool:
    if record.body is None:
        return False
    try:
        core = canonical.parse_canonical(record.body.sections.core)
    except FormatError:
        return False
    return bool(core.get("sha256") == hashlib.sha256(raw).hexdigest())


def _refused(error: Rejected) -> JsonObject:
    """Return what the entry says of an input that still is no event."""
    told: JsonObject = {"accepted": 0, "refused": 1, "code": error.code}
    if isinstance(error, InvalidEvent):
        return told | {"reason": error.reason} | ({"pointer": error.pointer} if error.pointer else {})
    return told | {"reason": str(error.args[0])}


def _told(command: OutboxCommand, outcome: JsonObject, status: str = "success") -> JsonObject:
    """Return the `quarantine.replayed` document; whatever of it the outcome leaves open follows from the command."""
    payload, command_id = command.payload, uuid.UUID(command.command_id)
    selection = {"log": payload["log"], "index": payload["index"]}
    event = AuditEvent(
        event_type=REPLAYED,
        actor=Actor(**payload["actor"]),
        resource=Resource("quarantine", payload["reference"]),
        action="update",
        status=status,
        metadata={"selection": selection, **outcome, **payload["from"]},
        id=ids.log_id(command_id),
        timestamp=timestamps.from_microseconds((command_id.int >> 80) * 1000),
    )
    return event.document(command.organization_id)
