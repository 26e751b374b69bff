"""The ledger's copy in the index `klyra-audit-ledger`, out of which a lost ledger can be rebuilt (DESIGN section 8).

One document for each 256 leaves, which is a bundle of C2SP tlog-tiles, and for the leaves after the last full one:

    kind      bundle | partial
    log       origin of the shard
    first     index of the first leaf, a multiple of 256
    size      of the shard up to and with the last leaf
    leaves    base64, 112 bytes each
    controls  [{index, document}]: the control documents among them, as canonical text

and one for each signed head that was seen:

    kind      checkpoint
    log, size, root    as it says
    note      the whole signed note, with the cosignatures that were on it

Ids say what a document holds, so that all are created and none is ever changed: of partial ones the one with the
largest size counts, and the others go once their bundle is full. Bodies are in the streams.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.format import canonical
from klyra_collector.data_directory import ShardDirectory
from klyra_collector.store.elasticsearch.bulk import Line
from klyra_collector.store.elasticsearch.documents import as_base64
from klyra_collector.store.elasticsearch.names import LEDGER_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from klyra_collector.seal.reader import LedgerReader, SealedRecord
    from klyra_collector.store.changes import Batch

BUNDLE_LEAVES: Final = 256
FLUSH_SECONDS: Final = 30.0

_HEAD_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class _Tail:
    """The records behind the last full bundle of a shard."""

    first: int
    records: tuple[SealedRecord, ...]

    @property
    def end(self) -> int:
        return self.first + len(self.records)


class LedgerCopy:
    """Makes the lines of the copy. Used by one thread."""

    def __init__(
        self,
        reader: LedgerReader,
        ledger: Path,
        applied: Mapping[str, int],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Go on from where the store is: what a crash kept from being copied is, though nothing comes after it.

        Args:
            reader: of the ledger; nobody else uses it.
            ledger: the folder of shards, for their signed heads.
            applied: origin → how many records the store has.
            monotonic: seconds.
        """
        self._applied = dict(applied)
        self._reader = reader
        self._ledger = ledger
        self._monotonic = monotonic
        self._tails: dict[str, _Tail] = {}
        self._partial: dict[str, int] = {}
        self._notes: set[str] = set()
        self._flushed = monotonic()

    def bundles(self, batch: Batch) -> Iterator[Line]:
        """Yield the bundles that a batch completes, and keep what is left for the next."""
        origin = batch.origin
        tail = self._tail_before(origin, batch.start)
        pending: list[SealedRecord] = []
        first = tail.first
        for record in chain(tail.records, batch.records):
            pending.append(record)
            if len(pending) == BUNDLE_LEAVES:
                yield _bundle("bundle", origin, first, pending)
                first, pending = first + BUNDLE_LEAVES, []
        self._tails[origin] = _Tail(first, tuple(pending))

    def is_due(self) -> bool:
        """Say whether the rest is to be written: not with every batch, or a quiet ledger would be copied many times."""
        return self._monotonic() - self._flushed >= FLUSH_SECONDS

    def rest(self) -> list[Line]:
        """Return the incomplete bundles and the signed heads that were not written yet; call `written` afterwards."""
        for origin in self._applied.keys() & set(self._reader.origins()) - self._tails.keys():
            size = min(self._applied[origin], self._reader.committed(origin))
            first = size - size % BUNDLE_LEAVES
            self._tails[origin] = _Tail(first, tuple(self._reader.read(origin, first, size - first)))
        lines = [
            _bundle("partial", origin, tail.first, tail.records)
            for origin, tail in self._tails.items()
            if tail.records and self._partial.get(origin) != tail.end
        ]
        return lines + [line for origin in self._tails for line in self._heads(origin) if line.id not in self._notes]

    def written(self, lines: Sequence[Line]) -> None:
        """Note that these lines of `rest` are stored."""
        self._partial = {origin: tail.end for origin, tail in self._tails.items()}
        self._notes.update(line.id for line in lines)
        self._flushed = self._monotonic()

    def _tail_before(self, origin: str, start: int) -> _Tail:
        tail = self._tails.get(origin)
        if tail is not None and tail.end == start:
            return tail
        first = start - start % BUNDLE_LEAVES
        return _Tail(first, tuple(self._reader.read(origin, first, start - first)))

    def _heads(self, origin: str) -> Iterator[Line]:
        shard = ShardDirectory(self._ledger / origin.rpartition("/")[2])
        for path in (*sorted(shard.checkpoints.glob("*")), shard.witnessed, shard.checkpoint):
            try:
                line = _head(origin, path.read_bytes())
            except OSError:
                continue  # not there yet, or being replaced
            if line is not None:
                yield line


def _bundle(kind: str, origin: str, first: int, records: Sequence[SealedRecord]) -> Line:
    size = first + len(records)
    controls = [
        {"index": record.index, "document": canonical.encode(record.control).decode()}
        for record in records
        if record.control is not None
    ]
    leaves = as_base64(b"".join(record.leaf_bytes for record in records))
    source = {"kind": kind, "log": origin, "first": first, "size": size, "leaves": leaves, "controls": controls}
    identity = f"{origin}:{first}" if kind == "bundle" else f"{origin}:{first}:{size}"
    return _line(identity, source, origin, first)


def _head(origin: str, note: bytes) -> Line | None:
    """Return the line of a signed head; None for a file that is none of this shard."""
    try:
        text = note.decode()
        log, size, root = text.split("\n", _HEAD_LINES)[:_HEAD_LINES]
        source = {"kind": "checkpoint", "log": log, "size": int(size), "root": root, "note": text}
    except ValueError:
        return None
    digest = hashlib.sha256(note).hexdigest()[:16]
    return _line(f"{origin}:checkpoint:{size}:{digest}", source, origin, 0) if log == origin else None


def _line(identity: str, source: dict[str, Any], origin: str, first: int) -> Line:
    return Line(LEDGER_INDEX, identity, orjson.dumps(source), origin, first, is_plain=True)
