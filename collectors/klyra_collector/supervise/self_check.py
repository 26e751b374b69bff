"""The follower looks at its own copy: some random entries, fetched and compared with what was sealed.

It is no verification, which `klyra-audit verify` is: it shares machine and keys with what it looks at. It finds a disk
that rots, a mapping that changes values, or somebody who edits documents, within days instead of at the next audit.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_audit.format.packet_lines import Erased, Opened
from klyra_audit.timestamps import MICROSECONDS, day_of
from klyra_collector.store.elasticsearch.asking import Asking
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS
from klyra_collector.store.rows import erased_sections
from klyra_collector.verify.copies import CopySections
from klyra_collector.verify.elasticsearch_client import Hit
from klyra_collector.verify.elasticsearch_documents import document_of, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from elasticsearch import Elasticsearch

    from klyra_audit.format.frame import BodyFrame
    from klyra_collector.dead_letters import DeadLetters
    from klyra_collector.seal.reader import LedgerReader, SealedRecord
    from klyra_collector.verify.copies import CopyDocument

EVERY_SECONDS: Final = 300.0
SAMPLES: Final = 20

_COPIES: Final = 4  # of one record: on both sides of a rollover, and under hold

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record stands."""

    origin: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """What is looked at, and by what it is judged.

    Attributes:
        reader: of the ledger; nobody else uses it.
        client: of a key that may read.
        cursors: folder of the store's cursor.
        dead_letters: what the store will never have.
        wall_us: present time, microseconds since 1970.
    """

    reader: LedgerReader
    client: Elasticsearch
    cursors: Path
    dead_letters: DeadLetters
    wall_us: Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Suspects:
    """Records that were wrong once.

    Attributes:
        places: of these records.
        sizes: of the ledger at that time: once a search finds all of it, a change that was under way is over.
    """

    places: frozenset[Place]
    sizes: Mapping[str, int]


class SelfCheck:
    """Looks at some entries now and then. One thread uses it.

    Only what a search should find by now is looked at. What is wrong counts once it was so twice, with the store
    having got in between to where the ledger was: an extension or an erasure that was sealed a moment ago is not in
    the copy yet.
    """

    def __init__(
        self,
        copy: Copy,
        *,
        chance: random.Random | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to look.

        Args:
            copy: see there.
            chance: draws the entries.
            monotonic: seconds.
        """
        self._copy = copy
        self._asking = Asking(copy.client, ENTRY_STREAMS)
        self._chance = chance or random.SystemRandom()
        self._monotonic = monotonic
        self._next = 0.0
        self._suspects: _Suspects | None = None
        self._wrong: frozenset[Place] = frozenset()
        self._state = "pending"
        self._since_us = copy.wall_us()

    def tell(self) -> dict[str, Any]:
        """Look if that is due, and return what health documents say of it; nothing while the ledger is empty.

        The age is that of the last look that came to an end; before the first one, of this process.

        Raises:
            StoreUnavailable, AnswerIncomplete, SearchRefused: the cluster does not answer.
            LedgerDamaged: the ledger cannot be read.
        """
        sizes = self._sizes()
        if not any(sizes.values()):
            return {}
        searchable = load(self._copy.cursors).searchable
        if self._suspects is not None:
            if all(searchable.get(origin, 0) >= size for origin, size in self._suspects.sizes.items()):
                self._look_again(self._suspects.places)
        elif self._monotonic() >= self._next:
            found = {origin: min(size, searchable.get(origin, 0)) for origin, size in sizes.items()}
            if any(found.values()):
                self._look(found, sizes)
        age_us = self._copy.wall_us() - self._since_us
        return {"self_check": self._state, "self_check_age_seconds": max(0, age_us // MICROSECONDS)}

    def _look(self, found: Mapping[str, int], sizes: Mapping[str, int]) -> None:
        """Look at what was wrong before and at some more, of what a search has found."""
        not_right = self._not_right(self._wrong | frozenset(self._drawn(found)))
        suspects = not_right - self._wrong
        self._wrong &= not_right
        if suspects:
            self._suspects = _Suspects(suspects, sizes)
        else:
            self._conclude()

    def _look_again(self, suspects: frozenset[Place]) -> None:
        self._wrong |= self._not_right(suspects)
        self._suspects = None
        self._conclude()

    def _conclude(self) -> None:
        for place in sorted(self._wrong):
            _log.error("elasticsearch.self_check_failed", log=place.origin, index=place.index)
        self._state = "failed" if self._wrong else "passed"
        self._since_us = self._copy.wall_us()
        self._next = self._monotonic() + EVERY_SECONDS

    def _sizes(self) -> dict[str, int]:
        reader = self._copy.reader
        return {origin: reader.committed(origin) for origin in reader.origins()}

    def _drawn(self, found: Mapping[str, int]) -> Iterator[Place]:
        for origin, size in self._chance.choices(list(found.items()), weights=list(found.values()), k=SAMPLES):
            yield Place(origin, self._chance.randrange(size))

    def _not_right(self, places: frozenset[Place]) -> frozenset[Place]:
        refused = {Place(one.origin, one.index) for one in self._copy.dead_letters.read()}
        return frozenset(place for place in sorted(places - refused) if not self._is_right(place))

    def _is_right(self, place: Place) -> bool:
        """Say whether the copy of a record is what it must be; what no copy has to be of is."""
        (record,) = self._copy.reader.read(place.origin, place.index, 1)
        body = record.body
        if record.leaf.kind != Kind.EVENT or body is None or not self._must_be_there(record, place):
            return True
        copies = self._copies(place)
        return bool(copies) and all(_is_of(copy, record, body) for copy in copies)

    def _must_be_there(self, record: SealedRecord, place: Place) -> bool:
        today = day_of(self._copy.wall_us())
        expires = self._copy.reader.retention().effective_day(place.origin, record.leaf)
        return expires > today + 1  # the last day may end while we look

    def _copies(self, place: Place) -> list[CopyDocument]:
        where = [{"term": {"klyra.log": place.origin}}, {"term": {"klyra.index": place.index}}]
        hits = self._asking.hits({"size": _COPIES, "query": {"bool": {"filter": where}}})
        return [
            document_of(Hit(hit["_index"], hit["_id"], hit["_source"], []), place.origin, place.index) for hit in hits
        ]


def _is_of(copy: CopyDocument, record: SealedRecord, body: BodyFrame) -> bool:
    """Say whether a document is of a record. Of one that has lost sections to an erasure only the leaf is compared."""
    if copy.leaf != record.leaf_bytes or copy.sections is None:
        return False
    if erased_sections(body) or any(isinstance(section, Erased) for section in copy.sections):
        return True
    entry = sections.join(body.sections)
    return (
        copy.organization_id == entry["organization_id"]
        and copy.fields == fields_of(entry)
        and copy.sections == _sections(body)
    )


def _sections(body: BodyFrame) -> CopySections:
    parts, salts = body.sections, body.salts
    actor = None if parts.actor is None else Opened(salts.actor, parts.actor)
    target = None if parts.target is None else Opened(salts.target, parts.target)
    return CopySections(Opened(salts.core, parts.core), actor, target)
