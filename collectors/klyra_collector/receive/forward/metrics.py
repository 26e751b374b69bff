"""Metrics of the Forward receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from klyra_audit.forward.message import Message

_log = structlog.get_logger(__name__)


class ForwardMetrics:
    """Counts connections, messages, what came without a promise, and what was refused."""

    def __init__(self, prometheus: CollectorRegistry) -> None:
        self.connections = Gauge("klyra_forward_connections", "Connections open", registry=prometheus)
        self._messages = Counter(
            "klyra_forward_messages", "Messages received, by whether they ask for one", ["ack"], registry=prometheus
        )
        self._best_effort = Counter(
            "klyra_forward_best_effort_records",
            "Records sealed from senders that asked for no acknowledgement: what they lost on the way is not known",
            ["source"],
            registry=prometheus,
        )
        self._refused = Counter(
            "klyra_forward_refused", "Connections closed without an acknowledgement", ["code"], registry=prometheus
        )
        self._miscounted = Counter(
            "klyra_forward_miscounted", "Messages with another number of entries than announced", registry=prometheus
        )

    def received(self, message: Message, entries: int) -> None:
        """Count a message."""
        self._messages.labels("yes" if message.raw_chunk is not None else "no").inc()
        if message.announced is not None and message.announced != entries:
            self._miscounted.inc()
            _log.warning("forward_miscounted", tag=message.tag, announced=message.announced, entries=entries)

    def best_effort(self, source: str, records: int) -> None:
        """Count records that were sealed, and might as well have been lost."""
        self._best_effort.labels(source).inc(records)

    def refused(self, code: str) -> None:
        """Count a connection that was closed on a sender."""
        self._refused.labels(code).inc()
