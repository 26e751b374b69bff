"""OTLP over HTTP: `/v1/logs` for every OpenTelemetry client, `/v1/audit` for strict ones (DESIGN section 6).

Beside them, `/v1/receipts` for our emitters that send on other ways.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from klyra_collector.receive import answers, audit_draft
from klyra_collector.receive.http_request import accept_request, media_type
from klyra_collector.receive.ingest import UnknownPath, WrongMethod
from klyra_collector.receive.receipts import receipts_route

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from klyra_audit.errors import KlyraError
    from klyra_collector.receive.ingest import Ingest
    from klyra_collector.receive.receipts import Receipts

_METHOD_NOT_ALLOWED = 405


def create_app(
    ingest: Ingest, receipts: Receipts, metrics: Callable[[], tuple[bytes, str]], is_ready: Callable[[], bool]
) -> Starlette:
    """Return the collector's HTTP application.

    Args:
        ingest: what the endpoints work with.
        receipts: answers what became of emitters' events.
        metrics: renders the metrics, with their content type.
        is_ready: whether events are being taken.
    """

    async def logs(request: Request) -> Response:
        encoding = media_type(request)
        try:
            accepted = await accept_request(ingest, request, strict=False)
        except Exception as problem:  # noqa: BLE001 - whatever it is, its sender keeps what it has
            return answers.failure(await ingest.noted(problem, request.url.path), encoding)
        return answers.logs_success(accepted, encoding)

    async def audit(request: Request) -> Response:
        try:
            return audit_draft.receipts(await accept_request(ingest, request, strict=True))
        except Exception as problem:  # noqa: BLE001 - whatever it is, its sender keeps what it has
            return audit_draft.failure(await ingest.noted(problem, request.url.path))

    async def show_metrics(_: Request) -> Response:
        content, content_type = metrics()
        return Response(content, media_type=content_type)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(_: Request) -> Response:
        return PlainTextResponse("ok\n") if is_ready() else PlainTextResponse("intake is halted\n", 503)

    async def nowhere(request: Request, problem: Exception) -> Response:
        return answers.failure(_misdirected(request, problem), media_type(request))

    return Starlette(
        exception_handlers={HTTPException: nowhere},
        routes=[
            Route("/v1/logs", logs, methods=["POST"]),
            Route("/v1/audit", audit, methods=["POST"]),
            receipts_route(ingest, receipts),
            Route("/metrics", show_metrics),
            Route("/healthz", health),
            Route("/readyz", ready),
        ],
    )


def _misdirected(request: Request, problem: Exception) -> KlyraError:
    """Return why the routes have no place for a request: its path, or its method."""
    if isinstance(problem, HTTPException) and problem.status_code == _METHOD_NOT_ALLOWED:
        allowed = (problem.headers or {}).get("Allow", "POST")
        return WrongMethod(f"{request.method} is not answered at {request.url.path[:60]}; send {allowed}.", allowed)
    return UnknownPath("Nothing is received at this path.", remedy="Logs are received at POST /v1/logs.")
