"""Delivers to the destinations that organizations have set up for themselves, as the registry has them now.

Every two seconds the registry is looked at: what is new is begun, what was changed is begun anew from its cursor, what
was deleted is stopped and its files are removed. Each delivery has a thread of its own, so that none holds up another;
one that is still waiting for an answer is not begun again before it has ended: two would move the same cursor.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from klyra_audit.errors import KlyraError, RetryLater
from klyra_collector.destination_settings import DestinationSettings
from klyra_collector.fanout.mistakes import places_of
from klyra_collector.fanout.orders import Pause
from klyra_collector.fanout.trial import send_test_event
from klyra_collector.self_service_settings import PREFIX as SELF_SERVICE
from klyra_siem.outcome import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klyra_collector.destination_status import DestinationStatus
    from klyra_collector.fanout.delivery import Delivery
    from klyra_collector.fanout.orders import Orders
    from klyra_collector.registry.destinations import Destinations, StoredDestination
    from klyra_siem.destination import Destination
    from klyra_siem.outcome import Outcome

RETRY_SECONDS: Final = 30.0  # after a destination could not be begun: an installed library or a plan may mend it
REPORT_SECONDS: Final = 10.0
MOST_TRIALS: Final = 16  # at once, one of each organization: each is a thread, and any number may be asked for
STOP_SECONDS: Final = 5.0

_OUTCOMES = {
    Action.DELIVERED: "delivered",
    Action.RETRY: "retry",
    Action.BISECT: "refused",
    Action.PAUSE: "not_let_in",
}
_MOVES_BY_ITSELF = ("lag_seconds", "succeeded_us", "entries", "window_left_seconds")

_log = structlog.get_logger(__name__)


class Workshop(Protocol):
    """Makes deliveries, and what they are made of."""

    def destination(self, stored: StoredDestination) -> Destination:
        """Return a destination with its secrets opened; `KlyraError` if it cannot be made."""
        ...

    def delivery(self, settings: DestinationSettings, stored: StoredDestination) -> Delivery:
        """Return a delivery, not begun; `KlyraError` if it cannot be made."""
        ...

    def orders(self, destination_id: str) -> Orders:
        """Return what is ordered of a delivery."""
        ...

    def measured(self, destination_ids: Sequence[str]) -> list[DestinationStatus]:
        """Return how deliveries are doing; `KlyraError` if the ledger cannot be read."""
        ...


@dataclass(slots=True)
class _Running:
    """A delivery's thread, or why there is none."""

    version: int
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    error: KlyraError | None = None
    begun: float = field(default_factory=time.monotonic)

    def is_over(self) -> bool:
        """Say whether its thread has ended, if it ever had one."""
        return self.thread is None or not self.thread.is_alive()


class SelfService:
    """Runs what the registry wants. One thread uses it; trials have threads of their own."""

    def __init__(self, registered: Destinations, workshop: Workshop, cursors: Path, wall_us: Callable[[], int]) -> None:
        """Prepare to run.

        Args:
            registered: the destinations of the registry.
            workshop: makes deliveries.
            cursors: the folder of their files.
            wall_us: present time, microseconds since 1970.
        """
        self._registered = registered
        self._workshop = workshop
        self._cursors = cursors
        self._wall_us = wall_us
        self._running: dict[str, _Running] = {}
        self._settings: dict[str, DestinationSettings] = {}
        self._reported: dict[str, tuple[dict[str, Any], float]] = {}
        self._trials: dict[str, str] = {}  # of those under way, whose they are

    def run(self, stop: threading.Event, look_seconds: float) -> None:
        """Look again and again until `stop` is set; then stop every delivery."""
        while not stop.is_set():
            try:
                self.look()
            except KlyraError as error:
                _log.warning("self_service_waits", code=error.code, reason=str(error))
            except Exception as error:  # noqa: BLE001 - a mistake of ours must not end what organizations have set up
                name, places = type(error).__name__, places_of(error)
                _log.error("self_service_failed", error=name, at=places)
            stop.wait(look_seconds)
        self.close()

    def close(self) -> None:
        """Stop every delivery; one that waits for an answer goes with its process."""
        for running in self._running.values():
            running.stop.set()
        until = time.monotonic() + STOP_SECONDS
        for running in self._running.values():
            if running.thread is not None:
                running.thread.join(max(0.0, until - time.monotonic()))

    def look(self) -> None:
        """Make what runs what the registry wants, and tell it how that goes.

        Raises:
            RegistryUnavailable, LedgerDamaged: what runs goes on.
        """
        wanted = {one.destination_id: one for one in self._registered.all()}
        self._settings = {name: settings_of(one) for name, one in wanted.items()}
        self._end(wanted)
        for stored in wanted.values():
            try:
                self._have(stored)
            except (KlyraError, OSError) as error:  # one whose files are in a bad way must not keep others from running
                _log.warning("destination_not_run", destination=stored.destination_id, reason=str(error))
            except Exception as error:  # noqa: BLE001 - nor a mistake of ours; what it says may quote a secret
                name, places = type(error).__name__, places_of(error)
                _log.error("destination_not_run", destination=stored.destination_id, reason=name, at=places)
        self._report(wanted)
        for trial_id, destination_id in self._registered.pending_trials():
            self._begin_trial(trial_id, wanted.get(destination_id))

    def heartbeats(self) -> list[tuple[str, str, int]]:
        """Return name, kind and interval (seconds) of the signs of life that are wanted; from any thread."""
        return [(name, one.kind, one.heartbeat_seconds) for name, one in self._settings.items()]

    # What runs

    def _end(self, wanted: Mapping[str, StoredDestination]) -> None:
        """Stop what is not wanted, and remove the files of what has stopped: also of another process's time."""
        for destination_id in self._running.keys() - wanted.keys():
            self._running[destination_id].stop.set()
            if self._running[destination_id].is_over():
                del self._running[destination_id]
                self._reported.pop(destination_id, None)
        for path in self._cursors.glob(f"{SELF_SERVICE}*"):
            owner = path.name.partition(".")[0]
            if owner not in wanted and owner not in self._running:
                path.unlink(missing_ok=True)

    def _have(self, stored: StoredDestination) -> None:
        running = self._running.get(stored.destination_id)
        self._order_pause(stored)
        if running is not None and running.version == stored.version and not self._may_try_again(running):
            return
        if running is not None:
            running.stop.set()
            if not running.is_over():
                return  # it is begun anew at a later look
        self._running[stored.destination_id] = self._begun(stored)

    def _may_try_again(self, running: _Running) -> bool:
        return running.error is not None and time.monotonic() - running.begun > RETRY_SECONDS

    def _order_pause(self, stored: StoredDestination) -> None:
        orders = self._workshop.orders(stored.destination_id)
        if stored.spec.paused and orders.paused() is None:
            orders.pause(Pause("paused by its organization", self._wall_us()))
        elif not stored.spec.paused:
            orders.resume()

    def _begun(self, stored: StoredDestination) -> _Running:
        running = _Running(stored.version)
        try:
            delivery = self._workshop.delivery(self._settings[stored.destination_id], stored)
        except KlyraError as error:
            running.error = error
            _log.warning("destination_not_started", destination=stored.destination_id, code=error.code)
            return running
        running.thread = threading.Thread(
            target=delivery.run, args=(running.stop,), name=f"destination {stored.destination_id}", daemon=True
        )
        running.thread.start()
        _log.info("destination_started", destination=stored.destination_id, kind=stored.spec.kind)
        return running

    # What is told

    def _report(self, wanted: Mapping[str, StoredDestination]) -> None:
        statuses = {status.name: status for status in self._workshop.measured(list(wanted))}
        for destination_id in wanted:
            running = self._running.get(destination_id)
            if running is not None and running.error is not None:
                self._tell(destination_id, self._of_error(running.error))
            elif destination_id in statuses:
                self._tell(destination_id, self._of_status(statuses[destination_id]))

    def _of_error(self, error: KlyraError) -> dict[str, Any]:
        reason = f"{error.code}: {error.args[0]}"
        return {"state": "halted", "error": reason, "error_us": self._wall_us(), "since_us": self._wall_us()}

    def _of_status(self, status: DestinationStatus) -> dict[str, Any]:
        left = status.window_left(self._wall_us())
        return {
            "state": status.state.value,
            "since_us": status.since_us,
            "lag_entries": status.lag_entries,
            "lag_seconds": round(status.lag_seconds, 1),
            "succeeded_us": status.succeeded_us,
            "error": status.error,
            "error_us": status.error_us,
            "entries": status.entries,
            "dead_letters": status.dead_letters,
            "window_left_seconds": None if left is None else round(left),
        }

    def _tell(self, destination_id: str, status: dict[str, Any]) -> None:
        """Write a status down when it is another, and what moves by itself now and then."""
        before, written = self._reported.get(destination_id, ({}, 0.0))
        is_recent = time.monotonic() - written < REPORT_SECONDS
        if status == before or (is_recent and _without_moving(status) == _without_moving(before)):
            return
        self._registered.report(destination_id, status)
        self._reported[destination_id] = status, time.monotonic()

    # Trials

    def _begin_trial(self, trial_id: str, stored: StoredDestination | None) -> None:
        if stored is None or trial_id in self._trials:
            return
        if stored.organization_id in list(self._trials.values()) or len(self._trials) >= MOST_TRIALS:
            return  # what waits is begun at a later look
        self._trials[trial_id] = stored.organization_id
        threading.Thread(target=self._try, args=(trial_id, stored), name="trial", daemon=True).start()

    def _try(self, trial_id: str, stored: StoredDestination) -> None:
        entry_id = ""
        try:
            with contextlib.closing(self._workshop.destination(stored)) as destination:
                entry_id, outcome = send_test_event(destination, stored.destination_id, self._wall_us())
            answer = _trial_answer(entry_id, outcome)
        except KlyraError as error:
            reason = str(error.args[0])
            answer = {"outcome": "refused", "status": error.code, "answer": reason, "event_id": entry_id}
        except Exception as error:  # noqa: BLE001 - a mistake of ours; what it says may quote a secret
            name = type(error).__name__
            _log.error("trial_failed", destination=stored.destination_id, error=name, at=places_of(error))
            answer = {"outcome": "refused", "status": "internal", "answer": name, "event_id": entry_id}
        try:
            self._registered.answer_trial(trial_id, answer)
        except RetryLater as error:
            _log.warning("trial_not_answered", destination=stored.destination_id, code=error.code)
        finally:
            self._trials.pop(trial_id, None)


def settings_of(stored: StoredDestination) -> DestinationSettings:
    """Return how a stored destination is delivered to; what it is made of comes from its secrets instead."""
    spec = stored.spec
    # Not validated: a secret endpoint stands here masked, and what else there is was checked when it was set up.
    members: dict[str, Any] = {
        "name": stored.destination_id,
        "kind": spec.kind,
        "endpoint": spec.endpoint,
        "organizations": (stored.organization_id,),
        "when_too_old": spec.when_too_old,
        "format": spec.format,
        **{name: tuple(values) for name, values in spec.filters.items()},
    }
    return DestinationSettings.model_construct(**members)


def _trial_answer(entry_id: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "outcome": "refused" if outcome.refused else _OUTCOMES[outcome.action],
        "status": outcome.status,
        "answer": outcome.reason,
        "event_id": entry_id,
    }


def _without_moving(status: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in _MOVES_BY_ITSELF}
