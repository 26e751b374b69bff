"""Later sealings of an entry id that another record has already: of those only the first is shown (DESIGN section 5).

Elasticsearch tells of an `_id` that is taken in one index only, and a rollover makes the next. So before documents are
sent, their ids are looked up, and a later sealing is written with the day from which it is shown: that on which the
earlier one's retention ends. What was sent lately and no search finds yet is remembered here.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from klyra_collector.store.elasticsearch.names import ENTRY_STREAMS
from klyra_collector.store.elasticsearch.searchable import MOST_HITS, searched_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from elasticsearch import Elasticsearch

    from klyra_audit.format.canonical import JsonObject

_FIELDS: Final = ("organization_id", "id", "klyra.log", "klyra.index", "klyra.expire_day")

Id = tuple[str, str]  # organization's and entry's


class Sealing(NamedTuple):
    """One document of an id.

    Attributes:
        log, number: shard and index at which it was sealed.
        expire_day: effective, as the document says.
    """

    log: str
    number: int
    expire_day: int

    @property
    def order(self) -> tuple[list[int], str, int]:
        """Sort key: shards by year and number, then collectors."""
        name = self.log.rpartition("/")[2]
        return [int(part) for part in re.findall(r"\d{1,9}", name)], self.log, self.number


class Repeats:
    """Finds earlier sealings. Used by one thread."""

    def __init__(self, client: Elasticsearch) -> None:
        """Prepare to look, with a key that may read."""
        self._client = client
        self._recent: dict[Id, list[Sealing]] = {}
        self._order: dict[str, deque[tuple[int, Id]]] = defaultdict(deque)

    def shown_from(self, documents: Sequence[JsonObject]) -> list[int | None]:
        """Return for each document the day from which it is shown, None for the first of its id; remember them.

        Raises:
            ClusterUnreachable, ClusterRefuses, IndexClosed, WriterRefused, RequestNotUnderstood: see `asked`.
        """
        stored = self.stored({id_of(document)[1] for document in documents})
        days: list[int | None] = []
        for document in documents:
            one, own = id_of(document), sealing_of(document)
            recent, earlier = self._recent.get(one), stored.get(one)
            days.append(day_after([*(earlier or ()), *(recent or ())], own) if recent or earlier else None)
            if recent is None:
                self._recent[one] = [own]
            elif own in recent:
                continue  # it goes again
            else:
                recent.append(own)
            self._order[own.log].append((own.number, one))
        return days

    def stored(self, ids: set[str]) -> dict[Id, list[Sealing]]:
        """Return the sealings of some entry ids, of any organization, that a search finds; raises as `shown_from`."""
        found: dict[Id, list[Sealing]] = {}
        for one, sealing in self._search(sorted(ids)):
            found.setdefault(one, []).append(sealing)
        return found

    def forget(self, sizes: Mapping[str, int]) -> None:
        """Forget what a search finds by now: origin → size of what it finds."""
        for log, size in sizes.items():
            waiting = self._order[log]
            while waiting and waiting[0][0] < size:
                number, one = waiting.popleft()
                left = [each for each in self._recent.pop(one, ()) if (each.log, each.number) != (log, number)]
                if left:
                    self._recent[one] = left

    def _search(self, ids: Sequence[str]) -> Iterator[tuple[Id, Sealing]]:
        body: dict[str, Any] = {
            "size": MOST_HITS,
            "track_total_hits": False,
            "_source": False,
            "docvalue_fields": list(_FIELDS),
            "sort": [{"klyra.log": "asc"}, {"klyra.index": "asc"}, {"_index": "asc"}],
            "query": {"bool": {"filter": [{"terms": {"id": list(ids)}}]}},
        }
        while ids:
            hits = searched_in(self._client, f"/{ENTRY_STREAMS}", body)["hits"]["hits"]
            for hit in hits:
                values = [hit.get("fields", {}).get(name, [None])[0] for name in _FIELDS]
                if None not in values:  # else it is none of ours
                    yield (values[0], values[1]), Sealing(*values[2:])
            if len(hits) < MOST_HITS:
                return
            body["search_after"] = hits[-1]["sort"]


def id_of(document: JsonObject) -> Id:
    """Return whose entry a document is, and which."""
    return document["organization_id"], document["id"]


def sealing_of(document: JsonObject) -> Sealing:
    """Return where a document was sealed, and how long it stays."""
    klyra = document["klyra"]
    return Sealing(klyra["log"], klyra["index"], klyra["expire_day"])


def day_after(sealings: Sequence[Sealing], own: Sealing) -> int | None:
    """Return when the last of those before one ends; None if there is none before it."""
    return max((each.expire_day for each in sealings if each.order < own.order), default=None)
