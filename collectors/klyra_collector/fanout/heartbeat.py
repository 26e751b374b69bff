"""Signs of life: once an interval, an entry for each destination, sealed and delivered as any other.

A SIEM that has not seen one for two intervals may be missing entries, wherever they got stuck: before the seal, in the
delivery, at the vendor or in its pipeline. They are entries of the operator, which go to no other destination than the
one they name, and to that one whatever its filters are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from klyra_audit.errors import KlyraError
from klyra_audit.event import Actor, AuditEvent, Resource

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.registry import Registry

EVENT_TYPE: Final = "heartbeat.sent"
LOOK_SECONDS: Final = 1.0

_ACTOR: Final = Actor.system("klyra-audit")
_SECOND_US: Final = 1_000_000

_log = structlog.get_logger(__name__)


def heartbeat_event(name: str, kind: str, *, interval_seconds: int) -> AuditEvent:
    """Return the sign of life of a destination."""
    metadata = {"purpose": "alive", "kind": kind, "interval_seconds": interval_seconds}
    return AuditEvent(
        event_type=EVENT_TYPE,
        actor=_ACTOR,
        resource=Resource("siem_destination", name),
        action="create",
        status="success",
        metadata=metadata,
    )


def is_heartbeat_of(name: str, document: JsonObject) -> bool:
    """Say whether an event document is the sign of life of a destination."""
    return bool(document["event_type"] == EVENT_TYPE and document["resource"]["id"] == name)


class Heartbeats:
    """Has signs of life sealed while the follower runs, one at the beginning of each interval.

    Intervals count from 1970, and the one in which the follower was started has none of its own: a follower that is
    started again and again adds no entries.
    """

    def __init__(
        self, registry: Registry, wanted: Callable[[], Sequence[tuple[str, str, int]]], wall_us: Callable[[], int]
    ) -> None:
        """Prepare to beat.

        Args:
            registry: whose outbox takes the entries.
            wanted: returns name, kind and interval (seconds) of each destination that is to have them.
            wall_us: present time, microseconds since 1970.
        """
        self._registry = registry
        self._wanted = wanted
        self._wall_us = wall_us
        self._beaten = {name: self._interval(seconds) for name, _, seconds in wanted()}

    def run(self, stop: threading.Event) -> None:
        """Beat until `stop` is set."""
        while not stop.wait(LOOK_SECONDS):
            self.beat()

    def beat(self) -> None:
        """Have a sign of life sealed for each destination whose interval is over; later if that cannot be now."""
        for name, kind, seconds in self._wanted():
            present = self._interval(seconds)
            if present == self._beaten.setdefault(name, present):
                continue
            try:
                self._registry.record_event(None, heartbeat_event(name, kind, interval_seconds=seconds))
            except KlyraError as error:
                _log.warning("destination_heartbeat_failed", destination=name, code=error.code)
                continue
            self._beaten[name] = present

    def _interval(self, seconds: int) -> int:
        return self._wall_us() // (seconds * _SECOND_US)
