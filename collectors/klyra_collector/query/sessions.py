"""`/v1/sessions`: a key or a one-time link becomes a cookie that no script can read, until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import JSONResponse, Response

from klyra_audit import timestamps
from klyra_collector.query import openapi
from klyra_collector.query.authorization import authenticate, bearer_key, record_denial
from klyra_collector.query.models import SessionAnswer
from klyra_collector.query.parameters import SignInParameters
from klyra_collector.query.problems import Problem
from klyra_collector.query.requests import COOKIE, parameters, read_call
from klyra_collector.registry.errors import SignInRefused
from klyra_collector.registry.scopes import in_order

if TYPE_CHECKING:
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.registry.sessions import Session


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["sessions"])

    @routes.post(
        "/v1/sessions",
        status_code=201,
        response_model=SessionAnswer,
        openapi_extra=openapi.takes(SignInParameters, body=True),
    )
    async def sign_in(request: Request) -> Response:
        """Open a session with an API key in the Authorization header, or with the token of a one-time link."""
        return await services.blocking(_open, services, await read_call(request))

    @routes.get("/v1/sessions/current", response_model=SessionAnswer)
    async def current(request: Request) -> Response:
        """Return the session of the cookie."""
        return await services.blocking(_current, services, await read_call(request))

    @routes.delete("/v1/sessions/current", status_code=204)
    async def sign_out(request: Request) -> Response:
        """End the session of the cookie."""
        return await services.blocking(_end, services, await read_call(request))

    return routes


def _open(services: Services, call: Call) -> Response:
    asked = parameters(call, SignInParameters)
    if asked.sign_in is None:
        session, cookie = services.registry.open_session(bearer_key(services, call))
    else:
        session, cookie = _redeem(services, call, asked.sign_in)
    answer = JSONResponse(_shown(session), 201)
    seconds = (session.expires_at - services.clock()) // timestamps.MICROSECONDS
    answer.set_cookie(COOKIE, cookie, max_age=seconds, httponly=True, samesite="strict", secure=call.secure)
    return answer


def _redeem(services: Services, call: Call, token: str) -> tuple[Session, str]:
    try:
        return services.registry.redeem_sign_in(token)
    except SignInRefused as refusal:
        record_denial(services, call, f"sign_in_{refusal.reason}", None, None)
        raise


def _current(services: Services, call: Call) -> Response:
    session = None if call.cookie is None else services.registry.session(call.cookie)
    if session is None:
        raise Problem(
            401,
            "no_session",
            "There is no session, or it has ended.",
            title="Nobody is signed in.",
            remedy="Sign in with an API key.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return JSONResponse(_shown(session))


def _end(services: Services, call: Call) -> Response:
    if call.cookie is not None:
        authenticate(services, call)
        services.registry.end_session(call.cookie)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=call.secure)
    return answer


def _shown(session: Session) -> dict[str, object]:
    actor = session.actor
    return {
        "session_id": session.session_id,
        "organization_id": session.organization_id,
        "actor": {"type": actor.type, "id": actor.id, "name": actor.name},
        "scopes": in_order(session.scopes),
        "created_at": timestamps.from_microseconds(session.created_at),
        "expires_at": timestamps.from_microseconds(session.expires_at),
    }
