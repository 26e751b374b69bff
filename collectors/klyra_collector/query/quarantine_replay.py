"""`POST /v1/quarantine/replay`: have quarantined inputs taken in again, and say what became of each.

Each is a command of the outbox, which the collector carries out; the `quarantine.replayed` entry that it seals is
the answer. What is not sealed in time is `pending`, and can be looked up by that entry's id.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import JSONResponse, Response

from klyra_audit import ids
from klyra_audit.errors import Rejected
from klyra_collector.query import openapi
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.problems import invalid_parameter
from klyra_collector.query.quarantine import quarantine_of, search_of, written
from klyra_collector.query.quarantine_models import ReplayAnswer, ReplayParameters
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_read, origin_of
from klyra_collector.store.quarantined import QuarantineSearch

if TYPE_CHECKING:
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services
    from klyra_collector.store.quarantined import FoundQuarantined

_POLL_SECONDS: Final = 0.1
_NOTHING: Final = {"entry_id": None, "told_by": None, "code": None, "pointer": None, "reason": None}


@dataclass(frozen=True, slots=True)
class _Pending:
    """A replay that was asked for.

    Attributes:
        reference: of the input.
        command_id: of the outbox.
    """

    reference: str
    command_id: str

    @property
    def told_by(self) -> str:
        """Id of the entry that tells of it, which derives from the command's (DESIGN section 5)."""
        return ids.log_id(uuid.UUID(self.command_id))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Replays of one call: an outcome each, or what it waits for, in order."""

    organization_id: str
    outcomes: list[dict[str, Any] | _Pending]
    has_more: bool


def router(services: Services) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["quarantine"])

    @routes.post(
        "/v1/quarantine/replay",
        response_model=ReplayAnswer,
        responses={202: {"model": ReplayAnswer, "description": "Some are pending; look the entries `told_by` up."}},
        openapi_extra=openapi.takes(ReplayParameters, body=True),
    )
    async def replay_quarantined(request: Request) -> Response:
        """Have inputs taken in again, after what they failed at is mended."""
        asked = await services.blocking(_begin, services, await read_call(request))
        return await _answer(services, asked)

    return routes


def _begin(services: Services, call: Call) -> _Asked:
    caller = require(services, call, "admin")
    asked = parameters(call, ReplayParameters)
    _check(asked)
    about = subject(services, caller, asked.organization_id, ReplayParameters)
    found, has_more = _chosen(services, about.organization_id, asked)
    waiting = [item for item in found.values() if item is not None and item.replayed_as is None]
    selection = {"ids": list(asked.ids)} if asked.ids is not None else written(asked, "waiting")
    note_read(services, call, caller, about, {"quarantine": {"replay": selection}}, len(waiting))
    commands = services.registry.record_replays(
        about.organization_id,
        [(item.key.origin, item.key.index, item.row.reference) for item in waiting],
        caller.actor,
        origin_of(call),
    )
    begun = {item.row.reference: command for item, command in zip(waiting, commands, strict=True)}
    outcomes = [
        _Pending(name, begun[name]) if name in begun else _settled_before(name, item) for name, item in found.items()
    ]
    return _Asked(about.organization_id, outcomes, has_more)


def _check(asked: ReplayParameters) -> None:
    """Return if a call says in one way what to replay: nothing is replayed because a filter was forgotten."""
    filters = bool(written(asked, None)) or asked.all
    if asked.ids is None and not filters:
        raise invalid_parameter("ids", "nothing is named.", remedy="Give ids, at least one filter, or all.")
    if asked.ids is not None and filters:
        raise invalid_parameter("ids", "there are filters, too.", remedy="Give ids or filters, not both.")


def _chosen(
    services: Services, organization_id: str, asked: ReplayParameters
) -> tuple[dict[str, FoundQuarantined | None], bool]:
    """Return the inputs by name, None for one that is not there, and whether there are more."""
    store = quarantine_of(services).store
    if asked.ids is not None:
        return {name: store.quarantined_one(organization_id, name, services.today()) for name in asked.ids}, False
    given = search_of(services, organization_id, asked, "waiting")
    search = QuarantineSearch(organization_id=organization_id, filters=given.filters, today=given.today, order="asc")
    found = store.quarantined(search, asked.limit + 1)
    return {item.row.reference: item for item in found[: asked.limit]}, len(found) > asked.limit


def _settled_before(reference: str, found: FoundQuarantined | None) -> dict[str, Any]:
    if found is None:
        return {"id": reference, "status": "not_found", **_NOTHING}
    return {"id": reference, "status": "repeat", **_NOTHING, "entry_id": found.replayed_as or None}


async def _answer(services: Services, asked: _Asked) -> Response:
    deadline = anyio.current_time() + quarantine_of(services).patience_seconds
    outcomes = asked.outcomes
    while True:
        outcomes = await services.blocking(_look, services, asked.organization_id, outcomes)
        is_settled = not any(isinstance(item, _Pending) for item in outcomes)
        if is_settled or anyio.current_time() >= deadline:
            break
        await anyio.sleep(_POLL_SECONDS)
    listed = [_pending(item) if isinstance(item, _Pending) else item for item in outcomes]
    return JSONResponse({"data": listed, "has_more": asked.has_more}, 200 if is_settled else 202)


def _look(
    services: Services, organization_id: str, outcomes: list[dict[str, Any] | _Pending]
) -> list[dict[str, Any] | _Pending]:
    return [_outcome(services, organization_id, item) if isinstance(item, _Pending) else item for item in outcomes]


def _outcome(services: Services, organization_id: str, pending: _Pending) -> dict[str, Any] | _Pending:
    """Return what became of a replay, itself if that is not known yet."""
    found = services.store.get(organization_id, pending.told_by, services.today())
    if found is not None:
        entry = orjson.loads(found.entry)
        told = {name: entry["metadata"].get(name) for name in ("entry_id", "code", "pointer", "reason")}
        status = "replayed" if entry["status"] == "success" else "refused"
        return {"id": pending.reference, "status": status, "told_by": pending.told_by, **told}
    try:
        services.registry.outbox_position(pending.command_id)
    except Rejected as error:
        refusal = {"code": error.code, "reason": str(error.args[0])}
        return {"id": pending.reference, "status": "refused", **_NOTHING, **refusal}
    return pending


def _pending(pending: _Pending) -> dict[str, Any]:
    return {"id": pending.reference, "status": "pending", **_NOTHING, "told_by": pending.told_by}
