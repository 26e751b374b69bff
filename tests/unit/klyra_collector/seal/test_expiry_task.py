"""Expiry beside intake: in pieces between commits, each day, and seen in the metrics."""

from __future__ import annotations

import asyncio
from typing import Self

import pytest
from prometheus_client import CollectorRegistry

from klyra_audit.timestamps import SECONDS_PER_DAY
from klyra_collector.observe import ExpiryMetrics
from klyra_collector.seal import expiry_task
from klyra_collector.seal.expiry_clock import ExpiryClock
from klyra_collector.seal.expiry_task import ExpiryTask, expiring, witness_clock
from klyra_collector.seal.sealer import Sealer
from klyra_collector.witnessed import BadWitnessPolicy
from support import records
from support.expiring import ExpiringLedger
from support.records import BUSINESS, STARTUP


class Unobserved:
    """Nobody asks how sealing goes."""

    def committed(self, outcomes, seconds) -> None:
        """See `SealObserver`."""

    def signed(self, size) -> None:
        """See `SealObserver`."""

    def not_signed(self, *_: object) -> None:
        """See `SealObserver`."""


class Running:
    """A sealer and the task on a ledger, with what the metrics say."""

    def __init__(self, ledger: ExpiringLedger) -> None:
        self.ledger = ledger
        self.registry = CollectorRegistry()
        self.sealer = Sealer(ledger.ledger, Unobserved())
        self.metrics = ExpiryMetrics(self.registry, ledger.clock.wall_us)
        self.task = ExpiryTask(ledger.expiry, self.sealer, self.metrics, ledger.clock.wall_us)

    async def __aenter__(self) -> Self:
        self._sealing = asyncio.create_task(self.sealer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sealer.close()
        await self._sealing

    def metric(self, name: str, **labels: str) -> float | None:
        """Return the value of a metric."""
        return self.registry.get_sample_value(name, labels)

    async def settle(self) -> None:
        """Run until what was named is signed for and deleted."""
        await self.task.step()
        await self.sealer.on_thread(self.ledger.ledger.sign)
        await self.task.step()


def test_a_day_passes(tmp_path) -> None:
    """What is due goes, and the metrics say how many and how old the oldest of each plan is."""

    async def live() -> None:
        async with Running(ledger) as running:
            await running.settle()
            assert running.metric("klyra_oldest_entry_age_seconds", plan="startup") == 0
            ledger.pass_days(31)
            assert running.metric("klyra_oldest_entry_age_seconds", plan="startup") == 31 * SECONDS_PER_DAY
            await running.task.step()
            assert running.metric("klyra_expiry_waiting") == 1
            await running.settle()
            assert running.metric("klyra_expiry_waiting") == 0
            assert running.metric("klyra_bodies_expired_total") == 1
            assert running.metric("klyra_oldest_entry_age_seconds", plan="startup") is None
            assert running.metric("klyra_oldest_entry_age_seconds", plan="business") == 31 * SECONDS_PER_DAY

    with ExpiringLedger(tmp_path) as ledger:
        ledger.event(STARTUP)
        ledger.event(BUSINESS)
        asyncio.run(live())
        assert len(ledger.present()) == 1


def test_a_refusal_is_an_alarm_and_ends(tmp_path) -> None:
    """While the clock is in doubt `klyra_expiry_refused` is 1 and the age grows; afterwards it is 0."""

    async def live() -> None:
        async with Running(ledger) as running:
            ledger.clock.is_synchronised = True
            ledger.clock.set_forward(40 * SECONDS_PER_DAY)
            await running.task.step()
            assert running.metric("klyra_expiry_refused") == 1
            assert running.metric("klyra_oldest_entry_age_seconds", plan="startup") == 40 * SECONDS_PER_DAY
            ledger.clock.pass_seconds(3600)
            await running.settle()
            assert running.metric("klyra_expiry_refused") == 0

    with ExpiringLedger(tmp_path) as ledger:
        ledger.event()
        asyncio.run(live())
        assert ledger.present() == []


def test_a_failing_disk_is_tried_again(tmp_path, monkeypatch) -> None:
    """An error of the system refuses the run, and the next one goes on."""

    async def live() -> None:
        async with Running(ledger) as running:
            with monkeypatch.context() as patched:
                patched.setattr(ledger.ledger, "commit_expiries", _full)
                await running.task.step()
            assert running.metric("klyra_expiry_refused") == 1
            await running.settle()
            assert running.metric("klyra_expiry_refused") == 0

    with ExpiringLedger(tmp_path) as ledger:
        ledger.event()
        ledger.pass_days(31)
        asyncio.run(live())
        assert ledger.present() == []


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_commits_come_between_the_pieces(tmp_path, monkeypatch) -> None:
    """A record that arrives while a long run is under way is sealed before the run ends."""
    monkeypatch.setattr("klyra_collector.seal.expiry_plan.LEAVES_AT_ONCE", 1)
    order: list[str] = []

    async def live() -> None:
        async with Running(ledger) as running:

            async def expire() -> None:
                await running.task.step()
                order.append("expired")

            async def seal() -> None:
                await running.sealer.seal(records.submission(records.record()))
                order.append("sealed")

            await asyncio.gather(expire(), seal())

    with ExpiringLedger(tmp_path) as ledger:
        for _ in range(200):
            ledger.event()
        ledger.pass_days(31)
        asyncio.run(live())
    assert order == ["sealed", "expired"]


def test_it_runs_on_start_and_on_each_day(tmp_path, monkeypatch) -> None:
    """The loop runs at once, again after midnight, and ends when it is told to."""
    monkeypatch.setattr(expiry_task, "POLL_SECONDS", 0.01)

    async def live() -> None:
        ledger.expiry.close()
        sealer = Sealer(ledger.ledger, Unobserved())
        sealing = asyncio.create_task(sealer.run())
        registry = CollectorRegistry()
        metrics = ExpiryMetrics(registry, ledger.clock.wall_us)
        clock = ExpiryClock(ledger.clock, ledger.ledger.found_us)
        async with expiring(ledger.ledger, ledger.data, clock, None, sealer, metrics):
            for _ in range(2):
                ledger.pass_days(16)
                await _until(lambda: ledger.ledger.signed_size == ledger.ledger.size)
            await _until(lambda: not ledger.files())
        sealer.close()
        await sealing

    with ExpiringLedger(tmp_path) as ledger:
        ledger.event()
        asyncio.run(live())


async def _until(holds) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - files offer no event
            await asyncio.sleep(0.02)


def test_a_policy_that_cannot_be_used_is_refused(tmp_path) -> None:
    """A witness policy that cannot be read ends the start; without one there is no witness clock."""
    assert witness_clock(None) is None
    with pytest.raises(BadWitnessPolicy):
        witness_clock(tmp_path / "missing")
