"""The HTTP face of a witness: `POST /add-checkpoint`, `GET /<sha256 of the origin>/checkpoint`."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from klyra_audit.errors import Halted
from klyra_collector.witness.cosigner import TEXT_MEDIA_TYPE, Reply
from klyra_collector.witness.request import MAX_REQUEST_BYTES

if TYPE_CHECKING:
    from starlette.requests import Request

    from klyra_collector.witness.cosigner import Cosigner

BODY_SECONDS: Final = 10.0

_log = structlog.get_logger(__name__)


def create_app(cosigner: Cosigner) -> Starlette:
    """Return the application; both prefixes of the specification are the address it is mounted at."""

    async def add_checkpoint(request: Request) -> Response:
        body = await _body(request)
        if isinstance(body, Reply):
            return _response(body)
        try:
            return _response(await run_in_threadpool(cosigner.add_checkpoint, body))
        except (Halted, OSError) as error:
            _log.error("not_cosigned", reason=str(error))
            return _response(Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"this witness cannot cosign now\n"))

    async def latest(request: Request) -> Response:
        encoded = await run_in_threadpool(cosigner.latest, request.path_params["digest"])
        if encoded is None:
            return _response(Reply(HTTPStatus.NOT_FOUND, b"no checkpoint of that log was cosigned here\n"))
        return Response(encoded, media_type=TEXT_MEDIA_TYPE, headers={"Cache-Control": "no-cache"})

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{digest:str}/checkpoint", latest, methods=["GET"]),
        ]
    )


async def _body(request: Request) -> bytes | Reply:
    """Return the body, or the answer to one that is too long, too slow or broken off."""
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                received += part
                if len(received) > MAX_REQUEST_BYTES:
                    return Reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"the request is too long\n")
    except (TimeoutError, ClientDisconnect):
        return Reply(HTTPStatus.REQUEST_TIMEOUT, b"the request did not arrive\n")
    return bytes(received)


def _response(reply: Reply) -> Response:
    return Response(reply.body, int(reply.status), media_type=None, headers={"Content-Type": reply.media_type})
