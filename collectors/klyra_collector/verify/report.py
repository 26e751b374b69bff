"""What a verification says, and its form for machines."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from klyra_collector.verify.verdicts import GRAVITY, Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

INTACT: Final = 0
BROKEN: Final = 1
COULD_NOT: Final = 2

UNWITNESSED: Final = (
    "UNWITNESSED: no independent witness has seen this ledger; without one, or a checkpoint that you archived "
    "yourself, whoever holds its signing key can rewrite it unnoticed"
)


@dataclass(frozen=True, slots=True)
class UnsignedTail:
    """What stands behind the newest signed head.

    Attributes:
        records: whole leaves.
        checked: how many of them were checked, like signed ones, but for the signature.
        unfinished: traces of a commit that was on its way, or that a crash left.
    """

    records: int = 0
    checked: int = 0
    unfinished: int = 0


@dataclass(frozen=True, slots=True)
class Witnessed:
    """The largest head that the policy's quorum of witnesses has cosigned: its size, and by when, in seconds."""

    size: int
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """What was found in one shard.

    Attributes:
        directory: below the target.
        origin, size, root: of the head that was verified; None without one.
        checkpoint: that head as it is signed, text.
        key: the verifier key line that it is signed with.
        witnessed: what independent witnesses have seen; None for nothing.
        first_us, last_us: ingest times of the first and the last record, microseconds since 1970.
        counts: records by verdict; what is about no record counts as one.
        findings: the first ones; `findings_total` says how many there were.
        unsigned_tail: what stands behind the head.
        notes: what a reader should know.
    """

    directory: str
    origin: str | None = None
    size: int | None = None
    root: bytes | None = None
    checkpoint: str | None = None
    key: str | None = None
    witnessed: Witnessed | None = None
    first_us: int | None = None
    last_us: int | None = None
    counts: Mapping[Verdict, int] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    findings_total: int = 0
    unsigned_tail: UnsignedTail = UnsignedTail()
    notes: Sequence[str] = ()

    @property
    def is_copy(self) -> bool:
        """Whether it is about a copy of a shard's entries, which has a size and no head of its own."""
        return self.size is not None and self.root is None

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict; OK only when at least one record is."""
        return next((verdict for verdict in GRAVITY if self.counts.get(verdict)), Verdict.UNVERIFIABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found in a target.

    Attributes:
        target: as it was named.
        pinned: signatures were checked with keys that the reader brought along.
        require_pinned: without that, nothing counts as checked.
        shards: oldest first.
    """

    target: str
    pinned: bool
    require_pinned: bool = False
    shards: Sequence[ShardReport]

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all shards."""
        found = {shard.verdict for shard in self.shards}
        return next((verdict for verdict in GRAVITY if verdict in found), Verdict.UNVERIFIABLE)

    @property
    def is_witnessed(self) -> bool:
        """Whether the policy's quorum of witnesses has cosigned a head of the newest shard."""
        return bool(self.shards) and self.shards[-1].witnessed is not None

    @property
    def exit_status(self) -> int:
        """0 intact, 1 broken, 2 could not check."""
        verdicts = {verdict for shard in self.shards for verdict, count in shard.counts.items() if count}
        if any(verdict.is_broken for verdict in verdicts):
            return BROKEN
        pinned_as_required = self.pinned or not self.require_pinned
        return INTACT if self.verdict.is_good and pinned_as_required else COULD_NOT

    def as_json(self) -> dict[str, Any]:
        """Return the report for machines. Members are only ever added."""
        return {
            "target": self.target,
            "verdict": self.verdict.value,
            "exit": self.exit_status,
            "pinned": self.pinned,
            "witnessed": self.is_witnessed,
            "shards": [_shard_as_json(shard) for shard in self.shards],
        }


def failure_as_json(target: str, *, code: str, message: str, remedy: str) -> dict[str, Any]:
    """Return the form for machines of a verification that could not be made."""
    return {
        "target": target,
        "verdict": Verdict.UNVERIFIABLE.value,
        "exit": COULD_NOT,
        "pinned": False,
        "witnessed": False,
        "shards": [],
        "error": {"code": code, "message": message, "remedy": remedy},
    }


def _shard_as_json(shard: ShardReport) -> dict[str, Any]:
    return {
        "directory": shard.directory,
        "origin": shard.origin,
        "size": shard.size,
        "root": None if shard.root is None else base64.b64encode(shard.root).decode(),
        "checkpoint": shard.checkpoint,
        "key": shard.key,
        "witnessed": None if shard.witnessed is None else {"size": shard.witnessed.size, "time": shard.witnessed.time},
        "first_ingest_us": shard.first_us,
        "last_ingest_us": shard.last_us,
        "verdict": shard.verdict.value,
        "counts": {verdict.value: shard.counts[verdict] for verdict in Verdict if shard.counts.get(verdict)},
        "findings": [_finding_as_json(finding) for finding in shard.findings],
        "findings_total": shard.findings_total,
        "unsigned_tail": {
            "records": shard.unsigned_tail.records,
            "checked": shard.unsigned_tail.checked,
            "unfinished": shard.unsigned_tail.unfinished,
        },
        "notes": [_text(note) for note in shard.notes],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict.value,
        "index": finding.first,
        "last": finding.last,
        "count": finding.count,
        "file": finding.file,
        "offset": finding.offset,
        "organization_id": finding.organization_id,
        "reason": _text(finding.reason),
        "remedy": finding.meaning,
    }


def _text(words: str) -> str:
    """Return words that JSON can carry: names of files and of a policy need not be UTF-8."""
    return words.encode("utf-8", "backslashreplace").decode()
