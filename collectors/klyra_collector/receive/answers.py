"""Answers of the OTLP/HTTP endpoints: what stock clients understand (opentelemetry-proto specification, OTLP/HTTP).

Clients retry 429, 502, 503 and 504 alone; they drop what gets any other error. So a passing trouble is always 503
with Retry-After, and an invalid event on `/v1/logs` is quarantined and acknowledged with a warning, never rejected.
"""

from __future__ import annotations

import base64
import hashlib
import math
from typing import TYPE_CHECKING, Any

import orjson
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from starlette.responses import Response

from klyra_audit.errors import KlyraError, Paused, RetryLater
from klyra_audit.format.leaf import Leaf
from klyra_collector.pipeline import BatchRefused
from klyra_collector.receive.body import TooLarge, UnsupportedEncoding, UnsupportedMediaType
from klyra_collector.registry.errors import KeyRefused
from klyra_collector.stages import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klyra_collector.pipeline import Accepted, Refusal
    from klyra_collector.stages import Outcome, Record

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_MAX_NAMED = 5
_NANOSECONDS_PER_MICROSECOND = 1000
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


def receipts(accepted: Accepted) -> Response:
    """Return 200 for `/v1/audit`: a receipt for each record, in the request's order."""
    listed = [_receipt(record, outcome) for record, outcome in zip(accepted.records, accepted.outcomes, strict=True)]
    return Response(orjson.dumps({"receipts": listed}), media_type=JSON)


def failure(error: KlyraError, media_type: str) -> Response:
    """Return the answer of `/v1/logs` to an error, a google.rpc.Status in the request's encoding if we know it."""
    http_status, code = _status_of(error)
    if media_type == PROTOBUF:
        content = RpcStatus(code=code, message=str(error)).SerializeToString()
        return Response(content, http_status, _headers(error), PROTOBUF)
    content = orjson.dumps({"code": code, "message": str(error)})
    return Response(content, http_status, _headers(error), JSON)


def audit_failure(error: KlyraError) -> Response:
    """Return the answer of `/v1/audit` to an error: whatever it is, nothing of the batch was sealed."""
    http_status, _ = _status_of(error)
    content: dict[str, Any] = {"status": _draft_status(http_status), "code": error.code, "reason": str(error)}
    if isinstance(error, BatchRefused):
        content["records"] = [_refused(refusal) for refusal in error.refusals]
    return Response(orjson.dumps(content), http_status, _headers(error), JSON)


def _status_of(error: KlyraError) -> tuple[int, int]:
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


def _draft_status(http_status: int) -> str:
    """Return the status word of the OpenTelemetry audit draft."""
    if http_status in (401, 403):
        return "rejected_authz"
    return "failed_internal" if http_status == 503 else "rejected_schema_invalid"  # noqa: PLR2004 - HTTP


def _headers(error: KlyraError) -> dict[str, str]:
    if isinstance(error, RetryLater):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, KeyRefused) else {}


def _receipt(record: Record, outcome: Outcome) -> dict[str, Any]:
    sealed = outcome.sealed
    return {
        "record_id": record.record_id,
        "status": "verified_queued",
        "duplicate": outcome.status is Status.DUPLICATE,
        "log": sealed.log,
        "index": sealed.index,
        "leaf": base64.b64encode(sealed.leaf).decode(),
        "integrity_hash": hashlib.sha256(record.content).hexdigest(),
        "sink_timestamp": str(Leaf.unpack(sealed.leaf).ingest_us * _NANOSECONDS_PER_MICROSECOND),
    }


def _refused(refusal: Refusal) -> dict[str, Any]:
    return {
        "position": refusal.position,
        "record_id": refusal.record_id,
        "pointer": refusal.pointer,
        "reason": refusal.reason,
        "code": refusal.code,
    }


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
