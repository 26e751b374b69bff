"""One request: who makes it, from where, and the audit trail that records it before anything happens."""

from __future__ import annotations

import contextlib
import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Protocol

from fastapi import Depends, Header, HTTPException, Request

from klyra_audit import Actor, InvalidEvent, KlyraError, RetryLater
from klyra_audit.events import Context

if TYPE_CHECKING:
    from klyra_audit import AuditEvent, Spooled
    from moderation_service.state import Role, State, User

_LONGEST_USER_AGENT = 512


class Emitter(Protocol):
    """The part of `klyra_audit.AuditEmitter` that is needed here."""

    def emit(self, event: AuditEvent) -> Spooled:
        """Return once the event is durable; raise `KlyraError` otherwise."""
        ...


class By(Context):
    """What every entry says of its request: pass it on to a function of `klyra_audit.events`."""

    actor: Actor


@dataclass(frozen=True, slots=True)
class Call:
    """A request of somebody known.

    Attributes:
        by: the caller, with client address and user agent.
        role: a user's; None for an API key, which may have content moderated and nothing else.
        state: of the service.
    """

    by: By
    role: Role | None
    state: State
    emitter: Emitter

    def record(self, event: AuditEvent, *roles: Role) -> None:
        """Return once the event is durable, so that what it says may be done.

        Args:
            event: what is about to happen.
            roles: who may do it, anybody if none is named. Others have their attempt recorded as a failure.

        Raises:
            HTTPException: 403 for others; 422 the request holds what no entry may; 503 the entry cannot be kept.
                Do nothing then.
        """
        if roles and self.role not in roles:
            self.refuse(event, 403, "the caller's role does not permit it")
        try:
            self.emitter.emit(event)
        except InvalidEvent as error:
            raise HTTPException(422, f"Nothing was done, because it cannot be recorded: {error}") from error
        except KlyraError as error:
            wait = f"{error.retry_after:.0f}" if isinstance(error, RetryLater) else "60"
            detail = f"Nothing was done, because the audit log cannot record it now: {error}"
            raise HTTPException(503, detail, {"Retry-After": wait}) from error

    def refuse(self, event: AuditEvent, status: int, reason: str) -> None:
        """Record that what was asked for failed; always raises, with `status` if that could be recorded."""
        self.record(replace(event, status="failure", metadata={**event.metadata, "failure_reason": reason}))
        raise HTTPException(status, f"Refused: {reason}.")


def identify(
    request: Request, authorization: Annotated[str, Header()] = "", x_user_id: Annotated[str, Header()] = ""
) -> Call:
    """Return the call of an API key or a user; answer 401 to anybody else.

    X-User-Id is believed: a proxy that signs users in sets it. Do not expose this example without one.
    """
    state: State = request.app.state.moderation
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() == "bearer":
        key = state.key_of(secret)
        if key is not None:
            return _call(request, Actor.api_key(key.id, key.name), None)
    elif x_user_id in state.users:
        return call_of_user(request, state.users[x_user_id])
    raise HTTPException(401, "Send Authorization: Bearer KEY, or X-User-Id.", {"WWW-Authenticate": "Bearer"})


def call_of_user(request: Request, user: User) -> Call:
    """Return a user's call."""
    return _call(request, Actor.user(user.id, user.name), user.role)


def _call(request: Request, actor: Actor, role: Role | None) -> Call:
    by: By = {"actor": actor, "user_agent": request.headers.get("user-agent", "")[:_LONGEST_USER_AGENT] or None}
    with contextlib.suppress(ValueError):  # a Unix socket has no address, and a proxy may pass on a name
        by["client_ip"] = str(ipaddress.ip_address(request.client.host if request.client else ""))
    return Call(by, role, request.app.state.moderation, request.app.state.emitter)


Caller = Annotated[Call, Depends(identify)]
