"""A request as the routes work with it: parameters out of query string and body, each given once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, ValidationError

from klyra_collector.query.problems import Problem, invalid_parameter

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BODY_BYTES = 1024 * 1024
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE = "klyra_session"

_MAX_PARAMETERS = 2000
_MAX_USER_AGENT = 512  # it becomes metadata of the entry that records the call
_JSON_TYPES = frozenset({"application/json", ""})
_LISTS = frozenset(
    {
        *("event_types", "actor_ids", "actor_types", "resource_ids", "resource_types", "actions", "status", "include"),
        *("sources", "encodings", "ids"),
    }
)
_REMEDIES = {
    "start_time": "Write it like 2026-01-31T12:00:00Z, with Z or an offset and up to 9 fractional digits.",
    "end_time": "Write it like 2026-01-31T23:59:59Z, with Z or an offset and up to 9 fractional digits.",
    "client_ip": "Write one address like 198.51.100.7 or 2001:db8::1, or a block like 198.51.100.0/24.",
    "limit": "Give a whole number from 1 to 1000.",
    "order": "Give asc or desc.",
    "cursor": "Give next_cursor of the page before, or leave it out for the first page.",
}

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Call:
    """A request, read whole.

    Attributes:
        method: HTTP method.
        route: its template, such as `/v1/audit-logs/{entry_id}`.
        query: the query string as sent.
        body: as sent, at most `MAX_BODY_BYTES`.
        content_type: media type of the body, "" if not said.
        authorization: header of that name, None without one.
        cookie: the session's cookie, None without one.
        marked: the header that a page of another site cannot add is there.
        secure: it came over HTTPS.
        client_ip: from where.
        user_agent: with what.
    """

    method: str
    route: str
    query: bytes
    body: bytes
    content_type: str
    authorization: str | None
    cookie: str | None
    marked: bool
    secure: bool
    client_ip: str | None
    user_agent: str | None


async def read_call(request: Request) -> Call:
    """Read a request; `Problem` 413 if its body is too large."""
    headers = request.headers
    return Call(
        method=request.method,
        route=request.scope["route"].path,
        query=request.scope["query_string"],
        body=await _read_body(request),
        content_type=headers.get("content-type", "").partition(";")[0].strip().lower(),
        authorization=headers.get("authorization"),
        cookie=request.cookies.get(COOKIE),
        marked="x-klyra-request" in headers,
        secure=request.url.scheme == "https",
        client_ip=request.client.host if request.client else None,
        user_agent=headers.get("user-agent", "")[:_MAX_USER_AGENT] or None,
    )


def parameters(call: Call, model: type[_Model]) -> _Model:
    """Return the parameters of a call, from its query string and its JSON body.

    Raises:
        Problem: 400 naming the parameter, 415 for a body that is no JSON by its header.
    """
    given = _from_query(call.query, model)
    body = json_body(call)
    for name in given.keys() & body.keys():
        raise Problem(
            400,
            "repeated_parameter",
            f"{name} stands in the query string and in the body.",
            remedy="Give each parameter in one place.",
            parameter=name,
        )
    try:
        return model.model_validate({**given, **body})
    except ValidationError as error:
        raise _named(error, model) from None


def json_body(call: Call) -> dict[str, Any]:
    """Return the JSON object in a call's body, empty without a body.

    Raises:
        Problem: 400 for what is no JSON object, 415 for what is no JSON by its header.
    """
    if not call.body:
        return {}
    if call.content_type not in _JSON_TYPES:
        raise Problem(
            415,
            "unsupported_media_type",
            f"The body's Content-Type is {call.content_type[:60]}.",
            remedy="Send JSON with Content-Type: application/json.",
        )
    try:
        document = orjson.loads(call.body)
    except orjson.JSONDecodeError as error:
        raise _invalid_body(f"The body is not JSON in UTF-8 (line {error.lineno}, column {error.colno}).") from None
    if not isinstance(document, dict):
        raise _invalid_body("The body is JSON, but not an object.")
    return document


async def _read_body(request: Request) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise _too_large()
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > MAX_BODY_BYTES:
            raise _too_large()
    return bytes(received)


def _from_query(query: bytes, model: type[BaseModel]) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_PARAMETERS
        )
    except ValueError:
        raise Problem(
            400,
            "invalid_query",
            "The query string is not percent-encoded UTF-8, or has too many parameters.",
            remedy="Encode it as in RFC 3986, or send the filters in a JSON body.",
        ) from None
    given: dict[str, Any] = {}
    for name, value in pairs:
        if name in _LISTS:
            given.setdefault(name, []).append(value)
        elif name in given and name in model.model_fields:
            raise Problem(
                400,
                "repeated_parameter",
                f"{name} stands twice in the query string.",
                remedy="Give it once.",
                parameter=name,
            )
        else:
            given[name] = value
    return given


def _named(error: ValidationError, model: type[BaseModel]) -> Problem:
    """Return the problem of the first parameter that a model refuses."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return unknown_parameter(name, model)
    reason = first["msg"].removeprefix("Value error, ").rstrip(".")
    return invalid_parameter(name, f"{reason}.", remedy=_REMEDIES.get(name, "Mend it, or leave it out."))


def unknown_parameter(name: str, model: type[BaseModel]) -> Problem:
    """Return the problem of a parameter that a model does not have."""
    known = ", ".join(name for name in model.model_fields if name != "organization_id")
    return Problem(
        400,
        "unknown_parameter",
        f"There is no parameter {name[:80]!r} here.",
        remedy=f"Those there are: {known}." if known else "Leave it out.",
        parameter=name[:80],
    )


def _invalid_body(detail: str) -> Problem:
    return Problem(400, "invalid_body", detail, remedy='Send a JSON object such as {"limit": 10}.')


def _too_large() -> Problem:
    return Problem(
        413,
        "body_too_large",
        f"The body is larger than {MAX_BODY_BYTES} bytes.",
        remedy="Split the search into several with fewer values each.",
        headers={"Connection": "close"},
    )
