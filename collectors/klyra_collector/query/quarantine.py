"""`/v1/quarantine`: inputs that were no valid events, listed, shown and counted."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import JSONResponse, Response

from klyra_audit import timestamps
from klyra_audit.format.leaf import Leaf
from klyra_audit.format.quarantined import KeptInput
from klyra_collector.quarantine_preview import preview_of
from klyra_collector.query import openapi
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.cursor import Cursor, Listing
from klyra_collector.query.filters import text_of
from klyra_collector.query.parameters import OrganizationParameters
from klyra_collector.query.problems import Problem
from klyra_collector.query.quarantine_models import (
    QuarantinedInputWhole,
    QuarantineList,
    QuarantineParameters,
    QuarantineSummaryAnswer,
    SummaryParameters,
)
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_read
from klyra_collector.store.quarantined import QuarantineFilters, QuarantineSearch

if TYPE_CHECKING:
    from collections.abc import Callable

    from klyra_collector.query.quarantine_models import QuarantineFilterParameters
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.store.quarantined import FoundQuarantined, QuarantineStore, State

_GROUPS = 1000  # sources, and reasons, counted apart
_MICROSECOND_NS = timestamps.NANOSECONDS // timestamps.MICROSECONDS


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What quarantined input is read from.

    Attributes:
        store: lists.
        read: returns the bytes kept of a record by origin, index and its leaf's expire_day, None if they are gone;
            None where the ledger is elsewhere.
        patience_seconds: how long an answer waits for what it has replayed.
    """

    store: QuarantineStore
    read: Callable[[str, int, int], bytes | None] | None = None
    patience_seconds: float = 10.0


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["quarantine"])

    @routes.get(
        "/v1/quarantine",
        response_model=QuarantineList,
        openapi_extra=openapi.takes(QuarantineParameters, query=True),
    )
    async def list_quarantined(request: Request) -> Response:
        """List inputs that were no valid events, with the reason and the place in each."""
        return await services.blocking(_answer_list, services, await read_call(request))

    @routes.get(
        "/v1/quarantine/summary",
        response_model=QuarantineSummaryAnswer,
        openapi_extra=openapi.takes(SummaryParameters, query=True),
    )
    async def summarize_quarantined(request: Request) -> Response:
        """Count inputs by source and by reason."""
        return await services.blocking(_answer_summary, services, await read_call(request))

    @routes.get(
        "/v1/quarantine/{reference}",
        response_model=QuarantinedInputWhole,
        openapi_extra=openapi.takes(OrganizationParameters, query=True),
    )
    async def get_quarantined(request: Request, reference: str) -> Response:
        """Return one input with its bytes."""
        return await services.blocking(_answer_one, services, await read_call(request), reference)

    return routes


def quarantine_of(services: Services) -> Quarantine:
    """Return what quarantined input is read from; `Problem` 503 where nothing is."""
    if services.quarantine is None:
        raise Problem(
            503,
            "quarantine_elsewhere",
            "This server's store does not list quarantined input.",
            remedy="Ask the API that runs with the embedded store.",
        )
    return services.quarantine


def search_of(
    services: Services, organization_id: str, asked: QuarantineFilterParameters, state: State | None
) -> QuarantineSearch:
    """Return filters as the store takes them: times are those of sealing."""
    filters = QuarantineFilters(
        start_us=None if asked.start_time is None else -(-asked.start_time.start_ns // _MICROSECOND_NS),
        end_us=None if asked.end_time is None else -(-asked.end_time.end_ns // _MICROSECOND_NS),
        key_ids=tuple(asked.sources or ()),
        encodings=tuple(asked.encodings or ()),
        pointer=asked.pointer or "",
        state=state,
    )
    return QuarantineSearch(organization_id=organization_id, filters=filters, today=services.today())


def written(asked: QuarantineFilterParameters, state: str | None) -> dict[str, Any]:
    """Return filters in one canonical form: of a cursor, and of the entry that tells of the call."""
    members = {
        "start_time": None if asked.start_time is None else asked.start_time.text,
        "end_time": None if asked.end_time is None else asked.end_time.text,
        "sources": list(asked.sources or ()),
        "encodings": list(asked.encodings or ()),
        "pointer": asked.pointer,
        "state": state,
    }
    return {name: value for name, value in members.items() if value}


def shown(found: FoundQuarantined) -> dict[str, Any]:
    """Return an input as a list shows it."""
    row = found.row
    return {
        "id": row.reference,
        "received_at": timestamps.from_microseconds(row.sealed_us),
        "source": {"key": row.key_id, "encoding": row.encoding},
        "pointer": row.pointer,
        "reason": row.reason,
        "size": row.size,
        "sha256": row.sha256,
        "log": found.key.origin,
        "index": found.key.index,
        "expires_on": timestamps.day_to_date(row.expire_day),
        "state": "waiting" if found.replayed_as is None else "replayed",
        "entry_id": found.replayed_as or None,
    }


def _answer_list(services: Services, call: Call) -> Response:
    caller = require(services, call, "read")
    asked = parameters(call, QuarantineParameters)
    about = subject(services, caller, asked.organization_id, QuarantineParameters)
    filters = {"quarantine": written(asked, asked.state)}
    listing = Listing(about.organization_id, text_of(filters), asked.order)
    cursor = None if asked.cursor is None else services.cursors.decode(asked.cursor, listing)
    given = search_of(services, about.organization_id, asked, asked.state)
    search = QuarantineSearch(
        organization_id=given.organization_id,
        filters=given.filters,
        today=given.today,
        order=asked.order,
        after=None if cursor is None else cursor.after,
        snapshot=services.store.snapshot() if cursor is None else cursor.snapshot,
    )
    found = quarantine_of(services).store.quarantined(search, asked.limit + 1)
    page = found[: asked.limit]
    note_read(services, call, caller, about, filters, len(page))
    next_cursor = None
    if len(found) > len(page):
        next_cursor = services.cursors.encode(Cursor(page[-1].key, search.snapshot or {}), listing)
    listed = {"data": [shown(item) for item in page], "has_more": next_cursor is not None, "next_cursor": next_cursor}
    return JSONResponse(listed, headers={"Klyra-Filters": listing.filters})


def _answer_summary(services: Services, call: Call) -> Response:
    caller = require(services, call, "read")
    asked = parameters(call, SummaryParameters)
    about = subject(services, caller, asked.organization_id, SummaryParameters)
    search = search_of(services, about.organization_id, asked, asked.state)
    summary = quarantine_of(services).store.quarantine_summary(search, _GROUPS)
    records = sum(source.records for source in summary.sources)
    note_read(services, call, caller, about, {"quarantine": written(asked, asked.state)}, records)
    sources = [
        {
            "key": source.key_id,
            "encoding": source.encoding,
            "records": source.records,
            "waiting": source.waiting,
            "newest_at": timestamps.from_microseconds(source.newest_us),
        }
        for source in summary.sources
    ]
    reasons = [
        {"pointer": item.pointer, "reason": item.reason, "records": item.records, "waiting": item.waiting}
        for item in summary.reasons
    ]
    waiting = sum(source.waiting for source in summary.sources)
    return JSONResponse({"records": records, "waiting": waiting, "sources": sources, "reasons": reasons})


def _answer_one(services: Services, call: Call, reference: str) -> Response:
    caller = require(services, call, "read")
    asked = parameters(call, OrganizationParameters)
    about = subject(services, caller, asked.organization_id, OrganizationParameters)
    quarantine = quarantine_of(services)
    found = quarantine.store.quarantined_one(about.organization_id, reference, services.today())
    note_read(services, call, caller, about, {"quarantine": {"id": reference[:64]}}, 0 if found is None else 1)
    if found is None:
        raise Problem(
            404,
            "not_found",
            "There is no such quarantined input in this organization, or its retention has ended.",
            title="There is no such quarantined input.",
            remedy="Check the id against the list: GET /v1/quarantine.",
        )
    leaf = base64.b64encode(found.row.leaf).decode()
    return JSONResponse(shown(found) | {"leaf": leaf} | _content(quarantine, found))


def _content(quarantine: Quarantine, found: FoundQuarantined) -> dict[str, Any]:
    """Return what came, as far as it is here, and whether it is what was sealed."""
    if quarantine.read is None:
        return {"bytes": "elsewhere", "raw": None, "preview": None}
    raw = quarantine.read(found.key.origin, found.key.index, _leaf_expire_day(found))
    if raw is None:
        return {"bytes": "missing", "raw": None, "preview": None}
    intact = hashlib.sha256(raw).hexdigest() == found.row.sha256
    content = {"raw": base64.b64encode(raw).decode(), "preview": preview_of(KeptInput.unpack(raw))}
    return {"bytes": "intact" if intact else "altered"} | content


def _leaf_expire_day(found: FoundQuarantined) -> int:
    """Return the day under which the bytes were filed, which an extension does not change."""
    return Leaf.unpack(found.row.leaf).expire_day
