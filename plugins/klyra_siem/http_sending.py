"""What Splunk, Datadog and Sumo Logic share: compressed bodies, answers without secrets, a URL that is a secret."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import httpx
import orjson

from klyra_siem.cloud_requests import GZIP, GZIP_LEVEL, CloudRequests, Redaction
from klyra_siem.destination import Payload
from klyra_siem.outcome import Action, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from klyra_siem.destination import DestinationOptions, SealedEntry

JSON: Final = "application/json"

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        status: of HTTP.
        headers: names in any case.
        text: its body, without any secret of ours.
        hide: takes secrets of ours out of a text: those that only decoding brings to light.
    """

    status: int
    headers: Mapping[str, str]
    text: str
    hide: Callable[[str], str] = str

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx, whatever that means to a vendor."""
        return httpx.codes.is_success(self.status)

    @property
    def members(self) -> dict[str, Any]:
        """The members of the JSON object that the body is; none if it is anything else."""
        try:
            found = orjson.loads(self.text)
        except orjson.JSONDecodeError:
            return {}
        return _without_secrets(found, self.hide) if isinstance(found, dict) else {}


class HttpSender:
    """Posts requests, one after the other; nothing it returns or has others log holds a secret."""

    def __init__(self, options: DestinationOptions, secrets: Iterable[str]) -> None:
        self._options = options
        self._redaction = Redaction(secrets)
        self._requests = CloudRequests(options, self._redaction)

    def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> Answer | Outcome:
        """Return the whole answer, or what it means that there is none."""
        answer = self._requests.post(url, content, headers)
        if isinstance(answer, Outcome):
            return answer
        return Answer(answer.status_code, answer.headers, self._redaction.hide(answer.text), self._redaction.hide)

    def begin_anew(self) -> None:
        """Forget cookies and close connections, so that a load balancer chooses again."""
        self._requests.close()
        self._requests = CloudRequests(self._options, self._redaction)

    def close(self) -> None:
        """Close all connections."""
        self._requests.close()


class EncodedOnce:
    """Keeps what was encoded to be measured until it is sent: signing and compressing are what an entry costs.

    An entry is known by its identity: one that was read from the ledger again, which may have been erased in between,
    is encoded again.

    Args:
        encode: returns the bytes of one entry.
        most_bytes: to keep; then all is forgotten.
    """

    def __init__(self, encode: Callable[[SealedEntry], bytes], most_bytes: int) -> None:
        self._encode = encode
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: dict[int, tuple[SealedEntry, bytes]] = {}

    def one(self, entry: SealedEntry) -> bytes:
        """Return an entry's bytes."""
        kept = self._kept.get(id(entry))
        if kept is not None:
            return kept[1]  # the entry is held, so that its identity is nobody else's
        encoded = self._encode(entry)
        if self._bytes + len(encoded) > self._most_bytes:
            self._forget()
        self._kept[id(entry)] = (entry, encoded)
        self._bytes += len(encoded)
        return encoded

    def batch(self, entries: Sequence[SealedEntry]) -> list[bytes]:
        """Return the bytes of a batch's entries, and forget all."""
        encoded = [self.one(entry) for entry in entries]
        self._forget()
        return encoded

    def _forget(self) -> None:
        self._kept.clear()
        self._bytes = 0


def _without_secrets(value: Any, hide: Callable[[str], str]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, dict):
        return {hide(name): _without_secrets(member, hide) for name, member in value.items()}
    if isinstance(value, list):
        return [_without_secrets(item, hide) for item in value]
    return hide(value) if isinstance(value, str) else value


def parts_of_secret_url(url: str) -> tuple[str, ...]:
    """Return what must not be seen of a URL whose path is a secret: itself, its path and the path's last part."""
    path = urlsplit(url).path
    code = path.rpartition("/")[2]
    return url, path, code, unquote(url), unquote(path), unquote(code)


def packed(content: bytes, compression: str, headers: Mapping[str, str]) -> Payload:
    """Return a request's bytes as they are sent; the same content gives the same bytes.

    Args:
        content: of the request.
        compression: `gzip` or `none`.
        headers: that belong to the content.
    """
    if compression != GZIP:
        return Payload(content, headers)
    return Payload(gzip.compress(content, GZIP_LEVEL, mtime=0), {**headers, "Content-Encoding": GZIP})


def not_from(vendor: str, status: int) -> Outcome:
    """Return what a success means that the vendor never gives, such as a proxy's page: it confirms nothing."""
    return Outcome(action=Action.PAUSE, status=str(status), reason=f"no {vendor} answers like this")


def milliseconds(nanoseconds: int) -> int:
    """Return a time in the unit of most vendors."""
    return nanoseconds // _NS_PER_MS


def collector_of(origin: str) -> str:
    """Return the collector that a log belongs to: the second part of `LEDGER/COLLECTOR/YEAR`."""
    ledger, _, rest = origin.partition("/")
    return rest.partition("/")[0] or ledger


def record_member(record_format: str) -> str:
    """Return the name under which a JSON record stands in a line or log: `audit`, or its family's, such as `ocsf`."""
    family = record_format.partition("-")[0]
    return "audit" if family == "native" else family
