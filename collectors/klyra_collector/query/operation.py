"""`/healthz`, `/readyz`, `/metrics`: for whoever runs the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from klyra_collector.query.services import Services

_NO_ORGANIZATION = "operator"


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz")
    async def health() -> Response:
        """Say that the process answers."""
        return JSONResponse({"status": "ok"})

    @routes.get("/readyz")
    async def ready() -> Response:
        """Say whether a search would be answered: registry and store can be read."""
        await services.blocking(services.registry.organization, _NO_ORGANIZATION)
        await services.blocking(services.store.check)
        return JSONResponse({"status": "ok"})

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Return the metrics of this process."""
        content, media_type = await services.blocking(services.metrics.render)
        return Response(content, media_type=media_type)

    return routes
