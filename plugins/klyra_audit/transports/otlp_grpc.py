"""OTLP over gRPC to a collector, directly or through others; receipts are asked for afterwards, over HTTP."""

from __future__ import annotations

import importlib
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit.batch import MAX_BATCH_EVENTS
from klyra_audit.errors import KlyraError, Paused, RetryLater
from klyra_audit.transports.otlp_http import encode_batch
from klyra_audit.transports.partial_success import warning_of
from klyra_audit.transports.receipts_query import ReceiptsQuery
from klyra_audit.transports.refusal import RefusedWhole, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import grpc

    from klyra_audit.batch import Batch
    from klyra_audit.errors import InvalidEvent
    from klyra_audit.receipt import Receipt
    from klyra_audit.transports.client_tls import ClientTls

EXPORT: Final = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
STATUS_DETAILS: Final = "grpc-status-details-bin"
RETRY_INFO: Final = "google.rpc.retryinfo-bin"

_log = logging.getLogger("klyra_audit")

# OTLP specification, "Failures"; and what no receiver should say, of which nobody knows whether it passes.
_RETRYABLE = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS", "UNKNOWN", "INTERNAL"}
)
_KEY_REFUSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})
_EXHAUSTED = "RESOURCE_EXHAUSTED"
_NOT_THERE = "UNIMPLEMENTED"

_FORK_WAIT_SECONDS = 2.0
_PACKAGES = {"grpc": "grpcio", "google": "googleapis-common-protos"}
# The delivery decides how long to wait; the library's own waits, up to two minutes, would come on top.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
)


class MissingExtra(Paused):
    """A library that only OTLP over gRPC needs is not installed."""

    code = "missing_extra"


class OtlpGrpcTransport:
    """Sends encoded requests over one kept-alive channel. Thread-safe, one call at a time.

    Args:
        target: `host:port`, `unix:/path`, or any other name that gRPC resolves.
        api_key: a key with the scope `emit`.
        timeout: seconds until an answer is given up.
        receipts_from: URL of the collector's OTLP/HTTP port, or `unix:/path`; empty for no receipts.
        tls: what to trust and to show; None for a channel without TLS, `ClientTls()` for what the system trusts.
        credentials: gRPC's own channel credentials, instead of `tls`.
        receipts_tls: what to trust and to show where receipts are asked for; None for what the system trusts.

    Raises:
        MissingExtra: the extra `grpc` is not installed.
        TlsUnusable: a certificate file cannot be used.
    """

    batch_events = MAX_BATCH_EVENTS

    def __init__(
        self,
        target: str,
        api_key: str,
        timeout: float,
        *,
        receipts_from: str = "",
        tls: ClientTls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        receipts_tls: ClientTls | None = None,
    ) -> None:
        self._grpc = load_library("grpc")
        load_library("google.rpc.error_details_pb2")
        self._target = target
        self._metadata = (("authorization", f"Bearer {api_key}"),)
        self._timeout = timeout
        if credentials is None and tls is not None:
            credentials = self._grpc.ssl_channel_credentials(*tls.contents())
        self._credentials = credentials
        self._receipts = ReceiptsQuery(receipts_from, api_key, timeout, tls=receipts_tls) if receipts_from else None
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._of_parents: list[grpc.Channel | None] = []
        _hold_over_forks(self)

    @property
    def lacks_receipts(self) -> str:
        """See `Transport`."""
        if self._receipts is not None:
            return ""
        return "Give the emitter receipts_from=, the URL of the collector's OTLP/HTTP port."

    def close(self) -> None:
        """Close the channel."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        if self._receipts is not None:
            self._receipts.close()

    def after_fork(self) -> None:
        """In a forked child: use a channel of its own; the parent's is kept, untouched and unused."""
        self._of_parents.append(self._channel)
        self._channel = None
        self._lock = threading.Lock()
        if self._receipts is not None:
            self._receipts.after_fork()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: Batch) -> Sequence[Receipt | InvalidEvent] | None:
        """Return what became of each event, None if nobody is asked for receipts; all are durable then.

        Raises:
            RetryLater: no answer, or one that asks to send the same again; or not all of it is in the ledger yet.
            RefusedWhole: what answers does not take this batch, or not all of it.
            Paused: the key is refused, or nothing there receives logs.
        """
        warning = self._export(batch)
        if self._receipts is not None:
            return self._receipts.of(batch, was_warned=bool(warning))
        if warning:
            _log.warning("the collector says of a batch: %s", warning)
        return None

    def quarantine(self, batch: Batch) -> None:
        """Send refused events; the endpoint is the same, since it keeps what is invalid. Raises as `send` does."""
        self._export(batch)

    def hold(self) -> bool:
        """Let no call be under way until `release`, as far as one moment's waiting can help; say whether it is so."""
        return self._lock.acquire(timeout=_FORK_WAIT_SECONDS)

    def release(self) -> None:
        """Let calls be made again."""
        self._lock.release()

    def _export(self, batch: Batch) -> str:
        """Return the warning that goes with the acknowledgement, "" if there is none."""
        request = encode_batch(batch)
        try:
            with self._lock:
                export: Any = self._open().unary_unary(EXPORT)
                answer = export(request, timeout=self._timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise error_of(error, self._target) from error
        return warning_of(ExportLogsServiceResponse.FromString, answer)

    def _open(self) -> grpc.Channel:
        if self._channel is None:
            if self._credentials is None:
                self._channel = self._grpc.insecure_channel(self._target, options=_CHANNEL_OPTIONS)
            else:
                self._channel = self._grpc.secure_channel(self._target, self._credentials, options=_CHANNEL_OPTIONS)
        return self._channel


def error_of(call: Any, target: str) -> KlyraError:  # noqa: ANN401 - what a call raises is the call itself
    """Return what the caller does after a call that failed."""
    code, reason = call.code().name, call.details() or ""
    asked = retry_delay(call.trailing_metadata() or ())
    said = f"The collector at {target} answers {code}: {reason}"
    if code in _RETRYABLE or (code == _EXHAUSTED and asked is not None):
        return RetryLater(
            said,
            retry_after=1.0 if asked is None else asked,
            remedy="Check that it runs and that the address is right; the same events are sent again.",
            code="no_answer" if asked is None else None,
        )
    if code in _KEY_REFUSED:
        return Paused(f"The collector refuses the key: {reason}", code="key_refused")
    if code == _EXHAUSTED:
        return TooLarge(f"The collector refuses the batch: {reason}")
    if code == _NOT_THERE:
        return Paused(said, code="not_a_collector", remedy="Check that the address is a collector's OTLP/gRPC port.")
    return RefusedWhole(said)


def retry_delay(trailers: Iterable[tuple[str, str | bytes]]) -> float | None:
    """Return the seconds of a `google.rpc.RetryInfo`, which stands in either of two trailers; None without one."""
    details = load_library("google.rpc.error_details_pb2")
    status = load_library("google.rpc.status_pb2")
    decode_error = load_library("google.protobuf.message").DecodeError
    for name, value in trailers:
        try:
            if name == RETRY_INFO and isinstance(value, bytes):
                return _seconds(details.RetryInfo.FromString(value))
            if name == STATUS_DETAILS and isinstance(value, bytes):
                for detail in status.Status.FromString(value).details:
                    info = details.RetryInfo()
                    if detail.Unpack(info):
                        return _seconds(info)
        except decode_error:
            continue
    return None


def load_library(name: str) -> Any:  # noqa: ANN401 - a module
    """Return a library by its name; `MissingExtra` names the extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"OTLP over gRPC needs the library {_PACKAGES[name.partition('.')[0]]}, which is not installed.",
            remedy="Install klyra-audit[grpc].",
        ) from error


def _seconds(info: Any) -> float:  # noqa: ANN401 - a google.rpc.RetryInfo
    return max(0.0, float(info.retry_delay.seconds) + float(info.retry_delay.nanos) / 1e9)


def _hold_over_forks(transport: OtlpGrpcTransport) -> None:
    """Fork between calls: a child cannot go on with what the library was in the middle of."""
    known = weakref.ref(transport)
    held: list[OtlpGrpcTransport] = []

    def hold() -> None:
        found = known()
        if found is not None and found.hold():
            held.append(found)

    def release() -> None:
        while held:
            held.pop().release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=held.clear)
