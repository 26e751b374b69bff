"""The store in Elasticsearch gives the very answers of the embedded store for the same ledger: a real server."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit import timestamps
from klyra_collector.store.addresses import range_of
from klyra_collector.store.elasticsearch import summaries
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search, SortKey
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.store.summarizing import Shape
from support.elasticsearch_following import following, prepared
from support.entries import TODAY, TODAY_US, MemoryLedger, document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elasticsearch import Elasticsearch

    from support.elasticsearch import Node

ACME = "org_reading"  # the cluster is shared with other tests
OTHER = "org_reading_other"
ORIGINS = ("log/b/2026", "log/a/2026")
DAY_US = 86_400 * 1_000_000
BASE_NS = timestamps.to_nanoseconds("2026-03-10T11:00:00Z")
TYPES = ("moderation.created", "user.added", "settings.updated")
IDS = ("a", "b", "ünï", "d,e", "x" * 256)
ADDRESSES = ("198.51.100.7", "198.51.100.200", "2001:db8::1", "::ffff:198.51.100.7", None)
BLOCKS = ("198.51.100.7", "198.51.100.0/25", "0.0.0.0/0", "2001:db8::/48", "::/0", None)
TIMES = ("1677-01-01T00:00:00Z", "1969-12-31T23:59:59.999999999Z", "2262-04-11T23:47:16.9Z")


@dataclass(frozen=True)
class Both:
    """The two stores, which have followed one ledger as far."""

    sqlite: SqliteStore
    elasticsearch: ElasticsearchReader
    client: Elasticsearch


@pytest.fixture(scope="module")
def both(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Some hundred entries of two organizations and two shards, which the follower brought into both stores."""
    folder = tmp_path_factory.mktemp("both")
    ledger = sealed()
    with prepared(cluster, folder) as keys, closing(SqliteStore.open(folder / "store.sqlite")) as sqlite:
        embedded = Follower(ledger, sqlite)
        while embedded.step():
            pass
        with following(keys, ledger, folder / "cursors") as followed:
            while dict(load(followed.cursors).searchable) != {origin: ledger.committed(origin) for origin in ORIGINS}:
                followed.follow()
                keys.refresh()
                followed.store.shrink()
        yield Both(sqlite, ElasticsearchReader(keys.reader, folder / "cursors"), keys.administrator)


def sealed() -> MemoryLedger:
    """Seal entries whose values collide often, some of them past their time."""
    chance = random.Random(11)  # noqa: S311 - the same entries on every run
    ledger = MemoryLedger(*ORIGINS)
    for number in range(400):
        moment = timestamps.from_nanoseconds(BASE_NS + chance.randrange(7) * 700_000_000)
        address = chance.choice(ADDRESSES)
        event = document(
            number,
            organization_id=chance.choice((ACME, ACME, OTHER)),
            timestamp=chance.choice((*[moment] * 20, *TIMES)),
            event_type=chance.choice(TYPES),
            actor={
                "type": chance.choice(("user", "system")),
                "id": chance.choice(IDS),
                "name": chance.choice(("Zoë", None)),
            },
            resource={"type": chance.choice(("user", "moderation")), "id": chance.choice(IDS), "name": None},
            action=chance.choice(("create", "delete")),
            status=chance.choice(("success", "failure")),
            metadata=({} if address is None else {"client_ip": address}) | {"dotted.key": {"a": [1, {"b": None}]}},
        )
        retention = chance.choice((30, 90))
        ingest_us = TODAY_US - chance.choice((0, 1, 40)) * DAY_US
        ledger.seal(event, origin=chance.choice(ORIGINS), ingest_us=ingest_us, retention_days=retention)
    return ledger


def some(chance: random.Random, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return no filter most of the time, else one to three values."""
    return tuple(sorted(chance.sample(values, min(len(values), chance.randint(1, 3))))) if chance.random() < 0.3 else ()


def drawn(chance: random.Random) -> Search:
    """Draw any search."""
    block = chance.choice(BLOCKS) if chance.random() < 0.4 else None
    moment = [None, None, -(2**63), BASE_NS + 700_000_000, BASE_NS + 2_100_000_000, 2**63 - 1]
    return Search(
        organization_id=chance.choice((ACME, ACME, OTHER, "org_reading_nobody")),
        filters=Filters(
            start_ns=chance.choice(moment),
            end_ns=chance.choice(moment),
            event_types=some(chance, (*TYPES, "unknown.type")),
            actor_ids=some(chance, IDS),
            actor_types=some(chance, ("user", "system", "api_key")),
            resource_ids=some(chance, IDS),
            resource_types=some(chance, ("user", "moderation")),
            actions=some(chance, ("create", "delete", "read")),
            status=some(chance, ("success", "failure")),
            client_ip=None if block is None else range_of(block),
        ),
        today=TODAY,
        order=chance.choice(("asc", "desc")),
    )


@pytest.mark.parametrize("seed", range(40))
def test_searches_pages_and_exports_are_the_same(both: Both, seed: int) -> None:
    """Any search gives the same keys, leaves and bytes; so do its pages put together, and an export of it."""
    chance = random.Random(seed)  # noqa: S311 - the same searches on every run
    search = drawn(chance)
    expected = both.sqlite.search(search, 1000)
    assert both.elasticsearch.search(search, 1000) == expected
    paged: list[Any] = []
    following = replace(search, snapshot=both.elasticsearch.snapshot())
    while items := both.elasticsearch.search(
        replace(following, after=paged[-1].key if paged else None), chance.randint(1, 40)
    ):
        paged += items
    assert paged == expected
    with both.elasticsearch.export(search) as exported:
        assert list(exported) == expected
    shape = Shape(buckets=chance.randint(2, 60), top=chance.randint(0, 4))
    assert both.elasticsearch.summarize(search, shape) == both.sqlite.summarize(search, shape)


def test_frequent_values_are_counted_through_where_shards_would_estimate(both: Both, monkeypatch) -> None:
    """Two shards that each know their own two most frequent values do not know those of both."""
    monkeypatch.setattr(summaries, "_SHARD_VALUES", 1)
    monkeypatch.setattr(summaries, "_PAGE", 2)
    for organization_id in (ACME, OTHER):
        search = Search(organization_id=organization_id, filters=Filters(), today=TODAY)
        for top in (1, 2, 5):
            assert both.elasticsearch.summarize(search, Shape(10, top)) == both.sqlite.summarize(search, Shape(10, top))


def test_something_is_found(both: Both) -> None:
    """What is compared above is not nothing: most searches find some entries, and hundreds there are."""
    found = [len(both.sqlite.search(drawn(random.Random(seed)), 1000)) for seed in range(40)]  # noqa: S311 - as above
    assert sum(1 for count in found if count) > 15
    assert max(found) > 100


def test_one_entry_and_the_first_day_are_the_same(both: Both) -> None:
    """An entry by its id, one that is past its time, another organization's, none; and what the window begins with."""
    everything = Search(organization_id=ACME, filters=Filters(), today=0)
    ids = [orjson.loads(item.entry)["id"] for item in both.sqlite.search(everything, 1000)]
    assert len(ids) > 200
    for organization_id in (ACME, OTHER, "org_reading_nobody"):
        for ident in ids[::20]:
            expected = both.sqlite.get(organization_id, ident, TODAY)
            assert both.elasticsearch.get(organization_id, ident, TODAY) == expected
        days = [store.earliest_sealing_day(organization_id, TODAY) for store in (both.sqlite, both.elasticsearch)]
        assert days[0] == days[1]


def test_what_came_later_is_on_no_page(both: Both) -> None:
    """A snapshot hides what a search finds beyond it; without any shard there is nothing."""
    search = Search(organization_id=ACME, filters=Filters(), today=TODAY, snapshot={ORIGINS[0]: 20, ORIGINS[1]: 0})
    found = both.elasticsearch.search(search, 1000)
    assert found == both.sqlite.search(search, 1000)
    assert {item.key.origin for item in found} == {ORIGINS[0]}
    assert both.elasticsearch.search(replace(search, snapshot={}), 1000) == []


def test_a_document_that_is_there_twice_is_shown_once(both: Both) -> None:
    """Around a rollover the same document may be accepted again, into the next backing index."""
    search = Search(organization_id=ACME, filters=Filters(), today=TODAY)
    before = both.sqlite.search(search, 1000)
    hit = request(
        both.client,
        "POST",
        "/klyra-audit-startup/_search",
        {
            "size": 1,
            "query": {
                "bool": {
                    "filter": [{"term": {"organization_id": ACME}}, {"range": {"klyra.expire_day": {"gt": TODAY}}}]
                }
            },
        },
    )["hits"]["hits"][0]
    request(both.client, "POST", "/klyra-audit-startup/_rollover")
    body = b"".join(orjson.dumps(line) + b"\n" for line in ({"create": {"_id": hit["_id"]}}, hit["_source"]))
    answer = both.client.bulk(operations=body, index="klyra-audit-startup", refresh=True).body  # type: ignore[arg-type] # bytes
    assert not answer["errors"]
    assert both.elasticsearch.search(search, 1000) == before
    assert both.elasticsearch.search(search, 7) == before[:7]
    assert both.elasticsearch.summarize(search, Shape(10, 3)) == both.sqlite.summarize(search, Shape(10, 3))
    with both.elasticsearch.export(search) as exported:
        assert list(exported) == before


def test_it_says_whether_it_can_be_searched(both: Both) -> None:
    """A check asks the server."""
    both.elasticsearch.check()
    assert isinstance(
        both.elasticsearch.search(Search(organization_id=ACME, filters=Filters(), today=TODAY), 1)[0].key, SortKey
    )
