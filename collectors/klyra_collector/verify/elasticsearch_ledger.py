"""Read what the index `klyra-audit-ledger` keeps of a ledger: its leaves by bundle, control documents, checkpoints.

Whoever can write the index can add to it, so what it says counts only as far as it leads to a head that somebody has
signed; nothing here is checked but its form.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final, NamedTuple, TypeGuard

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.verify.elasticsearch_documents import base64_of, members

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from klyra_audit.format.canonical import JsonObject
    from klyra_collector.verify.elasticsearch_client import Hit, PointInTime

LEDGER_INDEX: Final = "klyra-audit-ledger"
BUNDLE_LEAVES: Final = 256
MAX_INDEX: Final = 1 << 40
MAX_LOGS: Final = 10_000

_BUNDLE: Final = "bundle"
_PARTIAL: Final = "partial"
_CHECKPOINT: Final = "checkpoint"
_CONTENT: Final = ("leaves", "controls", "note")


class Bundle(NamedTuple):
    """Up to 256 consecutive records of a shard.

    Attributes:
        id: of the document.
        first: index of the first record.
        leaves: 112 bytes for each.
        controls: (index, canonical bytes) of the control documents among them, ascending.
    """

    id: str
    first: int
    leaves: bytes
    controls: tuple[tuple[int, bytes], ...]

    @property
    def end(self) -> int:
        """Index behind its last record."""
        return self.first + len(self.leaves) // LEAF_SIZE

    @property
    def is_full(self) -> bool:
        """Whether it is a whole one."""
        return len(self.leaves) == BUNDLE_LEAVES * LEAF_SIZE

    def is_of(self, log: str) -> bool:
        """Say whether it has the id that the collector gives it, which nobody can create once it is taken."""
        return self.id == (f"{log}:{self.first}" if self.is_full else f"{log}:{self.first}:{self.end}")


class KeptNote(NamedTuple):
    """A signed head, not opened yet, and how many records it says it is over."""

    size: int
    encoded: bytes


class LedgerIndex:
    """The index at one moment.

    Args:
        view: of the index.
    """

    def __init__(self, view: PointInTime) -> None:
        self._view = view

    def sizes(self) -> dict[str, int]:
        """Return origin → how many records of that shard it covers, up to the last bundle.

        Raises:
            CannotVerify: the index cannot be read.
        """
        found: dict[str, int] = {}
        query = _kinds(_BUNDLE, _PARTIAL)
        for hit in self._view.documents(query, "first", excludes=_CONTENT):
            log, first, size = (hit.source.get(name) for name in ("log", "first", "size"))
            if (
                isinstance(log, str)
                and _is_index(first)
                and _is_index(size)
                and (log in found or len(found) < MAX_LOGS)
            ):
                found[log] = max(found.get(log, 0), size)
        return found

    def size(self, log: str) -> int:
        """Return how many records of a shard it says it covers; raises as `sizes`."""
        return self._view.highest(_and(_kinds(_BUNDLE, _PARTIAL), log), "size") or 0

    def copies(self, log: str) -> Iterator[tuple[Hit, Bundle | None]]:
        """Yield every document of a shard that says it is a bundle, None for one that is none; raises as `sizes`."""
        for hit in self._view.documents(_and(_kinds(_BUNDLE, _PARTIAL), log), "first"):
            yield hit, _bundle(hit)

    def bundles(self, log: str) -> Iterator[Bundle]:
        """Yield the bundles of a shard, each record once and without a gap, up to the first that is not there.

        Where documents contradict each other, the one under the collector's own id is taken, and of partial ones the
        largest.

        Raises:
            CannotVerify: the index cannot be read.
        """
        parsed = (found for _, found in self.copies(log))
        expected = 0
        for first, group in groupby((found for found in parsed if found is not None), key=lambda each: each.first):
            best = max(group, key=lambda each: (each.is_of(log), each.end, each.id))
            if first != expected:
                if first > expected:
                    return
                continue
            yield best
            if not best.is_full:
                return
            expected = best.end

    def notes(self, log: str) -> Iterator[KeptNote]:
        """Yield the checkpoints of a shard by ascending size.

        Raises:
            CannotVerify: the index cannot be read.
        """
        for hit in self._view.documents(_and(_kinds(_CHECKPOINT), log), "size"):
            size, text = hit.source.get("size"), hit.source.get("note")
            if _is_index(size) and isinstance(text, str):
                yield KeptNote(size, text.encode())

    def strays(self) -> Iterator[str]:
        """Yield a description of each document in the index that is none of the three kinds.

        Raises:
            CannotVerify: the index cannot be read.
        """
        query: JsonObject = {"bool": {"must_not": [{"terms": {"kind": [_BUNDLE, _PARTIAL, _CHECKPOINT]}}]}}
        for hit in self._view.documents(query):
            yield f"the document {hit.id} in {hit.backing_index} is no part of a ledger"


def _bundle(hit: Hit) -> Bundle | None:
    """Return a bundle, None for a document that is none."""
    first, leaves = hit.source.get("first"), base64_of(hit.source.get("leaves"))
    count, rest = divmod(len(leaves), LEAF_SIZE)
    if not _is_index(first) or first % BUNDLE_LEAVES or rest or not 0 < count <= BUNDLE_LEAVES:
        return None
    controls = hit.source.get("controls")
    listed = controls if isinstance(controls, list) else []
    return Bundle(hit.id, first, leaves, tuple(sorted(_controls(listed, first, first + count))))


def _controls(listed: Iterable[object], first: int, end: int) -> Iterator[tuple[int, bytes]]:
    for item in listed:
        index, document = (members(item).get(name) for name in ("index", "document"))
        if type(index) is int and first <= index < end and isinstance(document, str):
            yield index, document.encode()


def _is_index(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_INDEX


def _kinds(*kinds: str) -> JsonObject:
    return {"bool": {"filter": [{"terms": {"kind": list(kinds)}}]}}


def _and(query: JsonObject, log: str) -> JsonObject:
    return {"bool": {"filter": [query, {"term": {"log": log}}]}}
