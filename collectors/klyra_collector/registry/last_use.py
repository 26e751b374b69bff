"""When each key was last used: written to the minute, beside authentication and never in its way."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from sqlalchemy import or_

from klyra_audit.errors import KlyraError
from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.registry.tables import API_KEYS

if TYPE_CHECKING:
    from klyra_collector.registry.database import Database
    from klyra_collector.registry.keys import ApiKey

INTERVAL_US: Final = 60 * MICROSECONDS


class LastUse:
    """Writes `last_used_at` from a thread of its own, at most once per key and `INTERVAL_US`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writer: ThreadPoolExecutor | None = None
        self._asked: dict[str, int] = {}  # key id → when this process last asked for it to be written
        self._lock = threading.Lock()  # guards the two above

    def note(self, key: ApiKey, now: int) -> None:
        """Remember that a key is being used; returns at once."""
        if key.last_used_at is not None and now - key.last_used_at < INTERVAL_US:
            return
        with self._lock:
            asked = self._asked.get(key.key_id)
            if asked is not None and now - asked < INTERVAL_US:
                return
            self._asked[key.key_id] = now
            if self._writer is None:
                self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="klyra-last-use")
            self._writer.submit(self._write, key.key_id, now)

    def close(self) -> None:
        """Write what is still to be written and stop."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)

    def _write(self, key_id: str, now: int) -> None:
        """Write it unless another process did; a busy registry is no reason to trouble anyone over this."""
        due = or_(API_KEYS.c.last_used_at.is_(None), API_KEYS.c.last_used_at <= now - INTERVAL_US)
        update = API_KEYS.update().where(API_KEYS.c.key_id == key_id, due).values(last_used_at=now)
        with contextlib.suppress(KlyraError), self._database.writing() as connection:
            connection.execute(update)
