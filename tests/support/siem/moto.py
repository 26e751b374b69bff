"""CloudWatch Logs: moto behind a proxy that is as strict as AWS's documentation.

moto keeps what it is given, knows groups and streams, refuses what is out of order and rejects what is too old or too
new. It does not look at signatures, sizes, counts or spans, and two of its indices are wrong: `tooOldLogEventEndIndex`
is the last rejected one where AWS gives the one behind it, `tooNewLogEventStartIndex` the last where AWS gives the
first. The proxy checks the former and corrects the latter, and the type of moto's answers, which it calls HTML.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import httpx

from support.siem.cloud_server import CloudServer, Reply, Request, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_ID = "AKIDTESTONLYKEYOFMOTO"
SECRET = "moto-secret-that-nobody-may-see"
REGION = "eu-central-1"
GROUP = "/klyra/audit/test"

MAX_BATCH_BYTES = 1_048_576
MAX_EVENTS = 10_000
EVENT_OVERHEAD = 26
MAX_EVENT_BYTES = 1_048_576
DAY_MS = 86_400_000
CONTENT_TYPE = "application/x-amz-json-1.1"
_HOP = frozenset({"connection", "transfer-encoding", "content-length", "server", "date", "content-encoding"})
_FIFTEEN_MINUTES = 900


class Refused(Exception):  # noqa: N818 - what it is, in AWS's place
    """What AWS would say no to."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


@dataclass
class StrictMoto:
    """CloudWatch Logs as documented.

    Attributes:
        upstream: moto's URL.
        keys: secret and session token of every key id that is let in.
        expired: session tokens of the past.
        behind_ms: how far the service's clock is behind the real one, which moto's is.
        poison: parts of messages for which a whole request is refused.
        accepted: the events that were taken, in order.
        client: speaks to moto.
    """

    upstream: str
    keys: dict[str, tuple[str, str | None]] = field(default_factory=lambda: {KEY_ID: (SECRET, None)})
    expired: set[str] = field(default_factory=set)
    behind_ms: int = 0
    poison: set[str] = field(default_factory=set)
    accepted: list[dict[str, Any]] = field(default_factory=list)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30), repr=False)

    def __call__(self, request: Request) -> Reply:
        """Answer a request."""
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return self._token_service(request)
        try:
            self._check_signature(request)
            operation, members = _parsed(request)
            if operation == "PutLogEvents":
                check_batch(members["logEvents"], self.behind_ms)
                self._check_poison(members["logEvents"])
        except Refused as refused:
            body = {"__type": refused.kind, "message": str(refused)}
            return Reply(400, json.dumps(body).encode(), {"Content-Type": CONTENT_TYPE})
        if operation != "PutLogEvents":
            return self._forwarded(request)
        reply = self._forwarded(replace(request, body=self._in_motos_time(members)))
        if reply.status == 200:
            reply = Reply(200, corrected(reply.body, members["logEvents"], self.behind_ms), reply.headers)
            self.accepted += taken(reply.body, members["logEvents"])
        return reply

    def messages(self, stream: str, group: str = GROUP) -> list[str]:
        """Return what moto holds of a stream, in its order."""
        events, token = [], None
        while True:
            members = {"logGroupName": group, "logStreamName": stream, "startFromHead": True, "nextToken": token}
            page = self.ask("GetLogEvents", {name: value for name, value in members.items() if value is not None})
            if not page["events"]:
                return events
            events += [event["message"] for event in page["events"]]
            token = page["nextForwardToken"]

    def empty(self, stream: str) -> None:
        """Take away everything but a group and a stream."""
        self.client.post(f"{self.upstream}/moto-api/reset").raise_for_status()
        self.ask("CreateLogGroup", {"logGroupName": GROUP})
        self.ask("CreateLogStream", {"logGroupName": GROUP, "logStreamName": stream})
        self.accepted.clear()
        self.poison.clear()

    def streams(self, group: str = GROUP) -> list[str]:
        """Return the names of a group's streams."""
        return [item["logStreamName"] for item in self.ask("DescribeLogStreams", {"logGroupName": group})["logStreams"]]

    def ask(self, operation: str, members: dict[str, Any]) -> Any:
        """Ask moto itself, past the proxy."""
        headers = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": f"Logs_20140328.{operation}"}
        credential = (
            f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/{REGION}/logs/aws4_request, SignedHeaders=, Signature="
        )
        headers["Authorization"] = credential
        answer = self.client.post(self.upstream, json=members, headers=headers)
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def _in_motos_time(self, members: dict[str, Any]) -> bytes:
        events = [event | {"timestamp": event["timestamp"] + self.behind_ms} for event in members["logEvents"]]
        return json.dumps(members | {"logEvents": events}).encode()

    def _check_poison(self, events: list[dict[str, Any]]) -> None:
        if any(part in event["message"] for event in events for part in self.poison):
            raise Refused("InvalidParameterException", "A log event cannot be read")

    def _forwarded(self, request: Request) -> Reply:
        headers = {name: value for name, value in request.headers.items() if name not in {"host", "content-length"}}
        answer = self.client.post(self.upstream + request.path, content=request.body, headers=headers)
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
        if request.headers["content-type"] == CONTENT_TYPE:
            kept = {"Content-Type": CONTENT_TYPE}  # moto says that it is HTML
        return Reply(answer.status_code, answer.content, kept)

    def _token_service(self, request: Request) -> Reply:
        reply = self._forwarded(request)
        found = {
            name: re.search(f"<{name}>([^<]+)</{name}>", reply.body.decode())
            for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
        }
        if all(found.values()):
            self.keys[found["AccessKeyId"][1]] = (found["SecretAccessKey"][1], found["SessionToken"][1])
        return reply

    def _check_signature(self, request: Request) -> None:
        """Compute the signature from its description (AWS, "Create a signed AWS API request")."""
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
            r"SignedHeaders=([^,]+), Signature=([0-9a-f]{64})",
            request.headers.get("authorization", ""),
        )
        if match is None:
            raise Refused("MissingAuthenticationTokenException", "Missing Authentication Token")
        key_id, day, region, service, signed, signature = match.groups()
        if key_id not in self.keys:
            raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
        secret, token = self.keys[key_id]
        if request.headers.get("x-amz-security-token") in self.expired:
            raise Refused("ExpiredTokenException", "The security token included in the request is expired")
        if request.headers.get("x-amz-security-token") != token:
            raise Refused("UnrecognizedClientException", "The security token included in the request is invalid.")
        names = signed.split(";")
        if not {"host", "x-amz-date"} <= set(names) or ((token is not None) != ("x-amz-security-token" in names)):
            raise Refused("InvalidSignatureException", "A header is not signed")
        stamp = request.headers["x-amz-date"]
        sent = dt.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC).timestamp()
        if abs(sent - time.time()) > _FIFTEEN_MINUTES or stamp[:8] != day or service != "logs" or region != REGION:
            raise Refused("InvalidSignatureException", "Signature expired, or not for this region")
        lines = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names)
        path, _, query = request.path.partition("?")
        canonical = f"POST\n{path}\n{query}\n{lines}\n{signed}\n{hashlib.sha256(request.body).hexdigest()}"
        scope = f"{day}/{region}/{service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        if not hmac.compare_digest(hmac.digest(key, text.encode(), "sha256").hex(), signature):
            # AWS shows the request it would have signed, with every signed header, the session token among them.
            raise Refused("InvalidSignatureException", f"The Canonical String should have been\n{canonical}")


def check_batch(events: list[dict[str, Any]], behind_ms: int = 0) -> None:
    """Check what moto does not (PutLogEvents, "The batch of events must satisfy the following constraints")."""
    if not 1 <= len(events) <= MAX_EVENTS:
        raise Refused("InvalidParameterException", f"1 validation error detected: {len(events)} log events")
    sizes = [len(event["message"].encode()) for event in events]
    if min(sizes) < 1 or max(sizes) + EVENT_OVERHEAD > MAX_EVENT_BYTES:
        raise Refused("InvalidParameterException", "Log event too large or empty")
    if sum(sizes) + EVENT_OVERHEAD * len(events) > MAX_BATCH_BYTES:
        raise Refused("InvalidParameterException", "Upload too large: more than 1048576 bytes")
    stamps = [event["timestamp"] for event in events]
    if any(not isinstance(stamp, int) or isinstance(stamp, bool) or stamp < 0 for stamp in stamps):
        raise Refused("SerializationException", "A timestamp is no number")
    if stamps != sorted(stamps):
        raise Refused("InvalidParameterException", "Log events must be in chronological order.")
    old, new = _valid_times(behind_ms)
    valid = [stamp for stamp in stamps if old <= stamp <= new]
    if valid and valid[-1] - valid[0] > DAY_MS:
        raise Refused("InvalidParameterException", "The batch spans more than 24 hours.")


def corrected(body: bytes, events: list[dict[str, Any]], behind_ms: int = 0) -> bytes:
    """Return moto's answer with the indices that AWS gives."""
    answer = json.loads(body)
    rejected = answer.pop("rejectedLogEventsInfo", None) or {}
    old, new = _valid_times(behind_ms)
    stamps = [event["timestamp"] for event in events]
    if "tooOldLogEventEndIndex" in rejected:
        rejected["tooOldLogEventEndIndex"] = sum(stamp < old for stamp in stamps)
    if "tooNewLogEventStartIndex" in rejected:
        rejected["tooNewLogEventStartIndex"] = next(place for place, stamp in enumerate(stamps) if stamp > new)
    return json.dumps(answer | ({"rejectedLogEventsInfo": rejected} if rejected else {})).encode()


def taken(body: bytes, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events of a request that a success does not reject."""
    rejected = json.loads(body).get("rejectedLogEventsInfo", {})
    first = max(rejected.get("tooOldLogEventEndIndex", 0), rejected.get("expiredLogEventEndIndex", 0))
    return events[first : rejected.get("tooNewLogEventStartIndex", len(events))]


def _valid_times(behind_ms: int) -> tuple[int, int]:
    now = int(time.time() * 1000) - behind_ms
    return now - 14 * DAY_MS, now + 2 * 3_600_000


def _parsed(request: Request) -> tuple[str, dict[str, Any]]:
    """Return operation and members; the protocol is AWS JSON 1.1."""
    prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
    if (request.method, request.path, prefix) != ("POST", "/", "Logs_20140328"):
        raise Refused("UnknownOperationException", request.path)
    if request.headers.get("content-type") != CONTENT_TYPE or "content-encoding" in request.headers:
        raise Refused("SerializationException", "Only plain application/x-amz-json-1.1 is read")
    known = {
        "PutLogEvents": {"logGroupName", "logStreamName", "logEvents"},
        "CreateLogStream": {"logGroupName", "logStreamName"},
        "CreateLogGroup": {"logGroupName"},
    }
    members = json.loads(request.body)
    if operation not in known or set(members) != known[operation]:
        raise Refused("SerializationException", f"{operation} has other members than {sorted(members)}")
    if not re.fullmatch(r"[.\-_/#A-Za-z0-9]{1,512}", members["logGroupName"]):
        raise Refused("InvalidParameterException", "Value at 'logGroupName' failed to satisfy constraint")
    if not re.fullmatch(r"[^:*]{1,512}", members.get("logStreamName", "s")):
        raise Refused("InvalidParameterException", "Value at 'logStreamName' failed to satisfy constraint")
    return operation, members


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run moto on a free port; give its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
        server._server.server_close()


@contextlib.contextmanager
def cloudwatch(upstream: str) -> Iterator[tuple[CloudServer, StrictMoto]]:
    """Run the proxy in front of an empty moto that has a log group."""
    httpx.post(f"{upstream}/moto-api/reset", timeout=30).raise_for_status()
    strict = StrictMoto(upstream)
    strict.ask("CreateLogGroup", {"logGroupName": GROUP})
    with contextlib.closing(strict.client), serving(strict) as server:
        yield server, strict
