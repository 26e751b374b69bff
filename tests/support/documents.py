"""A server with Elasticsearch's optimistic concurrency control over documents, and nothing else of it.

Sequence numbers grow with every write of the index; a conditional write with another number or primary term, and the
creation of a document that is there, answer 409, as the real one does (`tests/integration/test_elasticsearch_cell.py`
asks the same of that).
"""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PRIMARY_TERM = 1


class DocumentServer(ThreadingHTTPServer):
    """The server; `documents` maps (index, id) to (sequence number, source)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents: dict[tuple[str, str], tuple[int, dict]] = {}
        self.writes = 0
        self.lock = threading.Lock()
        self.authorization: str | None = None
        self.fail_with: int | None = None
        self.lose_answers = False

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def write(self, key: tuple[str, str], source: dict) -> int:
        """Store a document; return its sequence number."""
        self.documents[key] = self.writes, source
        self.writes += 1
        return self.documents[key][0]


@contextlib.contextmanager
def serving():
    """Yield a running server."""
    server = DocumentServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: DocumentServer

    def do_GET(self) -> None:
        index, kind, document_id = self._parts()
        assert kind == "_doc"
        if not any(name == index for name, _ in self.server.documents):
            self._answer(404, {"error": {"type": "index_not_found_exception"}, "status": 404})
            return
        stored = self.server.documents.get((index, document_id))
        if stored is None:
            self._answer(404, {"_index": index, "_id": document_id, "found": False})
            return
        self._answer(200, {"found": True, "_seq_no": stored[0], "_primary_term": PRIMARY_TERM, "_source": stored[1]})

    def do_PUT(self) -> None:
        index, kind, document_id = self._parts()
        source = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        conditions = parse_qs(urlsplit(self.path).query)
        with self.server.lock:
            stored = self.server.documents.get((index, document_id))
            if self._conflicts(kind, stored, conditions):
                self._answer(409, {"error": {"type": "version_conflict_engine_exception"}, "status": 409})
                return
            number = self.server.write((index, document_id), source)
        self._answer(200 if stored else 201, {"_seq_no": number, "_primary_term": PRIMARY_TERM})

    @staticmethod
    def _conflicts(kind, stored, conditions) -> bool:
        if kind == "_create":
            return stored is not None
        expected = (conditions["if_seq_no"], conditions["if_primary_term"])
        return stored is None or expected != ([str(stored[0])], [str(PRIMARY_TERM)])

    def _parts(self) -> list[str]:
        return urlsplit(self.path).path.strip("/").split("/")

    def _answer(self, status, body) -> None:
        if self.server.authorization not in (None, self.headers.get("Authorization")):
            status, body = 401, {"error": "who are you"}
        if self.server.fail_with is not None:
            status, body = self.server.fail_with, {"error": "in trouble"}
        if self.server.lose_answers and self.command == "PUT":
            self.close_connection = True
            return
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_arguments) -> None:
        """Say nothing."""
