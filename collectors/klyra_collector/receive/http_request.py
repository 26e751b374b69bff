"""An OTLP request over HTTP: who sends it and what is in it, read within limits and made durable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from klyra_audit.errors import Rejected
from klyra_collector.receive import answers
from klyra_collector.receive.body import BodyTooSlow, UnsupportedMediaType, decompress, read_body
from klyra_collector.receive.wire import decode_protobuf
from klyra_collector.receive.wire_json import decode_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from klyra_collector.fair_budget import Reservation
    from klyra_collector.pipeline import Accepted
    from klyra_collector.receive.ingest import Ingest
    from klyra_collector.receive.senders import Sender, Senders
    from klyra_collector.receive.wire import WireRecord

_BEARER = "bearer "
_DECODERS: dict[str, Callable[[bytes], list[WireRecord]]] = {
    answers.PROTOBUF: decode_protobuf,
    answers.JSON: decode_json,
}


async def accept_request(ingest: Ingest, request: Request, *, strict: bool) -> Accepted:
    """Authenticate before anything is read, then read, decode and make durable.

    Raises:
        KlyraError: of every kind; `answers` has the answer to each.
    """
    sender = await authenticate(ingest.senders, request)
    decode = _DECODERS.get(media_type(request))
    if decode is None:
        raise UnsupportedMediaType(
            f"Content-Type {request.headers.get('content-type', '')[:60]!r} is not read here.",
            remedy=f"Send {answers.PROTOBUF} or {answers.JSON}.",
        )
    ingest.admit(sender)
    with ingest.reservation(sender) as reservation:
        body = await read_content(request, reservation, ingest.max_request_bytes, ingest.body_seconds)
        return await ingest.accept(decode, body, sender, strict=strict)


async def authenticate(senders: Senders, request: Request) -> Sender:
    """Return who sends; `KeyRefused` or `Forbidden`."""
    return await senders.authenticate(bearer_of(request.headers.get("authorization", "")))


def bearer_of(authorization: str) -> str:
    """Return the key in an Authorization header, "" if there is none."""
    return authorization[len(_BEARER) :].strip() if authorization.lower().startswith(_BEARER) else ""


async def read_content(request: Request, reservation: Reservation, limit: int, seconds: float) -> bytes:
    """Return the body without its Content-Encoding, held in `reservation` as it grows.

    Raises:
        TooLarge, UnsupportedEncoding, MalformedBody, Overloaded.
        BodyTooSlow: it was not there within `seconds`.
        Rejected: the client went away.
    """
    try:
        async with asyncio.timeout(seconds):
            body = await read_body(request.stream(), _content_length(request), reservation, limit)
    except ClientDisconnect as error:
        raise Rejected("The client went away before its request was whole.", code="disconnected") from error
    except TimeoutError as error:
        raise BodyTooSlow(f"The body did not arrive within {seconds:g} s.", remedy="Send smaller batches.") from error
    return decompress(body, request.headers.get("content-encoding", "").strip().lower(), reservation, limit)


def media_type(request: Request) -> str:
    """Return the Content-Type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None
