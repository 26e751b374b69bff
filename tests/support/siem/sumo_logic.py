"""An HTTP source of Sumo Logic, as strict as its documentation ("Upload Logs to an HTTP Source", "Troubleshooting").

It says 200 to more than it keeps: fields that break a rule, everything while an ingest budget stops the source, and
lines that it slices.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from support.siem.cloud_server import Reply, Request

CODE = "ZaVnC4dhaV0-sumo-code-that-nobody-may-see=="
PATH = f"/receiver/v1/http/{CODE}"
MOST_BYTES = 1_000_000
LONGEST_LINE = 65_536
MOST_FIELDS = 30
LONGEST_FIELD = 200

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_PAIR = re.compile(r"\s*[A-Za-z][\w.-]*=[^,=]+")


@dataclass
class StrictSource:
    """Sumo Logic as documented.

    Attributes:
        lines: what can be found, in order, repeats included.
        headers: the `X-Sumo-…` headers of each line.
        sliced: lines that were cut into pieces.
        complaints: what Sumo Logic would take, and spoil.
        is_over_budget: an ingest budget stops the source: 200, and everything is dropped.
        poison: ids of lines at which the source answers 400.
    """

    lines: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sliced: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    is_over_budget: bool = False
    poison: set[str] = field(default_factory=set)

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        if request.path != PATH:
            # Sumo Logic repeats the path of what it does not know.
            return Reply(401, f"no such source: {request.path}".encode(), {"Content-Type": "text/plain"})
        if request.method != "POST":
            return Reply(405)
        content = plain(request)
        if content is None:
            return Reply(400, b"the body cannot be read")
        if len(content) > MOST_BYTES:
            return Reply(413, b"payload too large")
        if any(name in content.decode() for name in self.poison):
            return Reply(400, b"a line cannot be read")
        given = {name: value for name, value in request.headers.items() if name.startswith("x-sumo-")}
        fields = given.get("x-sumo-fields")
        are_good = fields is None or are_good_fields(fields)
        if not self.is_over_budget:
            self._file(content.decode(), given if are_good else {**given, "x-sumo-fields": ""})
        return Reply(200) if are_good else bad_fields()

    def records(self) -> list[dict[str, Any]]:
        """Return the lines, which are JSON."""
        return [json.loads(line) for line in self.lines]

    def ids(self) -> list[str]:
        """Return the ids of what can be found, in order, repeats included."""
        return [line["id"] for line in self.records()]

    def _file(self, content: str, headers: dict[str, str]) -> None:
        for line in content.removesuffix("\n").split("\n") if content else ():
            if len(line.encode()) > LONGEST_LINE:
                self.sliced.append(line)
                continue
            first = _TIME.search(line)
            if first is None or first.start() not in {0, len('{"timestamp":"')}:
                self.complaints.append(f"the left-most time of {line[:60]} is not the event's")
            self.lines.append(line)
            self.headers.append(headers)


def plain(request: Request) -> bytes | None:
    """Return a body as it was before compression, None if it cannot be read; UTF-8 only."""
    encoding = request.headers.get("content-encoding", "identity")
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, "identity": bytes}.get(encoding)
    if unpack is None:
        return None
    try:
        content = unpack(request.body)
        content.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        return None
    return content


def are_good_fields(fields: str) -> bool:
    """Say whether `X-Sumo-Fields` keeps the rules."""
    pairs = fields.split(",")
    are_short = all(len(pair.partition("=")[2]) <= LONGEST_FIELD for pair in pairs)
    return len(pairs) <= MOST_FIELDS and are_short and all(_PAIR.fullmatch(pair) for pair in pairs)


def bad_fields() -> Reply:
    """Return the 200 that says that fields break a rule."""
    said = {"id": "GTK4V-YZ7NZ-W4CWH", "code": "bad.http.header.fields", "message": "Header X-Sumo-Fields is invalid"}
    return Reply(200, json.dumps(said).encode(), {"Content-Type": "application/json"})
