"""Reads as entries of the log that is read, without drowning it (DESIGN section 7).

Reads by one actor from one address with the same filters are one window of 5 minutes. The first is recorded at once,
later ones are counted in the window's row, and the closing entry says how many there were. The rows outlive a crash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import or_, select

from klyra_audit.event import Actor
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.registry import self_audit
from klyra_collector.registry.origin import Origin
from klyra_collector.registry.tables import READ_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import ColumnElement, Connection, RowMapping

    from klyra_collector.registry.database import Database
    from klyra_collector.registry.outbox import Outbox

WINDOW_US: Final = 5 * 60 * MICROSECONDS
CLOSED_AT_ONCE: Final = 100  # more would hold the write lock for long


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One list, search or summary that was answered.

    Attributes:
        organization_id: whose entries were read.
        actor: the key or session that read.
        filters: the canonical filters, JSON.
        returned: how many entries the answer held.
        origin: from where.
    """

    organization_id: str
    actor: Actor
    filters: Mapping[str, Any]
    returned: int
    origin: Origin

    def window(self) -> bytes:
        """Return what this read has in common with those it is merged with.

        The address counts: a key used from a second place is a new entry, not one more read.
        """
        parts = [self.organization_id, self.actor.type, self.actor.id, self.origin.client_ip, dict(self.filters)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()


class Reads:
    """Records the first read of each window and closes the windows."""

    def __init__(self, database: Database, outbox: Outbox, clock: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    def note(self, read: Read) -> None:
        """Record or count a read; when this returns it is durable."""
        now = self._clock()
        window = read.window()
        same = READ_WINDOWS.c.window == window
        with self._database.writing() as connection:
            row = connection.execute(select(READ_WINDOWS).where(same)).mappings().one_or_none()
            if row is not None and 0 <= now - row["opened_at"] < WINDOW_US:
                counts = {"reads": row["reads"] + 1, "returned": row["returned"] + read.returned, "last_at": now}
                connection.execute(READ_WINDOWS.update().where(same).values(**counts))
                return
            if row is not None:
                self._close(connection, row)
            connection.execute(READ_WINDOWS.insert().values(_columns(read, window, now)))
            self._outbox.add_event(connection, read.organization_id, self_audit.queried(read))

    def close_due(self) -> int:
        """Close every window whose time is over; return how many closing entries that took."""
        closed = 0
        while due := self._due():
            with self._database.writing() as connection:
                for window in due:
                    closed += self._close_if_due(connection, window)
        return closed

    def _due(self) -> list[bytes]:
        query = select(READ_WINDOWS.c.window).where(is_over(READ_WINDOWS.c.opened_at, self._clock()))
        with self._database.reading() as connection:
            return list(connection.execute(query.limit(CLOSED_AT_ONCE)).scalars())

    def _close_if_due(self, connection: Connection, window: bytes) -> int:
        """Close a window unless another process has closed it since."""
        due = (READ_WINDOWS.c.window == window, is_over(READ_WINDOWS.c.opened_at, self._clock()))
        row = connection.execute(select(READ_WINDOWS).where(*due)).mappings().one_or_none()
        return 0 if row is None else self._close(connection, row)

    def _close(self, connection: Connection, row: RowMapping) -> int:
        """Forget a window, with a closing entry if there was more than the first read; return how many."""
        connection.execute(READ_WINDOWS.delete().where(READ_WINDOWS.c.window == row["window"]))
        if row["reads"] == 1:
            return 0
        self._outbox.add_event(connection, row["organization_id"], self_audit.queries_merged(_merged(row)))
        return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedReads:
    """A closed window: what its reads had in common, how many there were, first and last included, and when."""

    read: Read
    reads: int
    opened_at: int
    last_at: int


def is_over(opened_at: ColumnElement[int], now: int) -> ColumnElement[bool]:
    """Return the condition that a window's time is over; one from the future is, as the clock went back."""
    return or_(opened_at <= now - WINDOW_US, opened_at > now)


def _columns(read: Read, window: bytes, now: int) -> dict[str, Any]:
    return {
        "window": window,
        "organization_id": read.organization_id,
        "actor_type": read.actor.type,
        "actor_id": read.actor.id,
        "actor_name": read.actor.name,
        "filters": dict(read.filters),
        "client_ip": read.origin.client_ip,
        "user_agent": read.origin.user_agent,
        "opened_at": now,
        "last_at": now,
        "reads": 1,
        "returned": read.returned,
    }


def _merged(row: RowMapping) -> MergedReads:
    read = Read(
        organization_id=row["organization_id"],
        actor=Actor(row["actor_type"], row["actor_id"], row["actor_name"]),
        filters=row["filters"],
        returned=row["returned"],
        origin=Origin(row["client_ip"], row["user_agent"]),
    )
    return MergedReads(read=read, reads=row["reads"], opened_at=row["opened_at"], last_at=row["last_at"])
