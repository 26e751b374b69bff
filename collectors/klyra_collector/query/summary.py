"""`/v1/audit-logs/summary`: counts over time and frequent values, for the same filters as a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from klyra_audit import timestamps
from klyra_collector.query import openapi
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.filters import canonical, filters_of, text_of, warnings_of
from klyra_collector.query.models import EntrySummary
from klyra_collector.query.parameters import EntrySummaryParameters
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_read
from klyra_collector.query.window import window_of
from klyra_collector.store.searching import Search
from klyra_collector.store.summarizing import Shape

if TYPE_CHECKING:
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.store.summarizing import Summary


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["entries"])

    @routes.get(
        "/v1/audit-logs/summary",
        response_model=EntrySummary,
        openapi_extra=openapi.takes(EntrySummaryParameters, query=True, body=True),
    )
    async def summarize_entries(request: Request) -> Response:
        """Count entries over time, and by value. Filters stand in the query string or in a JSON body."""
        return await services.blocking(answer_summary, services, await read_call(request))

    @routes.post(
        "/v1/audit-logs/summary",
        response_model=EntrySummary,
        openapi_extra=openapi.takes(EntrySummaryParameters, body=True),
    )
    async def summarize_entries_posted(request: Request) -> Response:
        """Count entries: the same as GET, for clients whose proxies strip a GET's body."""
        return await services.blocking(answer_summary, services, await read_call(request))

    return routes


def answer_summary(services: Services, call: Call) -> Response:
    """Answer a summary call, which is a read like any other. Blocks."""
    caller = require(services, call, "read")
    asked = parameters(call, EntrySummaryParameters)
    about = subject(services, caller, asked.organization_id, EntrySummaryParameters)
    written = canonical(asked)
    search = Search(organization_id=about.organization_id, filters=filters_of(asked), today=services.today())
    summary = services.store.summarize(search, Shape(asked.buckets, asked.top))
    window = window_of(services.store, about.organization_id, about.policy.retention_days, services.clock())
    warnings = warnings_of(asked, services.catalog)
    if window.is_outside(search.filters):
        warnings.append(window.warning())
    note_read(services, call, caller, about, written, summary.total)
    content = orjson.dumps(_shown(summary) | ({"warnings": warnings} if warnings else {}))
    headers = {"Klyra-Filters": text_of(written)} | window.headers()
    return Response(content, headers=headers, media_type="application/json")


def _shown(summary: Summary) -> dict[str, Any]:
    return {
        "total": summary.total,
        "first": None if summary.first_ns is None else timestamps.from_nanoseconds(summary.first_ns),
        "last": None if summary.last_ns is None else timestamps.from_nanoseconds(summary.last_ns),
        "interval_seconds": summary.interval_ns // timestamps.NANOSECONDS,
        "buckets": [
            {"start": timestamps.from_nanoseconds(one.start_ns), "success": one.success, "failure": one.failure}
            for one in summary.buckets
        ],
        "top": {
            name: [{"value": one.value, "entries": one.entries} for one in values]
            for name, values in summary.top.items()
        },
    }
