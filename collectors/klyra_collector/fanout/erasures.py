"""What the ledger's ERASURE records name, wherever the cursor stands: an erasure counts from its sealing on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from klyra_collector.seal.expiry_facts import is_within

if TYPE_CHECKING:
    from klyra_audit.format.control import Ranges
    from klyra_audit.format.sections import SectionName
    from klyra_collector.seal.reader import LedgerReader, SealedRecord

_READ = 1000


class ErasureLog:
    """Reads on in the control records of all shards; an ERASURE may stand in a later shard than what it names."""

    def __init__(self, reader: LedgerReader) -> None:
        self._reader = reader
        self._next: dict[str, int] = {}
        self._named: dict[tuple[str, bytes], list[tuple[SectionName, Ranges]]] = {}

    def catch_up(self) -> None:
        """Read what was sealed since; `LedgerDamaged` if it cannot be read."""
        for origin in self._reader.origins():
            while found := self._reader.controls(origin, self._next.get(origin, 0), _READ):
                for index, encoded in found:
                    if b'"type":"erasure"' in encoded:
                        self._add(origin, encoded)
                    self._next[origin] = index + 1

    def of(self, record: SealedRecord) -> frozenset[SectionName]:
        """Return the sections of an entry that were erased, as far as was read."""
        named = self._named.get((record.origin, record.leaf.org_ref))
        if named is None:
            return frozenset()
        return frozenset(name for name, ranges in named if is_within(ranges, record.leaf.org_seq))

    def _add(self, origin: str, encoded: bytes) -> None:
        document = orjson.loads(encoded)
        if document["type"] != "erasure":
            return
        key = (document.get("log", origin), bytes.fromhex(document["org_ref"]))
        named = self._named.setdefault(key, [])
        for name in ("actor", "target"):
            ranges = tuple((first, last) for first, last in document[name])
            if ranges:
                named.append((name, ranges))
