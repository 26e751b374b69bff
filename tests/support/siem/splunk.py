"""Splunk's HTTP Event Collector, as strict as its documentation, behind a load balancer.

What is observed of real receivers: a bad channel is 400/11, bad JSON 400/6, an empty body 400/5, no event 400/12, a
blank event 400/13; `/ack` takes POST only, and says `true` once. Processing stops at an event that cannot be taken;
those before it are in.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import zlib
from collections import Counter
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.siem.cloud_server import Reply, Request

TOKEN = "b8d6a1f2-splunk-token-that-nobody-may-see"
EVENTS = frozenset({"/services/collector", "/services/collector/event", "/services/collector/event/1.0"})
ACK = "/services/collector/ack"

# Code → status and text (Splunk, "Troubleshoot HTTP Event Collector", "Possible error codes").
CODES = {
    0: (200, "Success"),
    1: (403, "Token disabled"),
    2: (401, "Token is required"),
    3: (401, "Invalid authorization"),
    4: (403, "Invalid token"),
    5: (400, "No data"),
    6: (400, "Invalid data format"),
    7: (400, "Incorrect index"),
    8: (500, "Internal server error"),
    9: (503, "Server is busy"),
    10: (400, "Data channel is missing"),
    11: (400, "Invalid data channel"),
    12: (400, "Event field is required"),
    13: (400, "Event field cannot be blank"),
    14: (400, "ACK is disabled"),
    15: (400, "Error in handling indexed fields"),
    16: (400, "Query string authorization is not enabled"),
    17: (200, "HEC is healthy"),
    18: (503, "HEC is unhealthy, queues are full"),
    19: (503, "HEC is unhealthy, ack service unavailable"),
    20: (503, "HEC is unhealthy, queues are full, ack service unavailable"),
    21: (400, "Invalid token"),
    22: (400, "Token disabled"),
    23: (503, "Server is shutting down"),
    24: (200, "HEC is approaching its queue's capacity"),
    25: (200, "HEC is approaching its acknowledgements' capacity"),
    26: (429, "HEC's queue is at its capacity"),
    27: (429, "HEC's acknowledgements are at their capacity"),
}

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_ENVELOPE = frozenset({"time", "host", "source", "sourcetype", "index", "event", "fields"})


class Refused(Exception):  # noqa: N818 - it is an answer
    """What the collector says no to."""

    def __init__(self, code: int, number: int | None = None):
        super().__init__(CODES[code][1])
        self.code = code
        self.number = number


@dataclass
class Indexer:
    """One server behind the load balancer.

    Attributes:
        next_ids: of each channel.
        pending: what is not acknowledged yet, of each channel and acknowledgement id: the events, and how many more
            questions it takes until they are indexed.
    """

    next_ids: Counter[str] = field(default_factory=Counter)
    pending: dict[tuple[str, int], tuple[list[dict[str, Any]], int]] = field(default_factory=dict)

    def accept(self, channel: str, events: list[dict[str, Any]], falses: int) -> int:
        """Take events; return their acknowledgement's id."""
        ack_id = self.next_ids[channel]
        self.next_ids[channel] += 1
        self.pending[channel, ack_id] = (events, falses)
        return ack_id

    def take_if_indexed(self, channel: str, ack_id: int) -> bool:
        """Say whether events are indexed; that is said once."""
        _, falses = self.pending.get((channel, ack_id), ([], 1))
        if falses > 0:
            return False
        del self.pending[channel, ack_id]
        return True

    def tick(self) -> list[dict[str, Any]]:
        """Let everything be indexed a little more, whoever asks; return what has become so."""
        done = [event for events, falses in self.pending.values() if falses == 1 for event in events]
        self.pending = {key: (events, max(falses - 1, 0)) for key, (events, falses) in self.pending.items()}
        return done


@dataclass
class StrictHec:
    """Splunk as documented.

    Attributes:
        acknowledges: whether the token has indexer acknowledgement.
        indexers: how many servers the load balancer knows; it keeps who has its cookie at one of them.
        falses: how often each acknowledgement is first answered with `false`.
        success: code of a success: 0, 24 or 25.
        busy_after: answers 503/9 when this many events of the next request are in; once.
        poison: ids of events that it cannot read.
        most_bytes: of a body.
        token_code: what it says of our token instead of taking it, such as 1.
        indexed: the events that can be found, in order of indexing, repeats included.
        channels: every channel that was used.
        known_indexes: those the token may write to.
    """

    acknowledges: bool = False
    indexers: int = 1
    falses: int = 1
    success: int = 0
    busy_after: int | None = None
    poison: set[str] = field(default_factory=set)
    most_bytes: int = 5_000_000
    token_code: int | None = None
    indexed: list[dict[str, Any]] = field(default_factory=list)
    channels: list[str] = field(default_factory=list)
    known_indexes: frozenset[str] = frozenset({"klyra_audit"})
    _servers: list[Indexer] = field(default_factory=list)
    _turn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)  # a request may come while one is late

    def __post_init__(self) -> None:
        self._servers = [Indexer() for _ in range(self.indexers)]

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        server, cookie = self._balanced(request)
        path = urlsplit(request.path).path
        try:
            if path == "/services/collector/health" and request.method == "GET":
                return reply(17)
            if request.method != "POST" or path not in EVENTS | {ACK}:
                return Reply(404, b'{"text":"The requested URL was not found on this server.","code":404}')
            self._check_token(request)
            with self._lock:
                channel = self._channel(request)
                return with_cookie(self._take(request, self._servers[server], channel, path), cookie)
        except Refused as refused:
            return with_cookie(reply(refused.code, refused.number), cookie)

    def ids(self) -> list[str]:
        """Return the ids of what can be found, in order of indexing, repeats included."""
        return [event["fields"]["event_id"] for event in self.indexed]

    def forget(self) -> None:
        """Take away everything, also what would be indexed later."""
        with self._lock:
            self.crash()
            self.indexed.clear()

    def crash(self) -> None:
        """Lose what is not indexed yet."""
        self._servers = [Indexer() for _ in range(self.indexers)]

    def _balanced(self, request: Request) -> tuple[int, str | None]:
        """Return the server of a request, and the cookie that says so if the sender has none."""
        morsel = SimpleCookie(request.headers.get("cookie", "")).get("AWSALB")
        if morsel is not None:
            return int(morsel.value) % self.indexers, None
        self._turn += 1
        server = self._turn % self.indexers
        return server, f"AWSALB={server}; Path=/; HttpOnly"

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization")
        if given is None:
            raise Refused(16 if "token" in parse_qs(urlsplit(request.path).query) else 2)
        scheme, _, token = given.partition(" ")
        if scheme != "Splunk":
            raise Refused(3)
        if token != TOKEN:
            raise Refused(4)
        if self.token_code is not None:
            raise Refused(self.token_code)

    def _channel(self, request: Request) -> str:
        in_query = parse_qs(urlsplit(request.path).query).get("channel", [""])[0]
        channel = request.headers.get("x-splunk-request-channel") or in_query
        if self.acknowledges and not channel:
            raise Refused(10)
        if channel and not _GUID.fullmatch(channel):
            raise Refused(11)
        if channel and channel not in self.channels:
            self.channels.append(channel)
        return channel

    def _take(self, request: Request, server: Indexer, channel: str, path: str) -> Reply:
        if path == ACK:
            if not self.acknowledges:
                raise Refused(14)
            return self._acknowledge(request, server, channel)
        events, refusal = self._events(request)
        if refusal is not None:
            self.indexed += events  # they are in, and nobody will ask for their acknowledgement
            raise refusal
        if not self.acknowledges:
            self.indexed += events
            return reply(self.success)
        ack_id = server.accept(channel, events, self.falses)
        self.indexed += [] if self.falses else events
        return reply(self.success, ackId=ack_id)

    def _events(self, request: Request) -> tuple[list[dict[str, Any]], Refused | None]:
        """Return the events that are in, and why the rest is not."""
        if len(request.body) > self.most_bytes:
            raise Refused(6)
        text = plain(request)
        if not text.strip():
            raise Refused(5)
        taken: list[dict[str, Any]] = []
        decoder, place = json.JSONDecoder(), 0
        while place < len(text):
            try:
                event, place = decoder.raw_decode(text, place)
                self._check(event)
            except ValueError:
                return taken, Refused(6, len(taken))
            except Refused as refused:
                return taken, Refused(refused.code, len(taken))
            if self.busy_after is not None and len(taken) >= self.busy_after:
                self.busy_after = None
                return taken, Refused(9, len(taken))
            taken.append(event)
            while place < len(text) and text[place].isspace():
                place += 1
        return taken, None

    def _check(self, event: Any) -> None:
        if not isinstance(event, dict) or not set(event) <= _ENVELOPE:
            raise Refused(6)
        if "event" not in event:
            raise Refused(12)
        if event["event"] in ("", {}, None):
            raise Refused(13)
        if not isinstance(event.get("time", 0), int | float) or not all(
            isinstance(event.get(name, ""), str) for name in ("host", "source", "sourcetype", "index")
        ):
            raise Refused(6)
        if event.get("index", "klyra_audit") not in self.known_indexes:
            raise Refused(7)
        fields = event.get("fields", {})
        if not isinstance(fields, dict) or any(isinstance(value, dict | list) for value in fields.values()):
            raise Refused(15)
        if fields.get("event_id") in self.poison:
            raise Refused(6)

    def _acknowledge(self, request: Request, server: Indexer, channel: str) -> Reply:
        """Say which ids are indexed; a `true` is said once, an id of another server or channel is `false`."""
        try:
            asked = json.loads(request.body)["acks"]
        except (ValueError, KeyError, TypeError):
            raise Refused(6) from None
        said = {str(ack_id): server.take_if_indexed(channel, ack_id) for ack_id in asked}
        self.indexed += server.tick()
        return Reply(200, json.dumps({"acks": said}).encode(), {"Content-Type": "application/json"})


def plain(request: Request) -> str:
    """Return a body as text; what cannot be unpacked or read is 400/6."""
    encoding = request.headers.get("content-encoding", "identity")
    try:
        if encoding == "gzip":
            return gzip.decompress(request.body).decode()
        if encoding == "identity":
            return request.body.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        raise Refused(6) from None
    raise Refused(6)


def reply(code: int, number: int | None = None, **members: Any) -> Reply:
    """Return the collector's reply of a code."""
    status, text = CODES[code]
    said: dict[str, Any] = {"text": text, "code": code, **members}
    if number is not None:
        said["invalid-event-number"] = number
    return Reply(status, json.dumps(said).encode(), {"Content-Type": "application/json"})


def with_cookie(given: Reply, cookie: str | None) -> Reply:
    """Return a reply with the load balancer's cookie."""
    return given if cookie is None else Reply(given.status, given.body, {**given.headers, "Set-Cookie": cookie})
