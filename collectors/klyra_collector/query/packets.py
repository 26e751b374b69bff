"""`format: packet` of an export: built from the ledger, recorded in it, and handed out with that record's proof.

A packet waits for the checkpoint that covers its EXPORT record, 10 seconds at most; after that the answer is 202 with
an address at which it can be had once it is whole, for a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import anyio
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import FileResponse, JSONResponse, Response

from klyra_audit import timestamps
from klyra_collector.publish import packet
from klyra_collector.publish.packet import Chosen, PacketRequest
from klyra_collector.publish.packet_jobs import PacketJob
from klyra_collector.query.authorization import require
from klyra_collector.query.problems import Problem
from klyra_collector.query.requests import read_call
from klyra_collector.query.self_audit import exported_event, operator_event
from klyra_collector.store.searching import Search

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klyra_audit.event import AuditEvent
    from klyra_collector.publish.packet import BuiltPacket, RenderingName
    from klyra_collector.publish.packet_jobs import PacketFolder
    from klyra_collector.query.authorization import Caller, Subject
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import PublicLog, Services
    from klyra_collector.query.window import Window
    from klyra_collector.store.searching import Filters

MEDIA_TYPE: Final = "application/zip"

_PATH: Final = "/v1/audit-logs/exports/{export_id}"
_POLL_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = 2
_BATCH: Final = 500
_MICROSECOND_NS: Final = timestamps.NANOSECONDS // timestamps.MICROSECONDS
_DAY_US: Final = timestamps.SECONDS_PER_DAY * timestamps.MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """What packets are made with.

    Attributes:
        folder: where they lie.
        org_salt: reads the ledger's salt.
        software: name and version, for the manifest.
        patience_seconds: how long an answer waits for the checkpoint that covers its record.
        heads_patience_seconds: how long it waits before that for a HEADS record up to the present.
    """

    folder: PacketFolder
    org_salt: Callable[[], bytes]
    software: str
    patience_seconds: float = 10.0
    heads_patience_seconds: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPacket:
    """A packet that a caller may have.

    Attributes:
        call, caller, about: who asks whose entries.
        filters: besides the window, as a store takes them; `written` the same in canonical form.
        start_us, end_us: of ingest time, the end excluded.
        rendering: of the member for people.
        window: of the organization's retention.
        headers: of the answer.
        file_name: what to call the file.
    """

    call: Call
    caller: Caller
    about: Subject
    filters: Filters
    written: dict[str, Any]
    start_us: int
    end_us: int
    rendering: RenderingName
    window: Window
    headers: dict[str, str]
    file_name: str


def router(services: Services) -> APIRouter:
    """Return the route of packets that take longer."""
    routes = APIRouter(tags=["entries"])

    @routes.get(
        _PATH,
        response_class=FileResponse,
        responses={
            200: {"content": {MEDIA_TYPE: {}}, "description": "The packet."},
            202: {"description": "No checkpoint covers its record yet; ask again after Retry-After."},
        },
    )
    async def get_export(request: Request, export_id: str) -> Response:
        """Return an export packet that was asked for within the last day."""
        job = await services.blocking(_find, services, await read_call(request), export_id)
        return await _answer(services, job, 0.0)

    return routes


def bounds(filters: Filters, window: Window) -> tuple[int, int]:
    """Return the ingest times that start and end of a search mean for a packet, within what is kept."""
    start = -(-filters.start_ns // _MICROSECOND_NS) if filters.start_ns is not None else 0
    end = -(-filters.end_ns // _MICROSECOND_NS) if filters.end_ns is not None else window.end_us
    start = max(start, window.start_day * _DAY_US, 0)
    return start, max(start, min(end, window.end_us))


async def export(services: Services, asked: AskedPacket) -> Response:
    """Build a packet, have it recorded, and answer with it or with where it will be."""
    log, packets = _packets(services)
    await _await_heads(services, log, packets)
    job = await services.blocking(_begin, services, log, packets, asked)
    return await _answer(services, job, packets.patience_seconds)


async def _await_heads(services: Services, log: PublicLog, packets: Packets) -> None:
    """Have HEADS sealed, and wait until it is under a checkpoint: else the packet ends at an earlier one."""
    command_id = await services.blocking(services.registry.record_heads)
    deadline = anyio.current_time() + packets.heads_patience_seconds
    while anyio.current_time() < deadline:
        position = await services.blocking(services.registry.outbox_position, command_id)
        if position is not None and await services.blocking(_is_covered, log, position):
            return
        await anyio.sleep(_POLL_SECONDS)


def _is_covered(log: PublicLog, position: tuple[str, int]) -> bool:
    origin, index = position
    return packet.proved_size(log.ledger, origin) > index


def _begin(services: Services, log: PublicLog, packets: Packets, asked: AskedPacket) -> PacketJob:
    """Build everything but the record of the export, and have that sealed."""
    export_id = packets.folder.begin()
    organization_id = asked.about.organization_id
    request = PacketRequest(
        organization_id=organization_id,
        org_salt=packets.org_salt(),
        start_us=asked.start_us,
        end_us=asked.end_us,
        today=services.today(),
        rendering=asked.rendering,
        filters=asked.written,
        chosen=_chosen(services, asked) if asked.written else None,
        policy=log.policy.render().encode(),
        software=packets.software,
    )
    try:
        built = packet.build(log.ledger, request, packets.folder.part(export_id))
        command_id = services.registry.record_export(organization_id, built.sha256, _events(asked, built))
    except BaseException:
        packets.folder.discard(export_id)
        raise
    # A crash here: the export is recorded, and nobody has been given its id. Asking again makes another one.
    job = PacketJob(export_id, organization_id, command_id, asked.file_name, asked.headers)
    packets.folder.note(job)
    services.metrics.exported("packet", built.manifest.counts.entries)
    return job


def _chosen(services: Services, asked: AskedPacket) -> Chosen:
    """Return which entries the filters match, whatever their timestamps."""
    chosen = Chosen()
    search = Search(
        organization_id=asked.about.organization_id, filters=asked.filters, today=services.today(), order="asc"
    )
    with services.store.export(search) as found:
        while batch := list(islice(found, _BATCH)):
            for entry in batch:
                chosen.add(entry.key.origin, entry.key.index)
    return chosen


def _events(asked: AskedPacket, built: BuiltPacket) -> list[AuditEvent]:
    """Return the entries that tell of the export: the operator's look first."""
    window = built.manifest.window
    metadata = {
        "filters": asked.written,
        "format": "packet",
        "returned": built.manifest.counts.entries,
        "complete": built.manifest.complete,
        "window_start": timestamps.from_microseconds(window.start_us),
        "window_end": timestamps.from_microseconds(window.end_us),
        "manifest_sha256": built.sha256.hex(),
    }
    events = [exported_event(asked.call, asked.caller, asked.about, metadata)]
    if asked.about.by_operator:
        events.insert(0, operator_event(asked.call, asked.caller, asked.about, {"filters": asked.written}))
    return events


async def _answer(services: Services, job: PacketJob, patience: float) -> Response:
    deadline = anyio.current_time() + patience
    while True:
        path = await services.blocking(_finish, services, job)
        if path is not None:
            return FileResponse(path, media_type=MEDIA_TYPE, filename=job.file_name, headers=job.headers)
        if anyio.current_time() >= deadline:
            return _not_yet(job)
        await anyio.sleep(_POLL_SECONDS)


def _finish(services: Services, job: PacketJob) -> Path | None:
    position = services.registry.outbox_position(job.command_id)
    _, packets = _packets(services)
    return packets.folder.finish(job, position)


def _not_yet(job: PacketJob) -> Response:
    status = _PATH.format(export_id=job.export_id)
    headers = {"Retry-After": str(_AGAIN_SECONDS), "Location": status}
    detail = "The packet is made, and no signed checkpoint covers its record yet."
    return JSONResponse({"status": "pending", "status_url": status, "detail": detail}, 202, headers)


def _find(services: Services, call: Call, export_id: str) -> PacketJob:
    caller = require(services, call, "export")
    _, packets = _packets(services)
    job = packets.folder.job(export_id)
    if job is None or caller.organization_id not in (None, job.organization_id):
        raise Problem(
            404,
            "no_such_export",
            "There is no such export, or it is older than a day.",
            title="There is no such export.",
            remedy="Export again.",
        )
    return job


def _packets(services: Services) -> tuple[PublicLog, Packets]:
    if services.log is None or services.log.packets is None:
        raise Problem(
            503,
            "log_elsewhere",
            "This server has no ledger beside it to make packets from.",
            remedy="Ask the API that runs with the collector.",
        )
    return services.log, services.log.packets
