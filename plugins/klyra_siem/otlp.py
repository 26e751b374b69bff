"""The destination `otlp`: any OTLP receiver, over HTTP (`http://`, `https://`) or gRPC (`grpc://`, `grpcs://`)."""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_siem import otlp_records
from klyra_siem.cloud_requests import GZIP, CloudRequests, Redaction
from klyra_siem.destination import Limits, Payload
from klyra_siem.errors import BadDestination
from klyra_siem.outcome import Action, Outcome, of_http, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from klyra_siem.destination import Destination, DestinationOptions, SealedEntry

# Collectors of version 0.x take 20 MiB over HTTP and 4 MiB over gRPC unless they are told otherwise.
LIMITS: Final = Limits(entries=512, encoded_bytes=3_500_000)

_PROTOBUF = "application/x-protobuf"
_JSON = "application/json"
_GZIP_LEVEL = 5
_REFUSED = "partial_success"


def create(options: DestinationOptions) -> Destination:
    """Return the destination of an endpoint; `BadDestination` if its URL is none of these."""
    scheme = urlsplit(options.endpoint).scheme
    if scheme in {"http", "https"}:
        return OtlpHttp(options)
    if scheme in {"grpc", "grpcs"}:
        from klyra_siem.otlp_grpc import OtlpGrpc  # noqa: PLC0415 - its library is an extra

        return OtlpGrpc(options)
    raise BadDestination(
        f"The endpoint of destination {options.name} is no URL of an OTLP receiver.",
        remedy="Write http://HOST:4318/v1/logs, https://…, grpc://HOST:4317 or grpcs://…",
    )


class OtlpHttp:
    """OTLP over HTTP with protobuf bodies (OTLP specification, "OTLP/HTTP")."""

    def __init__(self, options: DestinationOptions) -> None:
        self._options = options
        self._redaction = redaction_of(options)
        self._requests = CloudRequests(options, self._redaction)

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`."""
        return otlp_records.measure(entry)

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`."""
        content = otlp_records.encode(entries, self._options.key)
        headers = {"Content-Type": _PROTOBUF}
        if self._options.compression == GZIP:
            content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = GZIP
        return Payload(content, headers)

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`."""
        answer = self._requests.post(self._options.endpoint, payload.content, payload.headers)
        if isinstance(answer, Outcome):
            return answer
        if answer.is_success:
            return self._redaction.cleaned(_of_success(answer))
        reason = self._redaction.clean(_message(answer))
        return of_http(answer.status_code, answer.headers, reason, time.time())

    def probe(self) -> Outcome:
        """See `Destination`: an empty request is answered like any other (OTLP specification)."""
        return self.send(self.encode(()))

    def close(self) -> None:
        """See `Destination`."""
        self._requests.close()


def redaction_of(options: DestinationOptions) -> Redaction:
    """Return what nobody may see of an endpoint: a user, a password, a query; and of its headers, their values."""
    address = urlsplit(options.endpoint)
    values = [value for _, value in parse_qsl(address.query)]
    return Redaction((address.username, address.password, address.query, *values, *options.headers.values()))


def of_response(response: ExportLogsServiceResponse, status: str) -> Outcome:
    """Return what a decoded success means: one that refuses records does not say which, so they are looked for."""
    rejected, message = response.partial_success.rejected_log_records, response.partial_success.error_message
    if rejected > 0:
        reason = f"{rejected} records refused: {message}"
        return Outcome(action=Action.BISECT, status=_REFUSED, reason=shortened(reason))
    return Outcome(action=Action.DELIVERED, status=status, reason=shortened(message))


def _of_success(answer: httpx.Response) -> Outcome:
    """Return what a 2xx means; one that no OTLP receiver gives, such as a proxy's page, confirms nothing."""
    status, kind = str(answer.status_code), answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == _JSON:
            return of_response(_of_json(answer.content), status)
        if kind == _PROTOBUF or not answer.content:
            return of_response(ExportLogsServiceResponse.FromString(answer.content), status)
    except (DecodeError, ValueError, TypeError, AttributeError) as error:
        return Outcome(action=Action.PAUSE, status=status, reason=f"its answer cannot be read: {type(error).__name__}")
    return Outcome(action=Action.PAUSE, status=status, reason=f"no OTLP receiver answers with {shortened(kind)}")


def _of_json(content: bytes) -> ExportLogsServiceResponse:
    members: dict[str, Any] = orjson.loads(content)
    partial = members.get("partialSuccess") or {}
    response = ExportLogsServiceResponse()
    if partial:
        response.partial_success.rejected_log_records = int(partial.get("rejectedLogRecords") or 0)
        response.partial_success.error_message = str(partial.get("errorMessage") or "")
    return response


def _message(answer: httpx.Response) -> str:
    """Return what a refusal says: the message of its `google.rpc.Status`, or the beginning of its text."""
    kind = answer.headers.get("content-type", "")
    if kind.startswith(_JSON):
        try:
            return str(orjson.loads(answer.content)["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return answer.text
    return answer.reason_phrase if kind.startswith(_PROTOBUF) else answer.text
