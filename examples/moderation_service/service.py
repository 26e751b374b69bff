"""The application: routes, state and audit trail put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from moderation_service import administration, moderation
from moderation_service.state import State
from moderation_service.trail import AuditTrail

if TYPE_CHECKING:
    from moderation_service.trail import Emitter


def create_app(emitter: Emitter) -> FastAPI:
    """Return a service with a new organization, whose every action goes to `emitter`."""
    app = FastAPI(title="Example moderation service", version="1")
    app.state.moderation = State.begin()
    app.state.trail = AuditTrail(emitter)
    app.include_router(moderation.router)
    app.include_router(administration.router)

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """Answer."""
        return {"status": "ok"}

    return app
