"""Datadog's logs intake, version 2, as strict as its documentation (Datadog API Reference, "Send logs").

It says 202 to more than it keeps: what is too old is not indexed, what is too long is cut off. A test that looks only
at answers would not notice.
"""

from __future__ import annotations

import gzip
import json
import re
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from support.siem.cloud_server import Reply, Request

API_KEY = "0123456789abcdef-datadog-key-nobody-may-see"
PATH = "/api/v2/logs"
MOST_BYTES = 5_000_000
MOST_LOGS = 1_000
LONGEST_LOG = 1_000_000
OLDEST_SECONDS = 18 * 3600
NEWEST_SECONDS = 2 * 3600

_TAG = re.compile(r"[A-Za-z][\w:./-]{0,199}")


@dataclass
class StrictIntake:
    """Datadog as documented.

    Attributes:
        indexed: the logs that can be found, in order, repeats included.
        not_indexed: those that got a 202 and cannot be found.
        cut_off: those that got a 202 and lost their end.
        complaints: what Datadog would take, and spoil.
        poison: ids of logs that it cannot read.
        now: seconds since 1970.
    """

    indexed: list[dict[str, Any]] = field(default_factory=list)
    not_indexed: list[dict[str, Any]] = field(default_factory=list)
    cut_off: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    poison: set[str] = field(default_factory=set)
    now: float = field(default_factory=time.time)

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        if (request.method, request.path) != ("POST", PATH):
            return refusal(404, "Not Found")
        if request.headers.get("dd-api-key") is None:
            return refusal(401, "Unauthorized")
        if request.headers["dd-api-key"] != API_KEY:
            return refusal(403, "Forbidden")
        return self._taken(request)

    def ids(self) -> list[str]:
        """Return the ids of what can be found, in order, repeats included."""
        return [log["evt"]["id"] for log in self.indexed]

    def _taken(self, request: Request) -> Reply:
        try:
            logs = parsed(request)
        except ValueError:
            return refusal(400, "Bad Request")
        if logs is None or len(logs) > MOST_LOGS:
            return refusal(413, "Payload Too Large")
        if any(self._is_unreadable(log) for log in logs):
            return refusal(400, "Bad Request")
        for log in logs:
            self._file(log)
        return Reply(202, b"{}", {"Content-Type": "application/json"})

    def _is_unreadable(self, log: Any) -> bool:
        if not isinstance(log, dict) or not isinstance(log.get("message"), str):
            return True
        names = ("ddsource", "ddtags", "hostname", "service")
        is_odd = not all(isinstance(log.get(name, ""), str) for name in names)
        return is_odd or log.get("evt", {}).get("id") in self.poison

    def _file(self, log: dict[str, Any]) -> None:
        self.complaints += complaints(log)
        age = self.now - log.get("timestamp", self.now * 1000) / 1000
        if len(json.dumps(log, separators=(",", ":"), ensure_ascii=False).encode()) > LONGEST_LOG:
            self.cut_off.append(log)
        elif -NEWEST_SECONDS <= age <= OLDEST_SECONDS:
            self.indexed.append(log)
        else:
            self.not_indexed.append(log)


def parsed(request: Request) -> list[Any] | None:
    """Return a request's logs, None if there are too many bytes; `ValueError` if they cannot be read."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ValueError("no JSON")
    encoding = request.headers.get("content-encoding", "identity")
    unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress, "identity": bytes}.get(encoding)
    if unpack is None:
        raise ValueError(encoding)
    try:
        content = unpack(request.body)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(str(error)) from error
    if len(content) > MOST_BYTES:
        return None
    found = json.loads(content)
    return found if isinstance(found, list) else [found]


def complaints(log: dict[str, Any]) -> list[str]:
    """Return what breaks a limit of logs (Datadog, "Log management", "Attributes and tags")."""
    tags = [tag for tag in log.get("ddtags", "").split(",") if tag]
    found = [f"tag {tag}" for tag in tags if not _TAG.fullmatch(tag)]
    names, depth = shape(log)
    found += ["more than 100 tags"] if len(tags) > 100 else []
    found += [f"long name {name}" for name in names if len(name) >= 50]
    found += ["256 attributes or more"] if len(names) >= 256 else []
    found += ["10 levels or more"] if depth >= 10 else []
    return found


def shape(value: Any) -> tuple[list[str], int]:
    """Return the names of all attributes, and how deep they are nested."""
    if isinstance(value, list):
        inner = [shape(item) for item in value]
    elif isinstance(value, dict):
        inner = [([name, *shape(item)[0]], shape(item)[1] + 1) for name, item in value.items()]
    else:
        return [], 0
    return [name for names, _ in inner for name in names], max((depth for _, depth in inner), default=0)


def refusal(status: int, title: str) -> Reply:
    """Return a refusal in Datadog's words."""
    said = {"errors": [{"status": str(status), "title": title, "detail": f"{title} by the intake"}]}
    return Reply(status, json.dumps(said).encode(), {"Content-Type": "application/json"})
