"""Answers of `/v1/audit`: a receipt for each record, and the words of the OpenTelemetry audit draft around them.

A batch of our own emitters gets DESIGN section 6's receipts and a status; one with any other record also gets what the
draft's clients look for. Whatever goes wrong, nothing of the batch was sealed: there is no partial success. Sending
the same again gives the same answer, but for `duplicate`.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.responses import Response

from klyra_audit.errors import KlyraError, RetryLater
from klyra_audit.format.leaf import Leaf
from klyra_collector.pipeline import BatchRefused
from klyra_collector.receive.answers import JSON, headers_of, retry_seconds, status_of
from klyra_collector.receive.audit_record import FAILED
from klyra_collector.receive.rates import RateLimited
from klyra_collector.receive.signing_processor import SIGNATURE_FAULTS
from klyra_collector.stages import Status

if TYPE_CHECKING:
    from klyra_collector.pipeline import Accepted, Refusal
    from klyra_collector.receive.audit_record import AuditRecord
    from klyra_collector.stages import Outcome, Record

LEDGER: Final = "ledger"  # the one sink that is required: what is sealed there is acknowledged

_DELIVERED = "delivered_all_sinks"
_INVALID = "rejected_schema_invalid"
_WRONG_SIGNATURE = "rejected_verify_failed"
_NOT_ALLOWED = "rejected_authz"
_FAILED = "failed_internal"
_NANOSECONDS_PER_MICROSECOND = 1000
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_TOO_MANY = 429  # "throttled by policy"; trouble of our own is 503


def receipts(accepted: Accepted) -> Response:
    """Return 200: every record is durable in the ledger."""
    listed = [_receipt(record, outcome) for record, outcome in zip(accepted.records, accepted.outcomes, strict=True)]
    members: dict[str, Any] = {"receipts": listed, "status": _DELIVERED}
    if accepted.examined:
        for position, examined in accepted.examined.items():
            _add_draft(listed[position], examined)
        members |= _batch_members(listed)
    return Response(orjson.dumps(members), media_type=JSON)


def failure(error: KlyraError) -> Response:
    """Return the answer to an error: whatever it is, nothing of the batch was sealed."""
    http_status = _TOO_MANY if isinstance(error, RateLimited) else status_of(error)[0]
    members: dict[str, Any] = {"status": _word(error, http_status), "code": error.code, "reason": str(error)}
    if isinstance(error, RetryLater):
        members["retry_after"] = retry_seconds(error)
    if isinstance(error, BatchRefused):
        members["records"] = refused = [_refused(refusal) for refusal in error.refusals]
        members["record_status_map"] = {item["record_id"]: item for item in refused if item["record_id"]}
    return Response(orjson.dumps(members), http_status, headers_of(error), JSON)


def _word(error: KlyraError, http_status: int) -> str:
    """Return the draft's status word for an error."""
    if isinstance(error, BatchRefused) and any(refusal.code in SIGNATURE_FAULTS for refusal in error.refusals):
        return _WRONG_SIGNATURE
    if http_status in (_UNAUTHORIZED, _FORBIDDEN):
        return _NOT_ALLOWED
    return _FAILED if isinstance(error, RetryLater) else _INVALID


def _receipt(record: Record, outcome: Outcome) -> dict[str, Any]:
    sealed = outcome.sealed
    return {
        "record_id": record.record_id,
        "status": _DELIVERED,
        "duplicate": outcome.status is Status.DUPLICATE,
        "log": sealed.log,
        "index": sealed.index,
        "leaf": base64.b64encode(sealed.leaf).decode(),
        "integrity_hash": hashlib.sha256(record.content).hexdigest(),
        "sink_timestamp": str(Leaf.unpack(sealed.leaf).ingest_us * _NANOSECONDS_PER_MICROSECOND),
    }


def _add_draft(receipt: dict[str, Any], examined: AuditRecord) -> None:
    """Make the draft's answer of a receipt; the entry that the record became keeps its own id and hash beside it."""
    receipt["entry_id"] = receipt["record_id"]
    receipt["entry_hash"] = receipt["integrity_hash"]
    receipt["record_id"] = examined.record_id or receipt["entry_id"]
    receipt["integrity_hash"] = examined.integrity_hash
    if examined.verify_status is not None:
        receipt["verify_status"] = examined.verify_status
    delivery = {
        "exporter_name": LEDGER,
        "sink_type": "klyra_ledger",
        "delivery_status": "success",
        "attempt_count": 1,
        "last_attempt_at": receipt["sink_timestamp"],
        "sink_ack_id": f"{receipt['log']}#{receipt['index']}",
    }
    if examined.chain_warning:
        delivery["chain_warning"] = receipt["reason"] = examined.chain_warning
    receipt["sink_status_map"] = {LEDGER: delivery}


def _batch_members(listed: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the draft says of a batch; of one record, that record's own answer stands beside it."""
    placed = "".join(f"{receipt['log']}#{receipt['index']}\n" for receipt in listed)
    members: dict[str, Any] = {
        "batch_id": hashlib.sha256(placed.encode()).hexdigest()[:32],
        "record_status_map": {receipt["record_id"]: receipt for receipt in listed},
        "sink_status_aggregate": {LEDGER: "success"},
    }
    return (listed[0] | members) if len(listed) == 1 else members


def _refused(refusal: Refusal) -> dict[str, Any]:
    members = {
        "position": refusal.position,
        "record_id": refusal.record_id,
        "pointer": refusal.pointer,
        "reason": refusal.reason,
        "code": refusal.code,
    }
    return members | {"verify_status": FAILED} if refusal.code in SIGNATURE_FAULTS else members
