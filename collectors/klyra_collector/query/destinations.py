"""`/v1/destinations`: where an organization has its entries copied to, set up by itself.

The API keeps what is wanted; the follower alone opens secrets, speaks to vendors, and says how it goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import anyio
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import JSONResponse, Response

from klyra_audit import timestamps
from klyra_audit.errors import Rejected
from klyra_collector.query import openapi
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.destination_models import (
    DestinationAnswer,
    DestinationChange,
    DestinationKindsAnswer,
    DestinationsAnswer,
    TrialAnswer,
)
from klyra_collector.query.parameters import OrganizationParameters
from klyra_collector.query.problems import Problem, invalid_parameter
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_operator
from klyra_collector.registry.destinations import new_destination_id
from klyra_collector.registry.origin import Origin
from klyra_collector.self_service.checking import BadWish, Wish, merged, sealed_spec
from klyra_collector.self_service.kinds import KINDS
from klyra_siem.formats import NAMES, NATIVE

if TYPE_CHECKING:
    from collections.abc import Callable

    from klyra_collector.query.authorization import Caller, Subject
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.registry.destinations import StoredDestination
    from klyra_collector.self_service.checking import Rules
    from klyra_collector.self_service.kinds import Kind

LOOK_SECONDS: Final = 0.2

_CONFLICTS = frozenset({"destination_exists", "too_many_destinations"})
_REQUIRED = ("name", "kind", "endpoint")


@dataclass(frozen=True, slots=True)
class DestinationRules:
    """What organizations may set up for themselves.

    Attributes:
        rules: where to and how.
        patience_seconds: how long an answer waits for a test event.
    """

    rules: Rules
    patience_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A call that may be carried out."""

    rules: DestinationRules
    caller: Caller
    about: Subject
    origin: Origin


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["destinations"])
    described = openapi.takes(OrganizationParameters, query=True)

    @routes.get("/v1/destination-kinds", response_model=DestinationKindsAnswer, openapi_extra=described)
    async def list_kinds(request: Request) -> Response:
        """Return the kinds of destinations that are offered, and what each asks for."""
        return await services.blocking(_kinds, services, await read_call(request))

    @routes.get("/v1/destinations", response_model=DestinationsAnswer, openapi_extra=described)
    async def list_destinations(request: Request) -> Response:
        """Return the organization's destinations, and how they are doing."""
        return await services.blocking(_list, services, await read_call(request))

    @routes.post(
        "/v1/destinations",
        response_model=DestinationAnswer,
        status_code=201,
        openapi_extra=openapi.takes(DestinationChange, body=True),
    )
    async def create_destination(request: Request) -> Response:
        """Have entries copied to a destination from now on, and those that are still kept."""
        return await services.blocking(_create, services, await read_call(request))

    @routes.get("/v1/destinations/{destination_id}", response_model=DestinationAnswer, openapi_extra=described)
    async def get_destination(request: Request, destination_id: str) -> Response:
        """Return one destination."""
        return await services.blocking(_get, services, await read_call(request), destination_id)

    @routes.patch(
        "/v1/destinations/{destination_id}",
        response_model=DestinationAnswer,
        openapi_extra=openapi.takes(DestinationChange, body=True),
    )
    async def change_destination(request: Request, destination_id: str) -> Response:
        """Change, pause or resume a destination."""
        return await services.blocking(_change, services, await read_call(request), destination_id)

    @routes.delete("/v1/destinations/{destination_id}", status_code=204, openapi_extra=described)
    async def delete_destination(request: Request, destination_id: str) -> Response:
        """Deliver nothing there any more, and forget its secrets."""
        return await services.blocking(_delete, services, await read_call(request), destination_id)

    @routes.post("/v1/destinations/{destination_id}/test", response_model=TrialAnswer, openapi_extra=described)
    async def try_destination(request: Request, destination_id: str) -> Response:
        """Have a test event sent, and return what the vendor says."""
        trial_id = await services.blocking(_begin_trial, services, await read_call(request), destination_id)
        return await _trial_answer(services, trial_id)

    return routes


def _asked(
    services: Services, call: Call, model: type[OrganizationParameters], *, on_any_plan: bool = False
) -> tuple[_Asked, Any]:
    """Return who asks about whom, and for what.

    Raises:
        Problem: 403 without the scope, or on a plan that has no destinations; 503 where there are none.
    """
    caller = require(services, call, "admin")
    asked = parameters(call, model)
    about = subject(services, caller, asked.organization_id, model)
    if services.destinations is None:
        raise Problem(
            503,
            "destinations_elsewhere",
            "On this server organizations set no destinations up for themselves.",
            remedy="Ask its operator for one.",
        )
    if not (about.policy.siem or on_any_plan):
        plans = [name for name, plan in services.policies.plans.items() if plan.siem]
        raise Problem(
            403,
            "destinations_not_in_plan",
            f"The {about.policy.plan} plan has no destinations.",
            remedy=f"They need the plan {' or '.join(plans)}.",
            plan=about.policy.plan,
        )
    return _Asked(services.destinations, caller, about, Origin.of(call.client_ip, call.user_agent)), asked


def _looked(services: Services, call: Call) -> _Asked:
    """Return a call that only looks, which the operator's entry tells the organization of."""
    asked, _ = _asked(services, call, OrganizationParameters)
    if asked.about.by_operator:
        note_operator(services, call, asked.caller, asked.about, {})
    return asked


def _kinds(services: Services, call: Call) -> Response:
    _looked(services, call)
    return JSONResponse({"data": [_kind(kind) for kind in KINDS]})


def _list(services: Services, call: Call) -> Response:
    asked = _looked(services, call)
    found = services.registry.destinations.all(asked.about.organization_id)
    return JSONResponse({"data": [shown(one) for one in found]})


def _get(services: Services, call: Call, destination_id: str) -> Response:
    asked = _looked(services, call)
    return _answer(lambda: services.registry.destinations.get(asked.about.organization_id, destination_id))


def _create(services: Services, call: Call) -> Response:
    asked, change = _asked(services, call, DestinationChange)
    given = _given(change)
    for name in _REQUIRED:
        if name not in given:
            raise invalid_parameter(name, "is missing.", remedy="See /v1/destination-kinds.")
    wish = Wish(**({"filters": {}, "options": {}, "secrets": {}} | given))
    destination_id = new_destination_id()

    def create() -> StoredDestination:
        asked.rules.rules.check(wish)
        spec = sealed_spec(wish, destination_id, _sealing_key(services))
        return services.registry.destinations.create(
            asked.about.organization_id, destination_id, spec, by=asked.caller.actor, origin=asked.origin
        )

    return _answer(create, status=201)


def _change(services: Services, call: Call, destination_id: str) -> Response:
    asked, change = _asked(services, call, DestinationChange)
    registered, organization_id = services.registry.destinations, asked.about.organization_id

    def make() -> StoredDestination:
        wish, spec = merged(registered.get(organization_id, destination_id).spec, _given(change))
        if wish is not None:
            asked.rules.rules.check(wish)
            spec = sealed_spec(wish, destination_id, _sealing_key(services))
        return registered.change(organization_id, destination_id, spec, by=asked.caller.actor, origin=asked.origin)

    return _answer(make)


def _delete(services: Services, call: Call, destination_id: str) -> Response:
    asked, _ = _asked(services, call, OrganizationParameters, on_any_plan=True)  # whoever leaves takes secrets along
    try:
        services.registry.destinations.delete(
            asked.about.organization_id, destination_id, by=asked.caller.actor, origin=asked.origin
        )
    except Rejected as error:
        _refuse(error)
    return Response(status_code=204)


def _begin_trial(services: Services, call: Call, destination_id: str) -> str:
    asked = _looked(services, call)
    try:
        return services.registry.destinations.request_trial(asked.about.organization_id, destination_id)
    except Rejected as error:
        _refuse(error)


async def _trial_answer(services: Services, trial_id: str) -> Response:
    assert services.destinations is not None  # noqa: S101 - the trial was begun
    deadline = anyio.current_time() + services.destinations.patience_seconds
    while anyio.current_time() < deadline:
        answer = await services.blocking(services.registry.destinations.trial_answer, trial_id)
        if answer is not None:
            return JSONResponse(answer)
        await anyio.sleep(LOOK_SECONDS)
    raise Problem(
        504,
        "no_trial_answer",
        "The test event was not answered yet.",
        remedy="Try again; if this stays so, the vendor does not answer or the collector's follower does not run.",
    )


def _answer(make: Callable[[], StoredDestination], status: int = 200) -> Response:
    try:
        made = make()
    except Rejected as error:
        _refuse(error)
    return JSONResponse(shown(made), status)


def _refuse(error: Rejected) -> NoReturn:
    """Raise what a refusal is to the caller."""
    message, remedy = str(error.args[0]), error.remedy or "See /openapi.json."
    if isinstance(error, BadWish):
        raise Problem(400, error.code, message, remedy=remedy, parameter=error.member) from error
    if error.code == "unknown_destination":
        raise Problem(404, error.code, message, remedy=remedy, title="There is no such destination.") from error
    if error.code in _CONFLICTS:
        raise Problem(409, error.code, message, remedy=remedy) from error
    raise error


def _sealing_key(services: Services) -> bytes:
    """Return what secrets are sealed to; `Problem` 503 before a follower has run."""
    public = services.registry.destinations.sealing_key()
    if public is None:
        raise Problem(
            503,
            "no_follower",
            "The collector's follower has not run yet, so that nothing secret can be kept for it.",
            remedy="Try again when it has.",
        )
    return public


def _given(change: DestinationChange) -> dict[str, Any]:
    members = change.model_dump(exclude_none=True)
    return {name: value for name, value in members.items() if name != "organization_id"}


def _kind(kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.name,
        "title": kind.title,
        "endpoint": {
            "label": kind.endpoint.label,
            "help": kind.endpoint.help,
            "is_secret": kind.has_secret_endpoint,
        },
        "fields": [
            {
                "name": one.name,
                "label": one.label,
                "type": one.type.value,
                "required": one.required,
                "help": one.help,
            }
            for one in kind.fields
        ],
        "formats": list(NAMES) if kind.has_formats else [NATIVE],
        "documentation": kind.documentation,
    }


def shown(stored: StoredDestination) -> dict[str, Any]:
    """Return a destination as answers show it: no secret, and not where a secret endpoint is."""
    spec, status = stored.spec, stored.status or {}
    error_us = status.get("error_us", 0)
    return {
        "id": stored.destination_id,
        "name": spec.name,
        "kind": spec.kind,
        "endpoint": spec.endpoint,
        "format": spec.format,
        "when_too_old": spec.when_too_old,
        "filters": {name: spec.filters.get(name, []) for name in ("event_types", "statuses", "actors")},
        "options": dict(spec.options),
        "secrets": {name: {"is_set": True} for name in sorted(spec.secrets)},
        "paused": spec.paused,
        "state": status.get("state", "starting"),
        "since": _time(status.get("since_us", 0)),
        "lag_entries": status.get("lag_entries"),
        "lag_seconds": status.get("lag_seconds"),
        "last_success": _time(status.get("succeeded_us", 0)),
        "last_error": {"at": _time(error_us), "reason": status.get("error", "")} if error_us else None,
        "delivered": status.get("entries", 0),
        "dead_letters": status.get("dead_letters", 0),
        "window_left_seconds": status.get("window_left_seconds"),
        "created_at": _time(stored.created_at),
        "updated_at": _time(stored.updated_at),
    }


def _time(microseconds: int) -> str | None:
    return timestamps.from_microseconds(microseconds) if microseconds else None
