"""Refusals as RFC 9457 problem documents: what happened, what to do, and a name that programs may compare."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from klyra_audit.errors import KlyraError, Rejected, RetryLater
from klyra_collector.registry.errors import KeyRefused, SignInRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "tag:klyra.io,2026:problem/"

_TITLES = {
    400: "The request is not valid.",
    401: "The request does not prove who sends it.",
    403: "This is not allowed.",
    404: "There is nothing here.",
    405: "This address does not take that method.",
    409: "The request contradicts what is there.",
    413: "The request is too large.",
    415: "The body is of a type that is not read here.",
    422: "The request cannot be answered as it is.",
    500: "Something went wrong here.",
    503: "The request cannot be answered now.",
    504: "The answer did not come in time.",
}
_NO_ADDRESS = "Check the address against /openapi.json."

_log = structlog.get_logger(__name__)


class Problem(Rejected):
    """A refusal with its HTTP status.

    Attributes:
        status: HTTP status code.
        title: what happened, the same for every problem of this code.
        headers: further response headers.
        members: further members of the document, such as `parameter`.
    """

    code = "problem"

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        remedy: str,
        title: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,  # noqa: ANN401 - JSON
    ) -> None:
        super().__init__(detail, remedy=remedy, code=code)
        self.status = status
        self.title = title or _TITLES[status]
        self.headers = dict(headers or {})
        self.members = members

    def response(self) -> Response:
        """Return the document as an answer."""
        document = {
            "type": TYPE_PREFIX + self.code.replace("_", "-"),
            "title": self.title,
            "status": self.status,
            "detail": str(self),
            "code": self.code,
            "remedy": self.remedy,
            **self.members,
        }
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(orjson.dumps(document), self.status, headers, MEDIA_TYPE)


def invalid_parameter(name: str, reason: str, *, remedy: str) -> Problem:
    """Return the problem of a parameter whose value cannot be used."""
    return Problem(400, "invalid_parameter", f"{name}: {reason}", remedy=remedy, parameter=name)


def not_found() -> Problem:
    """Return the one answer for what does not exist and for what belongs to someone else."""
    return Problem(
        404,
        "not_found",
        "There is no such entry in this organization, or its retention has ended.",
        title="There is no such entry.",
        remedy="Check the id; search for the entry by what you know of it.",
    )


def of_error(error: KlyraError) -> Problem:
    """Return the problem that tells a caller of an error."""
    if isinstance(error, Problem):
        return error
    message = str(error.args[0])
    if isinstance(error, KeyRefused | SignInRefused):
        challenge = {"WWW-Authenticate": "Bearer"}
        return Problem(401, error.code, message, remedy=error.remedy, headers=challenge, reason=error.reason)
    if isinstance(error, RetryLater):
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
        return Problem(503, error.code, message, remedy=error.remedy or "Try again in a moment.", headers=wait)
    if isinstance(error, Rejected):
        return Problem(400, error.code, message, remedy=error.remedy)
    return Problem(503, error.code, message, remedy=error.remedy or "Tell the operator of this server.")


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem document."""
    app.add_exception_handler(KlyraError, _on_error)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_bug)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, KlyraError)  # noqa: S101 - what the handler was installed for
    problem = of_error(error)
    if problem.status == 503:  # noqa: PLR2004 - HTTP
        _log.warning("query.unavailable", code=problem.code, reason=str(error))
    return problem.response()


async def _on_http(_: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown address or method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - what the handler was installed for
    code = {404: "unknown_address", 405: "method_not_allowed"}.get(error.status_code, "refused")
    detail = "This server has nothing at this address for this method."
    return Problem(error.status_code, code, detail, remedy=_NO_ADDRESS, headers=error.headers).response()


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what the handler was installed for
    first = error.errors()[0]
    return invalid_parameter(str(first["loc"][-1]), str(first["msg"]), remedy=_NO_ADDRESS).response()


async def _on_bug(_: Request, error: Exception) -> Response:
    """Say no more than that it was us; the server raises the error again, into its log."""
    _log.error("query.bug", error=type(error).__name__)
    remedy = "Try again; if it stays, tell the operator of this server when it happened."
    return Problem(500, "internal_error", "This request met an error of ours.", remedy=remedy).response()
