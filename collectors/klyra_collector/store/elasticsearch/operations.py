"""Changes of what is stored already: what EXTEND, HOLD, ERASURE and EXPIRY records ask for (DESIGN section 8).

They need a key of their own, since the writer's can only add. Nothing is changed in place: the new document is created
first, found by a count, and then the old one is deleted. A crash in between leaves both, the same operation done again
leaves the new one; and the cursor stands before the record until all of it is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from klyra_audit.errors import RetryLater
from klyra_collector.store.elasticsearch.bulk import ElasticsearchBusy, Line, WriterRefused
from klyra_collector.store.elasticsearch.documents import Placing, entry_document
from klyra_collector.store.elasticsearch.endpoint import asked
from klyra_collector.store.elasticsearch.lines import repeated
from klyra_collector.store.elasticsearch.names import PREFIX, WHOLE
from klyra_collector.store.elasticsearch.repeats import Repeats, day_after, id_of, sealing_of
from klyra_collector.store.elasticsearch.results import Result, of_deleted, of_request
from klyra_collector.store.elasticsearch.searchable import place, searched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from elasticsearch import Elasticsearch

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.control import Hold
    from klyra_collector.store.changes import CheckedEntry, Expiration, Extension, Ranges
    from klyra_collector.store.elasticsearch.bulk import BulkEndpoint, BulkWriter
    from klyra_collector.store.elasticsearch.documents import MetadataFields
    from klyra_collector.store.elasticsearch.streams import Streams

_PAGE: Final = 500
_OK: Final = 200
_MEMBERS: Final = {"log": str, "index": int, "sealing_day": int, "expire_day": int, "held": bool, "policy": str}
_REMEDY: Final = (
    "Give store.elasticsearch.sweep_url a key that may read, create, delete and refresh on klyra-audit-*: "
    "klyra-audit setup elasticsearch makes one."
)


class NotMoved(RetryLater):
    """Not every new document is there, so no old one was deleted."""

    code = "elasticsearch_not_moved"


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it stands in one index."""

    index: str
    id: str
    source: JsonObject


class Operations:
    """Changes documents. Used by one thread."""

    def __init__(
        self, client: Elasticsearch, bulk: BulkWriter, endpoint: BulkEndpoint, streams: Streams, fields: MetadataFields
    ) -> None:
        """Prepare.

        Args:
            client: of the sweeper's key.
            bulk: creates documents with it.
            endpoint: deletes documents with it.
            streams: where documents go.
            fields: which metadata has a field.
        """
        self._client = client
        self._bulk = bulk
        self._endpoint = endpoint
        self._streams = streams
        self._fields = fields
        self._repeats = Repeats(client)

    def refresh(self) -> None:
        """Have searches find everything that is stored."""
        asked(self._client, "POST", f"/{PREFIX}*/_refresh?{WHOLE}")

    def indexes(self, origin: str, org_ref: bytes, ranges: Ranges) -> list[int]:
        """Return the indexes of an organization's entries with `org_seq` in any of some inclusive ranges."""
        self.refresh()
        named = [{"range": {"klyra.org_seq": {"gte": first, "lte": last}}} for first, last in ranges]
        if not named:
            return []
        conditions: list[dict[str, Any]] = _whose(origin, org_ref)
        conditions += [{"bool": {"should": named}}, {"exists": {"field": "organization_id"}}]
        among = self._all(_all_of(conditions), ["klyra.index"])
        found = {stored.source.get("klyra", {}).get("index") for stored in among}
        return sorted(index for index in found if type(index) is int)

    def extend(self, extension: Extension) -> int:
        """Move what an EXTEND record names into the streams of the longer retention; return how many there were.

        What is kept for longer already stays; what a hold keeps stays where it is, with its new day.
        """
        self.refresh()
        conditions = _whose(extension.origin, extension.org_ref)
        conditions.append({"range": {"klyra.org_seq": {"gte": extension.first_seq, "lte": extension.last_seq}}})
        policy = self._streams.policy(extension.retention_days)

        def placing(klyra: JsonObject) -> Placing | None:
            day = klyra["sealing_day"] + 1 + extension.retention_days
            if day <= klyra["expire_day"]:
                return None
            return Placing(policy=policy, expire_day=day, held=klyra["held"])

        moved = self._move(_all_of(conditions), placing)
        self._postpone(extension.org_ref)
        return moved

    def hold(self, hold: Hold) -> int:
        """Move what a HOLD record covers into the streams that nothing deletes; return how many there were.

        A hold with a narrower selection keeps all of its window here, as it does in the ledger: the selection stands
        in the registry.
        """
        self.refresh()
        bounds = {"gte": hold.from_us // 1000} | ({} if hold.to_us is None else {"lte": hold.to_us // 1000})
        conditions: list[dict[str, Any]] = [
            {"term": {"klyra.org_ref": hold.org_ref.hex()}},
            {"range": {"klyra.ingested_at": bounds | {"format": "epoch_millis"}}},
            {"term": {"klyra.held": False}},
        ]

        def placing(klyra: JsonObject) -> Placing:
            return Placing(policy=klyra["policy"], expire_day=klyra["expire_day"], held=True)

        return self._move(_all_of(conditions), placing)

    def erase(self, entries: Sequence[CheckedEntry], origin: str, number: int) -> None:
        """Write entries again without what was erased from them, and delete what held it.

        Args:
            entries: as they are in the ledger, with the sections that are not to be shown.
            origin: shard of the ERASURE record.
            number: its index; the new documents are known by both.
        """
        if not entries:
            return
        self.refresh()
        mark = f"~{origin.rpartition('/')[2]}:{number}"
        touched: set[str] = set()
        for entry in entries:
            touched.update(self._erase(entry, mark))
        if touched:
            self.refresh()
            # What is deleted stays on disk until its segment is merged; this merges those with much of it.
            listed = ",".join(sorted(touched))
            asked(self._client, "POST", f"/{listed}/_forcemerge?only_expunge_deletes=true&ignore_unavailable=true")

    def expire(self, expiration: Expiration, limit: int) -> int:
        """Delete up to `limit` documents that an EXPIRY record names; return how many."""
        self.refresh()
        kept = [{"range": {"klyra.org_seq": {"gte": first, "lte": last}}} for first, last in expiration.held]
        conditions = _whose(expiration.origin, expiration.org_ref)
        conditions.append({"range": {"klyra.expire_day": {"lte": expiration.cutoff_day}}})
        query = {"bool": {"filter": conditions, "must_not": kept}}
        gone = self._page(query, [], None, limit)
        self.delete(_stored(hit) for hit in gone)
        if gone:
            self.refresh()
        return len(gone)

    def delete(self, documents: Iterable[Stored]) -> int:
        """Delete documents where they stand; return how many. One that is gone already is as good as deleted.

        Raises:
            ElasticsearchBusy: some of them are still there.
            WriterRefused: the key may not delete.
        """
        actions = [orjson.dumps({"delete": {"_index": stored.index, "_id": stored.id}}) + b"\n" for stored in documents]
        if not actions:
            return 0
        answer = self._endpoint.send(b"".join(actions))
        if answer.status != _OK:
            raise _refused(of_request(answer.status, answer.kind), answer.status, answer.reason)
        for found in map(of_deleted, answer.items):
            if found.result is not Result.STORED:
                raise _refused(found.result, found.status, found.reason)
        return len(actions)

    def _erase(self, entry: CheckedEntry, mark: str) -> Iterator[str]:
        """Write one entry again; yield the indexes in which it stood."""
        record = entry.record
        query = place(record.origin, record.index, record.index + 1)
        standing = [_stored(hit) for hit in self._page(query, None, None, _PAGE)]
        old = [stored for stored in standing if not stored.id.endswith(mark)]
        if not old:
            return
        ours = next(filter(_is_ours, old), None)
        if ours is None:  # what stands in its place is somebody else's, and goes all the same: it may hold the same
            self.delete(old)
            yield from (stored.index for stored in old)
            return
        klyra = ours.source["klyra"]
        placing = _placing(klyra)
        document = entry_document(record, placing, self._fields, entry.erased)
        identity = f"{ours.id.partition('~')[0]}{mark}"
        stream = self._streams.of_entry(placing, document["organization_id"])
        self._create([Line(stream, identity, orjson.dumps(document), record.origin, record.index)])
        self.delete(old)
        yield from (stored.index for stored in old)

    def _move(self, query: JsonObject, placing: Callable[[JsonObject], Placing | None]) -> int:
        """Give documents another place; `placing` says which, or None for one that stays."""
        moved = 0
        after: list[Any] | None = None
        while hits := self._page(query, None, after, _PAGE):
            after = hits[-1]["sort"]
            old: list[Stored] = []
            lines: list[Line] = []
            for stored in filter(_is_ours, map(_stored, hits)):
                new = placing(stored.source["klyra"])
                if new is not None:
                    old.append(stored)
                    lines.append(self._placed(stored, new))
            self._create(lines)
            moved += self.delete(old)
        if moved:
            self.refresh()
        return moved

    def _postpone(self, org_ref: bytes) -> None:
        """Have later sealings of an id wait for as long as the earlier ones are kept now; there are hardly any."""
        conditions = [{"term": {"klyra.org_ref": org_ref.hex()}}, {"exists": {"field": "klyra.shown_from"}}]
        for stored in list(filter(_is_ours, self._all(_all_of(conditions), None))):
            source, klyra = stored.source, stored.source["klyra"]
            one = id_of(source)
            day = day_after(self._repeats.stored({one[1]}).get(one, ()), sealing_of(source))
            if day is None or day <= klyra["shown_from"]:
                continue
            stream = self._streams.of_entry(_placing(klyra), source["organization_id"])
            later = orjson.dumps(source | {"klyra": klyra | {"shown_from": day}})
            identity = f"{stored.id.partition('~')[0]}~{day}s"
            self._create([Line(stream, identity, later, klyra["log"], klyra["index"])])
            self.delete([stored])

    def _placed(self, stored: Stored, placing: Placing) -> Line:
        """Return the line of a document at another place; one that stays in its stream gets an `_id` of its own."""
        klyra = stored.source["klyra"]
        source = stored.source | {
            "klyra": klyra | {"policy": placing.policy, "expire_day": placing.expire_day, "held": placing.held}
        }
        if "organization_id" in source:
            stream = self._streams.of_entry(placing, source["organization_id"])
        else:
            stream = self._streams.of_quarantined(placing)
        stays = klyra["held"] and placing.held
        identity = f"{stored.id.partition('~')[0]}~{placing.expire_day}d" if stays else stored.id
        return Line(stream, identity, orjson.dumps(source), klyra["log"], klyra["index"])

    def _create(self, lines: Sequence[Line]) -> None:
        """Create documents and count them; nothing may be deleted before."""
        if not lines:
            return
        refused = self._bulk.write(lines, repeated=repeated)
        if refused:
            raise NotMoved(
                f"Elasticsearch refuses the new document of record {refused[0].line.number} of "
                f"{refused[0].line.origin}: {refused[0].why.reason}.",
                remedy="The old one stays. Run klyra-audit setup elasticsearch.",
            )
        self.refresh()
        for stream in sorted({line.stream for line in lines}):
            self._count(stream, [line for line in lines if line.stream == stream])

    def _count(self, stream: str, lines: Sequence[Line]) -> None:
        wanted = {(line.origin, line.number) for line in lines}
        for origin in sorted({origin for origin, _ in wanted}):
            numbers = sorted(number for log, number in wanted if log == origin)
            query = {"bool": {"filter": [{"term": {"klyra.log": origin}}, {"terms": {"klyra.index": numbers}}]}}
            found = asked(self._client, "POST", f"/{stream}/_count", {"query": query})["count"]
            if found < len(numbers):
                raise NotMoved(
                    f"{stream} has {found} of {len(numbers)} documents that were just written.",
                    remedy="Nothing was deleted; the same is tried again.",
                )

    def _all(self, query: JsonObject, source: list[str] | None) -> Iterator[Stored]:
        after: list[Any] | None = None
        while hits := self._page(query, source, after, _PAGE):
            after = hits[-1]["sort"]
            yield from map(_stored, hits)

    def _page(
        self, query: JsonObject, source: list[str] | None, after: list[Any] | None, limit: int
    ) -> list[dict[str, Any]]:
        body: dict[str, Any] = {
            "size": limit,
            "track_total_hits": False,
            "_source": True if source is None else source or False,
            "sort": [{"klyra.log": "asc"}, {"klyra.index": "asc"}, {"klyra.expire_day": "asc"}],
            "query": query,
        }
        if after is not None:
            body["search_after"] = after
        hits: list[dict[str, Any]] = searched(self._client, body)["hits"]["hits"]
        return hits


def _stored(hit: dict[str, Any]) -> Stored:
    return Stored(hit["_index"], hit["_id"], hit.get("_source") or {})


def _placing(klyra: JsonObject) -> Placing:
    """Return where a document stands."""
    return Placing(
        policy=klyra["policy"],
        expire_day=klyra["expire_day"],
        held=klyra["held"],
        shown_from=klyra.get("shown_from"),
    )


def _is_ours(stored: Stored) -> bool:
    """Say whether a document has what ours have; what it is otherwise, verification says."""
    klyra = stored.source.get("klyra", {})
    return type(klyra) is dict and all(type(klyra.get(name)) is kind for name, kind in _MEMBERS.items())


def _whose(origin: str, org_ref: bytes) -> list[dict[str, Any]]:
    return [{"term": {"klyra.log": origin}}, {"term": {"klyra.org_ref": org_ref.hex()}}]


def _all_of(conditions: list[dict[str, Any]]) -> JsonObject:
    return {"bool": {"filter": conditions}}


def _refused(result: Result, status: int, reason: str) -> ElasticsearchBusy | WriterRefused:
    if result is Result.RETRY:
        return ElasticsearchBusy(f"Elasticsearch does not delete documents now: {reason}.")
    return WriterRefused(f"Elasticsearch refuses to delete documents ({status}): {reason}.", remedy=_REMEDY)
