"""OTLP over HTTP: `/v1/logs` for every OpenTelemetry client, `/v1/audit` for strict ones (DESIGN section 6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from klyra_audit.errors import KlyraError, Rejected
from klyra_collector.receive import answers
from klyra_collector.receive.body import InflightBudget, UnsupportedMediaType, decompress, read_body
from klyra_collector.receive.wire import WireRecord, decode_json, decode_protobuf
from klyra_collector.registry.errors import KeyRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from klyra_collector.pipeline import Accepted, Pipeline
    from klyra_collector.receive.senders import Sender, Senders

_BEARER = "bearer "
_DECODERS: dict[str, Callable[[bytes], list[WireRecord]]] = {
    answers.PROTOBUF: decode_protobuf,
    answers.JSON: decode_json,
}

_log = structlog.get_logger(__name__)


class ReceiveObserver(Protocol):
    """What receiving reports to metrics and to the log of the product itself."""

    def accepted(self, accepted: Accepted) -> None:
        """Note an acknowledged batch."""
        ...

    def refused(self, error: KlyraError) -> None:
        """Note a request that was not acknowledged."""
        ...

    def key_refused(self, error: KeyRefused, endpoint: str) -> None:
        """Note a refused key: stock clients drop what gets a 401, so somebody must be told. May block."""
        ...


@dataclass(frozen=True, slots=True)
class Ingest:
    """What the endpoints work with."""

    pipeline: Pipeline
    senders: Senders
    budget: InflightBudget
    observer: ReceiveObserver
    max_request_bytes: int


def create_app(ingest: Ingest, metrics: Callable[[], tuple[bytes, str]], is_ready: Callable[[], bool]) -> Starlette:
    """Return the collector's HTTP application.

    Args:
        ingest: what the endpoints work with.
        metrics: renders the metrics, with their content type.
        is_ready: whether events are being taken.
    """

    async def logs(request: Request) -> Response:
        media_type = _media_type(request)
        try:
            accepted = await _accept(ingest, request, strict=False)
        except KlyraError as error:
            return answers.failure(await _noted(ingest, request, error), media_type)
        return answers.logs_success(accepted, media_type)

    async def audit(request: Request) -> Response:
        try:
            return answers.receipts(await _accept(ingest, request, strict=True))
        except KlyraError as error:
            return answers.audit_failure(await _noted(ingest, request, error))

    async def show_metrics(_: Request) -> Response:
        content, media_type = metrics()
        return Response(content, media_type=media_type)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ok\n") if is_ready() else PlainTextResponse("intake is halted\n", 503)

    return Starlette(
        routes=[
            Route("/v1/logs", logs, methods=["POST"]),
            Route("/v1/audit", audit, methods=["POST"]),
            Route("/metrics", show_metrics),
            Route("/healthz", health),
            Route("/readyz", ready),
        ]
    )


async def _accept(ingest: Ingest, request: Request, *, strict: bool) -> Accepted:
    """Authenticate before anything is read, then read, decode and make durable."""
    sender = await _authenticate(ingest.senders, request)
    decode = _DECODERS.get(_media_type(request))
    if decode is None:
        raise UnsupportedMediaType(
            f"Content-Type {request.headers.get('content-type', '')[:60]!r} is not read here.",
            remedy=f"Send {answers.PROTOBUF} or {answers.JSON}.",
        )
    with ingest.budget.reservation() as reservation:
        announced = _content_length(request)
        try:
            body = await read_body(request.stream(), announced, reservation, ingest.max_request_bytes)
        except ClientDisconnect as error:
            raise Rejected("The client went away before its request was whole.", code="disconnected") from error
        encoding = request.headers.get("content-encoding", "").strip().lower()
        body = decompress(body, encoding, reservation, ingest.max_request_bytes)
        accepted = await ingest.pipeline.accept(decode(body), body, sender, strict=strict)
    ingest.observer.accepted(accepted)
    return accepted


async def _authenticate(senders: Senders, request: Request) -> Sender:
    header = request.headers.get("authorization", "")
    bearer = header[len(_BEARER) :].strip() if header.lower().startswith(_BEARER) else ""
    return await senders.authenticate(bearer)


async def _noted(ingest: Ingest, request: Request, error: KlyraError) -> KlyraError:
    ingest.observer.refused(error)
    if isinstance(error, KeyRefused):
        await asyncio.to_thread(ingest.observer.key_refused, error, request.url.path)
    return error


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None
