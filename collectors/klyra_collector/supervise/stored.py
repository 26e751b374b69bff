"""`ack = "stored"`: senders are answered once the store has what was sealed too."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import RetryLater
from klyra_collector.store.elasticsearch.cursor import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from klyra_collector.stages import Outcome, Seal, Submission

_POLL_SECONDS: Final = 0.02


class NotStoredYet(RetryLater):
    """It is sealed, and the store does not have it yet; the same request again is recognised and waits again."""

    code = "not_stored_yet"


class StoredSeal:
    """Implements `stages.Seal` around another one: its answer comes when the store's cursor has passed the records."""

    def __init__(self, seal: Seal, cursors: Path, *, seconds: float) -> None:
        """Prepare.

        Args:
            seal: seals.
            cursors: folder of the store's cursor, which its follower moves.
            seconds: to wait at most.
        """
        self._seal = seal
        self._cursors = cursors
        self._seconds = seconds
        self._sizes: Mapping[str, int] = {}
        self._read_at = float("-inf")

    async def seal(self, submission: Submission) -> Sequence[Outcome]:
        """Return once every record is durable, and the store has it.

        Raises:
            NotStoredYet: it did not come that far in time; what is sealed stays sealed.
            RetryLater, Conflict: see `stages.Seal`.
        """
        outcomes = await self._seal.seal(submission)
        last: dict[str, int] = {}
        for outcome in outcomes:
            last[outcome.sealed.log] = max(last.get(outcome.sealed.log, -1), outcome.sealed.index)
        await self._await_stored(last)
        return outcomes

    async def _await_stored(self, last: Mapping[str, int]) -> None:
        until = time.monotonic() + self._seconds
        while not self._has(last):
            if time.monotonic() >= until:
                raise NotStoredYet(
                    f"The store does not have what was sealed after {self._seconds:g} seconds.",
                    remedy="Send the same again: it is recognised. See why the store is behind.",
                )
            await asyncio.sleep(_POLL_SECONDS)

    def _has(self, last: Mapping[str, int]) -> bool:
        if all(self._sizes.get(log, 0) > index for log, index in last.items()):
            return True
        now = time.monotonic()
        if now - self._read_at < _POLL_SECONDS:
            return False  # another sender has just looked
        self._read_at = now
        self._sizes = load(self._cursors).applied
        return all(self._sizes.get(log, 0) > index for log, index in last.items())
