"""From whole Forward messages to sealed entries: what may be acknowledged, and what is tried again."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import RetryLater
from klyra_audit.forward.encoding import acknowledgement
from klyra_collector.receive.forward.record import records_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_audit.forward.message import Message
    from klyra_collector.receive.forward.metrics import ForwardMetrics
    from klyra_collector.receive.forward.record import ForwardRecord
    from klyra_collector.receive.forward.tags import TagTypes
    from klyra_collector.receive.ingest import Ingest
    from klyra_collector.receive.senders import Sender

PATIENCE_SECONDS: Final = 10.0  # the least of the senders' own acknowledgement timeouts is longer

_ENTRIES_AT_ONCE: Final = 500  # reading and checking them keeps the loop busy
_LONGEST_WAIT: Final = 1.0


@dataclass(frozen=True, slots=True)
class Unit:
    """Records that are sealed together and acknowledged together.

    Attributes:
        records: in the order in which they came.
        seed: what their ids are made of, if they have none: the same whenever the same chunk is sent again.
        answer: what to say when all of them are durable.
    """

    records: Sequence[ForwardRecord]
    seed: bytes
    answer: bytes


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sends.

    Attributes:
        source: what metrics and messages call it.
        key_text: the emit key its messages are sealed with.
        address: where it connected from.
    """

    source: str
    key_text: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardIntake:
    """Seals messages."""

    ingest: Ingest
    types: TagTypes
    metrics: ForwardMetrics

    def units(self, messages: Sequence[Message]) -> list[Unit]:
        """Return messages as units: one for each chunk, one for all messages without a chunk that follow each other.

        What comes without a chunk is never sent again as the same, so each of it is new: two equal ones in one
        second are two events.
        """
        units: list[Unit] = []
        unacknowledged: list[ForwardRecord] = []
        for message in messages:
            records = records_of(message, self.types)
            self.metrics.received(message, len(records))
            if message.raw_chunk is None:
                unacknowledged += records
                continue
            if unacknowledged:
                units.append(_unacknowledged(unacknowledged))
                unacknowledged = []
            units.append(Unit(records, _seed(message, message.raw_chunk), acknowledgement(message.raw_chunk)))
        return [*units, _unacknowledged(unacknowledged)] if unacknowledged else units

    async def sender(self, peer: Peer) -> Sender:
        """Return what a peer's key allows now.

        What the seal asks of the registry is asked here, before several units are sealed at once: then none of them
        waits for it, and they are sealed in the order in which they came.
        """
        sender = await self.ingest.senders.authenticate(peer.key_text)
        if sender.organization_id is not None:
            await self.ingest.senders.tenancy(sender.organization_id)
        return sender

    async def seal(self, unit: Unit, peer: Peer) -> bytes:
        """Return the answer to a unit once every record of it is durable.

        A unit is sealed in parts. A crash between two of them leaves the first sealed and nothing acknowledged; the
        sender's next try finds them sealed already and seals the rest.

        Raises:
            KlyraError: nothing of it may be acknowledged.
        """
        for start in range(0, len(unit.records), _ENTRIES_AT_ONCE):
            part = unit.records[start : start + _ENTRIES_AT_ONCE]
            seed = unit.seed + start.to_bytes(8, "big") if start else unit.seed
            await self._seal_part(part, seed, peer)
            if not unit.answer:
                self.metrics.best_effort(peer.source, len(part))
        return unit.answer

    async def _seal_part(self, part: Sequence[ForwardRecord], seed: bytes, peer: Peer) -> None:
        """Seal records; while that has to wait, wait, and so keep the sender from sending more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                sender = await self.ingest.senders.authenticate(peer.key_text)
                self.ingest.admit(sender)
                await self.ingest.accept(lambda _: part, seed, sender)
            except RetryLater as error:
                wait = min(error.retry_after, _LONGEST_WAIT)
                if time.monotonic() + wait > deadline:
                    raise
                await asyncio.sleep(wait)
            else:
                return


def _unacknowledged(records: list[ForwardRecord]) -> Unit:
    return Unit(records, secrets.token_bytes(32), b"")


def _seed(message: Message, raw_chunk: bytes) -> bytes:
    """Return what tells a chunk from every other: its tag, its name and its entries, inflated."""
    digest = hashlib.sha256(message.raw_tag)
    digest.update(raw_chunk)
    digest.update(message.content)
    return digest.digest()
