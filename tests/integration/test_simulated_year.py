"""Days pass over a real ledger, its expiry and its store: nothing goes early, nothing stays late, all verifies."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import orjson
import pytest

from klyra_audit.timestamps import MICROSECONDS, SECONDS_PER_DAY, day_of
from klyra_collector.seal.reader import LedgerReader
from klyra_collector.stages import Tenancy
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.verify import Options, Verdict, verify_target
from support.expiring import ExpiringLedger
from support.records import document, record, submission
from support.sealing import SetClock

DAY_US = SECONDS_PER_DAY * MICROSECONDS
RUN_AT = 10 * 60  # seconds after midnight
SEAL_AT = (8 * 3600, 12 * 3600, SECONDS_PER_DAY - 1)


@dataclass(frozen=True)
class SealedEvent:
    """An event as it was sealed, and by when it must be gone."""

    shard: str
    index: int
    entry_id: str
    tenancy: Tenancy
    sealed_us: int

    @property
    def expire_day(self) -> int:
        """The first day on which it is not shown any more."""
        return day_of(self.sealed_us) + 1 + self.tenancy.retention_days


@dataclass
class Simulation:
    """A collector and a store through the days."""

    root: Path
    plans: tuple[Tenancy, ...]
    first: datetime
    sealed: list[SealedEvent] = field(default_factory=list)
    gone: set[tuple[str, int]] = field(default_factory=set)

    def __enter__(self) -> Self:
        self._opened = contextlib.ExitStack()
        self.midnight_us = int(self.first.timestamp()) * MICROSECONDS
        self.ledger = self._opened.enter_context(ExpiringLedger(self.root, SetClock(self.midnight_us)))
        self.store = SqliteStore.open(self.root / "store.sqlite")
        self._opened.callback(self.store.close)
        self.reader = self._opened.enter_context(contextlib.closing(LedgerReader(self.ledger.data.ledger)))
        self.follower = Follower(self.reader, self.store)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def pass_day(self) -> None:
        """Expire in the first minutes of a day, look at everything, and seal some events in its course."""
        self._go_to(RUN_AT)
        self.ledger.run()
        while self.follower.step() or self.store.shrink():
            pass
        self.check()
        for seconds in SEAL_AT:
            self._go_to(seconds)
            for tenancy in self.plans:
                self._seal(tenancy)
        self.ledger.ledger.sign()
        self.midnight_us += DAY_US

    def check(self) -> None:
        """What must be here is here, and nothing else: bodies, files, rows, and what a search shows."""
        now_us, today = self.ledger.clock.wall, self.ledger.today
        kept = [event for event in self.sealed if event.expire_day > today]
        present = self._present()
        assert present == {(event.shard, event.index) for event in kept}
        for event in self.sealed:
            place = (event.shard, event.index)
            if place not in present and place not in self.gone:
                self.gone.add(place)
                age = (now_us - event.sealed_us) / DAY_US
                assert event.tenancy.retention_days <= age <= event.tenancy.retention_days + 1
        assert set(self.ledger.files()) == {f"ledger/{event.shard}/bodies/{event.expire_day}/frames" for event in kept}
        for tenancy in self.plans:
            ids = {event.entry_id for event in kept if event.tenancy == tenancy}
            assert self._shown(tenancy, today) == ids
            assert self._shown(tenancy, 0) == ids  # no row is left that a reader must hide

    def verdicts(self) -> set[Verdict]:
        """Verify the data directory; return every verdict there is."""
        report = verify_target(self.root, Options())
        assert report.exit_status == 0
        return {verdict for shard in report.shards for verdict in shard.counts}

    def _present(self) -> set[tuple[str, int]]:
        found = set()
        for origin in self.reader.origins():
            for item in self.reader.read(origin, 0, self.reader.committed(origin)):
                if item.body is not None:
                    found.add((origin.rpartition("/")[2], item.index))
        return found

    def _shown(self, tenancy: Tenancy, today: int) -> set[str]:
        search = Search(organization_id=tenancy.organization_id, filters=Filters(), today=today)
        return {orjson.loads(found.entry)["id"] for found in self.store.search(search, 10_000)}

    def _seal(self, tenancy: Tenancy) -> None:
        event = record(tenancy, id=document()["id"])
        ((outcome,),) = self.ledger.ledger.commit([submission(event)])
        shard = outcome.sealed.log.rpartition("/")[2]
        sealed_us = self.ledger.clock.wall
        self.sealed.append(SealedEvent(shard, outcome.sealed.index, event.record_id, tenancy, sealed_us))

    def _go_to(self, seconds: float) -> None:
        self.ledger.clock.pass_seconds((self.midnight_us - self.ledger.clock.wall) / MICROSECONDS + seconds)


def test_short_plans_over_the_year_change(tmp_path) -> None:
    """Three plans of days instead of months, each day of a month looked at, over New Year into the next shard."""
    plans = (Tenancy("org_3", "startup", "startup", 3), Tenancy("org_9", "business", "business", 9))
    plans = (*plans, Tenancy("org_21", "enterprise", "enterprise", 21))
    with Simulation(tmp_path, plans, datetime(2026, 12, 15, tzinfo=UTC)) as simulation:
        for day in range(32):
            simulation.pass_day()
            if day in (2, 16, 31):
                expected = {Verdict.OK} if day < 4 else {Verdict.OK, Verdict.EXPIRED_OK}
                assert simulation.verdicts() == expected
        assert {event.shard for event in simulation.sealed} == {"2026", "2027"}
        assert {event.shard for event in simulation.sealed if (event.shard, event.index) in simulation.gone} == {
            "2026",
            "2027",
        }


def test_what_is_held_and_extended_verifies_at_each_step(tmp_path) -> None:
    """Held, extended, released and moved bodies are OK wherever they lie, and EXPIRED_OK once they are gone."""
    with ExpiringLedger(
        tmp_path, SetClock(int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * MICROSECONDS)
    ) as ledger:
        ledger.event()
        ledger.hold("hold_1", to_us=ledger.clock.wall)
        ledger.clock.pass_seconds(60)
        for _ in range(3):
            ledger.event()
        ledger.bad()
        ledger.extend(3, 3, 90)
        ledger.extend(6, 6, 60)
        for day in range(100):
            ledger.pass_days(1)
            ledger.run()
            if day == 50:
                ledger.release("hold_1")
            if day in (29, 30, 31, 45, 51, 61, 91, 99):
                report = verify_target(tmp_path, Options())
                assert report.exit_status == 0, report
        assert ledger.files() == []


@pytest.mark.soak
def test_the_plans_as_they_are_sold_through_400_days(tmp_path) -> None:
    """30, 90 and 365 days, each day looked at, over a year change, until entries of every plan have gone."""
    plans = (Tenancy("org_30", "startup", "startup", 30), Tenancy("org_90", "business", "business", 90))
    plans = (*plans, Tenancy("org_365", "enterprise", "enterprise", 365))
    with Simulation(tmp_path, plans, datetime(2026, 3, 1, tzinfo=UTC)) as simulation:
        for day in range(400):
            simulation.pass_day()
            if day in (40, 305, 307, 399):
                assert simulation.verdicts() == {Verdict.OK, Verdict.EXPIRED_OK}
        gone = [event for event in simulation.sealed if (event.shard, event.index) in simulation.gone]
        assert {event.tenancy for event in gone} == set(plans)
