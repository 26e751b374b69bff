"""An Elasticsearch that takes every document and keeps none: prints its URL, then serves until it is ended."""

from __future__ import annotations

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ITEM = b'{"create":{"status":201}}'
_EMPTY = {"version": {"number": "8.19.0"}, "count": 10**12, "_shards": {"failed": 0}, "hits": {"hits": []}}


class Handler(BaseHTTPRequestHandler):
    """Answers as if all were well."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer anything."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if "_bulk" in self.path:
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            answer = b'{"items":[' + b",".join([_ITEM] * (body.count(b"\n") // 2)) + b"]}"
        else:
            answer = json.dumps(_EMPTY).encode()
        self.send_response(200)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_PUT = do_POST = do_GET  # noqa: N815 - the names that the base class looks for

    def log_message(self, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
