"""HTTP servers of every role: uvicorn on a bound socket, with bounds on who may keep it waiting.

uvicorn itself waits for ever for a request's headers. Here a connection gets `header_seconds` for the headers of its
first request and of each that it has begun, and `idle_seconds` from one answer to the next request. Bodies have a
deadline of their own where they are read. When all connections are taken, the one that has kept us waiting
longest makes room for a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from klyra_collector.receive.listening import UNIX, address_of
from klyra_collector.receive.tls import ReloadingTls, TlsServers

if TYPE_CHECKING:
    import socket
    import ssl
    from asyncio.base_events import Server
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp

_GRACE_SECONDS = 10
_POLL_SECONDS = 0.01
_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long a connection may keep a server waiting, and how many there may be.

    Attributes:
        connections: open at once.
        header_seconds: from a request's first byte, or from the connection's beginning, to the end of its headers.
        idle_seconds: from an answer to the next request.
    """

    connections: int = 2000
    header_seconds: float = 10.0
    idle_seconds: float = 75.0


async def serve_http(
    app: ASGIApp,
    listening: socket.socket,
    on_ready: Callable[[str], None],
    *,
    limits: HttpLimits | None = None,
    tls: ReloadingTls | None = None,
) -> None:
    """Serve an application on a bound socket until SIGTERM or SIGINT, then finish what is under way.

    Args:
        app: what to serve.
        listening: where.
        on_ready: called once with the URL that answers, or `unix:/path`.
        limits: on connections.
        tls: certificates; None for none.
    """
    limits = limits or HttpLimits()
    config = uvicorn.Config(
        app,
        http=_bounded(limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(limits.idle_seconds) + 1,  # ours ends a connection first
        timeout_graceful_shutdown=_GRACE_SECONDS,
        backlog=_BACKLOG,
    )
    server = _Server(config, listening, tls, limits.header_seconds)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    serving = asyncio.create_task(server.serve())
    while not server.listens and not serving.done():  # noqa: ASYNC110 - uvicorn offers no event to wait for
        await asyncio.sleep(_POLL_SECONDS)
    if server.listens:
        on_ready(_url(listening, tls))
    await serving


class _Server(uvicorn.Server):
    """Opens its servers itself, and leaves signals to us: uvicorn would raise them again after its own shutdown."""

    def __init__(
        self, config: uvicorn.Config, listening: socket.socket, tls: ReloadingTls | None, handshake_seconds: float
    ) -> None:
        super().__init__(config)
        self._handshake_seconds = handshake_seconds
        self._listeners = TlsServers(listening, tls, self._begin)
        self.listens = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open our own server in place of uvicorn's."""
        del sockets
        await super().startup(sockets=[])
        await self._listeners.start()
        self.listens = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, then let uvicorn finish those that stand."""
        await self._listeners.close()
        await super().shutdown(sockets)

    async def _begin(self, listening: socket.socket, context: ssl.SSLContext | None) -> Server:
        timeouts: dict[str, Any] = {} if context is None else {"ssl_handshake_timeout": self._handshake_seconds}
        loop = asyncio.get_running_loop()
        open_server = loop.create_unix_server if address_of(listening).startswith(UNIX) else loop.create_server
        return await open_server(self._make_protocol, sock=listening, ssl=context, backlog=_BACKLOG, **timeouts)

    def _make_protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg] # the protocol's own parameters
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    def stop(self) -> None:
        """Take no new requests, finish those under way, return."""
        self.should_exit = True


def _bounded(limits: HttpLimits) -> type[asyncio.Protocol]:
    """Return the protocol of connections within these limits."""

    class Bounded(_DeadlineProtocol):
        bounds = limits

    return Bounded


class _DeadlineProtocol(HttpToolsProtocol):
    """Ends a connection that keeps us waiting for a request's headers, however it dribbles.

    Attributes:
        waiting_since: loop time since when there is no request of its to be answered; None while there is.
    """

    bounds = HttpLimits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Begin to wait for the first request."""
        self._deadline: asyncio.TimerHandle | None = None
        self.waiting_since: float | None = None
        is_full = len(self.connections) >= self.bounds.connections
        super().connection_made(transport)
        if is_full and not self._make_room():
            transport.abort()
            return
        self._await_headers(self.bounds.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Give the request that begins its time."""
        super().on_message_begin()
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr] # None before the first
            self._await_headers(self.bounds.header_seconds)

    def on_headers_complete(self) -> None:
        """From here on we are the ones who are waited for."""
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is here already."""
        pipelined = bool(self.pipeline)
        super().on_response_complete()
        if not pipelined and not self.transport.is_closing():
            self._await_headers(self.bounds.idle_seconds)

    def _await_headers(self, seconds: float) -> None:
        self._stop_waiting()
        self.waiting_since = self.loop.time()
        self._deadline = self.loop.call_later(seconds, self.give_up)

    def _stop_waiting(self) -> None:
        self.waiting_since = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def give_up(self) -> None:
        """Wait no longer."""
        if not self.transport.is_closing():
            self.transport.abort()

    def _make_room(self) -> bool:
        """End the connection that has kept us waiting longest; False if all wait for us."""
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, _DeadlineProtocol) and connection.waiting_since is not None
        ]
        if waiting:
            min(waiting, key=lambda connection: connection.waiting_since or 0.0).give_up()
        return bool(waiting)


def _url(listening: socket.socket, tls: ReloadingTls | None) -> str:
    address = address_of(listening)
    if address.startswith(UNIX):
        return address
    return f"{'http' if tls is None else 'https'}://{address}"
