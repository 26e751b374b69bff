"""An OTLP receiver over gRPC behind a relay, so that connections can break where a server's own would not."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from klyra_siem.otlp_grpc import EXPORT
from support.siem.cloud_server import CloudServer, Reply, Request
from support.siem.otlp_receiver import TOKEN, Receiver
from support.sink import records_of

if TYPE_CHECKING:
    from collections.abc import Iterator

_SERVICE = EXPORT.split("/")[1]
_WORKERS = 8
# What a gRPC client makes of a status of HTTP (gRPC, "HTTP to gRPC Status Code Mapping").
_OF_HTTP = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


@dataclass
class Relay:
    """Passes bytes on, both ways, until it breaks every connection.

    Attributes:
        upstream: the port behind it.
        port: where it listens.
    """

    upstream: int
    port: int = 0
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _open: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = self._listener.getsockname()[1]
        self._begin(self._accept)

    def cut(self) -> None:
        """Break every connection with a reset."""
        while self._open:
            broken = self._open.pop()
            with contextlib.suppress(OSError):
                broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                broken.shutdown(socket.SHUT_RDWR)
            broken.close()

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _begin(self, work, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.upstream))
                self._open += [near, far]
                self._begin(self._pump, near, far)
                self._begin(self._pump, far, near)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65_536):
                target.sendall(content)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@dataclass
class GrpcReceiver:
    """A receiver over gRPC; its faults are planned as those of a server over HTTP.

    Attributes:
        server: where they are planned.
        receiver: what takes the records.
        relay: before it.
    """

    server: CloudServer
    receiver: Receiver
    relay: Relay | None = None

    def export(self, message: ExportLogsServiceRequest, context: grpc.ServicerContext) -> ExportLogsServiceResponse:
        """Answer a call."""
        metadata = {name: str(value) for name, value in context.invocation_metadata()}
        request = Request(method="POST", path=EXPORT, headers=metadata, body=message.SerializeToString())
        with self.server.handling(request) as fault:
            time.sleep(fault.delay_seconds)
            if fault.reset:
                self._cut()
                return ExportLogsServiceResponse()
            if fault.reply is not None:
                refuse(context, fault.reply)
            if metadata.get("authorization") != f"Bearer {TOKEN}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")
            rejected = self.receiver.take(records_of(message))
            if fault.reply_lost or fault.truncated:
                self._cut()
            response = ExportLogsServiceResponse()
            response.partial_success.rejected_log_records = rejected
            return response

    def _cut(self) -> None:
        assert self.relay is not None
        self.relay.cut()


def refuse(context: grpc.ServicerContext, reply: Reply) -> None:
    """Answer with the code that a reply names, or that its status means; with `Retry-After`, as `RetryInfo`."""
    name = reply.body.decode(errors="replace")
    code = grpc.StatusCode[name if name in grpc.StatusCode.__members__ else _OF_HTTP.get(reply.status, "UNKNOWN")]
    seconds = reply.headers.get("Retry-After", "")
    if seconds.isdigit():
        detail = Packed()
        detail.Pack(RetryInfo(retry_delay=Duration(seconds=min(int(seconds), 100_000))))
        status = Status(code=code.value[0], message="later", details=[detail])
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, "it says so")


@contextlib.contextmanager
def receiving() -> Iterator[GrpcReceiver]:
    """Run one on a free port until the block ends."""
    made = GrpcReceiver(CloudServer(lambda _: Reply(200)), Receiver())
    handler = grpc.unary_unary_rpc_method_handler(
        made.export,
        request_deserializer=ExportLogsServiceRequest.FromString,
        response_serializer=ExportLogsServiceResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(_WORKERS))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made.relay = Relay(port)
    made.server.url = f"grpc://127.0.0.1:{made.relay.port}"
    try:
        yield made
    finally:
        made.relay.close()
        server.stop(None).wait()
