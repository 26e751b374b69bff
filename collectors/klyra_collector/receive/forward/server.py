"""Listens for Forward peers, and ends the connections of those whose key was revoked."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final, cast

import structlog

from klyra_audit.errors import KlyraError, Paused, Rejected
from klyra_collector.receive.forward.connection import ForwardConnection, ForwardLimits
from klyra_collector.receive.senders import REMEMBERED_SECONDS
from klyra_collector.receive.tls import TlsServers

if TYPE_CHECKING:
    import ssl
    from asyncio.base_events import Server
    from collections.abc import AsyncIterator

    from klyra_collector.receive.forward.access import Access
    from klyra_collector.receive.forward.intake import ForwardIntake
    from klyra_collector.receive.tls import ReloadingTls

HEARTBEAT_BYTE: Final = b"\x00"
TOO_MANY: Final = "too_many_connections"

_GRACE_SECONDS: Final = 10.0
_BACKLOG: Final = 2048
_BUFFER_BYTES: Final = 64 * 1024

_log = structlog.get_logger(__name__)


class ForwardServer:
    """Serves Forward on a bound socket."""

    def __init__(
        self, *, access: Access, intake: ForwardIntake, limits: ForwardLimits, tls: ReloadingTls | None = None
    ) -> None:
        self._access = access
        self._intake = intake
        self._limits = limits
        self._tls = tls
        self._open: dict[ForwardConnection, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def serving(self, listening: socket.socket) -> AsyncIterator[None]:
        """Serve while inside; at the end let what is being sealed be acknowledged."""
        servers = TlsServers(listening, self._tls, self._begin)
        await servers.start()
        heartbeat = await self._answer_heartbeats(listening)
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            await servers.close()
            if heartbeat is not None:
                heartbeat.close()
            await self._finish()

    async def _begin(self, listening: socket.socket, context: ssl.SSLContext | None) -> Server:
        return await asyncio.start_server(
            self._welcome,
            sock=listening,
            limit=_BUFFER_BYTES,
            backlog=_BACKLOG,
            ssl=context,
            ssl_handshake_timeout=None if context is None else self._limits.handshake_seconds,
        )

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection in a task of its own, unless there are too many."""
        if len(self._open) >= self._limits.connections:
            _log.warning("forward_closed", code=TOO_MANY, limit=self._limits.connections)
            self._intake.metrics.refused(TOO_MANY)
            writer.close()
            return
        connection = ForwardConnection(reader, writer, access=self._access, intake=self._intake, limits=self._limits)
        self._open[connection] = asyncio.create_task(self._serve(connection))

    async def _serve(self, connection: ForwardConnection) -> None:
        with self._intake.metrics.connections.track_inprogress():
            try:
                await connection.serve()
            finally:
                self._open.pop(connection, None)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REMEMBERED_SECONDS / 4)
            try:
                await self._cut_refused()
            except Exception:  # noqa: BLE001 - whatever it is, the next look must come
                _log.exception("forward_watch_failed")

    async def _cut_refused(self) -> None:
        """End the connections of a key as soon as it is known to be refused, also those that say nothing."""
        peers = {connection: connection.peer for connection in self._open if connection.peer is not None}
        for key_text in {peer.key_text for peer in peers.values()}:
            error = await self._refusal(key_text)
            if error is None:
                continue
            for connection, peer in peers.items():
                if peer.key_text == key_text:
                    _log.warning("forward_cut", peer=peer.address, source=peer.source, reason=str(error))
                    self._intake.metrics.refused(error.code)
                    connection.cut()

    async def _refusal(self, key_text: str) -> KlyraError | None:
        """Return why a key may not emit any more; a registry that does not answer is no reason."""
        try:
            await self._intake.ingest.senders.authenticate(key_text)
        except (Rejected, Paused) as error:
            return error
        except KlyraError as error:
            _log.warning("forward_keys_not_checked", reason=str(error))
        return None

    async def _answer_heartbeats(self, listening: socket.socket) -> asyncio.DatagramTransport | None:
        """Answer UDP heartbeats on the same port, as fluentd sends them with `heartbeat_type udp`."""
        if listening.family == socket.AF_UNIX:
            return None
        host, port = listening.getsockname()[:2]
        try:
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Heartbeats, local_addr=(host, port)
            )
        except OSError as error:
            _log.warning("forward_no_udp_heartbeat", port=port, reason=error.strerror)
            return None
        return transport

    async def _finish(self) -> None:
        for connection in list(self._open):
            connection.finish()
        if self._open:
            await asyncio.wait(self._open.values(), timeout=_GRACE_SECONDS)
        for connection, task in list(self._open.items()):
            connection.cut()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Heartbeats(asyncio.DatagramProtocol):
    """Sends a heartbeat back: one byte of zero, nothing longer, so that nobody is flooded through us."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.DatagramTransport", transport)  # whose class the loops do not always name

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one byte with one byte."""
        if self._transport is not None and data == HEARTBEAT_BYTE:
            self._transport.sendto(HEARTBEAT_BYTE, addr)
