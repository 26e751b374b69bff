"""What a delivery tells about itself, in `destination_status`'s file."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from klyra_collector.destination_status import Circuit, DestinationStatus, State, write_status

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_siem.outcome import Outcome

PUBLISH_SECONDS: Final = 1.0

_OPEN: Final = frozenset({State.RETRYING, State.PAUSED, State.HALTED})


class Report:
    """Keeps the status and writes it once a second, and whenever the state changes."""

    def __init__(self, cursors: Path, begun: DestinationStatus, wall_us: Callable[[], int]) -> None:
        """Prepare to write.

        Args:
            cursors: the folder of status files.
            begun: the first status.
            wall_us: present time, microseconds since 1970.
        """
        self._cursors = cursors
        self._skipped: Counter[str] = Counter()
        self._wall_us = wall_us
        self._status = replace(begun, since_us=wall_us())
        self._published = -PUBLISH_SECONDS

    def stand(self, origin: str, index: int) -> None:
        """Note where the cursor stands."""
        self._status = replace(self._status, origin=origin, index=index)

    def attempts(self, occurred_ns: int, *, is_trial: bool) -> None:
        """Note that a batch is sent.

        Args:
            occurred_ns: own time of its first entry, nanoseconds since 1970.
            is_trial: whether it goes alone, after a failure.
        """
        waiting_us = min(self._status.waiting_us or occurred_ns, occurred_ns // 1000)
        circuit = Circuit.HALF_OPEN if is_trial else Circuit.CLOSED
        self._status = replace(self._status, waiting_us=waiting_us, circuit=circuit)

    def waits_no_more(self) -> None:
        """Note that the oldest batch under way is done with."""
        self._status = replace(self._status, waiting_us=0)

    def delivered(self, entries: int, warning: str) -> None:
        """Note that a batch was taken; a warning came with it unless it is empty."""
        status = self._status
        self._status = replace(
            status,
            entries=status.entries + entries,
            batches=status.batches + 1,
            warned=status.warned + bool(warning),
            succeeded_us=self._wall_us(),
            circuit=Circuit.CLOSED,
        )
        self.change(State.DELIVERING)

    def skipped(self, reasons: Counter[str]) -> None:
        """Note records that are not delivered, by reason."""
        self._skipped.update(reasons)

    def failed(self, outcome: Outcome) -> None:
        """Note that an attempt failed."""
        error = f"{outcome.status}: {outcome.reason}" if outcome.reason else outcome.status
        self._status = replace(self._status, retried=self._status.retried + 1, error=error, error_us=self._wall_us())

    def stands_still(self, reason: str) -> None:
        """Note that an operator has paused it."""
        self._status = replace(self._status, error=f"operator: {reason}", error_us=self._wall_us())
        self.change(State.PAUSED)

    def buried(self, dead_letters: int) -> None:
        """Note how many dead letters are on file."""
        self._status = replace(self._status, dead_letters=dead_letters)

    def change(self, state: State) -> None:
        """Note what is done now; a change is published at once."""
        if state in _OPEN:
            self._status = replace(self._status, circuit=Circuit.OPEN)
        if self._status.state is not state:
            self._status = replace(self._status, state=state, since_us=self._wall_us())
            self.publish()

    def is_window_closing(self) -> bool:
        """Say whether what waits will soon be too old for the destination."""
        return self._status.is_window_closing(self._wall_us())

    def publish_before(self, wait: float) -> None:
        """Write the file before some seconds in which nothing happens, unless that was done a moment ago."""
        if time.monotonic() - self._published + wait >= PUBLISH_SECONDS:
            self.publish()

    def publish(self) -> None:
        """Write the file, if the disk lets it: a full one must not end the delivery."""
        self._published = time.monotonic()
        status = replace(self._status, skipped=dict(self._skipped), written_us=self._wall_us())
        with contextlib.suppress(OSError):
            write_status(self._cursors, status)
