"""OTLP over HTTP to the collector's strict endpoint, with receipts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit import otlp
from klyra_audit.batch import MAX_BATCH_EVENTS
from klyra_audit.receipt import Receipt
from klyra_audit.transports.http_answers import OK, error_of, members_of, no_answer
from klyra_audit.transports.partial_success import warning_of

if TYPE_CHECKING:
    from klyra_audit.batch import Batch
    from klyra_audit.transports.client_tls import ClientTls

AUDIT_PATH = "/v1/audit"
LOGS_PATH = "/v1/logs"
UNIX: Final = "unix:"

_PROTOBUF = "application/x-protobuf"


class OtlpHttpTransport:
    """Sends encoded requests to one collector over kept-alive connections. Thread-safe.

    Args:
        endpoint: URL of its OTLP/HTTP port, or `unix:/path`.
        api_key: a key with the scope `emit`.
        timeout: seconds until an answer is given up.
        tls: what to trust and to show; None for what the system trusts.
    """

    batch_events = MAX_BATCH_EVENTS
    lacks_receipts = ""

    def __init__(self, endpoint: str, api_key: str, timeout: float, *, tls: ClientTls | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}", "Content-Type": _PROTOBUF}
        self._open = partial(open_client, endpoint, headers, timeout, tls)
        self._client = self._open()
        self._of_parents: list[httpx.Client] = []

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def after_fork(self) -> None:
        """In a forked child: use connections of its own; those of the parent are not touched.

        They are kept: to close them takes locks that a thread of the parent may have held, and to drop them leaves
        unclosed sockets to the interpreter, which says so.
        """
        self._of_parents.append(self._client)
        self._client = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, batch: Batch) -> list[Receipt]:
        """Return a receipt for each event of the batch, which is sealed as a whole or not at all.

        Raises:
            RetryLater: no answer, or one that asks to send the same again.
            BatchRefused: nothing was sealed, because of the records named.
            TooLarge: the collector takes no request of this size.
            Paused: the key is refused.
        """
        response = self._post(AUDIT_PATH, encode_batch(batch))
        if response.status_code == OK:
            return [Receipt.parse(item) for item in members_of(response).get("receipts", [])]
        raise error_of(response)

    def quarantine(self, batch: Batch) -> None:
        """Send refused events to the endpoint that keeps what is invalid.

        Raises:
            RefusedWhole: it does not keep all of them; else as `send` does.
        """
        response = self._post(LOGS_PATH, encode_batch(batch))
        if response.status_code != OK:
            raise error_of(response)
        warning_of(ExportLogsServiceResponse.FromString, response.content)

    def _post(self, path: str, request: bytes) -> httpx.Response:
        try:
            return self._client.post(path, content=request)
        except httpx.TransportError as error:
            raise no_answer(str(self._client.base_url), error) from error


def open_client(endpoint: str, headers: dict[str, str], timeout: float, tls: ClientTls | None) -> httpx.Client:
    """Return a client of a URL or of `unix:/path`; `TlsUnusable` if a certificate file cannot be used."""
    options: dict[str, Any] = {"headers": headers, "timeout": timeout}
    if endpoint.startswith(UNIX):
        transport = httpx.HTTPTransport(uds=endpoint.removeprefix(UNIX))
        return httpx.Client(base_url="http://localhost", transport=transport, **options)
    if tls is not None:
        options["verify"] = tls.context()
    return httpx.Client(base_url=endpoint, **options)


def encode_batch(batch: Batch) -> bytes:
    """Return the protobuf request of a batch."""
    events = [(spooled.event, spooled.sequence) for spooled in batch.events]
    return otlp.encode(batch.identity, events, batch.signed)
