"""The draft's metrics of an emitter through the OpenTelemetry metrics API (needs `opentelemetry-api`).

observe(emitter, metrics.get_meter("my-service"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import Meter

    from klyra_audit.emitter import AuditEmitter, EmitterStatus


def observe(emitter: AuditEmitter, meter: Meter) -> None:
    """Report an emitter's figures whenever they are collected. `audit.records.dropped` is always 0, and shown."""
    counters: tuple[tuple[str, str, Callable[[EmitterStatus], int]], ...] = (
        ("audit.records.emitted", "Events made durable by this process", lambda status: status.emitted),
        ("audit.records.exported", "Events acknowledged by the collector", lambda status: status.delivered),
        ("audit.records.dropped", "Events lost", lambda status: status.dropped),
    )
    for name, description, read in counters:
        meter.create_observable_counter(name, [_observing(emitter, read)], "{record}", description)
    gauges: tuple[tuple[str, str, str, Callable[[EmitterStatus], float]], ...] = (
        ("audit.queue.depth", "{record}", "Events still to be delivered", lambda status: status.waiting),
        ("klyra.spool.size", "By", "Bytes on the disk", lambda status: status.held_bytes),
        ("klyra.spool.age", "s", "Age of the oldest event to be delivered", lambda status: status.oldest_seconds),
    )
    for name, unit, description, reading in gauges:
        meter.create_observable_gauge(name, [_observing(emitter, reading)], unit, description)


def _observing(
    emitter: AuditEmitter, read: Callable[[EmitterStatus], float]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(read(emitter.status()))

    return observed
