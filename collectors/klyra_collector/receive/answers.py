"""Answers of the OTLP/HTTP endpoints: what stock clients understand (opentelemetry-proto specification, OTLP/HTTP).

Clients retry 429, 502, 503 and 504 alone; they drop what gets any other error. So a passing trouble is always 503
with Retry-After, and an invalid event on `/v1/logs` is quarantined and acknowledged with a warning, never rejected.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import orjson
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from starlette.responses import Response

from klyra_audit.errors import KlyraError, Paused, RetryLater
from klyra_collector.pipeline import BatchRefused
from klyra_collector.receive.body import TooLarge, UnsupportedEncoding, UnsupportedMediaType
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
_PERMISSION_DENIED = 7
_RESOURCE_EXHAUSTED = 8
_UNAVAILABLE = 14
_UNAUTHENTICATED = 16
_ALREADY_EXISTS = 6

_HTTP_STATUS: tuple[tuple[type[KlyraError], int, int], ...] = (
    (RetryLater, 503, _UNAVAILABLE),
    (KeyRefused, 401, _UNAUTHENTICATED),
    (Paused, 403, _PERMISSION_DENIED),
    (TooLarge, 413, _RESOURCE_EXHAUSTED),
    (UnsupportedEncoding, 415, _INVALID_ARGUMENT),
    (UnsupportedMediaType, 415, _INVALID_ARGUMENT),
)


def logs_success(accepted: Accepted, media_type: str) -> Response:
    """Return 200 for `/v1/logs`, with a warning where records were quarantined."""
    warning = _warning(accepted)
    if media_type == JSON:
        partial = {"partialSuccess": {"errorMessage": warning}} if warning else {}
        return Response(orjson.dumps(partial), media_type=JSON)
    answer = ExportLogsServiceResponse()
    if warning:
        answer.partial_success.error_message = warning
    return Response(answer.SerializeToString(), media_type=PROTOBUF)


def failure(error: KlyraError, media_type: str) -> Response:
    """Return the answer of `/v1/logs` to an error, a google.rpc.Status in the request's encoding if we know it."""
    http_status, code = status_of(error)
    if media_type == PROTOBUF:
        content = RpcStatus(code=code, message=str(error)).SerializeToString()
        return Response(content, http_status, headers_of(error), PROTOBUF)
    content = orjson.dumps({"code": code, "message": str(error)})
    return Response(content, http_status, headers_of(error), JSON)


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
        return {"Retry-After": str(retry_seconds(error))}
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
