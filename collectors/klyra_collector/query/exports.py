"""`/v1/audit-logs/export`: everything a search finds, as a file, streamed in constant memory.

What fails before the first byte is a problem document. What fails later breaks the connection off without the final
chunk, so that no client takes a part for the whole.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import anyio
import structlog
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from klyra_audit import timestamps
from klyra_collector.query import openapi, packets
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.export import PACKET, RENDERINGS
from klyra_collector.query.filters import canonical, filters_of, text_of, warnings_of
from klyra_collector.query.packets import AskedPacket
from klyra_collector.query.parameters import ExportParameters
from klyra_collector.query.problems import Problem, invalid_parameter
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_export, note_operator
from klyra_collector.query.window import Window, window_of
from klyra_collector.store.searching import Search

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator

    from starlette.types import Message, Receive, Scope, Send

    from klyra_collector.query.authorization import Caller, Subject
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.store.searching import Found

_BATCH = 500
_STALLED_SECONDS = 60.0  # a client that takes nothing for so long is given up: its export holds the store's journal

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Export:
    """An export that has begun.

    Attributes:
        chunks: the rest of the file; closing it lets the store go.
        first: its first bytes.
        media_type: of the file.
        headers: of the answer.
    """

    chunks: Generator[bytes, None, None]
    first: bytes
    media_type: str
    headers: dict[str, str]


def router(services: Services) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["entries"])

    @routes.post(
        "/v1/audit-logs/export",
        response_class=StreamingResponse,
        openapi_extra=openapi.takes(ExportParameters, body=True),
    )
    async def export_entries(request: Request) -> Response:
        """Export every entry the filters match as a file."""
        begun = await services.blocking(begin, services, await read_call(request))
        if isinstance(begun, AskedPacket):
            return await packets.export(services, begun)
        return ExportResponse(services, begun)

    return routes


def begin(services: Services, call: Call) -> Export | AskedPacket:
    """Check, take the snapshot, render the first bytes, record the export; a packet is only checked. Blocks."""
    caller = require(services, call, "export")
    asked = parameters(call, ExportParameters)
    about = subject(services, caller, asked.organization_id, ExportParameters)
    _check_format(services, about, asked)
    written = canonical(asked)
    window = window_of(services.store, about.organization_id, about.policy.retention_days, services.clock())
    search = Search(
        organization_id=about.organization_id,
        filters=filters_of(asked),
        today=services.today(),
        order=asked.order,
    )
    if window.is_outside(search.filters) and (asked.format == PACKET or not services.store.search(search, 1)):
        raise _outside(window)
    headers = _headers(about, asked.format, text_of(written), window, warnings_of(asked, services.catalog))
    if asked.format == PACKET:
        return _packet(call, caller, about, asked, window, headers)
    chunks = _chunks(services, search, asked.format)
    first = next(chunks, b"")
    try:
        if about.by_operator:
            note_operator(services, call, caller, about, {"filters": written})
        note_export(services, call, caller, about, written, asked.format, window)
    except BaseException:
        chunks.close()
        raise
    return Export(chunks, first, RENDERINGS[asked.format].media_type, headers)


class ExportResponse(StreamingResponse):
    """Streams an export, and lets the store go whatever happens."""

    def __init__(self, services: Services, begun: Export) -> None:
        self._services = services
        self._begun = begun
        super().__init__(self._stream(), headers=begun.headers, media_type=begun.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; an error breaks the connection off."""
        try:
            await super().__call__(scope, receive, send)
        except BaseException as error:
            self._services.metrics.export_broken()
            _log.warning("export.broken", error=type(error).__name__)
            if not isinstance(error, ClientDisconnect):
                raise
        finally:
            with anyio.CancelScope(shield=True):
                await self._services.blocking(self._begun.chunks.close)

    async def stream_response(self, send: Send) -> None:
        """Send the file, and give up on a client that takes none of it."""

        async def send_in_time(message: Message) -> None:
            with anyio.fail_after(_STALLED_SECONDS):
                await send(message)

        await super().stream_response(send_in_time)

    async def _stream(self) -> AsyncIterator[bytes]:
        chunk: bytes | None = self._begun.first
        while chunk is not None:
            yield chunk
            chunk = await self._services.blocking(next, self._begun.chunks, None)


def _chunks(services: Services, search: Search, rendering: str) -> Generator[bytes, None, None]:
    with services.store.export(search) as found:
        yield from RENDERINGS[rendering].render(_batches(services, found, rendering))


def _batches(services: Services, found: Iterator[Found], rendering: str) -> Iterator[list[bytes]]:
    while batch := [entry.entry for entry in islice(found, _BATCH)]:
        services.metrics.exported(rendering, len(batch))
        yield batch


def _packet(
    call: Call, caller: Caller, about: Subject, asked: ExportParameters, window: Window, headers: dict[str, str]
) -> AskedPacket:
    """Return what a packet is made of: its times are those of sealing, everything else filters."""
    filters = filters_of(asked)
    start_us, end_us = packets.bounds(filters, window)
    return AskedPacket(
        call=call,
        caller=caller,
        about=about,
        filters=replace(filters, start_ns=None, end_ns=None),
        written={name: value for name, value in canonical(asked).items() if name not in ("start_time", "end_time")},
        start_us=start_us,
        end_us=end_us,
        rendering=asked.rendering or "csv",
        window=window,
        headers={name: value for name, value in headers.items() if name != "Content-Disposition"},
        file_name=_file_name(about, "zip", window),
    )


def _check_format(services: Services, about: Subject, asked: ExportParameters) -> None:
    rendering = asked.format
    known = (*RENDERINGS, PACKET)
    offered = [name for name in services.export_formats if name in about.policy.export_formats]
    if asked.rendering is not None and rendering != PACKET:
        raise invalid_parameter("rendering", "is for packets only.", remedy="Leave it out, or ask for format packet.")
    if rendering in known and rendering in about.policy.export_formats:
        return  # a server without a ledger refuses packets by itself
    if rendering in known:
        raise Problem(
            403,
            "format_not_in_plan",
            f"The {about.policy.plan} plan has no exports as {rendering}.",
            remedy=f"Choose one of {', '.join(offered)}, or a plan that has it.",
            plan=about.policy.plan,
        )
    raise invalid_parameter("format", "is unknown.", remedy=f"Choose one of {', '.join(offered)}.")


def _outside(window: Window) -> Problem:
    return Problem(
        422,
        "outside_window",
        window.warning(),
        title="Nothing of the time asked for is kept.",
        remedy="Choose a time within the window.",
        window_start=window.start,
        window_end=window.end,
        retention_days=window.retention_days,
    )


def _headers(about: Subject, rendering: str, filters: str, window: Window, warnings: list[str]) -> dict[str, str]:
    name = _file_name(about, rendering, window)
    headers = {
        "Klyra-Filters": filters,
        "Content-Disposition": f'attachment; filename="{name}"',
        **window.headers(),
    }
    return headers | ({"Klyra-Warnings": json.dumps(warnings)} if warnings else {})


def _file_name(about: Subject, suffix: str, window: Window) -> str:
    day = timestamps.day_to_date(timestamps.day_of(window.end_us))
    return f"audit-logs-{about.organization_id}-{day}.{suffix}"
