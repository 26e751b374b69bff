"""The transactional outbox: what the collector must seal although it was not received on the wire (DESIGN section 5).

A row is written in the transaction of the change it records, so neither can exist without the other. The collector
takes pending rows in order, seals them and marks them. If it dies in between it takes them again; the entry's id
derives from the command's, so the seal recognises the repeat and answers with the first position.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import select

from klyra_audit import ids, timestamps
from klyra_audit.errors import InvalidEvent, Rejected
from klyra_audit.format import canonical
from klyra_audit.format.errors import ProfileError
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.registry import organizations
from klyra_collector.registry.tables import OUTBOX

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Connection, RowMapping

    from klyra_audit.event import Actor, AuditEvent
    from klyra_audit.validation import Validator
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.emitters import EmitterKey
    from klyra_collector.registry.organizations import Organization

KEPT_SEALED_US: Final = timestamps.SECONDS_PER_DAY * timestamps.MICROSECONDS
PRUNED_AT_ONCE: Final = 500  # more would hold the write lock for long
MAX_REASON_CHARACTERS: Final = 1000

_PENDING: Final = "pending"
_SEALED: Final = "sealed"
_REFUSED: Final = "refused"


@dataclass(frozen=True, slots=True)
class OutboxCommand:
    """Something for the collector to seal.

    Attributes:
        command_id: a UUIDv7 as text.
        organization_id: in whose chain; the operator's own name for the operator's.
        kind: `event`: payload {"document": event document whose id derives from `command_id`};
            `policy`: payload {"organization_id", "plan", "policy", "retention_days"};
            `emitter_key`: payload {"emitter_id", "vkey", "organization_id" | null, "revoked_after_seq" | null};
            `collector_key`: payload {"action": "rotate" | "revoke", "vkey": the newest key so far | the one to revoke};
            `heads`: payload {}: whatever was sealed before is covered by a HEADS record;
            `export`: payload {"sha256": of a packet's manifest, hexadecimal};
            `replay`: payload {"log", "index", "reference": of a quarantined input, "actor": {"type", "id", "name"},
            "from": {"client_ip", "user_agent"} as far as known}.
        payload: JSON.
    """

    command_id: str
    organization_id: str
    kind: Literal["event", "policy", "emitter_key", "collector_key", "heads", "export", "replay"]
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RefusedCommand:
    """A command that the seal will not take, and why; it stays until someone looks."""

    command: OutboxCommand
    reason: str
    refused_at: int


class Outbox:
    """Adds commands within the transactions of others, and serves whoever seals them."""

    def __init__(self, database: Database, validator: Validator, clock: Callable[[], int]) -> None:
        self._database = database
        self._validator = validator
        self._clock = clock

    def add_event(self, connection: Connection, organization_id: str | None, event: AuditEvent) -> str:
        """Add an entry the product writes about itself and return the command's id; None is the operator.

        The event's own id is replaced. What the seal would refuse is refused here, and with it the change it
        belongs to: nothing happens unrecorded.

        Raises:
            InvalidEvent: the document breaks its schema.
            Rejected: `unknown_organization`.
        """
        owner = OPERATOR_ORGANIZATION_ID if organization_id is None else organization_id
        if owner != OPERATOR_ORGANIZATION_ID:
            organizations.require(connection, owner)
        now = self._clock()
        command = _new_id(now)
        dated = replace(
            event,
            id=ids.log_id(command),
            timestamp=event.timestamp or timestamps.from_microseconds(now),
        )
        document = dated.document(owner)
        self._validator.check(document, _canonical(document), now_us=now)
        return self._add(connection, OutboxCommand(str(command), owner, "event", {"document": document}), now)

    def add_policy(self, connection: Connection, organization: Organization) -> str:
        """Add what an organization's entries are kept by from now on and return the command's id."""
        now = self._clock()
        payload = {
            "organization_id": organization.organization_id,
            "plan": organization.plan,
            "policy": organization.policy,
            "retention_days": organization.retention_days,
        }
        command = OutboxCommand(str(_new_id(now)), organization.organization_id, "policy", payload)
        return self._add(connection, command, now)

    def add_emitter_key(self, connection: Connection, key: EmitterKey) -> str:
        """Add the announcement or the revocation of an emitter's key and return the command's id."""
        payload = {
            "emitter_id": key.emitter_id,
            "vkey": key.vkey,
            "organization_id": key.organization_id,
            "revoked_after_seq": key.revoked_after_seq,
        }
        owner = key.organization_id or OPERATOR_ORGANIZATION_ID
        now = self._clock()
        return self._add(connection, OutboxCommand(str(_new_id(now)), owner, "emitter_key", payload), now)

    def record_collector_key(self, action: Literal["rotate", "revoke"], vkey: str) -> str:
        """Have the collector rotate from one of its keys, or revoke it; return the command's id."""
        now = self._clock()
        command = OutboxCommand(
            str(_new_id(now)), OPERATOR_ORGANIZATION_ID, "collector_key", {"action": action, "vkey": vkey}
        )
        with self._database.writing() as connection:
            return self._add(connection, command, now)

    def record_heads(self) -> str:
        """Have the collector seal HEADS if anything is newer than the last one; return the command's id."""
        now = self._clock()
        with self._database.writing() as connection:
            return self._add(connection, OutboxCommand(str(_new_id(now)), OPERATOR_ORGANIZATION_ID, "heads", {}), now)

    def record_export(self, organization_id: str, sha256: bytes, events: Iterable[AuditEvent]) -> str:
        """Add the EXPORT record of a packet, after the entries that tell of it; return the command's id."""
        with self._database.writing() as connection:
            for event in events:
                self.add_event(connection, organization_id, event)
            now = self._clock()
            payload = {"sha256": sha256.hex()}
            return self._add(connection, OutboxCommand(str(_new_id(now)), organization_id, "export", payload), now)

    def record_replays(
        self, organization_id: str, inputs: Iterable[tuple[str, int, str]], by: Actor, origin: Mapping[str, str]
    ) -> list[str]:
        """Have quarantined inputs, (log, index, reference) each, replayed; return the commands' ids."""
        payload = {"actor": {"type": by.type, "id": by.id, "name": by.name}, "from": dict(origin)}
        commands = []
        with self._database.writing() as connection:
            for log, index, reference in inputs:
                now = self._clock()
                named = {"log": log, "index": index, "reference": reference} | payload
                command = OutboxCommand(str(_new_id(now)), organization_id, "replay", named)
                commands.append(self._add(connection, command, now))
        return commands

    def record_event(self, organization_id: str | None, event: AuditEvent) -> str:
        """Add an event in a transaction of its own; `add_event` says the rest."""
        with self._database.writing() as connection:
            return self.add_event(connection, organization_id, event)

    def pending(self, limit: int) -> list[OutboxCommand]:
        """Return the oldest commands that are neither sealed nor refused, in the order of their creation."""
        query = select(OUTBOX).where(OUTBOX.c.state == _PENDING).order_by(OUTBOX.c.position).limit(limit)
        with self._database.reading() as connection:
            return [_command(row) for row in connection.execute(query).mappings()]

    def refused(self) -> list[RefusedCommand]:
        """Return every refused command, oldest first."""
        query = select(OUTBOX).where(OUTBOX.c.state == _REFUSED).order_by(OUTBOX.c.position)
        with self._database.reading() as connection:
            return [
                RefusedCommand(_command(row), row["reason"], row["settled_at"])
                for row in connection.execute(query).mappings()
            ]

    def mark_sealed(self, positions: Iterable[tuple[str, str, int]]) -> None:
        """Note where commands were sealed, as (command id, origin, index); what is noted already stays."""
        now = self._clock()
        with self._database.writing() as connection:
            for command_id, origin, index in positions:
                open_ones = (OUTBOX.c.command_id == command_id, OUTBOX.c.state != _SEALED)
                sealed = {"state": _SEALED, "settled_at": now, "origin": origin, "leaf_index": index}
                connection.execute(OUTBOX.update().where(*open_ones).values(**sealed, reason=None))
            _prune(connection, now - KEPT_SEALED_US)

    def mark_refused(self, command_id: str, reason: str) -> None:
        """Note that the seal will never take a command, and why; a sealed one stays sealed."""
        refused = {
            "state": _REFUSED,
            "settled_at": self._clock(),
            "reason": reason[:MAX_REASON_CHARACTERS],
        }
        open_ones = (OUTBOX.c.command_id == command_id, OUTBOX.c.state == _PENDING)
        with self._database.writing() as connection:
            connection.execute(OUTBOX.update().where(*open_ones).values(**refused))

    def position(self, command_id: str) -> tuple[str, int] | None:
        """Return (origin, index) of a sealed command, None while it waits or once it is forgotten, a day later.

        Raises:
            Rejected: `command_refused`, with the reason.
        """
        query = select(OUTBOX).where(OUTBOX.c.command_id == command_id)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None or row["state"] == _PENDING:
            return None
        if row["state"] == _REFUSED:
            raise Rejected(
                f"Command {command_id} was not sealed: {row['reason']}",
                remedy="Make the change again once the reason is gone.",
                code="command_refused",
            )
        return row["origin"], row["leaf_index"]

    def _add(self, connection: Connection, command: OutboxCommand, now: int) -> str:
        connection.execute(
            OUTBOX.insert().values(
                command_id=command.command_id,
                organization_id=command.organization_id,
                kind=command.kind,
                payload=command.payload,
                state=_PENDING,
                created_at=now,
            )
        )
        return command.command_id


def _canonical(document: dict[str, Any]) -> bytes:
    """Return a document's canonical bytes; `InvalidEvent` if it has none."""
    try:
        return canonical.encode(document)
    except ProfileError as error:
        raise InvalidEvent(error.reason, pointer=error.pointer) from error


def _new_id(now: int) -> uuid.UUID:
    return ids.uuid7(now // 1000, os.urandom(10))


def _prune(connection: Connection, before: int) -> None:
    """Forget some of the rows sealed longer ago; the ledger has them."""
    old = (OUTBOX.c.state == _SEALED, OUTBOX.c.settled_at < before)
    some = select(OUTBOX.c.position).where(*old).order_by(OUTBOX.c.settled_at).limit(PRUNED_AT_ONCE)
    connection.execute(OUTBOX.delete().where(OUTBOX.c.position.in_(some.scalar_subquery())))


def _command(row: RowMapping) -> OutboxCommand:
    return OutboxCommand(row["command_id"], row["organization_id"], row["kind"], row["payload"])
