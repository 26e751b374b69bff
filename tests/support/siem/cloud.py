"""Entries, formats and options for destinations in clouds."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from klyra_audit import timestamps
from klyra_audit.format import canonical, sections
from klyra_audit.format.frame import BodyFrame
from klyra_siem.destination import DestinationOptions, SealedEntry, TlsOptions
from support.records import STARTUP, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klyra_siem.destination import Destination
    from klyra_siem.outcome import Outcome

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS


@dataclass(frozen=True)
class PlainFormat:
    """A record that holds the document and where its leaf stands: what these tests need of a format."""

    name: str = "native"
    content: Literal["json", "text"] = "json"

    def encode(self, entry: SealedEntry) -> bytes:
        """Return the same bytes for the same entry."""
        if self.content == "text":
            return f"CEF:0|Klyra|AuditLogs|1|{entry.document['event_type']}|id={entry.entry_id}".encode()
        told = {"log": entry.origin, "index": entry.index, "leaf": base64.b64encode(entry.leaf).decode()}
        return json.dumps(dict(entry.document) | {"klyra": told}, ensure_ascii=False).encode()


def entry(number: int = 0, *, ago_ns: int = 0, redacted: tuple[str, ...] = (), **members: object) -> SealedEntry:
    """Return a sealed entry that is filed under a time before now; `members` replace its document's."""
    filed_ns = time.time_ns() - ago_ns
    item = record(STARTUP, **({"timestamp": timestamps.from_nanoseconds(filed_ns)} | members))
    parts = item.sections
    if "actor" in redacted:
        parts = sections.Sections(parts.core, None, parts.target)
    document = sections.join(parts)
    return SealedEntry(
        origin="klyra-audit.test/c1/2026",
        index=number,
        leaf=number.to_bytes(112, "big"),
        ingest_us=filed_ns // 1000,
        filed_ns=filed_ns,
        document=document,
        encoded=canonical.encode(document),
        body=BodyFrame(number, parts, item.salts, item.commitments),
        redacted=redacted,
    )


def options(endpoint: str, settings: dict[str, str | int | bool], **members: object) -> DestinationOptions:
    """Return what a destination is made of; `members` are those of `DestinationOptions`."""
    defaults = {
        "name": "back",
        "endpoint": endpoint,
        "headers": {},
        "compression": "gzip",
        "timeout_seconds": 2.0,
        "tls": TlsOptions(),
        "key": None,
        "software": "klyra-audit/test",
        "record": PlainFormat(),
        "settings": settings,
    }
    return DestinationOptions(**(defaults | members))


def send(destination: Destination, entries: Sequence[SealedEntry]) -> Outcome:
    """Send some entries in one request."""
    return destination.send(destination.encode(entries))
