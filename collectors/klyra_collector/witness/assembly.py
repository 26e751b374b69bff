"""Builds witnessing out of a policy and runs it beside the seal, for as long as the collector serves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from klyra_audit.format import policy as policies
from klyra_collector.seal.durable import Disk
from klyra_collector.witness.client import CALL_SECONDS, WitnessClient
from klyra_collector.witness.metrics import WitnessMetrics
from klyra_collector.witness.witnessing import Witnessing
from klyra_collector.witnessed import askable, load_policy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from prometheus_client import CollectorRegistry

    from klyra_collector.data_directory import DataDirectory, ShardDirectory
    from klyra_collector.seal.ledger import Ledger

LONGEST_FIRST_DELAY_SECONDS: Final = 1.0


class OnThread(Protocol):
    """Runs work on the sealing thread, between commits."""

    def __call__(self, work: Callable[[], None]) -> Awaitable[None]:
        """Return when it is done."""
        ...


@contextlib.asynccontextmanager
async def witnessing(
    policy_file: Path | None,
    interval_seconds: float,
    *,
    ledger: Ledger,
    data: DataDirectory,
    on_thread: OnThread,
    prometheus: CollectorRegistry,
) -> AsyncIterator[None]:
    """Have the ledger's checkpoints cosigned while inside; without a policy do nothing.

    Raises:
        BadWitnessPolicy: before anything is begun.
    """
    if policy_file is None:
        data.witness_policy.unlink(missing_ok=True)
        yield
        return
    policy = load_policy(policy_file)
    # A round's attempts wait 7 times this at most, so that they are over before the next round.
    first_delay_seconds = min(LONGEST_FIRST_DELAY_SECONDS, interval_seconds / 16)
    async with contextlib.AsyncExitStack() as stack:
        disk = stack.enter_context(contextlib.closing(Disk()))
        disk.replace(data.witness_policy, policies.render(policy).encode())  # for `status`, whatever file was named
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=CALL_SECONDS, follow_redirects=False))

        async def publish(shard: ShardDirectory, encoded: bytes) -> None:
            await on_thread(lambda: show_cosigned(ledger, disk, shard, encoded))

        task = Witnessing(
            ledger=ledger,
            folder=data.ledger,
            policy=policy,
            clients={
                name: WitnessClient(
                    http, witness.key, witness.url or "", time.time, first_delay_seconds=first_delay_seconds
                )
                for name, witness in askable(policy).items()
            },
            disk=disk,
            publish=publish,
            own_key=ledger.identity.signers.cosigning_key,
            metrics=WitnessMetrics(prometheus, time.time),
            now=time.time,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(task.run(stop, interval_seconds))
        try:
            yield
        finally:
            stop.set()
            await running


def show_cosigned(ledger: Ledger, disk: Disk, shard: ShardDirectory, encoded: bytes) -> None:
    """Show a cosigned checkpoint as the public one. Runs on the sealing thread, so that one writer writes.

    A closed shard's checkpoint is final: it is replaced by the same one with more signatures.
    """
    if shard.root.name == ledger.origin.rpartition("/")[2]:
        ledger.signer.publish_cosigned(encoded)
    else:
        disk.replace(shard.checkpoint, encoded)
