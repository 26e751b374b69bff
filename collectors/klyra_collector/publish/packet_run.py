"""Which leaves and control documents of a shard go into a packet (DESIGN section 9).

A run begins with the last leaf of the organization before the window, so that nothing of the window can be missing
in front of it, and ends with the leaf that the newest HEADS record names as the organization's newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klyra_audit.errors import RetryLater
from klyra_audit.format import canonical, control
from klyra_audit.format.control import Extend, Heads, Hold, Key, PolicyRecord, Release, ShardClose
from klyra_audit.format.errors import FormatError
from klyra_audit.format.leaf import Kind
from klyra_audit.format.packet_lines import ControlLine, HeadsFile
from klyra_audit.format.sections import OPERATOR_REFERENCE
from klyra_audit.timestamps import day_of
from klyra_collector.errors import LedgerDamaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klyra_audit.format.control import ControlDocument
    from klyra_audit.format.frame import BlobFrame
    from klyra_audit.format.leaf import Leaf
    from klyra_collector.publish.packet_shard import PacketShard

_REMEDY: Final = "See what is wrong with: klyra-audit verify; then restore the file from a copy."
_WHOLE: Final = frozenset({Kind.START, Kind.SHARD, Kind.SCHEMA})  # of the operator's chain, these matter always
_NO_EMITTER: Final = bytes(4)


class NothingProvable(RetryLater):
    """No HEADS record is under a checkpoint yet, so that nothing can be shown to be everything."""

    code = "no_heads_yet"


@dataclass(frozen=True, slots=True)
class Span:
    """Indexes of a run's first and last leaf."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """What a packet takes of one shard.

    Attributes:
        shard: which.
        org_ref: whose.
        heads_index: of the HEADS record that the run ends at.
        heads: that record.
        span: the run; None for an organization without a leaf there.
    """

    shard: PacketShard
    org_ref: bytes
    heads_index: int
    heads: Heads
    span: Span | None

    @property
    def first_seq(self) -> int:
        """The org_seq of the first leaf, 0 for an empty run."""
        return 0 if self.span is None else self.shard.org_seq(self.span.first)

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return 0 if self.span is None else self.shard.org_seq(self.span.last) - self.first_seq + 1

    @property
    def until_us(self) -> int:
        """Up to which ingest time the HEADS record speaks of everything."""
        return self.shard.ingest_us(self.heads_index)

    def indexes(self) -> Iterator[int]:
        """Yield the indexes of the run's leaves."""
        if self.span is not None:
            yield from self.shard.indexes(self.org_ref, self.span.first, self.span.last + 1)

    def heads_file(self) -> HeadsFile:
        """Return what proves where the run ends; `LedgerDamaged` if HEADS and leaves differ."""
        shard, index = self.shard, self.heads_index
        proof = shard.heads_proof(self.org_ref, index, self.heads.count, self.heads.root)
        return HeadsFile(shard.leaf(index), shard.control(index), shard.proof(index), proof)


def plan_run(shard: PacketShard, org_ref: bytes, start_us: int) -> PlannedRun:
    """Return an organization's run in a shard for a window that begins at an ingest time.

    Raises:
        NothingProvable: no HEADS record is under the head yet.
    """
    heads_index = shard.newest_heads()
    if heads_index is None:
        raise NothingProvable(
            f"No HEADS record of {shard.origin} is under a checkpoint yet.",
            remedy="One is sealed every minute; ask again then.",
            retry_after=60.0,
        )
    heads = _parse(shard, Kind.HEADS, shard.control(heads_index))
    assert isinstance(heads, Heads)  # noqa: S101 - HEADS has one form
    return PlannedRun(shard, org_ref, heads_index, heads, _span(shard, org_ref, start_us, heads_index))


def _span(shard: PacketShard, org_ref: bytes, start_us: int, end: int) -> Span | None:
    last = shard.last_before(org_ref, end)
    if last is None:
        return None
    begin = min(shard.first_from(start_us), last)
    before = shard.last_before(org_ref, begin)
    return Span(next(shard.indexes(org_ref, begin, end)) if before is None else before, last)


class RunControls:
    """The control documents that matter to a run.

    Attributes:
        inside: those of the run itself.
        extensions: what they say of longer retention.
    """

    def __init__(self, run: PlannedRun, collector_id: str) -> None:
        self._run = run
        self._emitters = _emitters(run)
        self._owners: set[str] = {collector_id}
        self.inside: list[BlobFrame] = []
        self._always: list[BlobFrame] = []
        self._keys: list[tuple[BlobFrame, Key]] = []
        self._policy: BlobFrame | None = None
        self._holds: dict[str, BlobFrame] = {}
        self.extensions: list[Extend] = []
        for blob in run.shard.controls(heads=run.org_ref == OPERATOR_REFERENCE):
            self._take(blob)

    def lines(self) -> Iterator[ControlLine]:
        """Yield them in order of index: those of the run's own chain bare, the others with a proof each.

        An EXPIRY has one in any case, by the checkpoint that was kept for it: it shows when it had been sealed.
        """
        shard = self._run.shard
        own = {blob.index for blob in self.inside}
        for blob in sorted((*self.inside, *self._outside()), key=lambda blob: blob.index):
            proof = self._kept_proof(blob.index) if blob.index in own else shard.proof(blob.index)
            yield ControlLine(shard.origin, blob.index, shard.leaf(blob.index), blob.payload, proof)

    def _kept_proof(self, index: int) -> bytes | None:
        kept = self._run.shard.kept / f"expiry-{index}"
        return self._run.shard.proof(index, kept.read_bytes()) if kept.exists() else None

    def _outside(self) -> Iterator[BlobFrame]:
        yield from self._always
        if self._policy is not None:
            yield self._policy
        yield from self._holds.values()
        for blob, key in self._keys:
            if key.ordinal in self._emitters or key.emitter_id in self._owners:
                yield blob

    def _take(self, blob: BlobFrame) -> None:
        run = self._run
        leaf = run.shard.unpack(blob.index)
        span = run.span
        is_own = leaf.org_ref == run.org_ref and span is not None and blob.index <= span.last
        if is_own and span is not None and blob.index >= span.first:
            self._take_inside(blob, leaf)
        elif leaf.kind == Kind.KEY:
            self._take_key(blob)
        elif leaf.kind in _WHOLE:
            self._always.append(blob)
        elif is_own:
            self._take_before(blob, leaf)

    def _take_inside(self, blob: BlobFrame, leaf: Leaf) -> None:
        self.inside.append(blob)
        document = _parse(self._run.shard, leaf.kind, blob.payload)
        if isinstance(document, Extend) and document.log is None:
            self.extensions.append(document)
        elif isinstance(document, Key):
            self._note_owner(document)

    def _take_before(self, blob: BlobFrame, leaf: Leaf) -> None:
        document = _parse(self._run.shard, leaf.kind, blob.payload)
        if isinstance(document, PolicyRecord):
            self._policy = blob
        elif isinstance(document, Hold):
            self._holds[document.hold_id] = blob
        elif isinstance(document, Release):
            self._holds.pop(document.hold_id, None)

    def _take_key(self, blob: BlobFrame) -> None:
        key = _parse(self._run.shard, Kind.KEY, blob.payload)
        assert isinstance(key, Key)  # noqa: S101 - KEY has one form
        if key.org_ref not in (None, self._run.org_ref):
            return
        self._keys.append((blob, key))
        self._note_owner(key)

    def _note_owner(self, key: Key) -> None:
        if key.ordinal in self._emitters:
            self._owners.add(key.emitter_id)


def lineage(shard: PacketShard) -> Iterator[ControlLine]:
    """Yield the records by which a verifier follows the keys of one shard and on to the next.

    A KEY record stands under the checkpoint that the outgoing key signed over it.
    """
    for blob in shard.controls(heads=False):
        kind = shard.kind(blob.index)
        if kind not in (Kind.KEY, Kind.SHARD):
            continue
        document = _parse(shard, kind, blob.payload)
        kept = shard.kept / f"key-{document.ordinal}" if isinstance(document, Key) else None
        if isinstance(document, ShardClose):
            proof = shard.proof(blob.index)
        elif kept is not None and kept.exists():
            proof = shard.proof(blob.index, kept.read_bytes())
        else:
            continue
        yield ControlLine(shard.origin, blob.index, shard.leaf(blob.index), blob.payload, proof)


def effective_expire_day(leaf: Leaf, extensions: Iterable[Extend]) -> int:
    """Return the first UTC day on which a body may be absent (DESIGN section 5)."""
    days = [
        day_of(leaf.ingest_us) + 1 + extension.retention_days
        for extension in extensions
        if extension.first_seq <= leaf.org_seq <= extension.last_seq
    ]
    return max([leaf.expire_day, *days])


def _emitters(run: PlannedRun) -> set[int]:
    """Return the ordinals of the boots that the run's leaves name."""
    found = {run.shard.emitter(index) for index in run.indexes()} - {_NO_EMITTER}
    return {int.from_bytes(ordinal) for ordinal in found}


def _parse(shard: PacketShard, kind: int, payload: bytes) -> ControlDocument:
    try:
        return control.parse(kind, canonical.parse_canonical(payload))
    except FormatError as error:
        raise LedgerDamaged(f"A control document of {shard.origin} cannot be read: {error}.", remedy=_REMEDY) from error
