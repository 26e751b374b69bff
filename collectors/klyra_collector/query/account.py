"""`/v1/plan` and `/v1/catalog`: what the page shows beside the entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import JSONResponse, Response

from klyra_audit import timestamps
from klyra_collector.query import openapi
from klyra_collector.query.authorization import authenticate, require, subject
from klyra_collector.query.models import CatalogAnswer, PlanAnswer
from klyra_collector.query.parameters import OrganizationParameters
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_operator
from klyra_collector.query.window import window_of

if TYPE_CHECKING:
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["account"])

    @routes.get("/v1/plan", response_model=PlanAnswer, openapi_extra=openapi.takes(OrganizationParameters, query=True))
    async def plan(request: Request) -> Response:
        """Return the organization's plan, what it keeps and what it allows."""
        return await services.blocking(_plan, services, await read_call(request))

    @routes.get("/v1/catalog", response_model=CatalogAnswer)
    async def catalog(request: Request) -> Response:
        """Return every event type, with words for people."""
        return await services.blocking(_catalog, services, await read_call(request))

    return routes


def _plan(services: Services, call: Call) -> Response:
    caller = require(services, call, "read", "export")
    asked = parameters(call, OrganizationParameters)
    about = subject(services, caller, asked.organization_id, OrganizationParameters)
    if about.by_operator:
        note_operator(services, call, caller, about, {})
    policy = about.policy
    window = window_of(services.store, about.organization_id, policy.retention_days, services.clock())
    answer = {
        "organization_id": about.organization_id,
        "plan": policy.plan,
        "policy": policy.policy,
        "retention_days": policy.retention_days,
        "window_start": window.start,
        "window_end": window.end,
        "export_formats": [name for name in services.export_formats if name in policy.export_formats],
        "siem": policy.siem,
        "witnessed_at": _witnessed_at(services),
    }
    return JSONResponse(answer, headers=window.headers())


def _witnessed_at(services: Services) -> str | None:
    seconds = services.log.witnessed_at() if services.log else None
    return None if seconds is None else timestamps.from_microseconds(seconds * timestamps.MICROSECONDS)


def _catalog(services: Services, call: Call) -> Response:
    authenticate(services, call)
    types = services.catalog.event_types.values()
    return JSONResponse(
        {
            "event_types": [
                {
                    "name": event_type.name,
                    "title": event_type.title,
                    "description": event_type.description,
                    "group": event_type.group,
                }
                for event_type in types
            ]
        }
    )
