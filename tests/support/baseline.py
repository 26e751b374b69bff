"""The baseline: a moderate ledger in which everything has happened, and nothing is wrong.

Three organizations on three plans, from December 2025 to March 2026: two shards, entries that expired, entries whose
people were erased, one hold in force and one released, an extension, emitters with and without keys, quarantined
input, and two witnesses that cosigned every day.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache

from klyra_audit.format import control
from support.forge import Forge, ForgedEmitter, boot_id
from support.ledgers import DAY_US

STARTUP, BUSINESS, ENTERPRISE = "org_startup", "org_business", "org_enterprise"
RETENTION = {STARTUP: 30, BUSINESS: 90, ENTERPRISE: 365}
HOUR_US = 3_600_000_000
FIRST_DAY = 20_432  # 2025-12-10
YEAR_DAY = 20_454  # 2026-01-01
LAST_DAY = 20_543  # 2026-03-31
STEP_DAYS = 3


class Baseline:
    """Builds the ledger day by day."""

    def __init__(self, *, last_day: int = LAST_DAY, erase: bool = True) -> None:
        self._last_day = last_day
        self._erase = erase
        self.forge = Forge.opened("2025", FIRST_DAY * DAY_US + 12 * HOUR_US, RETENTION)
        self.signed = self.forge.add_emitter(ForgedEmitter("moderation-1", boot_id(1), 0), ENTERPRISE)
        self.unsigned = self.forge.add_emitter(ForgedEmitter("worker-1", boot_id(2), 0, has_key=False), BUSINESS)

    def build(self) -> Forge:
        """Live through all days and return the ledger, published at the end."""
        for day in range(FIRST_DAY, self._last_day + 1, STEP_DAYS):
            self._advance(day)
            self._tell(day)
            self.forge.expire()
            self._live()
            self._end_day(day)
        self.forge.newest.publish()
        return self.forge

    def _advance(self, day: int) -> None:
        now_us = day * DAY_US + 12 * HOUR_US
        if day >= YEAR_DAY and len(self.forge.shards) == 1:
            self.forge.open_next("2026", YEAR_DAY * DAY_US)
        self.forge.newest.now_us = max(self.forge.newest.now_us, now_us)

    def _tell(self, day: int) -> None:
        """Seal what happens on single days."""
        forge, newest = self.forge, self.forge.newest
        number = (day - FIRST_DAY) // STEP_DAYS
        if number == 2:
            forge.hold("hold_1", STARTUP, (FIRST_DAY + 3) * DAY_US, (FIRST_DAY + 4) * DAY_US - 1)
            forge.hold("hold_2", STARTUP, (FIRST_DAY + 6) * DAY_US, (FIRST_DAY + 7) * DAY_US - 1)
        if number == 4:
            records = newest.records_of(STARTUP)
            forge.extend(newest, STARTUP, [records[min(records) + 8], records[min(records) + 9]], 60)
        if number == 16:
            forge.release("hold_2")
        if number == 18 and self._erase:
            old = forge.shards[0]
            bodies = [body.index for frames in old.bodies.values() for body in frames if body.sections.target]
            old.erase(ENTERPRISE, actor=bodies[:2], target=bodies[:1], into=newest)
        if number == 20 and self._erase:
            about = [body.index for frames in newest.bodies.values() for body in frames if body.sections.target]
            own = [index for index in about if index in newest.records_of(ENTERPRISE).values()]
            newest.erase(ENTERPRISE, actor=own[2:4], target=own[2:4], into=newest)
            newest.seal(control.Export(bytes.fromhex("cd" * 32)), ENTERPRISE)

    def _live(self) -> None:
        """Seal the events of one day."""
        newest = self.forge.newest
        for _ in range(2):
            newest.event(STARTUP)
        newest.batch(self.unsigned, BUSINESS, 2)
        newest.about_user(ENTERPRISE)
        newest.batch(self.signed, ENTERPRISE, 3)
        newest.now_us += HOUR_US

    def _end_day(self, day: int) -> None:
        newest = self.forge.newest
        if (day - FIRST_DAY) % (5 * STEP_DAYS) == 0:
            newest.quarantine(STARTUP)
            newest.quarantine(ENTERPRISE, b"\xff" * 40)
        newest.heads()
        newest.keep_as(_date(day))


@lru_cache(maxsize=1)
def _built() -> Forge:
    return Baseline().build()


def baseline() -> Forge:
    """Return a copy of the baseline, to be changed at will."""
    return _built().copy()


def _date(day: int) -> str:
    return str(date(1970, 1, 1) + timedelta(days=day))
