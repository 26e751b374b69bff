"""What stands between us and a real Elasticsearch, and does to requests and answers what a test wants."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.certificates import Files

_OF_ONE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
_NOT_PASSED_ON = {*_OF_ONE_CONNECTION, "accept-encoding"}  # so that an answer can be changed


@dataclass
class Answer:
    """What the server answers, on its way to us.

    Attributes:
        path: that was asked.
        status, headers, content: to be changed at will.
    """

    path: str
    status: int
    headers: dict[str, str]
    content: bytes


@dataclass
class Relay:
    """Passes everything on, until it is told otherwise.

    Attributes:
        server: URL of the real one.
        is_down: connections are cut without an answer.
        loses_answers: requests reach the server, and nobody learns what became of them.
        delay: seconds before each answer.
        bend: changes answers.
        asked: method and path of every request that was passed on.
        url: where it listens.
    """

    server: str
    is_down: bool = False
    loses_answers: bool = False
    delay: float = 0.0
    bend: Callable[[Answer], None] = lambda _: None
    asked: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Ask the real server."""
        self.asked.append((method, path))
        where = urlsplit(self.server)
        with contextlib.closing(http.client.HTTPConnection(str(where.hostname), where.port, timeout=60)) as connection:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _OF_ONE_CONNECTION}
            return Answer(path, response.status, kept, response.read())


@contextlib.contextmanager
def relaying(server: str, tls: Files | None = None) -> Iterator[Relay]:
    """Listen on a free port of this machine."""
    relay = Relay(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if relay.is_down:
                return self._cut()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
            answer = relay.forward(self.command, self.path, headers, body)
            relay.bend(answer)
            time.sleep(relay.delay)
            if relay.loses_answers:
                return self._cut()
            self.send_response(answer.status)
            for name, value in (answer.headers | {"content-length": str(len(answer.content))}).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):  # nobody waits any more
                self.wfile.write(answer.content)
            return None

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _do  # noqa: N815 - the base class's names

        def _cut(self) -> None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that goes away in the middle is what is tested."""

    listener = Listener(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls.certificate, tls.key)
        listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        relay.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{listener.server_port}"
        yield relay
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
