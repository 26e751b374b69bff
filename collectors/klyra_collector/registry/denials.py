"""Refused access as entries, merged so that a flood drowns neither the log nor the registry (DESIGN section 7).

For one organization, key and endpoint there is at most one `access.denied` entry in 5 minutes. The first attempt is
recorded at once; the next entry, 5 minutes later at the earliest, says how many there were since. An attempt that
follows another within a second is counted in memory first: a flood costs one write a second, and `kill -9` may
make the count too low by one second's attempts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, select

from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.registry import self_audit
from klyra_collector.registry.origin import Origin
from klyra_collector.registry.reads import CLOSED_AT_ONCE, is_over
from klyra_collector.registry.tables import DENIAL_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import ColumnElement, Connection, RowMapping

    from klyra_collector.registry.database import Database
    from klyra_collector.registry.outbox import Outbox

WRITTEN_EVERY_US: Final = MICROSECONDS
MAX_ENDPOINT_CHARACTERS: Final = 200

Window = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """An attempt that was refused.

    Attributes:
        reason: a fixed word: malformed, unknown, expired, revoked, scope_missing …
        endpoint: what was tried, as a route and never as sent: else each spelling would be an entry of its own.
        key_id: whose attempt, "" where none is known.
        organization_id: in whose chain it is told; the operator's own name where none is known.
        origin: from where.
    """

    reason: str
    endpoint: str
    key_id: str
    organization_id: str
    origin: Origin

    @property
    def window(self) -> Window:
        """What the attempts of one entry have in common."""
        return (self.organization_id, self.key_id, self.endpoint)


@dataclass(slots=True)
class _Tally:
    """Attempts of one window that this process has not written yet.

    Attributes:
        newest: the last of them, or the last written.
        attempts: how many.
        written_at: when the window's row was last written.
    """

    newest: Denial
    attempts: int
    written_at: int


class Denials:
    """Counts refused attempts and records them."""

    def __init__(self, database: Database, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._tallies: dict[Window, _Tally] = {}
        self._lock = threading.Lock()  # guards the tallies

    def note(self, denial: Denial) -> None:
        """Record or count an attempt."""
        now = self._clock()
        with self._lock:
            tally = self._tallies.setdefault(denial.window, _Tally(denial, 0, now - WRITTEN_EVERY_US))
            tally.newest = denial
            tally.attempts += 1
            due = not 0 <= now - tally.written_at < WRITTEN_EVERY_US
        if due:
            self._write(denial.window)

    def close_due(self) -> int:
        """Write what is only in memory and record the counts of windows whose time is over; return how many."""
        self.flush()
        recorded = 0
        while due := self._due():
            with self._database.writing() as connection:
                for window in due:
                    recorded += self._close_if_due(connection, window)
        return recorded

    def flush(self) -> None:
        """Write what is only in memory, and forget the windows that have nothing there."""
        with self._lock:
            windows = [window for window, tally in self._tallies.items() if tally.attempts]
            self._tallies = {window: self._tallies[window] for window in windows}
        for window in windows:
            self._write(window)

    def _write(self, window: Window) -> None:
        """Move a tally into the window's row; it stays in memory if that fails."""
        now = self._clock()
        with self._lock:
            tally = self._tallies.get(window)
            if tally is None or tally.attempts == 0:  # another thread was first
                return
            denial, attempts = tally.newest, tally.attempts
            tally.attempts, tally.written_at = 0, now
        try:
            with self._database.writing() as connection:
                self._count(connection, denial, attempts, now)
        except BaseException:
            with self._lock:
                self._tallies.setdefault(window, tally).attempts += attempts
            raise

    def _count(self, connection: Connection, denial: Denial, attempts: int, now: int) -> None:
        """Add attempts to a window: the first of all are recorded at once."""
        row = _find(connection, _is(denial.window))
        if row is None:
            connection.execute(DENIAL_WINDOWS.insert().values(_columns(denial, now)))
            self._record(connection, denial, attempts)
            return
        newest = {
            "reason": denial.reason,
            "client_ip": denial.origin.client_ip,
            "user_agent": denial.origin.user_agent,
            "attempts": row["attempts"] + attempts,
        }
        connection.execute(DENIAL_WINDOWS.update().where(_is(denial.window)).values(**newest))
        self._close_if_due(connection, denial.window)

    def _due(self) -> list[Window]:
        keys = (DENIAL_WINDOWS.c.organization_id, DENIAL_WINDOWS.c.key_id, DENIAL_WINDOWS.c.endpoint)
        query = select(*keys).where(is_over(DENIAL_WINDOWS.c.opened_at, self._clock())).limit(CLOSED_AT_ONCE)
        with self._database.reading() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def _close_if_due(self, connection: Connection, window: Window) -> int:
        """Record a window's count and begin the next with it, or forget a window without any; return how many."""
        now = self._clock()
        row = _find(connection, _is(window), is_over(DENIAL_WINDOWS.c.opened_at, now))
        if row is None:
            return 0
        if row["attempts"] == 0:
            connection.execute(DENIAL_WINDOWS.delete().where(_is(window)))
            return 0
        # The entry opens the next window, so that two entries are never closer than one window.
        begun = DENIAL_WINDOWS.update().where(_is(window)).values(opened_at=now, attempts=0)
        connection.execute(begun)
        self._record(connection, _denial(row), row["attempts"])
        return 1

    def _record(self, connection: Connection, denial: Denial, attempts: int) -> None:
        event = self_audit.access_denied(denial, attempts)
        self._outbox.add_event(connection, denial.organization_id, event)


def _is(window: Window) -> ColumnElement[bool]:
    organization_id, key_id, endpoint = window
    return and_(
        DENIAL_WINDOWS.c.organization_id == organization_id,
        DENIAL_WINDOWS.c.key_id == key_id,
        DENIAL_WINDOWS.c.endpoint == endpoint,
    )


def _find(connection: Connection, *conditions: ColumnElement[bool]) -> RowMapping | None:
    return connection.execute(select(DENIAL_WINDOWS).where(*conditions)).mappings().one_or_none()


def _columns(denial: Denial, now: int) -> dict[str, str | int | None]:
    return {
        "organization_id": denial.organization_id,
        "key_id": denial.key_id,
        "endpoint": denial.endpoint,
        "reason": denial.reason,
        "client_ip": denial.origin.client_ip,
        "user_agent": denial.origin.user_agent,
        "opened_at": now,
        "attempts": 0,
    }


def _denial(row: RowMapping) -> Denial:
    return Denial(
        reason=row["reason"],
        endpoint=row["endpoint"],
        key_id=row["key_id"],
        organization_id=row["organization_id"],
        origin=Origin(row["client_ip"], row["user_agent"]),
    )
