"""`/log/…` and `/.well-known/klyra-audit/policy`: the ledger's public face (DESIGN section 7, C2SP tlog-tiles).

Checkpoints, hash tiles and the policy are for everyone. Entry bundles show who is how busy: they need an operator's
key with the scope verify, unless the operator has made them public.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002 - FastAPI reads the annotation
from starlette.responses import Response

from klyra_audit.format.errors import TileError
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_audit.format.tile import ENTRIES, Tile
from klyra_collector.publish.errors import NoSuchLog, NotPublished
from klyra_collector.publish.published import PublishedShard
from klyra_collector.query.authorization import record_denial, require
from klyra_collector.query.problems import Problem
from klyra_collector.query.requests import read_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from klyra_collector.query.requests import Call
    from klyra_collector.query.services import PublicLog, Services

_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"
_FOR_EVER: Final = "max-age=31536000, immutable"  # a year: a full tile never changes
_BRIEFLY: Final = "max-age=60"  # of a given width neither does a partial one, but the next one replaces it
_PUBLIC: Final = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}
_TITLE: Final = "This is not published."


def router(services: Services) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["log"])

    async def policy(request: Request) -> Response:
        """Return the keys that sign this ledger and the witnesses that cosign it (C2SP tlog-policy)."""
        return _unless_known(request, await services.blocking(_policy, services))

    async def checkpoint(request: Request) -> Response:
        """Return the newest checkpoint of a shard, by default of the current one (C2SP tlog-checkpoint)."""
        named = request.path_params.get("log")
        return _unless_known(request, await services.blocking(_checkpoint, services, named, PublishedShard.checkpoint))

    async def witnessed(request: Request) -> Response:
        """Return the newest checkpoint of a shard that a quorum of witnesses has cosigned."""
        named = request.path_params.get("log")
        return _unless_known(request, await services.blocking(_checkpoint, services, named, PublishedShard.witnessed))

    async def tile(request: Request) -> Response:
        """Return a tile of hashes or a bundle of entries of a shard (C2SP tlog-tiles)."""
        named, call = request.path_params, await read_call(request)
        return _unless_known(request, await services.blocking(_tile, services, call, named.get("log"), named["tile"]))

    def add(path: str, answer: Callable[..., Any], media_type: str, *names: str) -> None:
        described = {"parameters": [_in_path(name) for name in names]}
        content: dict[str, Any] = {"description": "As published.", "content": {media_type: {}}}
        responses: dict[int | str, dict[str, Any]] = {200: content, 304: {"description": "What the ETag names."}}
        routes.get(path, response_class=Response, responses=responses, openapi_extra=described)(answer)
        routes.head(path, include_in_schema=False)(answer)

    add("/.well-known/klyra-audit/policy", policy, _TEXT)
    add("/log/{log:path}/checkpoint", checkpoint, _TEXT, "log")
    add("/log/{log:path}/witnessed", witnessed, _TEXT, "log")
    add("/log/{log:path}/tile/{tile:path}", tile, _BYTES, "log", "tile")
    add("/log/checkpoint", checkpoint, _TEXT)
    add("/log/witnessed", witnessed, _TEXT)
    add("/log/tile/{tile:path}", tile, _BYTES, "tile")
    return routes


def _policy(services: Services) -> Response:
    try:
        content = _log(services).policy.render().encode()
    except NoSuchLog as error:
        raise _nothing(error) from None
    return _answer(content, _TEXT, {**_PUBLIC, "Cache-Control": "no-cache"})


def _checkpoint(services: Services, log: str | None, read: Callable[[PublishedShard], bytes]) -> Response:
    try:
        content = read(_shard(services, log))
    except NoSuchLog as error:
        raise _nothing(error) from None
    return _answer(content, _TEXT, {**_PUBLIC, "Cache-Control": "no-cache"})


def _tile(services: Services, call: Call, log: str | None, address: str) -> Response:
    tile = _parse(address)
    is_public = tile.level != ENTRIES or (services.log is not None and services.log.public_entries)
    if not is_public:
        _allow_entries(services, call)
    try:
        content = _shard(services, log).tile(tile)
    except (NoSuchLog, NotPublished) as error:
        raise _nothing(error) from None
    kept = _FOR_EVER if tile.is_full else _BRIEFLY
    if is_public:
        return _answer(content, _BYTES, {**_PUBLIC, "Cache-Control": f"public, {kept}"})
    return _answer(content, _BYTES, {"Cache-Control": f"private, {kept}", "Vary": "Authorization"})


def _parse(address: str) -> Tile:
    try:
        return Tile.parse(f"tile/{address}")
    except TileError as error:
        remedy = "Spell it as C2SP tlog-tiles does, such as tile/0/x001/234.p/5."
        raise Problem(404, "no_such_tile", f"{error}.".capitalize(), title=_TITLE, remedy=remedy) from None


def _allow_entries(services: Services, call: Call) -> None:
    """Return if the caller may read leaves of every organization; recorded like a read of the operator's own log."""
    caller = require(services, call, "verify")
    if caller.organization_id is not None:
        record_denial(services, call, "operator_only", caller.key_id, caller.organization_id)
        raise Problem(
            403,
            "operator_only",
            "Entry bundles hold the leaves of every organization.",
            remedy="Use a key of the operator with the scope verify, or ask for the proof of one entry.",
        )
    filters = {"call": f"{call.method} {call.route}"}
    services.registry.note_read(
        OPERATOR_ORGANIZATION_ID, caller.actor, filters, 1, client_ip=call.client_ip, user_agent=call.user_agent
    )


def _log(services: Services) -> PublicLog:
    if services.log is None:
        raise NoSuchLog("This server has no ledger beside it.", remedy="Ask the server that runs with the collector.")
    return services.log


def _shard(services: Services, log: str | None) -> PublishedShard:
    """Return the shard that `<collector id>/<shard>` names, the current one for None."""
    ledger = _log(services).ledger
    if log is None:
        return ledger.current()
    collector_id, _, name = log.rpartition("/")
    if collector_id != ledger.collector_id():
        raise NoSuchLog("There is no such collector here.", remedy="Its id is the middle of the checkpoint's origin.")
    return ledger.shard(name)


def _nothing(error: NoSuchLog | NotPublished) -> Problem:
    return Problem(404, error.code, str(error.args[0]), title=_TITLE, remedy=error.remedy, headers=_PUBLIC)


def _answer(content: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Response(content, headers={**headers, "ETag": tag}, media_type=media_type)


def _unless_known(request: Request, answer: Response) -> Response:
    """Return the answer without its content if the caller names its ETag (RFC 9110 section 13.1.2)."""
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if not known & {"*", answer.headers["ETag"]}:
        return answer
    kept = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
    return Response(status_code=304, headers=kept)


def _in_path(name: str) -> dict[str, Any]:
    described = {
        "log": "`<collector id>/<shard>`, the end of the log's origin.",
        "tile": "`<L>/<N>`, `<L>/<N>.p/<W>`, `entries/<N>` or `entries/<N>.p/<W>`.",
    }
    return {"name": name, "in": "path", "required": True, "description": described[name], "schema": {"type": "string"}}
