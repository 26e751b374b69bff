"""What an OTLP answer of success says beside it (OTLP specification, "Partial Success").

Our collector rejects nothing: what it quarantines is a warning, with 0 rejected. Another receiver on the way may reject
records, which are lost there; the answer does not say which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from klyra_audit.receipt import ReceiptMismatch
from klyra_audit.transports.refusal import RefusedWhole

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse


def warning_of(decode: Callable[[bytes], ExportLogsServiceResponse], answer: bytes) -> str:
    """Return the warning in an answer of success, "" if it has none.

    Args:
        decode: reads an answer.
        answer: as it came.

    Raises:
        RefusedWhole: records were rejected.
        ReceiptMismatch: it is no such answer.
    """
    try:
        partial = decode(answer).partial_success
    except DecodeError as error:
        raise ReceiptMismatch(
            "The answer to the batch is not OTLP.", remedy="Check that the endpoint is a klyra-audit collector."
        ) from error
    if partial.rejected_log_records > 0:
        raise RefusedWhole(
            f"{partial.rejected_log_records} events were rejected: {partial.error_message or 'no reason is given'}.",
            remedy="Send to a klyra-audit collector, which keeps what is invalid, or ask whoever runs this one.",
        )
    return partial.error_message
