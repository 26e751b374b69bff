"""A server that calls itself Elasticsearch and gives the answers that a test has written down."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PRODUCT = {"X-Elastic-Product": "Elasticsearch"}
EMPTY: dict[str, Any] = {"timed_out": False, "_shards": {"failed": 0}, "hits": {"hits": []}}


@dataclass
class Answers:
    """What it answers.

    Attributes:
        status, body: to everything that `script` has nothing for.
        script: (status, body) of the next requests.
        headers: of every answer.
        asked: (method, path, body) of every request.
    """

    status: int = 200
    body: Any = field(default_factory=lambda: EMPTY)
    script: list[tuple[int, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: dict(PRODUCT))
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    url: str = ""

    def fails(self, status: int, kind: str, reason: str = "because") -> None:
        """Answer everything with an error from now on."""
        self.status, self.body = status, {"error": {"type": kind, "reason": reason}}

    def finds(self, *hits: dict[str, Any]) -> None:
        """Answer every search with these documents."""
        self.status, self.body = 200, EMPTY | {"id": "pit", "pit_id": "pit", "hits": {"hits": list(hits)}}


@contextlib.contextmanager
def answering() -> Iterator[Answers]:
    """Listen on a free port of this machine."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            answers.asked.append((self.command, self.path, json.loads(body) if body else None))
            status, answer = answers.script.pop(0) if answers.script else (answers.status, answers.body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (answers.headers | {"Content-Type": "application/json"}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _do  # noqa: N815 - the base class's names

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        answers.url = f"elasticsearch+http://127.0.0.1:{listener.server_port}"
        yield answers
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
