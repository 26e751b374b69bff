"""OTLP over gRPC: `LogsService/Export` with metadata for headers (OTLP specification, "OTLP/gRPC")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_siem import otlp_records
from klyra_siem.cloud_requests import GZIP
from klyra_siem.destination import Payload
from klyra_siem.errors import MissingExtra
from klyra_siem.otlp import LIMITS, of_response, redaction_of
from klyra_siem.outcome import Action, Outcome, of_grpc
from klyra_siem.tls import unusable_files

try:
    import grpc
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status
except ImportError as missing:
    raise MissingExtra(
        f"A destination over gRPC needs the library {missing.name}, which is not installed.",
        remedy="Install klyra-audit[siem].",
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from klyra_siem.destination import DestinationOptions, Limits, SealedEntry

EXPORT: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
DEFAULT_PORT: Final = 4317

_DETAILS = "grpc-status-details-bin"
# The engine decides how long to wait; the library's own waits, up to two minutes, would come on top.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", -1),
)


class OtlpGrpc:
    """One kept-alive channel to an endpoint `grpc://host:port` or, with TLS, `grpcs://host:port`."""

    def __init__(self, options: DestinationOptions) -> None:
        self._options = options
        self._compression = grpc.Compression.Gzip if options.compression == GZIP else grpc.Compression.NoCompression
        self._metadata = tuple((name.lower(), value) for name, value in options.headers.items())
        self._redaction = redaction_of(options)
        self._channel = _channel(options)
        self._export = self._channel.unary_unary(
            EXPORT,
            request_serializer=lambda content: content,
            response_deserializer=ExportLogsServiceResponse.FromString,
        )

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`."""
        return otlp_records.measure(entry)

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`."""
        return Payload(otlp_records.encode(entries, self._options.key))

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`."""
        if not all(value.isascii() and value.isprintable() for _, value in self._metadata):
            # A token with a line break in it: the library would say INTERNAL, as if it passed, and quote it.
            return Outcome(action=Action.PAUSE, status="bad_header", reason="a header cannot be sent as it is")
        try:
            response = self._export(
                payload.content,
                timeout=self._options.timeout_seconds,
                metadata=self._metadata,
                compression=self._compression,
            )
        except grpc.RpcError as error:
            return self._redaction.cleaned(_outcome(error))
        return self._redaction.cleaned(of_response(response, "OK"))

    def probe(self) -> Outcome:
        """See `Destination`: an empty request is answered like any other (OTLP specification)."""
        return self.send(self.encode(()))

    def close(self) -> None:
        """See `Destination`."""
        self._channel.close()


def _channel(options: DestinationOptions) -> grpc.Channel:
    address = urlsplit(options.endpoint)
    host = address.hostname or ""
    target = f"{f'[{host}]' if ':' in host else host}:{address.port or DEFAULT_PORT}"
    channel_options = (*_CHANNEL_OPTIONS, ("grpc.primary_user_agent", options.software))
    if address.scheme == "grpc":
        return grpc.insecure_channel(target, options=channel_options)
    tls = options.tls
    try:
        credentials = grpc.ssl_channel_credentials(
            _content(tls.ca_file), _content(tls.key_file), _content(tls.certificate_file)
        )
    except OSError as error:
        raise unusable_files(options, error) from error
    return grpc.secure_channel(target, credentials, options=channel_options)


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def _outcome(error: grpc.RpcError) -> Outcome:
    assert isinstance(error, grpc.Call)  # noqa: S101 - what a call raises is the call itself
    return of_grpc(error.code().name, error.details() or "", _asked_seconds(error))


def _asked_seconds(call: grpc.Call) -> float | None:
    """Return the delay of `google.rpc.RetryInfo` in the status's details, None without one."""
    for name, value in call.trailing_metadata() or ():
        if name == _DETAILS and isinstance(value, bytes):
            status = Status.FromString(value)
            for detail in status.details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return float(info.retry_delay.seconds) + info.retry_delay.nanos / 1e9
    return None
