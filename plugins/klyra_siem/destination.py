"""The contract between the delivery engine and one destination's module.

The engine owns cursors, order, retries and dead letters. A module knows its interface's limits, bytes and answers, and
nothing of ledgers. It is found through the entry point group `klyra_audit.destinations`: a name, which is the `kind`
of the configuration, and a factory `create(options: DestinationOptions) -> Destination`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.frame import BodyFrame
    from klyra_audit.format.sections import SectionName
    from klyra_siem.outcome import Outcome

ENTRY_POINTS: Final = "klyra_audit.destinations"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedEntry:
    """An entry with everything that its copy is verified by.

    Attributes:
        origin, index: where its leaf stands.
        leaf: its 112 bytes.
        ingest_us: when it was sealed, microseconds since 1970.
        filed_ns: what a vendor's own time field is to say, nanoseconds since 1970: the event's time, or that of the
            first attempt where the vendor would not take the event's. The document always says the event's own.
        document: the event document, without what was erased.
        encoded: its canonical bytes.
        body: sections, salts and commitments; erased sections are absent, their salts zeros.
        redacted: the sections that were erased.
    """

    origin: str
    index: int
    leaf: bytes
    ingest_us: int
    filed_ns: int
    document: JsonObject
    encoded: bytes
    body: BodyFrame
    redacted: tuple[SectionName, ...] = ()

    @property
    def organization_id(self) -> str:
        """Whose it is."""
        return str(self.document["organization_id"])

    @property
    def entry_id(self) -> str:
        """Its id, which stays the same however often it is sent."""
        return str(self.document["id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one request may hold.

    Attributes:
        entries: at most.
        encoded_bytes: at most, before compression; an entry that is longer by itself goes alone.
        entry_bytes: of one entry, by `measure`; a longer one is never taken, or would be cut.
        span_seconds: between the first and the last `filed_ns` of a request.
        oldest_seconds: how long before now an entry's `filed_ns` may be; an older one is refused, lost or restamped.
        newest_seconds: how long after now.

    None is no such limit.
    """

    entries: int
    encoded_bytes: int
    entry_bytes: int | None = None
    span_seconds: int | None = None
    oldest_seconds: int | None = None
    newest_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """A request, ready to be sent any number of times.

    Attributes:
        content: its bytes.
        headers: that belong to these bytes, such as their encoding.
    """

    content: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class RecordFormat(Protocol):
    """How an entry is written for a destination. The same entry gives the same bytes; any thread may use it."""

    @property
    def name(self) -> str:
        """As configured, such as `native` or `ocsf-1.1.0`."""
        ...

    @property
    def content(self) -> Literal["json", "text"]:
        """Whether a record is one JSON object, or one line of text."""
        ...

    def encode(self, entry: SealedEntry) -> bytes:
        """Return the record, UTF-8 without a line end."""
        ...


class Destination(Protocol):
    """One destination. One thread uses it."""

    @property
    def limits(self) -> Limits:
        """How much a request may hold unless the configuration says less."""
        ...

    def measure(self, entry: SealedEntry) -> int:
        """Return how many bytes an entry adds to a request at most, before compression; cheap."""
        ...

    def encode(self, entries: Sequence[SealedEntry]) -> Payload:
        """Return the request for some entries, the same bytes whenever it is called with the same entries."""
        ...

    def send(self, payload: Payload) -> Outcome:
        """Send a request, wait for the answer, and say what it means. Raises nothing that the network can cause."""
        ...

    def probe(self) -> Outcome:
        """Ask for an answer without delivering any entry: whether address, certificates and credentials are right."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """Whom to trust and who we are.

    Attributes:
        ca_file: PEM file of the authorities to trust; None for the system's.
        certificate_file, key_file: our certificate and its key, both or neither.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationOptions:
    """What a factory makes a destination of.

    Attributes:
        name: as configured.
        endpoint: URL.
        headers: sent with each request; values are secrets and must not be shown.
        compression: `gzip` or `none`.
        timeout_seconds: for one request.
        tls: for endpoints that use it.
        key: signs each record; None signs none.
        software: name and version, for `User-Agent`.
        record: how entries are written.
        settings: of this kind alone, `[destination.options]`; what was given by reference is a secret.
    """

    name: str
    endpoint: str = field(repr=False)  # this one, headers and settings may be secrets
    headers: Mapping[str, str] = field(repr=False)
    compression: str
    timeout_seconds: float
    tls: TlsOptions
    key: RecordKey | None
    software: str
    record: RecordFormat
    settings: Mapping[str, str | int | bool] = field(default_factory=lambda: MappingProxyType({}), repr=False)
