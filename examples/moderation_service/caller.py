"""Who makes a request: an API key, or a user named by the proxy that signed them in."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Header, HTTPException, Request

from klyra_audit import Actor
from moderation_service.state import State

if TYPE_CHECKING:
    from klyra_audit.events import Context
    from moderation_service.state import Role, User

_UNAUTHORIZED = HTTPException(
    401,
    "Send `Authorization: Bearer KEY`, or `X-User-Id` from the proxy that signs users in.",
    {"WWW-Authenticate": "Bearer"},
)
_LONGEST_USER_AGENT = 512


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, and from where.

    Attributes:
        actor: as the audit log names them.
        role: a user's; None for an API key, which may have content moderated and nothing else.
        context: client address and user agent, for the entry's metadata.
    """

    actor: Actor
    role: Role | None
    context: Context

    def is_one_of(self, *roles: Role) -> bool:
        """Tell whether this is a user with one of these roles."""
        return self.role in roles


def state_of(request: Request) -> State:
    """Return the state of the application that serves a request."""
    state: State = request.app.state.moderation
    return state


def context_of(request: Request) -> Context:
    """Return what every entry says of its request. Behind a proxy, uvicorn has put the client's address there."""
    context: Context = {"user_agent": request.headers.get("user-agent", "")[:_LONGEST_USER_AGENT] or None}
    if request.client is not None:
        try:
            context["client_ip"] = str(ipaddress.ip_address(request.client.host))
        except ValueError:  # a Unix socket, or a proxy that passes a name on
            pass
    return context


def identify(
    request: Request,
    authorization: Annotated[str, Header()] = "",
    x_user_id: Annotated[str, Header()] = "",
) -> Caller:
    """Return the caller, or answer 401.

    The header X-User-Id is believed, as it is behind a proxy that signs users in and sets it. Do not expose this
    example without one.
    """
    state = state_of(request)
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() == "bearer":
        key = state.key_of(secret)
        if key is None:
            raise _UNAUTHORIZED
        return Caller(Actor.api_key(key.id, key.name), None, context_of(request))
    user = state.users.get(x_user_id)
    if user is None:
        raise _UNAUTHORIZED
    return as_user(user, request)


def as_user(user: User, request: Request) -> Caller:
    """Return a user as the caller."""
    return Caller(Actor.user(user.id, user.name), user.role, context_of(request))


CallerDependency = Annotated[Caller, Depends(identify)]
StateDependency = Annotated[State, Depends(state_of)]
