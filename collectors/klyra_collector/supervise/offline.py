"""Do what the collector does while none runs: take the ledger's lock, drain the outbox, expire what is due."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from klyra_audit.catalog import Catalog
from klyra_audit.validation import Validator
from klyra_collector.config import Settings
from klyra_collector.errors import LedgerLocked
from klyra_collector.receive.outbox import OutboxDrain
from klyra_collector.receive.senders import Senders
from klyra_collector.registry import Registry
from klyra_collector.seal.clock import SystemClock
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.expiry import Expiry, finish
from klyra_collector.seal.expiry_clock import ExpiryClock
from klyra_collector.seal.expiry_task import witness_clock
from klyra_collector.seal.ledger import Ledger
from klyra_collector.seal.sealer import Sealer
from klyra_collector.supervise.flow import pipeline_of, replays_of
from klyra_collector.supervise.roles import ledger_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klyra_audit.errors import KlyraError
    from klyra_collector.seal.expiry import Expired
    from klyra_collector.stages import Outcome


def drain_if_stopped(data: Path) -> bool:
    """Drain a data directory's outbox unless a collector runs, which does it itself; return whether it was done.

    Raises:
        Halted: the ledger cannot be continued; the commands stay in the outbox.
    """
    settings = Settings.load(data=data)
    catalog = Catalog.load(settings.catalog)
    with contextlib.closing(Disk()) as disk, Registry.open(settings.registry_url, catalog) as registry:
        try:
            opened = Ledger.open(settings.data_directory, disk, SystemClock(), ledger_options(settings, catalog))
        except LedgerLocked:
            return False
        with contextlib.closing(opened) as ledger:
            asyncio.run(_drain(settings, registry, ledger, catalog))
    return True


def expire_if_stopped(data: Path, *, confirm_clock: bool = False) -> Expired | None:
    """Expire what is due in a data directory unless a collector runs, which does it itself; None then.

    Raises:
        ExpiryRefused: the time is in doubt; nothing was deleted.
        KlyraError: the ledger cannot be continued, or a file that decides cannot be read.
    """
    settings = Settings.load(data=data)
    options = ledger_options(settings, Catalog.load(settings.catalog), confirm_clock=confirm_clock)
    clock = SystemClock()
    cosigned = witness_clock(settings.witness.policy)
    with contextlib.closing(Disk()) as disk:
        try:
            opened = Ledger.open(settings.data_directory, disk, clock, options)
        except LedgerLocked:
            return None
        with contextlib.closing(opened) as ledger:
            believed = ExpiryClock(clock, ledger.found_us, confirm_clock)
            expiry = Expiry(ledger, settings.data_directory, disk, believed, cosigned)
            with contextlib.closing(expiry):
                named = finish(expiry.run())
                ledger.sign()
                deleted = finish(expiry.run())
    return replace(deleted, named=named.named, deleted=named.deleted + deleted.deleted)


async def _drain(settings: Settings, registry: Registry, ledger: Ledger, catalog: Catalog) -> None:
    sealer = Sealer(ledger, _Unobserved())
    validator = Validator(catalog)
    pipeline = pipeline_of(settings, senders=Senders(registry), catalog=catalog, validator=validator, sealer=sealer)
    drain = OutboxDrain(
        registry=registry,
        sealer=sealer,
        ledger=ledger,
        catalog=catalog,
        validator=validator,
        wall_us=SystemClock().wall_us,
        replays=replays_of(settings, pipeline=pipeline, registry=registry, ledger=ledger, sealer=sealer),
    )
    sealing = asyncio.create_task(sealer.run())
    try:
        while await drain.step():
            pass
    finally:
        sealer.close()
        await sealing


class _Unobserved:
    def committed(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Nobody asks."""

    def signed(self, size: int) -> None:
        """Nobody asks."""

    def not_signed(self, error: KlyraError) -> None:
        """It is in the log."""
