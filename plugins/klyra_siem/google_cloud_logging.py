"""The destination `google-cloud-logging`: Google Cloud Logging, `entries.write` over REST.

Options: `project`, `log`, `retention_days`, `credentials`, `quota_project` (docs/destinations/google-cloud-logging.md).
"""

from __future__ import annotations

import gzip
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from klyra_audit import timestamps
from klyra_siem.cloud_requests import GZIP, GZIP_LEVEL, CloudRequests, Redaction
from klyra_siem.cloud_settings import CloudSettings
from klyra_siem.cloud_tokens import BearerTokens, post_with_token
from klyra_siem.destination import Limits, Payload
from klyra_siem.google_cloud_logging_answers import of_answer
from klyra_siem.google_cloud_logging_credentials import GoogleTokens
from klyra_siem.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import Destination, DestinationOptions, RecordFormat, SealedEntry

ENDPOINT: Final = "https://logging.googleapis.com"
RETENTION_DAYS: Final = 30  # of a log bucket, unless it is told otherwise
LIMITS: Final = Limits(
    entries=1_000,
    encoded_bytes=4_000_000,  # 10 MB are allowed
    entry_bytes=250_000,  # 256 KB are allowed
    span_seconds=None,
    oldest_seconds=RETENTION_DAYS * 24 * 3600,
    newest_seconds=24 * 3600,
)

_RETENTION = range(1, 3651)
_WHOLE_NUMBERS = 2**53  # of a double, which every number of a `jsonPayload` becomes
_PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]|(?:[a-z0-9.-]+:)[a-z][a-z0-9-]{4,28}[a-z0-9]"
_LOG = r"[A-Za-z0-9/_.-]{1,400}"


@dataclass(frozen=True, slots=True)
class LogEntries(Payload):
    """A request, and how many entries are in it."""

    count: int = 0


def create(options: DestinationOptions) -> Destination:
    """Return the destination of a log; `BadDestination` for wrong options, `MissingExtra` without google-auth."""
    settings = CloudSettings(options)
    endpoint = settings.endpoint(ENDPOINT)
    project = settings.text("project", "my-project", _PROJECT)
    log = settings.text("log", "klyra.com/audit", _LOG, "klyra.com/audit")
    retention_days = settings.number("retention_days", RETENTION_DAYS, _RETENTION)
    key, quota_project = settings.optional("credentials"), settings.optional("quota_project")
    settings.finish()
    redaction = Redaction((key,))
    tokens = GoogleTokens(options, key, redaction)
    return GoogleCloudLogging(
        options, f"{endpoint}/v2/entries:write", Log(project, log, quota_project, retention_days), tokens, redaction
    )


@dataclass(frozen=True, slots=True)
class Log:
    """Where entries go.

    Attributes:
        project, name: of the log.
        quota_project: whose quota it counts against; None for the project's own.
        retention_days: of its bucket; what is older than that when it arrives vanishes.
    """

    project: str
    name: str
    quota_project: str | None = None
    retention_days: int = RETENTION_DAYS

    def request(self, entries: bytes, *, dry_run: bool) -> bytes:
        """Return a request for some entries, a JSON array."""
        members: dict[str, Any] = {
            "logName": f"projects/{self.project}/logs/{quote(self.name, safe='')}",
            "resource": {"type": "global", "labels": {"project_id": self.project}},
            "partialSuccess": True,
            **({"dryRun": True} if dry_run else {}),
            "entries": orjson.Fragment(entries),
        }
        return orjson.dumps(members)


class GoogleCloudLogging:
    """A log of Google Cloud Logging (Cloud Logging API, `entries.write`)."""

    def __init__(
        self, options: DestinationOptions, url: str, log: Log, fetcher: GoogleTokens, redaction: Redaction
    ) -> None:
        self._record = options.record
        self._is_compressed = options.compression == GZIP
        self._url = url
        self._log = log
        self._redaction = redaction
        self._fetcher = fetcher
        self._tokens = BearerTokens(fetcher, redaction, time.time)
        self._requests = CloudRequests(options, redaction)

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return replace(LIMITS, oldest_seconds=self._log.retention_days * 24 * 3600)

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`: exactly the entry and its comma."""
        return len(log_entry(entry, self._record)) + 1

    def encode(self, entries: Sequence[SealedEntry]) -> LogEntries:
        """See `Destination`."""
        return self._payload([log_entry(entry, self._record) for entry in entries], dry_run=False)

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`."""
        answer = post_with_token(self._requests, self._tokens, self._url, payload.content, payload.headers)
        if isinstance(answer, Outcome):
            return answer
        count = payload.count if isinstance(payload, LogEntries) else 0
        outcome = of_answer(answer.status_code, answer.headers, answer.content, count, time.time())
        return self._redaction.cleaned(outcome)

    def probe(self) -> Outcome:
        """See `Destination`: `dryRun` checks all that writing does, and writes nothing."""
        told = orjson.dumps({"insertId": "klyra-audit-probe", "severity": "DEBUG", "textPayload": "klyra-audit probe"})
        return self.send(self._payload([told], dry_run=True))

    def close(self) -> None:
        """See `Destination`."""
        self._requests.close()
        self._fetcher.close()

    def _payload(self, entries: Sequence[bytes], *, dry_run: bool) -> LogEntries:
        content = self._log.request(b"[" + b",".join(entries) + b"]", dry_run=dry_run)
        headers = {"Content-Type": "application/json"}
        if self._log.quota_project is not None:
            headers["X-Goog-User-Project"] = self._log.quota_project
        if self._is_compressed:
            content = gzip.compress(content, GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = GZIP
        return LogEntries(content, headers, count=len(entries))


def log_entry(entry: SealedEntry, record_format: RecordFormat) -> bytes:
    """Return a `LogEntry`, JSON.

    `insertId` and `timestamp` are the same whenever the entry is sent: that is what queries remove duplicates by.
    """
    document = entry.document
    members: dict[str, Any] = {
        "insertId": entry.entry_id,
        "timestamp": timestamps.from_nanoseconds(entry.filed_ns),
        "severity": "NOTICE" if document.get("status") == "success" else "WARNING",
        "labels": {"organization_id": entry.organization_id, "event_type": str(document["event_type"])},
    }
    record = record_format.encode(entry)
    if record_format.content == "text":
        members["textPayload"] = record.decode()
    else:
        members["jsonPayload"] = _exact(orjson.loads(record))
    return orjson.dumps(members)


def _exact(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value in which whole numbers that a double does not hold are texts."""
    if isinstance(value, dict):
        return {name: _exact(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_exact(member) for member in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _WHOLE_NUMBERS:
        return str(value)
    return value
