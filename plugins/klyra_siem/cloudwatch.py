"""The destination `cloudwatch`: AWS CloudWatch Logs, PutLogEvents.

Options: `log_group`, `log_stream`, `region`, `create_log_group`, `retention_days`, `access_key_id`,
`secret_access_key`, `session_token`, `profile`, `role_arn`, `external_id` (docs/destinations/cloudwatch.md).
"""

from __future__ import annotations

import datetime as dt
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
import orjson

from klyra_siem.cloud_requests import CloudRequests, Redaction
from klyra_siem.cloud_settings import CloudSettings
from klyra_siem.cloudwatch_answers import ALREADY_THERE, NO_SUCH_RESOURCE, OLD_CREDENTIALS, of_refusal, of_success
from klyra_siem.cloudwatch_signing import ChainKeys, KeySettings, signed_headers
from klyra_siem.destination import Limits, Payload
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.cloudwatch_signing import KeySource
    from klyra_siem.destination import Destination, DestinationOptions, SealedEntry

EXAMPLE: Final = "https://logs.eu-central-1.amazonaws.com"
OVERHEAD_BYTES: Final = 26  # what each event counts beside its text (API Reference, "PutLogEvents")
OLDEST_DAYS: Final = 14  # or what the group keeps, if that is less
LIMITS: Final = Limits(
    entries=5_000,  # 10,000 are allowed
    encoded_bytes=1_000_000,  # 1,048,576 are allowed
    entry_bytes=1_048_576,
    span_seconds=24 * 3600,
    oldest_seconds=OLDEST_DAYS * 24 * 3600,
    newest_seconds=2 * 3600,
)

_RETENTION = range(1, 3654)
_CONTENT_TYPE = "application/x-amz-json-1.1"
_NS_PER_MS = 1_000_000
_NS_PER_SECOND = 1_000_000_000
_GROUP = r"[.\-_/#A-Za-z0-9]{1,512}"
_STREAM = r"[^:*]{1,480}"
_REGION = r"[a-z]{2,4}(?:-[a-z]+)+-\d+"
_HOST = re.compile(rf"(?:^|\.)logs(?:-fips)?\.({_REGION})\.")


@dataclass(frozen=True, slots=True)
class LogEvents(Payload):
    """A PutLogEvents request.

    Attributes:
        log_stream: which it is for, made if it is missing.
        order: for each event, its position in the batch: events are in chronological order, entries need not be.
    """

    log_stream: str = ""
    order: tuple[int, ...] = ()


def create(options: DestinationOptions) -> Destination:
    """Return the destination of a log group; `BadDestination` for wrong options, `MissingExtra` without botocore."""
    settings = CloudSettings(options)
    target = Target.read(settings, options.name)
    keys = KeySettings(
        key_id=settings.optional("access_key_id"),
        secret=settings.optional("secret_access_key"),
        session_token=settings.optional("session_token"),
        profile=settings.optional("profile"),
        role_arn=settings.optional("role_arn"),
        external_id=settings.optional("external_id"),
        region=target.region,
        session_name=f"klyra-audit-{options.name}"[:64],
        timeout_seconds=options.timeout_seconds,
    )
    settings.together(keys.key_id, keys.secret, names="access_key_id and secret_access_key")
    settings.finish()
    redaction = Redaction((keys.secret, keys.session_token, keys.external_id))
    return CloudWatch(options, target, ChainKeys(keys, redaction), redaction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where events go.

    Attributes:
        endpoint: URL without a slash at its end.
        region: that requests are signed for.
        group: the log group.
        stream: a pattern; `{destination}` and `{date}`, the UTC day of a batch's first event, are replaced.
        makes_group: whether a missing group is made.
        oldest_days: how old an event may be.
    """

    endpoint: str
    region: str
    group: str
    stream: str
    makes_group: bool
    oldest_days: int

    @classmethod
    def read(cls, settings: CloudSettings, name: str) -> Target:
        """Return what the configuration says; the region is that of an endpoint of AWS unless it is written."""
        endpoint = settings.endpoint(EXAMPLE)
        known = _HOST.search(urlsplit(endpoint).hostname or "")
        return cls(
            endpoint=endpoint,
            region=settings.text("region", "eu-central-1", _REGION, known[1] if known else None),
            group=settings.text("log_group", "/klyra/audit/production", _GROUP),
            stream=settings.text("log_stream", "{destination}/{date}", _STREAM, "{destination}/{date}").replace(
                "{destination}", name
            ),
            makes_group=settings.flag("create_log_group", default=False),
            oldest_days=min(settings.number("retention_days", OLDEST_DAYS, _RETENTION), OLDEST_DAYS),
        )

    def stream_of(self, filed_ns: int) -> str:
        """Return the stream of a batch whose first event is from this moment."""
        day = dt.datetime.fromtimestamp(filed_ns // _NS_PER_SECOND, dt.UTC).date()
        return self.stream.replace("{date}", day.isoformat())


class CloudWatch:
    """A log group of CloudWatch Logs (CloudWatch Logs API Reference)."""

    def __init__(self, options: DestinationOptions, target: Target, keys: KeySource, redaction: Redaction) -> None:
        self._record = options.record
        self._target = target
        self._keys = keys
        self._redaction = redaction
        self._requests = CloudRequests(options, redaction)

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return replace(LIMITS, oldest_seconds=self._target.oldest_days * 24 * 3600)

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`: exactly what CloudWatch Logs counts."""
        return len(self._record.encode(entry)) + OVERHEAD_BYTES

    def encode(self, entries: Sequence[SealedEntry]) -> LogEvents:
        """See `Destination`: in chronological order, entries of the same time in theirs."""
        order = sorted(range(len(entries)), key=lambda position: entries[position].filed_ns)
        events = [
            {
                "timestamp": entries[position].filed_ns // _NS_PER_MS,
                "message": self._record.encode(entries[position]).decode(),
            }
            for position in order
        ]
        stream = self._target.stream_of(entries[order[0]].filed_ns)
        content = {"logGroupName": self._target.group, "logStreamName": stream, "logEvents": events}
        return LogEvents(orjson.dumps(content), log_stream=stream, order=tuple(order))

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`: a missing stream is made, and the same bytes are sent once more."""
        outcome = self._put(payload)
        if outcome.status != NO_SUCH_RESOURCE or not isinstance(payload, LogEvents):
            return outcome
        made = self._make_stream(payload.log_stream)
        return self._put(payload) if made.action is Action.DELIVERED else made

    def probe(self) -> Outcome:
        """See `Destination`: makes the stream of this day, which needs all that delivering does."""
        return self._make_stream(self._target.stream_of(time.time_ns()))

    def close(self) -> None:
        """See `Destination`."""
        self._requests.close()

    def _put(self, payload: Payload) -> Outcome:
        answer = self._ask("PutLogEvents", payload.content)
        if isinstance(answer, Outcome):
            return answer
        order = payload.order if isinstance(payload, LogEvents) else ()
        return self._redaction.cleaned(of_success(answer.headers, answer.content, order))

    def _make_stream(self, name: str) -> Outcome:
        """Make a stream, and its group if that is allowed; one that is already there is as good."""
        outcome = self._make("CreateLogStream", logGroupName=self._target.group, logStreamName=name)
        if outcome.status != NO_SUCH_RESOURCE:
            return outcome
        if not self._target.makes_group:
            remedy = f"the log group {self._target.group} does not exist: make it, or write create_log_group = true"
            return replace(outcome, reason=remedy)
        made = self._make("CreateLogGroup", logGroupName=self._target.group)
        if made.action is not Action.DELIVERED:
            return made
        return self._make("CreateLogStream", logGroupName=self._target.group, logStreamName=name)

    def _make(self, operation: str, **members: str) -> Outcome:
        answer = self._ask(operation, orjson.dumps(members))
        if isinstance(answer, Outcome):
            is_there = answer.status == ALREADY_THERE
            return Outcome(action=Action.DELIVERED, status=ALREADY_THERE) if is_there else answer
        return Outcome(action=Action.DELIVERED, status=str(answer.status_code))

    def _ask(self, operation: str, content: bytes) -> httpx.Response | Outcome:
        """Return the answer of a success, or what anything else means."""
        keys = self._keys.keys()
        if isinstance(keys, Outcome):
            return keys
        url = f"{self._target.endpoint}/"
        named = {"Content-Type": _CONTENT_TYPE, "X-Amz-Target": f"Logs_20140328.{operation}"}
        headers = signed_headers(keys, self._target.region, url, named, content, time.time())
        answer = self._requests.post(url, content, headers)
        if isinstance(answer, Outcome) or answer.status_code == httpx.codes.OK:
            return answer
        outcome = of_refusal(answer.status_code, answer.headers, answer.content, time.time())
        if outcome.status in OLD_CREDENTIALS:
            self._keys.forget()
        return self._redaction.cleaned(outcome)
