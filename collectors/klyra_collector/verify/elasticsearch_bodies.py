"""Write the bodies of a shard out of Elasticsearch, beside leaves that have been verified.

A body is written if it is what its leaf commits to, once, and if the ledger's own records do not say that it is gone:
what an EXPIRY names is not brought back, and neither is a section that an ERASURE names. What is left out without such
a reason is what verification finds to be MISSING.
"""

from __future__ import annotations

import hashlib
import heapq
import shutil
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, Self

import orjson

from klyra_audit.format.frame import BlobFrame, BodyFrame, encode_blob, encode_body
from klyra_audit.format.leaf import Kind
from klyra_audit.format.packet_lines import Erased, Opened
from klyra_audit.format.sections import SALT_SIZE, Salts, Sections
from klyra_collector.verify.copies_documents import commitments_of
from klyra_collector.verify.elasticsearch_documents import base64_of, members, sections_of
from klyra_collector.verify.files import open_or_empty
from klyra_collector.verify.layout import HELD
from klyra_collector.verify.retention import END
from klyra_collector.verify.scan import LeafReader, known_leaf
from klyra_collector.verify.verdicts import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from klyra_audit.format.leaf import Leaf
    from klyra_audit.format.packet_lines import Section
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.elasticsearch_client import Hit
    from klyra_collector.verify.elasticsearch_copy import ElasticsearchCopy
    from klyra_collector.verify.ledger import ShardVerification
    from klyra_collector.verify.retention import Retention

OPEN_FILES: Final = 64

_NO_SALT: Final = bytes(SALT_SIZE)
_ERASED: Final = b"\0\0"  # zeros are never canonical JSON; how long the section was is not told
_MOVED: Final = ".moved"


@dataclass(slots=True)
class RestoredBodies:
    """How many documents gave a body, and how many were left out.

    Attributes:
        written: bodies of entries and of quarantined input.
        refused: documents that are not what a leaf commits to, or that are of no record.
        expired: those of bodies that an EXPIRY names.
    """

    written: int = 0
    refused: int = 0
    expired: int = 0


def restore_bodies(copy: ElasticsearchCopy, shard: ShardVerification, today: int) -> RestoredBodies:
    """Write the bodies of one shard.

    Args:
        copy: where they are.
        shard: a run over its records, without bodies, that is finished.
        today: UTC day since 1970: what should have moved to another file by then is put there.

    Raises:
        CannotVerify: the cluster cannot be read.
    """
    restored = RestoredBodies()
    if shard.leaves is None or shard.retention is None:
        return restored
    with open_or_empty(shard.folder.leaves) as file, _DayFiles() as files:
        leaves = LeafReader(file, shard.leaves.segments)
        restorer = _Restorer(shard, shard.retention, leaves, files, restored, today)
        entries = ((hit, Kind.EVENT) for hit in copy.hits(shard.log))
        quarantined = ((hit, Kind.QUARANTINE) for hit in copy.quarantined_hits(shard.log))
        for hit, kind in heapq.merge(entries, quarantined, key=lambda found: found[0].order[0]):
            restorer.take(hit, kind)
    return restored


class _Restorer:
    """Decides about each document, and where its body goes."""

    def __init__(
        self,
        shard: ShardVerification,
        retention: Retention,
        leaves: LeafReader,
        files: _DayFiles,
        restored: RestoredBodies,
        today: int,
    ) -> None:
        self._folder = shard.folder
        self._retention = retention
        self._leaves = leaves
        self._files = files
        self._restored = restored
        self._today = today
        self._seen = bytearray(shard.extent.size)

    def take(self, hit: Hit, kind: Kind) -> None:
        """Write the body of a document, or count why not; a second one of the same record is passed over."""
        index = hit.order[0]
        leaf = known_leaf(self._leaves.at(index)) if index < len(self._seen) else None
        body = None if leaf is None or leaf.kind != kind else body_of(hit, index, leaf, self._erased_by(leaf))
        if leaf is None or body is None:
            self._restored.refused += 1
        elif self._retention.absent(leaf).verdict is Verdict.EXPIRED_OK:
            self._restored.expired += 1
        elif not self._seen[index]:
            self._seen[index] = 1
            self._write(hit, leaf, body)

    def _write(self, hit: Hit, leaf: Leaf, body: BodyFrame) -> None:
        day = self._file_of(leaf)
        moved_on = None if day == leaf.expire_day else leaf.expire_day
        self._files.append(self._folder.bodies(day), encode_body(body), moved_on)
        raw = quarantined_of(hit, body) if leaf.kind == Kind.QUARANTINE else None
        path = self._folder.quarantined(day)
        if raw is not None and path is not None:
            self._files.append(path, encode_blob(BlobFrame(body.index, raw)), moved_on)
        self._restored.written += 1

    def _erased_by(self, leaf: Leaf) -> list[SectionName]:
        names: tuple[SectionName, ...] = ("actor", "target")
        return [name for name in names if self._retention.redacted(leaf, name) is Verdict.REDACTED_OK]

    def _file_of(self, leaf: Leaf) -> int:
        """Return the day in whose file a body stands, or `HELD`: another than its own once that day has come."""
        if leaf.expire_day > self._today:
            return leaf.expire_day
        if self._retention.holds_on(leaf, END):
            return HELD
        return self._retention.effective_expire(leaf)


def body_of(hit: Hit, index: int, leaf: Leaf, erased: list[SectionName]) -> BodyFrame | None:
    """Return the body that a document carries, without some sections; None if it is not what the leaf commits to.

    Args:
        hit: the document.
        index: of the record.
        leaf: that stands there.
        erased: sections that an ERASURE names.
    """
    sealing = members(hit.source.get("klyra"))
    carried = sections_of(sealing)
    proofs = commitments_of(carried)
    if proofs.event_commit() != leaf.commit or not isinstance(carried.core, Opened):
        return None
    kept = carried._replace(**{name: _without(getattr(carried, name), getattr(proofs, name)) for name in erased})
    return BodyFrame(
        index=index,
        sections=Sections(carried.core.encoded, _content(kept.actor), _content(kept.target)),
        salts=Salts(carried.core.salt, _salt(kept.actor), _salt(kept.target)),
        commitments=proofs,
        attachment=base64_of(sealing.get("evidence")),
    )


def quarantined_of(hit: Hit, body: BodyFrame) -> bytes | None:
    """Return the bytes of a quarantined input, None if they are not there or not those that its record speaks of."""
    raw = members(hit.source.get("quarantine")).get("raw")
    content = base64_of(raw)
    try:
        said = members(orjson.loads(body.sections.core))
    except ValueError:
        return None
    is_said = said.get("sha256") == hashlib.sha256(content).hexdigest() and said.get("size") == len(content)
    return content if isinstance(raw, str) and is_said else None


class _DayFiles:
    """Files that are appended to by day, a few of them open at once.

    What was moved to a file stands at its end, in the order in which expiry would have moved it.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._moved: set[tuple[Path, int]] = set()

    def append(self, path: Path, content: bytes, moved_on: int | None) -> None:
        """Append to a file; what was moved there from the file of another day, at its end when all are closed."""
        if moved_on is not None:
            self._moved.add((path, moved_on))
            path = _aside(path, moved_on)
        self._opened(path).write(content)

    def close(self) -> None:
        """Close all files, whole."""
        while self._open:
            self._open.popitem()[1].close()
        for path, day in sorted(self._moved):
            with _aside(path, day).open("rb") as source, path.open("ab") as target:
                shutil.copyfileobj(source, target)
            _aside(path, day).unlink()
        self._moved.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self, path: Path) -> BinaryIO:
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(self._open) >= OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        self._open[path] = path.open("ab")
        return self._open[path]


def _aside(path: Path, day: int) -> Path:
    return path.with_name(f"{path.name}{_MOVED}-{day}")


def _without(section: Section, commitment: bytes) -> Section:
    return section if section is None else Erased(commitment)


def _content(section: Section) -> bytes | None:
    """Return a section as a body has it: None for an absent one, zeros for an erased one."""
    if isinstance(section, Opened):
        return section.encoded
    return None if section is None else _ERASED


def _salt(section: Section) -> bytes:
    return section.salt if isinstance(section, Opened) else _NO_SALT
