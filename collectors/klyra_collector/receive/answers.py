"""Answers of the OTLP endpoints: what stock clients understand (opentelemetry-proto specification, OTLP).

HTTP clients retry 429, 502, 503 and 504 alone; they drop what gets any other error. So a passing trouble is always 503
with Retry-After, and an invalid event on `/v1/logs` is quarantined and acknowledged with a warning, never rejected.
gRPC's clients retry UNAVAILABLE, and RESOURCE_EXHAUSTED only where a RetryInfo goes with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import orjson
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from starlette.responses import Response

from klyra_audit.errors import Halted, KlyraError, Paused, RetryLater
from klyra_collector.pipeline import BatchRefused
from klyra_collector.receive.body import BodyTooSlow, TooLarge, UnsupportedEncoding, UnsupportedMediaType
from klyra_collector.receive.ingest import UnknownPath, WrongMethod
from klyra_collector.receive.rates import RateLimited
from klyra_collector.registry.errors import KeyRefused
from klyra_collector.stages import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_collector.pipeline import Accepted
    from klyra_collector.stages import Outcome

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_MAX_NAMED = 5
_NOT_ALLOWED = frozenset({"foreign_organization", "foreign_emitter"})

# google.rpc.Code
_INVALID_ARGUMENT = 3
_NOT_FOUND = 5
_ALREADY_EXISTS = 6
_PERMISSION_DENIED = 7
_RESOURCE_EXHAUSTED = 8
_UNIMPLEMENTED = 12
_UNAVAILABLE = 14
_UNAUTHENTICATED = 16

_HTTP_STATUS: tuple[tuple[type[KlyraError], int, int], ...] = (
    (RateLimited, 429, _RESOURCE_EXHAUSTED),
    (RetryLater, 503, _UNAVAILABLE),
    (Halted, 503, _UNAVAILABLE),
    (KeyRefused, 401, _UNAUTHENTICATED),
    (Paused, 403, _PERMISSION_DENIED),
    (TooLarge, 413, _RESOURCE_EXHAUSTED),
    (UnsupportedEncoding, 415, _INVALID_ARGUMENT),
    (UnsupportedMediaType, 415, _INVALID_ARGUMENT),
    (UnknownPath, 404, _NOT_FOUND),
    (WrongMethod, 405, _UNIMPLEMENTED),
)


def logs_success(accepted: Accepted, media_type: str) -> Response:
    """Return 200 for `/v1/logs`, with a warning where records were quarantined."""
    answer = logs_response(accepted)
    if media_type == JSON:
        warning = answer.partial_success.error_message
        partial = {"partialSuccess": {"errorMessage": warning}} if warning else {}
        return Response(orjson.dumps(partial), media_type=JSON)
    return Response(answer.SerializeToString(), media_type=PROTOBUF)


def logs_response(accepted: Accepted) -> ExportLogsServiceResponse:
    """Return what an acknowledged batch is answered: a partial success is set only to warn, and rejects nothing."""
    answer = ExportLogsServiceResponse()
    warning = _warning(accepted)
    if warning:
        answer.partial_success.error_message = warning
    return answer


def failure(error: KlyraError, media_type: str) -> Response:
    """Return the answer of `/v1/logs` to an error, a google.rpc.Status in the request's encoding if we know it."""
    http_status, _ = status_of(error)
    status = rpc_status(error)
    if media_type == PROTOBUF:
        return Response(status.SerializeToString(), http_status, headers_of(error), PROTOBUF)
    members = {"code": status.code, "message": status.message, "details": _details_as_json(error)}
    content = orjson.dumps({name: value for name, value in members.items() if value})
    return Response(content, http_status, headers_of(error), JSON)


def rpc_status(error: KlyraError) -> RpcStatus:
    """Return an error as google.rpc.Status: when to try again, or what is wrong with the request."""
    _, code = status_of(error)
    status = RpcStatus(code=code, message=str(error))
    retry = retry_info(error)
    if retry is not None:
        status.details.add().Pack(retry)
    elif code == _INVALID_ARGUMENT:
        status.details.add().Pack(BadRequest(field_violations=[_violation(error)]))
    return status


def retry_info(error: KlyraError) -> RetryInfo | None:
    """Return when the same request may succeed, None if it never will or somebody must act first."""
    if isinstance(error, RetryLater):
        return RetryInfo(retry_delay=Duration(seconds=retry_seconds(error)))
    return None


def _violation(error: KlyraError) -> BadRequest.FieldViolation:
    return BadRequest.FieldViolation(description=str(error), reason=error.code.upper())


def _details_as_json(error: KlyraError) -> list[dict[str, object]]:
    """Return the details of `rpc_status` as the JSON mapping of google.protobuf.Any has them."""
    if isinstance(error, RetryLater):
        return [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_seconds(error)}s"}]
    if status_of(error)[1] != _INVALID_ARGUMENT:
        return []
    violation = {"description": str(error), "reason": error.code.upper()}
    return [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]


def status_of(error: KlyraError) -> tuple[int, int]:
    """Return the HTTP status and the google.rpc.Code of an error."""
    if isinstance(error, BatchRefused):
        codes = {refusal.code for refusal in error.refusals}
        if "id_conflict" in codes:
            return 409, _ALREADY_EXISTS
        if codes <= _NOT_ALLOWED:
            return 403, _PERMISSION_DENIED
    for kind, http_status, code in _HTTP_STATUS:
        if isinstance(error, kind):
            return http_status, code
    return 400, _INVALID_ARGUMENT


def retry_seconds(error: RetryLater) -> int:
    """Return after how many whole seconds to try again."""
    return max(1, math.ceil(error.retry_after))


def headers_of(error: KlyraError) -> dict[str, str]:
    """Return the headers that go with an error."""
    if isinstance(error, RetryLater):
        # Who is too slow to be waited for is not read from any longer.
        closing = {"Connection": "close"} if isinstance(error, BodyTooSlow) else {}
        return {"Retry-After": str(retry_seconds(error)), **closing}
    if isinstance(error, WrongMethod):
        return {"Allow": error.allowed}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, KeyRefused) else {}


def _warning(accepted: Accepted) -> str:
    """Return what an operator should know of an acknowledged batch, "" if there is nothing."""
    lines = [f"record {item.position}: {item.pointer or 'the record'} {item.reason}" for item in accepted.refusals]
    refused = {item.position for item in accepted.refusals}
    lines += [
        f"record {position}: its id was sealed before with other content"
        for position in _conflicting(accepted.outcomes, refused)
    ]
    if not lines:
        return ""
    more = f"; and {len(lines) - _MAX_NAMED} more" if len(lines) > _MAX_NAMED else ""
    return f"{len(lines)} of {len(accepted.records)} records were quarantined. {'; '.join(lines[:_MAX_NAMED])}{more}"


def _conflicting(outcomes: tuple[Outcome, ...], refused: set[int]) -> Iterable[int]:
    return (
        position
        for position, outcome in enumerate(outcomes)
        if outcome.status is Status.QUARANTINED and position not in refused
    )
