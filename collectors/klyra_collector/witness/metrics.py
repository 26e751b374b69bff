"""Metrics of witnessing (Prometheus, `klyra_witness_*` and `klyra_quorum_age_seconds`)."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable


class WitnessMetrics:
    """Ages count from the time in the cosignatures; what never was is infinitely old, so that an alert sees it."""

    def __init__(self, prometheus: CollectorRegistry, now: Callable[[], float]) -> None:
        self._now = now
        self._times: dict[str, int] = {}
        self._quorum_time = 0
        self._ages = Gauge(
            "klyra_witness_age_seconds", "Since a witness cosigned last", ["witness"], registry=prometheus
        )
        self._failures = Counter(
            "klyra_witness_failures", "Times a witness did not cosign", ["witness", "code"], registry=prometheus
        )
        quorum = Gauge("klyra_quorum_age_seconds", "Since a quorum of witnesses had cosigned", registry=prometheus)
        quorum.set_function(lambda: self._age(self._quorum_time))

    def watch(self, witness: str, time: int = 0) -> None:
        """Show a witness, which cosigned last at `time` (seconds since 1970; 0 for never)."""
        self._times[witness] = time
        self._ages.labels(witness).set_function(lambda: self._age(self._times[witness]))

    def cosigned(self, witness: str, time: int) -> None:
        """Note a cosignature."""
        self._times[witness] = time

    def failed(self, witness: str, code: str) -> None:
        """Note that a witness did not cosign, and why."""
        self._failures.labels(witness, code).inc()

    def quorum(self, time: int) -> None:
        """Note by when a quorum had cosigned."""
        self._quorum_time = time

    def _age(self, time: int) -> float:
        return max(0.0, self._now() - time) if time else inf
