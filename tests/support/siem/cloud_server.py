"""A server on loopback whose answers a test scripts: what goes wrong between us and a cloud."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came.

    Attributes:
        method, path: of its first line; the path with its query.
        headers: names in lower case.
        body: as sent, compressed or not.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> bytes:
        """The body as it was before compression."""
        return gzip.decompress(self.body) if self.headers.get("content-encoding") == "gzip" else self.body


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one request.

    Attributes:
        reply: given in place of the service's, which never sees the request.
        delay_seconds: before anything else.
        reset: the connection breaks before the service sees the request.
        truncated: the service takes the request; half of its answer arrives.
        reply_lost: the service takes the request; nothing of its answer arrives.
    """

    reply: Reply | None = None
    delay_seconds: float = 0.0
    reset: bool = False
    truncated: bool = False
    reply_lost: bool = False


NONE = Fault()


@dataclass
class CloudServer:
    """What runs.

    Attributes:
        service: answers every request that no fault keeps from it.
        url: without a slash at its end.
        faults: of the next requests, first one first.
        requests: all of them, in order.
        under_way: how many of them are being worked on.
    """

    service: Callable[[Request], Reply]
    url: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    under_way: int = 0
    _change: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def handling(self, request: Request) -> Iterator[Fault]:
        """Keep a request; give what goes wrong with it."""
        with self._change:
            self.requests.append(request)
            self.under_way += 1
            fault = self.faults.popleft() if self.faults else NONE
        try:
            yield fault
        finally:
            with self._change:
                self.under_way -= 1
                self._change.notify_all()

    def settle(self, seconds: float = 30.0) -> None:
        """Wait until no request is being worked on, also none whose sender has gone."""
        with self._change:
            assert self._change.wait_for(lambda: not self.under_way, seconds)

    def plan(self, *faults: Fault) -> None:
        """Say what goes wrong with the next requests."""
        self.faults.extend(faults)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms between its head and its body
    server_side: CloudServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(method=self.command, path=self.path, headers=headers, body=body)
        with self.server_side.handling(request) as fault:
            self._handle(request, fault)

    do_GET = do_POST  # noqa: N815 - the name that http.server looks for

    def _handle(self, request: Request, fault: Fault) -> None:
        time.sleep(fault.delay_seconds)
        if fault.reset:
            self._break()
            return
        reply = fault.reply or self.server_side.service(request)
        if fault.reply_lost:
            self._break()
            return
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the sender no longer waits
            self._answer(reply, truncated=fault.truncated)

    def _answer(self, reply: Reply, *, truncated: bool) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        # An empty answer is cut by promising a byte that never comes.
        length = len(reply.body) if reply.body or not truncated else 1
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2] if truncated else reply.body)
        if truncated:
            self._break()

    def _break(self) -> None:
        """Close with a reset, so that the other side sees no orderly end."""
        self.close_connection = True
        self.wfile.flush()
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(service: Callable[[Request], Reply], tls: ssl.SSLContext | None = None) -> Iterator[CloudServer]:
    """Run a service on a free port until the block ends."""
    made = CloudServer(service)
    handler = type("Handler", (_Handler,), {"server_side": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
