"""`/v1/audit-logs/{id}/proof`: the evidence of one entry (DESIGN section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import JSONResponse, Response

from klyra_audit.ids import LOG_ID
from klyra_collector.publish.errors import NoSuchLog
from klyra_collector.publish.evidence import evidence_of
from klyra_collector.query import openapi
from klyra_collector.query.authorization import require, subject
from klyra_collector.query.models import ProofAnswer
from klyra_collector.query.parameters import OrganizationParameters
from klyra_collector.query.problems import Problem, not_found
from klyra_collector.query.requests import parameters, read_call
from klyra_collector.query.self_audit import note_proof, note_read

if TYPE_CHECKING:
    from klyra_collector.publish.published import PublishedShard
    from klyra_collector.query.authorization import Caller, Subject
    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import Services

_POLL_SECONDS: Final = 0.1
_AGAIN_SECONDS: Final = 1
_PATH: Final = "/v1/audit-logs/{entry_id}/proof"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A call for a proof of an entry that the caller may see."""

    call: Call
    caller: Caller
    about: Subject
    entry_id: str
    shard: PublishedShard
    index: int


def router(services: Services) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["entries"])

    @routes.get(
        _PATH,
        response_model=ProofAnswer,
        responses={202: {"description": "No signed checkpoint covers the entry yet; ask again after Retry-After."}},
        openapi_extra=openapi.takes(OrganizationParameters, query=True),
    )
    async def get_proof(request: Request, entry_id: str) -> Response:
        """Return what proves one entry: its leaf, its sections with their salts, and a tlog-proof file."""
        asked = await services.blocking(_find, services, await read_call(request), entry_id)
        if not await _is_covered(services, asked):
            return _not_yet(entry_id)
        return await services.blocking(_answer, services, asked)

    return routes


def _find(services: Services, call: Call, entry_id: str) -> _Asked:
    caller = require(services, call, "verify")
    asked = parameters(call, OrganizationParameters)
    about = subject(services, caller, asked.organization_id, OrganizationParameters)
    if LOG_ID.fullmatch(entry_id) is None:
        raise not_found()
    found = services.store.get(about.organization_id, entry_id, services.today())
    if found is None:
        note_read(services, call, caller, about, {"id": entry_id}, 0)
        raise not_found()
    shard = _shard(services, found.key.origin)
    return _Asked(call=call, caller=caller, about=about, entry_id=entry_id, shard=shard, index=found.key.index)


def _shard(services: Services, origin: str) -> PublishedShard:
    try:
        if services.log is not None:
            return services.log.ledger.of_origin(origin)
    except NoSuchLog:
        pass
    raise Problem(
        503,
        "log_elsewhere",
        f"The entry is sealed in {origin}, which is not beside this server.",
        remedy="Ask the API of the collector that the log is named for.",
        log=origin,
    )


async def _is_covered(services: Services, asked: _Asked) -> bool:
    """Wait for the checkpoint that covers an entry; say whether it has come."""
    patience = services.log.patience_seconds if services.log is not None else 0.0
    deadline = anyio.current_time() + patience
    while (await services.blocking(asked.shard.head)).size <= asked.index:
        if anyio.current_time() >= deadline:
            return False
        await anyio.sleep(_POLL_SECONDS)
    return True


def _not_yet(entry_id: str) -> Response:
    status = _PATH.format(entry_id=entry_id)
    headers = {"Retry-After": str(_AGAIN_SECONDS), "Location": status}
    detail = "The entry is sealed, and no signed checkpoint covers it yet."
    return JSONResponse({"status": "pending", "status_url": status, "detail": detail}, 202, headers)


def _answer(services: Services, asked: _Asked) -> Response:
    evidence = evidence_of(asked.shard, asked.index)
    if evidence is None:  # its retention ended a moment ago
        raise not_found()
    note_proof(services, asked.call, asked.caller, asked.about, asked.entry_id)
    return JSONResponse(evidence.document())
