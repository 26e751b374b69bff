"""OTLP over gRPC: `LogsService/Export` for every OpenTelemetry client (DESIGN section 6).

The handler is a streaming one although a request is one message. On the wire both look alike; to us it means that
the key is checked before any of the message is taken from the connection, and that HTTP/2's flow control holds back
the rest until we ask for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import TYPE_CHECKING, Any, Final

from klyra_audit.errors import Paused
from klyra_collector.receive import answers
from klyra_collector.receive.body import BodyTooSlow
from klyra_collector.receive.http_request import bearer_of
from klyra_collector.receive.listening import UNIX, clear_stale, taken
from klyra_collector.receive.tls import watch
from klyra_collector.receive.wire import decode_protobuf

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpc.aio import Server, ServicerContext

    from klyra_audit.errors import KlyraError
    from klyra_collector.config import OtlpGrpcSettings
    from klyra_collector.receive.ingest import Ingest
    from klyra_collector.receive.tls import ReloadingTls

SERVICE: Final = "opentelemetry.proto.collector.logs.v1.LogsService"
PATH: Final = f"/{SERVICE}/Export"

# Both carry the same: the standard's name, and the one that opentelemetry-python looks for.
STATUS_DETAILS: Final = "grpc-status-details-bin"
RETRY_INFO: Final = "google.rpc.retryinfo-bin"

_GRACE_SECONDS: Final = 10.0
_MILLISECONDS: Final = 1000
_HANDSHAKE: Final = 10_000
_KEEPALIVE_TIMEOUT: Final = 20_000
_CLIENT_PINGS: Final = 10_000  # milliseconds; the OpenTelemetry Collector may be told to ask every 10 s
_SETTING: Final = "otlp.grpc.listen"


class MissingGrpc(Paused):
    """OTLP over gRPC is configured, and its library is not installed."""

    code = "missing_extra"


class Exports:
    """Answers the service's one method."""

    def __init__(self, ingest: Ingest, body_seconds: float) -> None:
        self._ingest = ingest
        self._body_seconds = body_seconds

    async def export(self, messages: AsyncIterator[bytes], context: ServicerContext[bytes, bytes]) -> bytes:
        """Return a serialized ExportLogsServiceResponse once every record is durable."""
        try:
            return await self._accept(messages, context)
        except Exception as problem:  # noqa: BLE001 - whatever it is, its sender keeps what it has
            error = await self._ingest.noted(problem, PATH)
        await _abort(context, error)
        raise AssertionError  # abort always raises

    async def _accept(self, messages: AsyncIterator[bytes], context: ServicerContext[bytes, bytes]) -> bytes:
        ingest = self._ingest
        sender = await ingest.senders.authenticate(bearer_of(_metadata(context, "authorization")))
        ingest.admit(sender)
        body = await self._message(messages)
        with ingest.reservation(sender) as reservation:
            reservation.hold(len(body))
            accepted = await ingest.accept(decode_protobuf, body, sender)
        return answers.logs_response(accepted).SerializeToString()

    async def _message(self, messages: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout(self._body_seconds):
                return await anext(messages, b"")
        except TimeoutError as error:
            raise BodyTooSlow(
                f"The message did not arrive within {self._body_seconds:g} s.", remedy="Send smaller batches."
            ) from error


def _metadata(context: ServicerContext[bytes, bytes], name: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == name and isinstance(value, str):
            return value
    return ""


async def _abort(context: ServicerContext[bytes, bytes], error: KlyraError) -> None:
    """End the call with the error's status, its details where each client looks for them."""
    status = answers.rpc_status(error)
    trailing = [(STATUS_DETAILS, status.SerializeToString())]
    retry = answers.retry_info(error)
    if retry is not None:
        trailing.append((RETRY_INFO, retry.SerializeToString()))
    code = next(code for code in _grpc().StatusCode if code.value[0] == status.code)
    await context.abort(code, status.message, tuple(trailing))


@contextlib.asynccontextmanager
async def receiving_grpc(settings: OtlpGrpcSettings, *, ingest: Ingest, tls: ReloadingTls | None) -> AsyncIterator[str]:
    """Receive OTLP over gRPC while inside; give the address that answers, `host:port` or `unix:/path`.

    Args:
        settings: section `otlp.grpc`.
        ingest: what all receivers work with.
        tls: certificates; None for none.

    Raises:
        MissingGrpc, PortTaken: before anything is begun.
    """
    server = _make_server(ingest, settings)
    address = _bind(server, settings, tls)
    await server.start()
    if settings.socket_path is not None:
        settings.socket_path.chmod(settings.mode)
    watching = None if tls is None else asyncio.create_task(watch(tls))
    try:
        yield address
    finally:
        if watching is not None:
            watching.cancel()
        # New calls are refused with UNAVAILABLE from here on; those under way are answered first.
        await server.stop(_GRACE_SECONDS)
        if settings.socket_path is not None:
            settings.socket_path.unlink(missing_ok=True)


def _make_server(ingest: Ingest, settings: OtlpGrpcSettings) -> Server:
    grpc = _grpc()
    handler = grpc.stream_unary_rpc_method_handler(Exports(ingest, settings.body_seconds).export)
    server: Server = grpc.aio.server(options=_options(settings, ingest.max_request_bytes))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Export": handler}),))
    return server


def _options(settings: OtlpGrpcSettings, max_message_bytes: int) -> list[tuple[str, int]]:
    keepalive = int(settings.keepalive_seconds * _MILLISECONDS)
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # A stream counts until we have forgotten it; who reuses its place at once is not to be refused for that.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE),
        ("grpc.max_connection_idle_ms", int(settings.idle_seconds * _MILLISECONDS)),
        ("grpc.keepalive_time_ms", keepalive),
        ("grpc.keepalive_timeout_ms", min(keepalive, _KEEPALIVE_TIMEOUT)),
        ("grpc.http2.min_ping_interval_without_data_ms", _CLIENT_PINGS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.so_reuseport", 0),  # a second collector on this port is told so, not given half of the requests
    ]


def _bind(server: Server, settings: OtlpGrpcSettings, tls: ReloadingTls | None) -> str:
    if settings.socket_path is not None:
        clear_stale(settings.socket_path, _SETTING)
    try:
        if tls is None:
            port = server.add_insecure_port(settings.listen)
        else:
            port = server.add_secure_port(settings.listen, tls.for_grpc())
    except RuntimeError as error:
        raise taken(
            settings.listen, "another program answers there, or it is no address of this machine", _SETTING
        ) from error
    return settings.listen if settings.listen.startswith(UNIX) else f"{settings.listen.rpartition(':')[0]}:{port}"


def _grpc() -> Any:  # noqa: ANN401 - a module
    try:
        importlib.import_module("grpc.aio")
        return importlib.import_module("grpc")
    except ImportError as error:
        raise MissingGrpc(
            "OTLP over gRPC needs the library grpcio, which is not installed.",
            remedy="Install klyra-audit[collector].",
        ) from error
