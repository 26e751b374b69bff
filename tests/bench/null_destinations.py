"""The far side of every destination, which keeps nothing: prints its URL, then serves until it is ended."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Beginning of a path → status and body of a success.
ANSWERS = {
    "/services/collector": (200, b'{"text":"Success","code":0}'),
    "/api/v2/logs": (202, b"{}"),
    "/receiver/": (200, b""),
    "/dataCollectionRules/": (204, b""),
    "/v2/entries:write": (200, b"{}"),
    "/v1/logs": (200, b""),
}
OTHERWISE = (200, b"{}")  # of CloudWatch Logs


class Handler(BaseHTTPRequestHandler):
    """Answers as if all were well."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer anything."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        known = (answer for beginning, answer in ANSWERS.items() if self.path.startswith(beginning))
        status, body = next(known, OTHERWISE)
        self.send_response(status)
        if body:
            self.send_header("content-type", self.headers.get("content-type", ""))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
