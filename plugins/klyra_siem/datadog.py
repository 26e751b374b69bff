"""The destination `datadog`: Datadog's logs intake, version 2.

Options: `api_key`, `service`, `tags` (docs/destinations/datadog.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from klyra_siem.cloud_settings import CloudSettings
from klyra_siem.destination import Limits, Payload
from klyra_siem.errors import BadDestination
from klyra_siem.http_sending import (
    JSON,
    Answer,
    EncodedOnce,
    HttpSender,
    collector_of,
    milliseconds,
    not_from,
    packed,
    record_member,
)
from klyra_siem.outcome import Action, Outcome, of_http, retry_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import Destination, DestinationOptions, SealedEntry

VENDOR: Final = "Datadog intake"
PATH: Final = "/api/v2/logs"
SITES: Final = (
    *("datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "ap1.datadoghq.com", "ap2.datadoghq.com"),
    *("uk1.datadoghq.com", "datadoghq.eu", "ddog-gov.com", "us2.ddog-gov.com"),
)
LIMITS: Final = Limits(
    entries=1_000,
    encoded_bytes=4_000_000,  # 5 MB are allowed
    entry_bytes=1_000_000,  # more is cut off, and answered with 202 all the same
    span_seconds=None,
    oldest_seconds=18 * 3600,  # what is older is answered with 202 and never found
    newest_seconds=2 * 3600,
)

_ACCEPTED = 202
_BAD_REQUEST = 400
_INTAKE = "http-intake.logs."
_DOMAINS = (".datadoghq.com", ".datadoghq.eu", ".ddog-gov.com")
_TAG = r"[A-Za-z][\w:./-]{0,199}"
_TAGS = rf"({_TAG}(,{_TAG}){{0,89}})?"


def create(options: DestinationOptions) -> Destination:
    """Return the destination of a site; `BadDestination` if the options cannot be used."""
    return Datadog(options, IntakeSettings.read(options))


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeSettings:
    """How logs are filed.

    Attributes:
        url: of the intake.
        api_key: of the Datadog organization.
        service: of every log.
        tags: of every log, `key:value` with commas between them.
    """

    url: str
    api_key: str = field(repr=False)
    service: str
    tags: str

    @classmethod
    def read(cls, options: DestinationOptions) -> IntakeSettings:
        """Return what the configuration says; `BadDestination` if it says something else."""
        settings = CloudSettings(options)
        made = cls(
            url=intake(settings.endpoint(f"https://{_INTAKE}datadoghq.eu"), options.name) + PATH,
            api_key=settings.text("api_key", "env:DATADOG_API_KEY", r"[!-~]{1,200}"),
            service=settings.text("service", "klyra-audit", r"[a-z0-9][\w.-]{0,99}", "klyra-audit"),
            tags=settings.text("tags", "env:production,team:security", _TAGS, ""),
        )
        settings.finish()
        return made


def intake(endpoint: str, name: str) -> str:
    """Return an endpoint; `BadDestination` if it is an address of Datadog's that takes no logs.

    Args:
        endpoint: an intake, or a proxy before one.
        name: of the destination.
    """
    host = urlsplit(endpoint).hostname or ""
    if not f".{host}".endswith(_DOMAINS) or host.startswith(_INTAKE):
        return endpoint
    raise BadDestination(
        f"The endpoint of destination {name} is an address of Datadog that takes no logs.",
        remedy=f"Write https://{_INTAKE}SITE with one of {', '.join(SITES)}.",
    )


class Datadog:
    """The logs of a Datadog organization (Datadog API Reference, "Send logs")."""

    def __init__(self, options: DestinationOptions, settings: IntakeSettings) -> None:
        self._record = options.record
        self._compression = options.compression
        self._settings = settings
        self._member = record_member(options.record.name)
        self._encoded = EncodedOnce(self._log, 2 * LIMITS.encoded_bytes)
        self._sender = HttpSender(options, (settings.api_key,))

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`: exactly the log and its comma."""
        return len(self._encoded.one(entry)) + 1

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`."""
        logs = b"[" + b",".join(self._encoded.batch(entries)) + b"]"
        return packed(logs, self._compression, {"Content-Type": JSON, "Accept": JSON})

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`: 202 is all the confirmation there is; there is none of what is indexed."""
        headers = {**payload.headers, "DD-API-KEY": self._settings.api_key}
        answer = self._sender.post(self._settings.url, payload.content, headers)
        return of_answer(answer, time.time()) if isinstance(answer, Answer) else answer

    def probe(self) -> Outcome:
        """See `Destination`: an array without logs; a 400 about its emptiness has passed the check of the key."""
        outcome = self.send(self.encode(()))
        return replace(outcome, action=Action.DELIVERED) if outcome.status == str(_BAD_REQUEST) else outcome

    def close(self) -> None:
        """See `Destination`."""
        self._sender.close()

    def _log(self, entry: SealedEntry) -> bytes:
        """Return a log.

        Its attributes are those that Datadog reserves, `evt`, and the record in a member of its own: beside them its
        `status` and `timestamp` would be taken for Datadog's.
        """
        record, document = self._record.encode(entry), entry.document
        event_type, status = document["event_type"], document.get("status")
        is_text = self._record.content == "text"
        log: dict[str, Any] = {
            "message": record.decode() if is_text else f"{event_type} {status}",
            "ddsource": "klyra",
            "ddtags": self._tags(entry),
            "hostname": collector_of(entry.origin),
            "service": self._settings.service,
            "status": "warn" if status == "failure" else "info",
            "timestamp": milliseconds(entry.filed_ns),
            "evt": {"id": entry.entry_id, "name": event_type, "outcome": status},
            "klyra_log": entry.origin,
            "seq": str(entry.index),
        }
        if not is_text:
            log[self._member] = orjson.Fragment(record)
        return orjson.dumps(log)

    def _tags(self, entry: SealedEntry) -> str:
        """Return tags with few values each: more would make Datadog's bill, and its facets, useless."""
        own = f"event_type:{entry.document['event_type']},organization:{entry.organization_id}"
        return f"{self._settings.tags},{own}" if self._settings.tags else own


def of_answer(answer: Answer, now: float) -> Outcome:
    """Return what an answer means; only 202 is a confirmation, with nothing in it or an object (`{}`).

    Args:
        answer: to a request for `/api/v2/logs`.
        now: seconds since 1970, for a `Retry-After` date.
    """
    if answer.status == _ACCEPTED and (answer.text.strip() in {"", "{}"} or answer.members):
        return Outcome(action=Action.DELIVERED, status=str(_ACCEPTED))
    if answer.is_success:
        return not_from(VENDOR, answer.status)
    outcome = of_http(answer.status, answer.headers, _reason(answer), now)
    if outcome.action is Action.RETRY and outcome.retry_after is None:
        return replace(outcome, retry_after=retry_after(answer.headers.get("x-ratelimit-reset"), now))
    return outcome


def _reason(answer: Answer) -> str:
    """Return what a refusal says: `{"errors": [{"title": …, "detail": …}]}`, or strings in their place."""
    errors = answer.members.get("errors")
    if not isinstance(errors, list):
        return answer.text
    return "; ".join(_sentence(error) for error in errors)


def _sentence(error: object) -> str:
    if not isinstance(error, dict):
        return str(error)
    return str(error.get("detail") or error.get("title") or "")
