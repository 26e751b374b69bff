"""An OTLP receiver that keeps what it took and answers as it is told: the far side of a destination."""

from __future__ import annotations

import contextlib
import gzip
import ssl
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Answer:
    """What a sink answers: by default it has taken everything."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def partial(cls, rejected: int, message: str) -> Answer:
        """Return a success that refuses some records."""
        response = ExportLogsServiceResponse()
        response.partial_success.rejected_log_records = rejected
        response.partial_success.error_message = message
        return cls(body=response.SerializeToString())


TAKEN = Answer()


@dataclass
class Sink:
    """What came, and what to answer.

    Attributes:
        planned: answers to the next requests.
        decide: asked about every request for which none is planned.
        requests: every body as sent, in order, whatever was answered.
        headers: of each of them.
        taken: the requests that were confirmed.
    """

    url: str = ""
    planned: deque[Answer] = field(default_factory=deque)
    decide: Callable[[ExportLogsServiceRequest], Answer] = lambda _: TAKEN
    requests: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    taken: list[ExportLogsServiceRequest] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Take a request and say what to answer."""
        is_gzip = headers.get("content-encoding") == "gzip"
        request = ExportLogsServiceRequest.FromString(gzip.decompress(body) if is_gzip else body)
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            answer = self.planned.popleft() if self.planned else None
        answer = answer or self.decide(request)
        if answer.status == TAKEN.status and not answer.body:
            with self._lock:
                self.taken.append(request)
        return answer

    def records(self) -> list[dict[str, Any]]:
        """Return every record that was confirmed, in order: attributes, `resource`, `body`, and the `record` itself."""
        with self._lock:
            return [item for request in self.taken for item in records_of(request)]

    def ids(self) -> list[str]:
        """Return the entry ids that were confirmed, in order, repeats included."""
        return [item["audit.record.id"] for item in self.records()]


def records_of(request: ExportLogsServiceRequest) -> list[dict[str, Any]]:
    """Return the records of a request."""
    found = []
    for resource_logs in request.resource_logs:
        resource = attributes_of(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            found += [
                attributes_of(record.attributes)
                | {"resource": resource, "body": record.body.string_value, "record": record}
                for record in scope_logs.log_records
            ]
    return found


def attributes_of(pairs: Any) -> dict[str, Any]:
    """Return OTLP attributes of scalars as a mapping."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sink: Sink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = self.sink.receive(body, {name.lower(): value for name, value in self.headers.items()})
        with contextlib.suppress(ConnectionError):  # the sender was killed while we thought about it
            self.send_response(answer.status)
            for name, value in ({"Content-Type": PROTOBUF} | answer.headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def listening(port: int = 0, sink: Sink | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Sink]:
    """Run a sink over HTTP, or HTTPS, until the block ends."""
    sink = sink or Sink()
    handler = type("Handler", (_Handler,), {"sink": sink})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    sink.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}/v1/logs"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
