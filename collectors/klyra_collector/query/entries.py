"""`/v1/audit-logs`: pages of entries, and one entry."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import orjson
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from klyra_audit.ids import LOG_ID
from klyra_collector.query import openapi
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.cursor import Cursor, Listing
from klyra_collector.query.filters import canonical, filters_of, text_of, warnings_of
from klyra_collector.query.models import Entry, EntryList
from klyra_collector.query.parameters import EntryParameters, SearchParameters
from klyra_collector.query.problems import not_found
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_read
from klyra_collector.query.window import window_of
from klyra_collector.store.searching import Search

if TYPE_CHECKING:
    from klyra_collector.query.authorization import Subject
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.store.searching import Filters, Found

_JSON = "application/json"


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["entries"])

    @routes.get(
        "/v1/audit-logs",
        response_model=EntryList,
        openapi_extra=openapi.takes(SearchParameters, query=True, body=True),
    )
    async def list_entries(request: Request) -> Response:
        """List entries. Filters stand in the query string or in a JSON body."""
        return await services.blocking(answer_list, services, await read_call(request))

    @routes.post(
        "/v1/audit-logs/search", response_model=EntryList, openapi_extra=openapi.takes(SearchParameters, body=True)
    )
    async def search_entries(request: Request) -> Response:
        """List entries: the same as GET, for clients whose proxies strip a GET's body."""
        return await services.blocking(answer_list, services, await read_call(request))

    @routes.get(
        "/v1/audit-logs/{entry_id}", response_model=Entry, openapi_extra=openapi.takes(EntryParameters, query=True)
    )
    async def get_entry(request: Request, entry_id: str) -> Response:
        """Return one entry."""
        return await services.blocking(answer_entry, services, await read_call(request), entry_id)

    return routes


def answer_list(services: Services, call: Call) -> Response:
    """Answer a list call. Blocks."""
    caller = require(services, call, "read")
    asked = parameters(call, SearchParameters)
    about = subject(services, caller, asked.organization_id, SearchParameters)
    written = canonical(asked)
    listing = Listing(about.organization_id, text_of(written), asked.order)
    cursor = None if asked.cursor is None else services.cursors.decode(asked.cursor, listing)
    search = _search(services, about, filters_of(asked), asked, cursor)
    found = services.store.search(search, asked.limit + 1)
    page = found[: asked.limit]
    window = window_of(services.store, about.organization_id, about.policy.retention_days, services.clock())
    warnings = warnings_of(asked, services.catalog)
    if window.is_outside(search.filters):
        warnings.append(window.warning())
    next_cursor = None
    if len(found) > len(page):
        next_cursor = services.cursors.encode(Cursor(page[-1].key, search.snapshot or {}), listing)
    note_read(services, call, caller, about, written, len(page))
    content = _page(page, next_cursor, warnings, integrity=bool(asked.include))
    return Response(content, headers=_headers(listing.filters) | window.headers(), media_type=_JSON)


def answer_entry(services: Services, call: Call, entry_id: str) -> Response:
    """Answer a call for one entry. Blocks."""
    caller = require(services, call, "read")
    asked = parameters(call, EntryParameters)
    about = subject(services, caller, asked.organization_id, EntryParameters)
    if LOG_ID.fullmatch(entry_id) is None:
        raise not_found()
    found = services.store.get(about.organization_id, entry_id, services.today())
    written = {"id": entry_id}
    note_read(services, call, caller, about, written, 0 if found is None else 1)
    if found is None:
        raise not_found()
    content = _shown(found, integrity=bool(asked.include))
    return Response(content, headers=_headers(text_of(written)), media_type=_JSON)


def _search(
    services: Services, about: Subject, filters: Filters, asked: SearchParameters, cursor: Cursor | None
) -> Search:
    return Search(
        organization_id=about.organization_id,
        filters=filters,
        today=services.today(),
        order=asked.order,
        after=None if cursor is None else cursor.after,
        snapshot=services.store.snapshot() if cursor is None else cursor.snapshot,
    )


def _page(page: list[Found], next_cursor: str | None, warnings: list[str], *, integrity: bool) -> bytes:
    """Return the JSON of a page; entries are put in as the store has them."""
    rest = {"has_more": next_cursor is not None, "next_cursor": next_cursor}
    entries = b",".join(_shown(found, integrity=integrity) for found in page)
    return b'{"data":[' + entries + b"]," + orjson.dumps(rest | ({"warnings": warnings} if warnings else {}))[1:]


def _shown(found: Found, *, integrity: bool) -> bytes:
    if not integrity:
        return found.entry
    place = {"log": found.key.origin, "index": found.key.index, "leaf": base64.b64encode(found.leaf).decode()}
    return found.entry[:-1] + b',"integrity":' + orjson.dumps(place) + b"}"


def _headers(filters: str) -> dict[str, str]:
    return {"Klyra-Filters": filters}
