"""The destination `azure-monitor`: Azure Monitor's Logs Ingestion API.

Options: `data_collection_rule`, `stream`, `tenant_id`, `client_id`, `client_secret`, `audience`, `authority`
(docs/destinations/azure-monitor.md).
"""

from __future__ import annotations

import gzip
import re
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx
import orjson

from klyra_siem import azure_monitor_rows as rows
from klyra_siem.azure_monitor_credentials import CLOUDS, PUBLIC, AzureIdentity, AzureTokens
from klyra_siem.cloud_requests import GZIP, GZIP_LEVEL, CloudRequests, Redaction
from klyra_siem.cloud_settings import CloudSettings
from klyra_siem.cloud_tokens import BearerTokens, post_with_token
from klyra_siem.destination import Limits, Payload
from klyra_siem.outcome import Action, Outcome, of_http

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_siem.cloud_tokens import TokenFetcher
    from klyra_siem.destination import Destination, DestinationOptions, SealedEntry

EXAMPLE: Final = "https://NAME-abcd.westeurope-1.ingest.monitor.azure.com"
API_VERSION: Final = "2023-01-01"
LIMITS: Final = Limits(
    entries=10_000,
    encoded_bytes=950_000,  # of the whole array; 1 MB is allowed, compressed and not
    entry_bytes=900_000,
    span_seconds=None,
    oldest_seconds=2 * 24 * 3600,
    newest_seconds=24 * 3600,
)

_TAKEN = 204
# A 400 that is about where a request goes: cutting it into halves would make dead letters of every entry.
_ADDRESSING = re.compile(r"Stream|Rule|Endpoint|ApiVersion|Immutable")
_RULE = r"[A-Za-z0-9-]{1,64}"
_STREAM = r"Custom-[A-Za-z0-9_]{1,100}"
_HOST_NAME = r"[A-Za-z0-9.:-]{1,255}"


def create(options: DestinationOptions) -> Destination:
    """Return the destination of a data collection rule; `BadDestination` or `MissingExtra` if it cannot be."""
    settings = CloudSettings(options)
    endpoint = settings.endpoint(EXAMPLE)
    url = stream_url(
        endpoint,
        settings.text("data_collection_rule", "dcr-0123456789abcdef0123456789abcdef", _RULE),
        settings.text("stream", "Custom-KlyraAudit", _STREAM, "Custom-KlyraAudit"),
    )
    identity = _identity(settings, endpoint, options)
    settings.finish()
    redaction = Redaction((identity.client_secret,))
    return AzureMonitor(options, url, AzureTokens(identity, redaction), redaction)


def stream_url(endpoint: str, rule: str, stream: str) -> str:
    """Return where rows are sent (Logs Ingestion API, "Endpoint URI")."""
    return f"{endpoint}/dataCollectionRules/{rule}/streams/{stream}?api-version={API_VERSION}"


class AzureMonitor:
    """A stream of a data collection rule (Azure Monitor, "Logs Ingestion API")."""

    def __init__(self, options: DestinationOptions, url: str, fetcher: TokenFetcher, redaction: Redaction) -> None:
        self._record = options.record
        self._is_compressed = options.compression == GZIP
        self._url = url
        self._redaction = redaction
        self._tokens = BearerTokens(fetcher, redaction, time.time)
        self._requests = CloudRequests(options, redaction)

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return LIMITS

    def measure(self, entry: SealedEntry) -> int:
        """See `Destination`: exactly the row and its comma; more than is allowed if the columns do not hold it."""
        if not rows.fits(self._record.encode(entry)):
            return LIMITS.encoded_bytes + 1
        return len(rows.row(entry, self._record)) + 1

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """See `Destination`."""
        content = b"[" + b",".join(rows.row(entry, self._record) for entry in entries) + b"]"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._is_compressed:
            content = gzip.compress(content, GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = GZIP
        return Payload(content, headers)

    def send(self, payload: Payload) -> Outcome:
        """See `Destination`: 204 is all the confirmation there is, what a transformation drops is in `DCRLogErrors`."""
        answer = post_with_token(self._requests, self._tokens, self._url, payload.content, payload.headers)
        if isinstance(answer, Outcome):
            return answer
        return of_answer(answer.status_code, answer.headers, answer.content, time.time(), self._redaction)

    def probe(self) -> Outcome:
        """See `Destination`: an array without rows; a 400 about its emptiness has passed every other check."""
        outcome = self.send(self.encode(()))
        if outcome.action is not Action.BISECT:
            return outcome
        return Outcome(action=Action.DELIVERED, status=outcome.status, reason=outcome.reason)

    def close(self) -> None:
        """See `Destination`."""
        self._requests.close()


def of_answer(status: int, headers: Mapping[str, str], content: bytes, now: float, redaction: Redaction) -> Outcome:
    """Return what an answer means.

    Only a 204 without a body confirms. A refusal is `{"error": {"code": …, "message": …}}`, its code also in
    `x-ms-error-code`.
    """
    if status == _TAKEN:
        return Outcome(action=Action.DELIVERED, status=str(status))
    code, message = _error(headers, content)
    reason = redaction.clean(f"{code}: {message}" if code else message)
    outcome = of_http(status, headers, reason, now)
    if outcome.action is Action.DELIVERED:
        return Outcome(action=Action.PAUSE, status=str(status), reason="Azure Monitor does not answer like this")
    if status == httpx.codes.BAD_REQUEST and _ADDRESSING.search(code):
        return Outcome(action=Action.PAUSE, status=str(status), reason=reason)
    return outcome


def _error(headers: Mapping[str, str], content: bytes) -> tuple[str, str]:
    try:
        error = orjson.loads(content)["error"]
        return str(error.get("code") or ""), str(error.get("message") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return headers.get("x-ms-error-code", ""), content[:1000].decode(errors="replace")


def _identity(settings: CloudSettings, endpoint: str, options: DestinationOptions) -> AzureIdentity:
    tenant_id, client_id = settings.optional("tenant_id"), settings.optional("client_id")
    client_secret = settings.optional("client_secret")
    if tenant_id or client_secret:
        settings.together(tenant_id, client_id, client_secret, names="tenant_id, client_id and client_secret")
    host = urlsplit(endpoint).hostname or ""
    audience, authority = next((both for suffix, both in CLOUDS.items() if host.endswith(suffix)), PUBLIC)
    return AzureIdentity(
        tenant_id=tenant_id,
        client_id=client_id,
        client_secret=client_secret,
        audience=settings.text("audience", audience, r"https://\S{1,200}", audience).rstrip("/"),
        authority=settings.text("authority", authority, _HOST_NAME, authority),
        ca_file=options.tls.ca_file,
        timeout_seconds=options.timeout_seconds,
    )
