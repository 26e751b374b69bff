"""Metrics of the API process (Prometheus, `klyra_*`)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from klyra_audit.timestamps import MICROSECONDS
from klyra_collector.destination_status import Circuit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from klyra_collector.destination_status import DestinationStatus
    from klyra_collector.store.lag import Lag
    from klyra_collector.store.quarantined import QuarantineBacklog


_STORE = "store"
_DESTINATION_GAUGES = (  # they count from the start of the follower's process, dead letters for ever
    ("entries", "entries", "Entries a destination has taken"),
    ("retried", "failures", "Attempts that a destination did not take"),
    ("warned", "warnings", "Answers of a destination that carried a warning"),
    ("dead_letters", "dead_letters", "Entries a destination will never take"),
)
_OPENNESS = {Circuit.CLOSED: 0.0, Circuit.HALF_OPEN: 0.5, Circuit.OPEN: 1.0}
_DESTINATION_ALARMS = {
    "retrying": "1 while a destination is tried again and again",
    "paused": "1 while a destination refuses our credentials or its address is wrong: an operator must act",
    "halted": "1 while the ledger cannot be read for a destination: an operator must act",
}


@dataclass(frozen=True, slots=True)
class Followers:
    """Everything that reads the ledger behind a cursor.

    Attributes:
        store: how far the store is behind (`LagMeter.measure`).
        destinations: how each destination is doing (`DestinationMeter.measure`).
        writing: what became of what was written to a store that has its own counts; nothing for others.
    """

    store: Callable[[], Lag]
    destinations: Callable[[], list[DestinationStatus]] = list
    writing: Callable[[], Mapping[str, int]] = dict


class QueryMetrics:
    """Counts requests, what they returned, and what was refused."""

    def __init__(self) -> None:
        self._prometheus = CollectorRegistry()
        self._shown_on_demand: list[Callable[[], None]] = []
        self._requests = Counter(
            "klyra_http_requests", "Requests answered", ["route", "method", "status"], registry=self._prometheus
        )
        self._seconds = Histogram(
            "klyra_http_request_seconds", "Duration of a request", ["route"], registry=self._prometheus
        )
        self._returned = Counter("klyra_query_entries", "Entries returned by searches", registry=self._prometheus)
        self._exported = Counter("klyra_export_entries", "Entries exported", ["format"], registry=self._prometheus)
        self._broken = Counter("klyra_exports_broken", "Exports that ended early", registry=self._prometheus)
        self._denied = Counter("klyra_access_denied", "Refused attempts", ["reason"], registry=self._prometheus)
        self._followers: Followers | None = None
        self._lag_entries = Gauge(
            "klyra_follower_lag_entries", "Records not applied", ["follower"], registry=self._prometheus
        )
        self._lag_seconds = Gauge(
            "klyra_follower_lag_seconds", "Age of the oldest of them", ["follower"], registry=self._prometheus
        )

        self._writing = Gauge(
            "klyra_store_writing",
            "Since the follower's start: documents by what became of them; requests, their bytes and milliseconds",
            ["what"],
            registry=self._prometheus,
        )
        self._destination_gauges = {
            attribute: Gauge(f"klyra_destination_{name}", help_text, ["destination"], registry=self._prometheus)
            for attribute, name, help_text in _DESTINATION_GAUGES
        }
        self._window_left = Gauge(
            "klyra_destination_window_left_seconds",
            "Until what waits is too old for a destination; +Inf where nothing waits or any age is taken",
            ["destination"],
            registry=self._prometheus,
        )
        self._circuit_open = Gauge(
            "klyra_destination_circuit_open",
            "1 while nothing is sent to a destination, 0.5 while one batch is tried",
            ["destination"],
            registry=self._prometheus,
        )
        self._destination_alarms = {
            state: Gauge(f"klyra_destination_{state}", help_text, ["destination"], registry=self._prometheus)
            for state, help_text in _DESTINATION_ALARMS.items()
        }

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, method, status).inc()
        self._seconds.labels(route).observe(seconds)

    def returned(self, entries: int) -> None:
        """Count the entries of an answer."""
        self._returned.inc(entries)

    def exported(self, rendering: str, entries: int) -> None:
        """Count entries written to an export."""
        self._exported.labels(rendering).inc(entries)

    def export_broken(self) -> None:
        """Count an export that ended early."""
        self._broken.inc()

    def denied(self, reason: str) -> None:
        """Count a refused attempt."""
        self._denied.labels(reason).inc()

    def watch(self, followers: Followers) -> None:
        """Show how far every follower is behind, measured whenever the metrics are asked for."""
        self._followers = followers

    def watch_quarantine(self, measure: Callable[[], QuarantineBacklog], clock: Callable[[], int]) -> None:
        """Show what waits in quarantine, measured whenever the metrics are asked for.

        Args:
            measure: asks the store.
            clock: present time, microseconds since 1970.
        """
        waiting = Gauge("klyra_quarantine_waiting", "Inputs kept and not replayed", registry=self._prometheus)
        oldest = Gauge(
            "klyra_quarantine_oldest_waiting_seconds", "Age of the oldest of them, 0 without", registry=self._prometheus
        )

        def show() -> None:
            backlog = measure()
            waiting.set(backlog.waiting)
            age = 0 if backlog.oldest_us is None else clock() - backlog.oldest_us
            oldest.set(max(age, 0) / MICROSECONDS)

        self._shown_on_demand.append(show)

    def render(self) -> tuple[bytes, str]:
        """Return the metrics and their content type. May block."""
        for show in self._shown_on_demand:
            show()
        if self._followers is not None:
            lag = self._followers.store()
            self._lag_entries.labels(_STORE).set(lag.entries)
            self._lag_seconds.labels(_STORE).set(lag.seconds)
            for what, count in self._followers.writing().items():
                self._writing.labels(what).set(count)
            for status in self._followers.destinations():
                self._show_destination(status)
        return generate_latest(self._prometheus), CONTENT_TYPE_LATEST

    def _show_destination(self, status: DestinationStatus) -> None:
        self._lag_entries.labels(status.name).set(status.lag_entries)
        self._lag_seconds.labels(status.name).set(status.lag_seconds)
        for attribute, gauge in self._destination_gauges.items():
            gauge.labels(status.name).set(getattr(status, attribute))
        for state, gauge in self._destination_alarms.items():
            gauge.labels(status.name).set(status.state == state)
        left = status.window_left(int(time.time() * MICROSECONDS))
        self._window_left.labels(status.name).set(float("inf") if left is None else left)
        self._circuit_open.labels(status.name).set(_OPENNESS[status.circuit])


class CountRequests:
    """Middleware that counts every answer by its route, never by its address as sent."""

    def __init__(self, app: ASGIApp, metrics: QueryMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.answered(route, scope["method"], status, time.perf_counter() - started)
