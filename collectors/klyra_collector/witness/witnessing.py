"""The task that has each newest checkpoint cosigned, once per interval, without ever holding intake up.

What came back is kept first as `state/witnessed`, then shown in the public `checkpoint`. A crash in between leaves
the public one without the cosignatures until the next round.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import structlog

from klyra_audit.errors import Halted, KlyraError
from klyra_audit.format import note
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.witness.heads import due_heads
from klyra_collector.witness.memory import LastAnswer, Memory, keep, recall
from klyra_collector.witnessed import witnessed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from klyra_audit.format.keys import SigningKey
    from klyra_audit.format.policy import Policy
    from klyra_collector.seal.durable import Disk
    from klyra_collector.witness.client import WitnessClient
    from klyra_collector.witness.heads import Head
    from klyra_collector.witness.judging import Cosignature
    from klyra_collector.witness.metrics import WitnessMetrics

_log = structlog.get_logger(__name__)


class WitnessedLedger(Protocol):
    """The ledger, as far as its witnessing must know it."""

    @property
    def origin(self) -> str:
        """The name of the open shard as a log."""
        ...

    @property
    def vkey(self) -> str:
        """Its verifier key line."""
        ...


@dataclass(slots=True)
class _Round:
    """What one checkpoint has collected."""

    head: Head
    memory: Memory
    collected: dict[str, Cosignature] = field(default_factory=dict)

    def cosigned(self) -> bytes:
        return note.append_lines(self.head.encoded, [item.line for item in self.collected.values()])


class Witnessing:
    """Asks every witness of the policy in parallel; keeps and publishes what they answer."""

    def __init__(
        self,
        *,
        ledger: WitnessedLedger,
        folder: Path,
        policy: Policy,
        clients: Mapping[str, WitnessClient],
        disk: Disk,
        publish: Callable[[ShardDirectory, bytes], Awaitable[None]],
        own_key: Callable[[str], SigningKey],
        metrics: WitnessMetrics,
        now: Callable[[], float],
    ) -> None:
        """Build it.

        Args:
            ledger: what is open now.
            folder: of the shards.
            policy: whose quorum counts.
            clients: by the witness's name in the policy.
            disk: how files are replaced.
            publish: shows a shard's cosigned checkpoint as its public one, if that is still of the same size.
            own_key: gives the log's second key, a cosigner's, by the shard's name.
            metrics: what is told of each answer.
            now: seconds since 1970.
        """
        self._ledger = ledger
        self._folder = folder
        self._policy = policy
        self._clients = clients
        self._disk = disk
        self._publish = publish
        self._own_key = own_key
        self._metrics = metrics
        self._now = now
        self._standing: dict[str, str | None] = {}
        self._remember()

    async def run(self, stop: asyncio.Event, interval_seconds: float) -> None:
        """Run a round each interval until `stop` is set; the round under way is then given up."""
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                round_ = asyncio.create_task(self.round())
                await asyncio.wait({round_, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not round_.done():
                    round_.cancel()
                await asyncio.gather(round_, return_exceptions=True)
                await asyncio.wait({stopping}, timeout=interval_seconds)
        finally:
            stopping.cancel()

    async def round(self) -> None:
        """Have everything that is due cosigned; no failure of any kind leaves this method."""
        try:
            shard = self._ledger.origin.rpartition("/")[2]
            heads = await asyncio.to_thread(due_heads, self._folder, shard, self._ledger.vkey, self._policy)
            for head in heads:
                await self._have_cosigned(head)
        except (KlyraError, OSError) as error:
            self._change("ledger", getattr(error, "code", "disk_failed"), error)
        except Exception:  # noqa: BLE001 - a fault of ours in witnessing must not end it, nor the collector
            _log.exception("witnessing_failed")
        else:
            self._change("ledger", None, None)

    async def _have_cosigned(self, head: Head) -> None:
        head = await asyncio.to_thread(self._signed_twice, head)
        known = recall(head.shard)
        current = _Round(head, {name: known[name] for name in self._clients if name in known})
        asked = [asyncio.create_task(self._ask(current, name, client)) for name, client in self._clients.items()]
        try:
            for answered in asyncio.as_completed(asked):
                if await answered:
                    await self._store(current)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.to_thread(keep, self._disk, head.shard, current.memory)

    def _signed_twice(self, head: Head) -> Head:
        return head.signed_also_by(self._own_key(head.shard.root.name), int(self._now()))

    async def _ask(self, current: _Round, name: str, client: WitnessClient) -> bool:
        """Ask one witness; return whether it cosigned."""
        last = current.memory.get(name, LastAnswer())
        try:
            cosignature = await client.cosign(current.head, last.size)
        except KlyraError as error:
            current.memory[name] = last.troubled(error.code, str(error))
            self._metrics.failed(name, error.code)
            self._change(name, error.code, error)
            return False
        current.memory[name] = LastAnswer(current.head.checkpoint.size, cosignature.time)
        current.collected[name] = cosignature
        self._metrics.cosigned(name, cosignature.time)
        self._change(name, None, None)
        return True

    async def _store(self, current: _Round) -> None:
        """Keep what a quorum has cosigned, then show it; show less only where no quorum has cosigned this size."""
        cosigned = current.cosigned()
        shard, size = current.head.shard, current.head.checkpoint.size
        times = {name: cosignature.time for name, cosignature in current.collected.items()}
        quorum_time = self._policy.quorum_time(times)
        if quorum_time:
            await asyncio.to_thread(self._disk.replace, shard.witnessed, cosigned)
            self._metrics.quorum(quorum_time)
        seen = witnessed(shard, self._policy)
        if quorum_time or seen is None or seen.size < size:
            await self._publish(shard, cosigned)

    def _remember(self) -> None:
        """Take up the ages where the last run of the collector left them."""
        shard = self._shard()
        memory = recall(shard)
        for name in self._clients:
            self._metrics.watch(name, memory.get(name, LastAnswer()).time)
        seen = witnessed(shard, self._policy)
        if seen is not None:
            self._metrics.quorum(seen.time)

    def _change(self, name: str, trouble: str | None, error: Exception | None) -> None:
        """Say it once when a witness begins or ceases to fail, or fails in another way."""
        if self._standing.get(name, "") == trouble:
            return
        known = name in self._standing
        self._standing[name] = trouble
        if error is not None:
            write = _log.error if isinstance(error, Halted) else _log.warning
            write("not_witnessed", witness=name, code=trouble, reason=str(error))
        elif known or name in self._clients:
            _log.info("witnessed", witness=name)

    def _shard(self) -> ShardDirectory:
        return ShardDirectory(self._folder / self._ledger.origin.rpartition("/")[2])
