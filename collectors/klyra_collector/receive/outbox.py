"""Drain the registry's outbox: what was not received on the wire and is sealed all the same (DESIGN section 5).

Exactly once by command id: an event's entry id follows from its command's id, so that a second sealing after a
crash is recognised as a repeat; a policy that is in force already is not sealed again; the record of an export is
looked for in the ledger where an earlier attempt may have sealed it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import structlog

from klyra_audit.errors import InvalidEvent, KlyraError, RetryLater
from klyra_audit.format import canonical, sections
from klyra_audit.format.errors import ProfileError
from klyra_audit.format.sections import Salts
from klyra_collector.receive.senders import OPERATOR_TENANCY, tenancy_of
from klyra_collector.stages import Sealed, Submission, Tenancy
from klyra_collector.validate.judge import Candidate, judge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from klyra_audit.catalog import Catalog
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.validation import Validator
    from klyra_collector.registry.organizations import Organization
    from klyra_collector.registry.outbox import OutboxCommand
    from klyra_collector.seal.ledger import Ledger
    from klyra_collector.seal.sealer import Sealer
    from klyra_collector.stages import Outcome, Record

COMMANDS_AT_ONCE = 256
IDLE_SECONDS = 0.2

_log = structlog.get_logger(__name__)


class OutboxRegistry(Protocol):
    """What draining asks of the registry; calls may block on its database."""

    def pending_commands(self, limit: int) -> list[OutboxCommand]:
        """Return unsealed commands, oldest first."""
        ...

    def mark_sealed(self, positions: list[tuple[str, str, int]]) -> None:
        """Note (command id, origin, index) of sealed commands."""
        ...

    def mark_refused(self, command_id: str, reason: str) -> None:
        """Note that a command can never be sealed."""
        ...

    def organization(self, organization_id: str) -> Organization | None:
        """Return an organization."""
        ...


class Replaying(Protocol):
    """What takes quarantined input in again: `receive.replay.Replays`."""

    async def seal(self, command: OutboxCommand, record_of: Callable[[JsonObject, str], Awaitable[Record]]) -> Sealed:
        """Carry out a command of kind `replay`; return where the entry that tells of it stands."""
        ...


class OutboxDrain:
    """Seals commands as they appear."""

    def __init__(
        self,
        *,
        registry: OutboxRegistry,
        sealer: Sealer,
        ledger: Ledger,
        catalog: Catalog,
        validator: Validator,
        wall_us: Callable[[], int],
        replays: Replaying,
    ) -> None:
        self._registry = registry
        self._replays = replays
        self._sealer = sealer
        self._ledger = ledger
        self._catalog = catalog
        self._validator = validator
        self._wall_us = wall_us
        self._is_first_step = True
        self._tried: set[str] = set()  # commands that may be sealed although the registry does not know

    async def run(self, stop: asyncio.Event) -> None:
        """Drain until `stop`; a registry or disk in trouble is tried again."""
        while not stop.is_set():
            try:
                idle = await self.step() == 0
            except KlyraError as error:
                _log.warning("outbox_waits", reason=str(error))
                idle = True
            if idle:
                await _sleep(stop, IDLE_SECONDS)

    async def step(self) -> int:
        """Seal what is pending now and write back where it stands; return how many commands were done with."""
        commands = await asyncio.to_thread(self._registry.pending_commands, COMMANDS_AT_ONCE)
        positions: list[tuple[str, str, int]] = []
        for command in commands:
            sealed = await self._seal(command)
            if sealed is not None:
                positions.append((command.command_id, sealed.log, sealed.index))
        # A crash before this line: the commands are pending again, and recognised as sealed.
        if positions:
            await asyncio.to_thread(self._registry.mark_sealed, positions)
        self._is_first_step = False
        self._tried.clear()
        return len(commands)

    async def _seal(self, command: OutboxCommand) -> Sealed | None:
        try:
            if command.kind == "policy":
                tenancy = Tenancy(**command.payload)
                outcome = await self._sealer.on_thread(lambda: self._ledger.commit_policy(tenancy))
                return outcome.sealed
            if command.kind in ("emitter_key", "collector_key"):
                return (await self._sealer.on_thread(lambda: self._commit_key(command))).sealed
            if command.kind == "heads":
                return await self._sealer.on_thread(self._commit_heads)
            if command.kind == "export":
                return await self._seal_export(command)
            return await self._seal_records(command)
        except RetryLater:
            raise
        except (KlyraError, TypeError) as error:
            # Our own software wrote this command, so it is a fault of ours: keep it visible, go on with the rest.
            _log.error("command_refused", command_id=command.command_id, reason=str(error))
            await asyncio.to_thread(self._registry.mark_refused, command.command_id, str(error))
            return None

    async def _seal_records(self, command: OutboxCommand) -> Sealed:
        """Seal an entry of the product's own, and what may go with it."""
        if command.kind == "replay":
            return await self._replays.seal(command, self._record_of)
        record = await self._record_of(command.payload["document"], command.organization_id)
        outcomes = await self._sealer.seal(Submission((record,), strict=True, size=len(record.content)))
        return outcomes[0].sealed

    def _commit_heads(self) -> Sealed:
        """Runs on the sealing thread; the position is that of the newest record, which HEADS is or stands before."""
        self._ledger.seal_heads()
        return Sealed(self._ledger.origin, self._ledger.size - 1, b"")

    async def _seal_export(self, command: OutboxCommand) -> Sealed:
        again = self._is_first_step or command.command_id in self._tried
        self._tried.add(command.command_id)
        sha256 = bytes.fromhex(command.payload["sha256"])
        outcome = await self._sealer.on_thread(
            lambda: self._ledger.commit_export(command.organization_id, sha256, again=again)
        )
        return outcome.sealed

    def _commit_key(self, command: OutboxCommand) -> Outcome:
        """Runs on the sealing thread."""
        if command.kind == "emitter_key":
            return self._ledger.commit_emitter_key(**command.payload)
        if command.payload["action"] == "rotate":
            return self._ledger.rotate_key(command.payload["vkey"])
        return self._ledger.revoke_key(command.payload["vkey"])

    async def _record_of(self, document: JsonObject, organization_id: str) -> Record:
        try:
            encoded = canonical.encode(document)
            parts = sections.split(document, self._catalog.marks(document["event_type"]))
        except ProfileError as error:
            raise InvalidEvent(error.reason, pointer=error.pointer) from error
        tenancy = await self._tenancy(organization_id)
        candidate = Candidate(document, encoded, parts, Salts.draw(), None)
        return judge(candidate, tenancy, self._validator, self._wall_us())

    async def _tenancy(self, organization_id: str) -> Tenancy:
        if organization_id == OPERATOR_TENANCY.organization_id:
            return OPERATOR_TENANCY
        organization = await asyncio.to_thread(self._registry.organization, organization_id)
        if organization is None:
            raise InvalidEvent("names an organization that does not exist", pointer="/organization_id")
        return tenancy_of(organization)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
