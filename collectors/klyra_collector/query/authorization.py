"""Who calls, what that caller may do, and whose entries the call is about (DESIGN section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from klyra_audit.errors import KlyraError
from klyra_audit.event import Actor
from klyra_collector.query.problems import Problem
from klyra_collector.query.requests import SAFE_METHODS, unknown_parameter
from klyra_collector.registry.errors import KeyRefused

if TYPE_CHECKING:
    from pydantic import BaseModel

    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.registry.keys import ApiKey
    from klyra_collector.registry.policies import RetentionPolicy
    from klyra_collector.registry.sessions import Session

_BEARER = "bearer "

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """An API key or a browser's session.

    Attributes:
        organization_id: whose; None for the operator.
        actor: named as the actor of what it does.
        scopes: what it may do.
        key_id: of the API key, or of the one behind the session.
    """

    organization_id: str | None
    actor: Actor
    scopes: frozenset[str]
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose entries a call is about.

    Attributes:
        organization_id: the organization.
        policy: what it has bought.
        by_operator: the caller is none of its own.
    """

    organization_id: str
    policy: RetentionPolicy
    by_operator: bool


def bearer_key(services: Services, call: Call) -> ApiKey:
    """Return the key in the Authorization header.

    Raises:
        Problem: 401, there is none.
        KeyRefused: it does not authenticate; recorded.
    """
    header = call.authorization or ""
    if not header.lower().startswith(_BEARER):
        raise _unauthenticated("The request has no API key.")
    try:
        return services.registry.authenticate(header[len(_BEARER) :].strip())
    except KeyRefused as refusal:
        record_denial(services, call, refusal.reason, refusal.key_id, refusal.organization_id)
        raise


def authenticate(services: Services, call: Call) -> Caller:
    """Return who calls: by an API key if there is one, else by the session's cookie.

    Raises:
        Problem: 401 without either; 403 for a change by cookie without the page's own header.
        KeyRefused: the key does not authenticate.
    """
    if call.authorization is not None or call.cookie is None:
        return _of_key(bearer_key(services, call))
    session = services.registry.session(call.cookie)
    if session is None:
        raise _unauthenticated("The session has ended.")
    if call.method not in SAFE_METHODS and not call.marked:
        raise Problem(
            403,
            "header_missing",
            "A call by cookie must carry the header X-Klyra-Request, which pages of other sites cannot add.",
            remedy="Send X-Klyra-Request: 1.",
        )
    return _of_session(session)


def require(services: Services, call: Call, *scopes: str) -> Caller:
    """Return who calls if it has one of some scopes.

    Raises:
        Problem: 403 naming the scopes, recorded; 401 as `authenticate`.
        KeyRefused: the key does not authenticate.
    """
    caller = authenticate(services, call)
    if caller.scopes.isdisjoint(scopes):
        record_denial(services, call, "scope_missing", caller.key_id, caller.organization_id)
        raise Problem(
            403,
            "scope_missing",
            f"This call needs the scope {' or '.join(scopes)}.",
            remedy=f"Use a key that has it: `klyra-audit key create --scope {scopes[0]}`.",
            scopes=list(scopes),
        )
    return caller


def subject(services: Services, caller: Caller, named: str | None, model: type[BaseModel]) -> Subject:
    """Return whose entries a call is about: the caller's own, or for the operator those it names.

    Raises:
        Problem: 400 if the operator names none, or another caller names any; 404 if there is no such.
    """
    if caller.organization_id is not None and named is not None:
        raise unknown_parameter("organization_id", model)
    organization_id = caller.organization_id or named
    if organization_id is None:
        raise Problem(
            400,
            "organization_missing",
            "A key of the operator belongs to no organization.",
            remedy="Name one with the parameter organization_id.",
            parameter="organization_id",
        )
    policy = services.policy(organization_id)
    if policy is None:
        raise Problem(
            404,
            "unknown_organization",
            "There is no such organization.",
            remedy="List those there are with `klyra-audit org list`.",
            parameter="organization_id",
        )
    return Subject(organization_id, policy, caller.organization_id is None)


def record_denial(services: Services, call: Call, reason: str, key_id: str | None, organization_id: str | None) -> None:
    """Record a refused attempt; the caller is refused whether or not that succeeds."""
    services.metrics.denied(reason)
    try:
        services.registry.record_access_denied(
            reason,
            f"{call.method} {call.route}",
            key_id,
            organization_id,
            client_ip=call.client_ip,
            user_agent=call.user_agent,
        )
    except KlyraError as error:
        _log.error("query.denial_not_recorded", reason=str(error))


def _of_key(key: ApiKey) -> Caller:
    actor = Actor.api_key(key.key_id, key.label or None)
    return Caller(organization_id=key.organization_id, actor=actor, scopes=key.scopes, key_id=key.key_id)


def _of_session(session: Session) -> Caller:
    return Caller(
        organization_id=session.organization_id,
        actor=session.actor,
        scopes=session.scopes,
        key_id=session.key_id,
    )


def _unauthenticated(detail: str) -> Problem:
    return Problem(
        401,
        "not_authenticated",
        detail,
        remedy="Send Authorization: Bearer with an API key, or sign in.",
        headers={"WWW-Authenticate": "Bearer"},
    )
