"""An OTLP receiver over HTTP, as strict as the specification ("OTLP/HTTP"), behind a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from support.siem.cloud_server import Reply, Request
from support.sink import PROTOBUF, records_of

TOKEN = "otlp-token-that-nobody-may-see"
PATH = "/v1/logs"


@dataclass
class Receiver:
    """A receiver.

    Attributes:
        taken: the records that were taken, in order, repeats included.
        poison: ids of records that it refuses, each alone: a partial success says how many those were.
    """

    taken: list[dict[str, Any]] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        if (request.method, request.path) != ("POST", PATH):
            return Reply(404, b"404 page not found", {"Content-Type": "text/plain"})
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(401, b"Unauthorized", {"Content-Type": "text/plain"})
        if request.headers.get("content-type") != PROTOBUF:
            return Reply(415)
        try:
            found = records_of(ExportLogsServiceRequest.FromString(request.content))
        except (DecodeError, OSError):
            return Reply(400)
        return success(self.take(found))

    def take(self, found: list[dict[str, Any]]) -> int:
        """Take records; return how many of them are refused."""
        good = [item for item in found if item["audit.record.id"] not in self.poison]
        self.taken += good
        return len(found) - len(good)

    def ids(self) -> list[str]:
        """Return the ids of what was taken, in order, repeats included."""
        return [item["audit.record.id"] for item in self.taken]


def success(rejected: int = 0) -> Reply:
    """Return a success that refuses some records."""
    response = ExportLogsServiceResponse()
    if rejected:
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = "a record cannot be read"
    return Reply(200, response.SerializeToString(), {"Content-Type": PROTOBUF})
