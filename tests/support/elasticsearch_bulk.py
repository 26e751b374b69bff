"""A small Elasticsearch that keeps what bulk requests create, and answers what a test tells it to."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Item = dict[str, Any]
Answer = tuple[int, Any] | Callable[[list[tuple[Item, Item]]], tuple[int, Any] | None]


@dataclass
class BulkElasticsearch:
    """What the server has, and how it answers the next bulk requests.

    Attributes:
        documents: source by (index, id).
        script: for the next requests: (status, body), or a function of the (action, source) pairs that may return
            None to answer as usual; then it answers as usual.
        items: for the next documents: the answer instead of storing it.
        deletions: answers for the next requests that delete.
        requests: the (action, source) pairs of every bulk request.
        product: whether answers say that they are Elasticsearch's.
        delay: seconds before each answer.
        busy, busiest: requests being answered, and the most there were at once.
    """

    documents: dict[tuple[str, str], Item] = field(default_factory=dict)
    script: deque[Answer] = field(default_factory=deque)
    items: deque[Item | None] = field(default_factory=deque)
    deletions: deque[tuple[int, Any]] = field(default_factory=deque)
    requests: list[list[tuple[Item, Item]]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    product: bool = True
    delay: float = 0.0
    busy: int = 0
    busiest: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def bulk(self, pairs: list[tuple[Item, Item]]) -> tuple[int, Any]:
        """Answer a bulk request."""
        with self.lock:
            self.requests.append(pairs)
            answer = self.script.popleft() if self.script else None
            if callable(answer):
                answer = answer(pairs)
            if answer is not None:
                return answer
            return 200, {"errors": False, "items": [self._create(action, source) for action, source in pairs]}

    def _create(self, action: Item, source: Item) -> Item:
        told = self.items.popleft() if self.items else None
        key = (action["_index"], action["_id"])
        if told is None and key in self.documents:
            told = {"status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "exists"}}
        if told is None:
            self.documents[key] = source
            told = {"status": 201}
        return {"create": {"_index": key[0], **told}}

    def mget(self, wanted: list[Item]) -> tuple[int, Any]:
        """Answer a request for documents by id."""
        found = []
        for one in wanted:
            source = self.documents.get((one["_index"], one["_id"]))
            found.append({"_id": one["_id"], "found": source is not None, "_source": source})
        return 200, {"docs": found}


@contextlib.contextmanager
def serving() -> Iterator[BulkElasticsearch]:
    """Run the server."""
    state = BulkElasticsearch()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            with state.lock:
                state.busy += 1
                state.busiest = max(state.busiest, state.busy)
                state.paths.append(self.path)
            time.sleep(state.delay)
            status, answer = self.answer(body)
            with state.lock:
                state.busy -= 1
            if status == 0:
                self.close_connection = True
                return
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            if state.product:
                self.send_header("X-Elastic-Product", "Elasticsearch")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT  # noqa: N815 - the name that the base class looks for

        def answer(self, body: bytes) -> tuple[int, Any]:
            if "_mget" in self.path:
                return state.mget(json.loads(body)["docs"])
            lines = [json.loads(line) for line in body.splitlines()]
            if "delete" in lines[0]:
                return state.deletions.popleft()
            return state.bulk(
                [(action["create"], source) for action, source in zip(lines[::2], lines[1::2], strict=True)]
            )

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
