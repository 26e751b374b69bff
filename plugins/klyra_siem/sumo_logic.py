"""The destination `sumo-logic`: an HTTP Logs and Metrics Source of Sumo Logic, whose URL is the secret.

Options: `category`, `name`, `host`, `fields` (docs/destinations/sumo-logic.md).
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import orjson

from klyra_audit import timestamps
from klyra_siem.cloud_settings import LOOPBACK, CloudSettings
from klyra_siem.destination import Limits
from klyra_siem.errors import BadDestination
from klyra_siem.http_sending import (
    Answer,
    EncodedOnce,
    HttpSender,
    collector_of,
    not_from,
    packed,
    parts_of_secret_url,
    record_member,
)
from klyra_siem.outcome import Action, Outcome, of_http, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import Destination, DestinationOptions, Payload, SealedEntry

VENDOR: Final = "Sumo Logic HTTP source"
LIMITS: Final = Limits(
    entries=1_000,
    encoded_bytes=900_000,  # 1 MB is allowed
    entry_bytes=64_000,  # what is longer is sliced at 64 KB, and no slice can be verified
    span_seconds=None,
    oldest_seconds=30 * 24 * 3600,
    newest_seconds=2 * 24 * 3600,
)
MOST_FIELDS: Final = 30
LONGEST_FIELD: Final = 200

_OK = 200
_TEXT = "text/plain; charset=utf-8"
_NS_PER_US = 1000
_PATH = re.compile(r"/receiver/v1/http/[\w.~%+=-]{6,}/?", re.ASCII)
_HEADER = r"[ -~]{1,1000}"
_FIELD = re.compile(r"\s*[A-Za-z][\w.-]*=[^,=]+", re.ASCII)


def create(options: DestinationOptions) -> Destination:
    """Return the destination of a source; `BadDestination` if the options cannot be used."""
    settings = CloudSettings(options)
    _check_url(options)
    headers = {
        "X-Sumo-Category": settings.text("category", "klyra/audit/production", _HEADER, "klyra/audit"),
        "X-Sumo-Name": settings.text("name", "klyra-audit", _HEADER, "klyra-audit"),
    }
    host = settings.text("host", "audit-1", f"({_HEADER})?", "")
    fields = settings.text("fields", "environment=production,team=security", f"({_HEADER})?", "")
    settings.finish()
    if fields:
        headers["X-Sumo-Fields"] = checked_fields(fields, options.name)
    return SumoLogic(options, headers, host)


class SumoLogic:
    """An HTTP source of a hosted collector (Sumo Logic, "Upload Logs to an HTTP Source")."""

    def __init__(self, options: DestinationOptions, headers: dict[str, str], host: str) -> None:
        self._record = options.record
        self._compression = options.compression
        self._member = record_member(options.record.name)
        self._url = options.endpoint
        self._headers = headers
        self._host = host
        self._encoded = EncodedOnce(self._line, 2 * LIMITS.encoded_bytes)
        self._sender = HttpSender(options, parts_of_secret_url(options.endpoint))

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`: exactly the line and its end."""
        return len(self._encoded.one(entry)) + 1

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`: a line for each entry."""
        content = b"".join(line + b"\n" for line in self._encoded.batch(entries))
        headers = {"Content-Type": _TEXT, **self._headers}
        host = self._host or (collector_of(entries[0].origin) if entries else "")
        if host:
            headers["X-Sumo-Host"] = host
        return packed(content, self._compression, headers)

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`: a 200 whose body has been read. A source that an ingest budget has stopped gives one too.

        That loss cannot be seen from here: only comparing what is found with the ledger shows it.
        """
        answer = self._sender.post(self._url, payload.content, payload.headers)
        return of_answer(answer, time.time()) if isinstance(answer, Answer) else answer

    def probe(self) -> Outcome:
        """See `Destination`: a request without lines."""
        return self.send(self.encode(()))

    def close(self) -> None:
        """See `Destination`."""
        self._sender.close()

    def _line(self, entry: SealedEntry) -> bytes:
        """Return a line; it begins with the time, for Sumo Logic takes the left-most one that it finds."""
        moment = timestamps.from_microseconds(entry.filed_ns // _NS_PER_US)
        record = self._record.encode(entry)
        if self._record.content == "text":
            return f"{moment} ".encode() + record
        line = {
            "timestamp": moment,
            "id": entry.entry_id,
            "event_type": entry.document["event_type"],
            "organization_id": entry.organization_id,
            "klyra_log": entry.origin,
            "seq": str(entry.index),
            self._member: orjson.Fragment(record),
        }
        return orjson.dumps(line)


def of_answer(answer: Answer, now: float) -> Outcome:
    """Return what an answer means; a 200 may say that it did not like the headers (`bad.http.header.fields`).

    The lines are taken even then, without the fields: the reason says so.

    Args:
        answer: to a request for the source.
        now: seconds since 1970, for a `Retry-After` date.
    """
    if answer.status == _OK and (not answer.text.strip() or answer.members):
        return Outcome(action=Action.DELIVERED, status=_status(answer), reason=shortened(_reason(answer)))
    if answer.is_success:
        return not_from(VENDOR, answer.status)
    return of_http(answer.status, answer.headers, _reason(answer), now)


def checked_fields(fields: str, name: str) -> str:
    """Return the value of `X-Sumo-Fields`; `BadDestination` if Sumo Logic would take no notice of it."""
    pairs = fields.split(",")
    are_pairs = all(_FIELD.fullmatch(pair) for pair in pairs)
    if are_pairs and len(pairs) <= MOST_FIELDS and all(len(pair.partition("=")[2]) <= LONGEST_FIELD for pair in pairs):
        return fields
    raise BadDestination(
        f"Destination {name} has fields that Sumo Logic does not take.",
        remedy=f'Write fields = "key=value,key=value", {MOST_FIELDS} at most, {LONGEST_FIELD} characters each.',
    )


def _check_url(options: DestinationOptions) -> None:
    """Raise `BadDestination`, which does not repeat it, if the URL is none of an HTTP source."""
    address = urlsplit(options.endpoint)
    is_safe = address.scheme == "https" or (address.scheme == "http" and address.hostname in LOOPBACK)
    if is_safe and address.hostname and _PATH.fullmatch(address.path) and not address.query and not address.fragment:
        return
    raise BadDestination(
        f"The endpoint of destination {options.name} is no URL of an HTTP source.",
        remedy='Write endpoint = "env:SUMO_URL" or "file:PATH", and put the whole URL there that Sumo Logic shows.',
    )


def _status(answer: Answer) -> str:
    code = answer.members.get("code")
    return f"{answer.status} {code}" if isinstance(code, str) else str(answer.status)


def _reason(answer: Answer) -> str:
    """Return what an answer says: `{"code": …, "message": …}`, `{"errors": [{"code": …, "message": …}]}`, or text."""
    members = answer.members
    errors = members.get("errors")
    found = [members, *(errors if isinstance(errors, list) else [])]
    sentences = [_sentence(item) for item in found if isinstance(item, dict) and ("code" in item or "message" in item)]
    return "; ".join(sentences) or answer.text


def _sentence(error: dict[str, object]) -> str:
    return f"{error.get('code', '')}: {error.get('message', '')}"
