"""The application: routes, state and the way to the audit log put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from moderation_service import administration, moderation
from moderation_service.state import State

if TYPE_CHECKING:
    from moderation_service.call import Emitter


def create_app(emitter: Emitter) -> FastAPI:
    """Return a service for a new organization, whose every action goes to `emitter` first."""
    app = FastAPI(title="Example moderation service")
    app.state.moderation = State.begin()
    app.state.emitter = emitter
    app.include_router(moderation.router)
    app.include_router(administration.router)

    @app.get("/healthz")
    def health() -> dict[str, str]:
        """Say that requests are answered."""
        return {"status": "ok"}

    return app
