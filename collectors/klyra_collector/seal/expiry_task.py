"""Runs expiry beside intake: on start, at the first opportunity after each midnight, and again while it waits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import structlog

from klyra_audit.errors import KlyraError
from klyra_audit.timestamps import day_of
from klyra_collector.seal.durable import Disk
from klyra_collector.seal.expiry import Expiry
from klyra_collector.witnessed import load_policy, witnessed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Mapping
    from pathlib import Path

    from klyra_audit.format.policy import Policy
    from klyra_collector.data_directory import DataDirectory, ShardDirectory
    from klyra_collector.seal.expiry import Expired, SealingLedger
    from klyra_collector.seal.expiry_clock import ExpiryClock
    from klyra_collector.seal.sealer import Sealer
    from klyra_collector.witnessed import Witnessed

POLL_SECONDS: Final = 5.0

_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)


class ExpiryObserver(Protocol):
    """What expiry reports to metrics."""

    def expired(self, expired: Expired) -> None:
        """Note what a run did."""
        ...

    def expiry_refused(self, code: str) -> None:
        """Note that a run was refused or failed, and deleted nothing."""
        ...

    def oldest_entries(self, sealed_us: Mapping[str, int]) -> None:
        """Note when the oldest entry still here was sealed, by plan, in microseconds since 1970."""
        ...


WitnessClock = Callable[["ShardDirectory"], "Witnessed | None"]


def witness_clock(policy_file: Path | None) -> WitnessClock | None:
    """Return what tells how much of a shard the witnesses have cosigned, and by when; None without witnesses.

    Raises:
        BadWitnessPolicy: the file cannot be used.
    """
    return None if policy_file is None else partial(_witnessed, policy=load_policy(policy_file))


@contextlib.asynccontextmanager
async def expiring(
    ledger: SealingLedger,
    data: DataDirectory,
    clock: ExpiryClock,
    cosigned: WitnessClock | None,
    sealer: Sealer,
    observer: ExpiryObserver,
) -> AsyncIterator[None]:
    """Expire what is due while inside."""
    with contextlib.closing(Disk()) as disk, contextlib.closing(Expiry(ledger, data, disk, clock, cosigned)) as expiry:
        stop = asyncio.Event()
        running = asyncio.create_task(ExpiryTask(expiry, sealer, observer, clock.clock.wall_us).run(stop))
        try:
            yield
        finally:
            stop.set()
            await running


class ExpiryTask:
    """The daily run, in pieces on the sealing thread."""

    def __init__(self, expiry: Expiry, sealer: Sealer, observer: ExpiryObserver, wall_us: Callable[[], int]) -> None:
        self._expiry = expiry
        self._sealer = sealer
        self._observer = observer
        self._wall_us = wall_us
        self._done_day = -1
        self._waiting = False
        self._problem = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`; whatever cannot be done now is tried again."""
        while not stop.is_set():
            if self._waiting or day_of(self._wall_us()) != self._done_day:
                await self.step()
            try:
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)
            except TimeoutError:
                continue

    async def step(self) -> None:
        """Run once, and say how old what is left is, whether or not it could run."""
        try:
            self._note(await self._in_pieces(self._expiry.run()))
        except (KlyraError, OSError) as error:
            self._refused(error)
        try:
            self._observer.oldest_entries(await self._in_pieces(self._expiry.oldest()))
        except (KlyraError, OSError) as error:
            self._refused(error)

    def _refused(self, error: KlyraError | OSError) -> None:
        code = error.code if isinstance(error, KlyraError) else "disk_failed"
        self._observer.expiry_refused(code)
        if str(error) != self._problem:
            _log.error("expiry_refused", code=code, reason=str(error))
        self._problem = str(error)

    def _note(self, expired: Expired) -> None:
        self._observer.expired(expired)
        if expired.named or expired.deleted:
            _log.info("expired", cutoff_day=expired.cutoff_day, named=expired.named, files=expired.deleted)
        self._done_day, self._waiting = expired.cutoff_day, expired.waiting
        self._problem = ""

    async def _in_pieces(self, steps: Generator[None, None, _Result]) -> _Result:
        """Do one step after the other on the sealing thread; commits that wait come in between."""
        while True:
            done, result = await self._sealer.on_thread(lambda: _next(steps))
            if done:
                return result  # type: ignore[return-value] # set when done


def _witnessed(shard: ShardDirectory, policy: Policy) -> Witnessed | None:
    return witnessed(shard, policy)


def _next(steps: Generator[None, None, _Result]) -> tuple[bool, _Result | None]:
    try:
        next(steps)
    except StopIteration as end:
        return True, end.value
    return False, None
