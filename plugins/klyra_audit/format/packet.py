"""The export packet: names of its members, and the manifest (DESIGN section 9).

A packet is a zip archive whose members are stored, not compressed, in a fixed order with fixed attributes, so that
the same content is always the same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from klyra_audit.format import canonical
from klyra_audit.format.errors import PacketError, ProfileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from klyra_audit.format.canonical import JsonObject

FORMAT: Final = "klyra.packet/1"
POLICY: Final = "policy"
ORG_SALT: Final = "org-salt"
ENTRIES: Final = "entries.ndjson"
CSV: Final = "audit-logs.csv"
JSON: Final = "audit-logs.json"
RENDERINGS: Final = {"csv": CSV, "json": JSON}
LINEAGE: Final = "control/lineage.ndjson"
MANIFEST: Final = "manifest.json"
EXPORT_LEAF: Final = "export.leaf"
EXPORT_PROOF: Final = "export.tlog-proof"
OUTSIDE_MANIFEST: Final = frozenset({MANIFEST, EXPORT_LEAF, EXPORT_PROOF})

MAX_RUNS: Final = 60  # what a manifest of 32 KiB has room for beside its filters
SMALL_MEMBER_BYTES: Final = 1024 * 1024
LINE_BYTES: Final = 1024 * 1024

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_TEXT = 256


def leaves_member(number: int) -> str:
    """Return the name of a run's leaves: the organization's 112-byte records, ascending, without gaps."""
    return f"logs/{number}/leaves.bin"


def proof_member(number: int) -> str:
    """Return the name of the tlog-proof of a run's last leaf."""
    return f"logs/{number}/leaf.tlog-proof"


def heads_member(number: int) -> str:
    """Return the name of the proof that a run's last leaf was the newest, or that there is none."""
    return f"logs/{number}/heads.json"


def control_member(number: int) -> str:
    """Return the name of a run's control documents: those in it, and those outside that matter to it."""
    return f"control/{number}.ndjson"


@dataclass(frozen=True, slots=True)
class Window:
    """An interval of ingest time, microseconds since 1970: `start_us` included, `end_us` excluded."""

    start_us: int
    end_us: int

    def __contains__(self, ingest_us: object) -> bool:
        return isinstance(ingest_us, int) and self.start_us <= ingest_us < self.end_us


@dataclass(frozen=True, slots=True)
class Run:
    """One shard's part of a packet.

    Attributes:
        origin: the shard.
        first_seq: org_seq of the first leaf; 0 for an empty run.
        count: how many leaves.
    """

    origin: str
    first_seq: int
    count: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many lines of `entries.ndjson`, leaves of all runs, and lines of `control/`."""

    entries: int
    records: int
    control: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a packet holds.

    Attributes:
        organization_id: whose.
        rendering: name of the member for people.
        window: which ingest times.
        filters: canonical filters besides the window; empty for none.
        complete: every unexpired event of the window is in `entries.ndjson`.
        counts: how much.
        runs: by the number in the members' names.
        software: name and version of what wrote it.
        members: SHA-256 hex of every member that is not in `OUTSIDE_MANIFEST`, by name.
    """

    organization_id: str
    rendering: str
    window: Window
    filters: Mapping[str, Any]
    complete: bool
    counts: Counts
    runs: tuple[Run, ...]
    software: str
    members: Mapping[str, str]

    def encode(self) -> bytes:
        """Return canonical JSON; `ProfileError` if it is longer than 32 KiB."""
        return canonical.encode(
            {
                "format": FORMAT,
                "organization_id": self.organization_id,
                "rendering": self.rendering,
                "window": {"start_us": self.window.start_us, "end_us": self.window.end_us},
                "filters": dict(self.filters),
                "complete": self.complete,
                "counts": {
                    "entries": self.counts.entries,
                    "records": self.counts.records,
                    "control": self.counts.control,
                },
                "logs": [{"origin": run.origin, "first_seq": run.first_seq, "count": run.count} for run in self.runs],
                "software": self.software,
                "members": dict(self.members),
            }
        )

    @classmethod
    def parse(cls, encoded: bytes) -> Manifest:
        """Read a manifest; `PacketError` if it is none, or not in canonical form."""
        try:
            document = canonical.parse_canonical(encoded)
        except ProfileError as error:
            raise PacketError(f"the manifest cannot be read: {error}") from error
        reader = _Reader(document, _MEMBERS)
        if document["format"] != FORMAT:
            raise PacketError("the manifest is of another format; a newer verifier may know it")
        window = _Reader(document["window"], {"start_us", "end_us"})
        counts = _Reader(document["counts"], {"entries", "records", "control"})
        if document["rendering"] not in RENDERINGS.values():
            _refuse("rendering")
        return cls(
            organization_id=reader.text("organization_id"),
            rendering=document["rendering"],
            window=Window(window.number("start_us"), window.number("end_us")),
            filters=reader.mapping("filters"),
            complete=reader.flag("complete"),
            counts=Counts(counts.number("entries"), counts.number("records"), counts.number("control")),
            runs=_runs(document["logs"]),
            software=reader.text("software"),
            members=_digests(reader.mapping("members")),
        )


_MEMBERS: Final = frozenset(
    {
        *("format", "organization_id", "rendering", "window", "filters"),
        *("complete", "counts", "logs", "software", "members"),
    }
)


class _Reader:
    """Reads an object that has exactly some members."""

    def __init__(self, document: object, members: frozenset[str] | set[str]) -> None:
        if type(document) is not dict or document.keys() != members:
            _refuse(", ".join(sorted(members)))
        self._document: JsonObject = document

    def number(self, name: str) -> int:
        value = self._document[name]
        if type(value) is not int or value < 0:
            _refuse(name)
        return value

    def text(self, name: str) -> str:
        value = self._document[name]
        if type(value) is not str or not 0 < len(value) <= _MAX_TEXT:
            _refuse(name)
        return value

    def flag(self, name: str) -> bool:
        value = self._document[name]
        if type(value) is not bool:
            _refuse(name)
        return value

    def mapping(self, name: str) -> JsonObject:
        value = self._document[name]
        if type(value) is not dict:
            _refuse(name)
        return value


def _runs(value: object) -> tuple[Run, ...]:
    if type(value) is not list or len(value) > MAX_RUNS:
        _refuse("logs")
    readers = [_Reader(item, {"origin", "first_seq", "count"}) for item in value]
    return tuple(Run(item.text("origin"), item.number("first_seq"), item.number("count")) for item in readers)


def _digests(members: JsonObject) -> dict[str, str]:
    for digest in members.values():
        if type(digest) is not str or _SHA256.fullmatch(digest) is None:
            _refuse("members")
    return members


def _refuse(name: str) -> NoReturn:
    raise PacketError(f"the manifest's {name} are not what they should be")
