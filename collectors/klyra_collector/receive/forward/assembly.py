"""Builds the Forward receiver out of the configuration and runs it beside the other receivers."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import structlog

from klyra_audit.errors import Paused
from klyra_audit.forward import library
from klyra_collector.receive.forward.access import load_access
from klyra_collector.receive.forward.connection import ForwardLimits
from klyra_collector.receive.forward.intake import ForwardIntake
from klyra_collector.receive.forward.metrics import ForwardMetrics
from klyra_collector.receive.forward.server import ForwardServer
from klyra_collector.receive.forward.tags import TagTypes
from klyra_collector.receive.listening import address_of, listen, unlinked_at_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prometheus_client import CollectorRegistry

    from klyra_audit.catalog import Catalog
    from klyra_collector.config import ForwardSettings
    from klyra_collector.receive.ingest import Ingest
    from klyra_collector.receive.tls import ReloadingTls

_log = structlog.get_logger(__name__)


class UnknownEventType(Paused):
    """A tag is mapped to an event type that the catalog does not have."""

    code = "unknown_event_type"


@contextlib.asynccontextmanager
async def receiving_forward(
    settings: ForwardSettings,
    *,
    tls: ReloadingTls | None,
    ingest: Ingest,
    catalog: Catalog,
    prometheus: CollectorRegistry,
) -> AsyncIterator[str | None]:
    """Receive Forward while inside; give the address that answers, None if the receiver did not start.

    Args:
        settings: section `forward`.
        tls: the receiver's certificates; None for plain TCP.
        ingest: what all receivers work with.
        catalog: of the event types that tags may be mapped to.
        prometheus: where the receiver's metrics are shown.

    Raises:
        UnknownEventType, SecretUnavailable, MissingExtra, PortTaken: before anything is begun.
        ForwardUnbound: something is configured, but not who may send.
    """
    if settings.key is None and not settings.clients and settings.shared_key is None:
        _log.info(
            "forward_not_started", reason="nothing says which emit key its peers send with", setting="forward.key"
        )
        yield None
        return
    server = _build(settings, tls, ingest, catalog, prometheus)
    with unlinked_at_end(listen(settings, "forward.listen")) as listening:
        async with server.serving(listening):
            yield address_of(listening)


def _build(
    settings: ForwardSettings,
    tls: ReloadingTls | None,
    ingest: Ingest,
    catalog: Catalog,
    prometheus: CollectorRegistry,
) -> ForwardServer:
    library.msgpack()
    access = load_access(settings, socket.gethostname())
    for event_type in settings.event_types.values():
        if catalog.get(event_type) is None:
            raise UnknownEventType(
                f"forward.event_types names {event_type}, which the catalog does not have.",
                remedy="Correct it there, or add the type to your own catalog file.",
            )
    metrics = ForwardMetrics(prometheus)
    return ForwardServer(
        access=access,
        intake=ForwardIntake(ingest=ingest, types=TagTypes(settings.event_types), metrics=metrics),
        tls=tls,
        limits=ForwardLimits(
            connections=settings.max_connections,
            message_bytes=ingest.max_request_bytes,
            handshake_seconds=settings.handshake_seconds,
            message_seconds=settings.message_seconds,
            idle_seconds=settings.idle_seconds,
        ),
    )
