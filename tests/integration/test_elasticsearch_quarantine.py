"""Quarantined input in Elasticsearch is listed and counted as in the embedded store: a real server."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit.format.leaf import Kind
from klyra_audit.format.quarantined import KeptInput, quarantine_reference
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.store.elasticsearch.connection import connect, parse, request
from klyra_collector.store.elasticsearch.definitions import Retained, definitions
from klyra_collector.store.elasticsearch.documents import MetadataFields, Placing, entry_document, quarantine_document
from klyra_collector.store.elasticsearch.quarantine_reader import ElasticsearchQuarantine
from klyra_collector.store.elasticsearch.setup import apply, plan
from klyra_collector.store.follower import Follower
from klyra_collector.store.quarantine_rows import quarantine_row_of
from klyra_collector.store.quarantined import QuarantineFilters, QuarantineSearch
from klyra_collector.store.sqlite import SqliteStore
from support.entries import ORIGIN, TODAY, TODAY_US, MemoryLedger, document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elasticsearch import Elasticsearch

    from klyra_collector.seal.reader import SealedRecord
    from support.elasticsearch import Node

ACME = "org_quarantining"  # the cluster is shared with other tests
OTHER = "org_quarantining_other"
ORGANIZATIONS = (ACME, OTHER, OPERATOR_ORGANIZATION_ID)
DAY_US = 86_400 * 1_000_000
SOURCES = (("key_a", "otlp-json"), ("key_a", "forward"), ("key_b", "otlp-json"), (None, "unknown"))
LONG = "/" + "\N{GRINNING FACE}" * 1023
POINTERS = ("", "/actor/id", "/actor/name", "/actor", "/ünï/~0", LONG, LONG[:700] + "/x")
STREAM = "klyra-audit-quarantine-startup"


@dataclass(frozen=True)
class Both:
    """The two stores, which have followed one ledger as far."""

    sqlite: SqliteStore
    elasticsearch: ElasticsearchQuarantine
    client: Elasticsearch
    references: dict[str, list[str]]


@pytest.fixture(scope="module")
def both(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Two hundred inputs of three organizations, some replayed, in both stores."""
    folder = tmp_path_factory.mktemp("quarantined")
    (folder / "password").write_text(cluster.password)
    with (
        connect(parse(f"{cluster.store_url}?user=elastic&password=file:{folder / 'password'}")) as client,
        closing(SqliteStore.open(folder / "store.sqlite")) as sqlite,
    ):
        apply(client, plan(client, definitions([Retained("startup", 30)])), lambda _: None)
        ledger, references = sealed()
        follower = Follower(ledger, sqlite)
        while follower.step():
            pass
        index(client, ledger)
        yield Both(sqlite, ElasticsearchQuarantine(client), client, references)


def sealed() -> tuple[MemoryLedger, dict[str, list[str]]]:
    """Seal inputs whose values collide often, some past their time, and what tells of replays."""
    chance = random.Random(5)  # noqa: S311 - the same inputs on every run
    ledger = MemoryLedger()
    ledger.seal(document(9000, organization_id=ACME))
    ledger.seal(document(9001, organization_id=OTHER))
    references: dict[str, list[str]] = {organization_id: [] for organization_id in ORGANIZATIONS}
    for number in range(200):
        owner = chance.choice(ORGANIZATIONS)
        key_id, encoding = chance.choice(SOURCES)
        record = ledger.quarantine(
            organization_id=owner,
            ingest_us=TODAY_US - chance.choice((0, 0, 1, 40)) * DAY_US - chance.randrange(3),
            raw=KeptInput(encoding, key_id, str(number).encode()).pack(),
            reason=chance.choice(("is bad", "is not ünï")),
            pointer=chance.choice(POINTERS),
        )
        reference = quarantine_reference(record.leaf_bytes)
        references[owner].append(reference)
        for again in range(chance.choice((0, 0, 1, 2))):
            ledger.seal(replayed(chance, 2 * number + again, owner, reference))
    return ledger, references


def replayed(chance: random.Random, number: int, owner: str, reference: str) -> dict[str, Any]:
    """Return an entry that tells of a replay, or of something that is none."""
    members: dict[str, Any] = {
        "event_type": "quarantine.replayed",
        "organization_id": owner,
        "resource": {"type": "quarantine", "id": reference, "name": None},
        "metadata": chance.choice(({"entry_id": f"log_{number}"}, {"entry_id": f"log_{number}"}, {}, {"entry_id": 1})),
    }
    nothing = chance.choice(({}, {}, {}, {"status": "failure"}, {"organization_id": ACME}))
    return document(number, **(members | nothing))


def index(client: Elasticsearch, ledger: MemoryLedger) -> None:
    """Put every record into its stream."""
    (mapping,) = request(client, "GET", "/_component_template/klyra-audit-entries")["component_templates"]
    fields = MetadataFields(
        mapping["component_template"]["template"]["mappings"]["properties"]["metadata"]["properties"]
    )
    lines: list[dict[str, Any]] = []
    for record in ledger.read(ORIGIN, 0, 1000):
        lines += line_of(record, ledger, fields)
    create(client, lines)


def line_of(record: SealedRecord, ledger: MemoryLedger, fields: MetadataFields) -> list[dict[str, Any]]:
    """Return what is sent of a record."""
    placing = Placing(policy="startup", expire_day=record.leaf.expire_day)
    identity = f"{ORIGIN}:{record.index}"
    if record.leaf.kind == Kind.EVENT:
        return [
            {"create": {"_index": "klyra-audit-startup", "_id": identity}},
            entry_document(record, placing, fields),
        ]
    raw = ledger.quarantined(record)
    made = quarantine_document(record, placing, quarantine_row_of(record, raw), raw)
    return [{"create": {"_index": STREAM, "_id": identity}}, made]


def create(client: Elasticsearch, lines: list[dict[str, Any]]) -> None:
    """Send them and have them found."""
    body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    answer = client.bulk(operations=body, refresh=True).body  # type: ignore[arg-type] # bytes are sent as they are
    assert not answer["errors"], [item for item in answer["items"] if item["create"]["status"] != 201][:2]


def drawn(chance: random.Random) -> QuarantineSearch:
    """Draw any list."""
    moments = (None, None, None, TODAY_US - 2 * DAY_US, TODAY_US - 1, TODAY_US, 2**63 - 1)
    return QuarantineSearch(
        organization_id=chance.choice((*ORGANIZATIONS, "org_quarantining_nobody")),
        filters=QuarantineFilters(
            start_us=chance.choice(moments),
            end_us=chance.choice(moments),
            key_ids=chance.choice(((), (), ("key_a",), ("key_a", "key_c"))),
            encodings=chance.choice(((), (), ("forward",), ("otlp-json", "unknown"))),
            pointer=chance.choice(("", "", "/actor", "/actor/id", "/ü", LONG, LONG[:700], LONG[:100])),
            state=chance.choice((None, "waiting", "replayed")),
        ),
        today=TODAY,
        order=chance.choice(("asc", "desc")),
        snapshot=chance.choice((None, None, {}, {ORIGIN: 100})),
    )


@pytest.mark.parametrize("seed", range(40))
def test_lists_pages_and_counts_are_the_same(both: Both, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Any list gives the same records, whole or page by page; so do its counts."""
    monkeypatch.setattr("klyra_collector.store.elasticsearch.quarantine_reader._PAGE", 7)
    chance = random.Random(seed)  # noqa: S311 - the same lists on every run
    search = drawn(chance)
    expected = both.sqlite.quarantined(search, 1000)
    assert both.elasticsearch.quarantined(search, 1000) == expected
    paged: list[Any] = []
    while items := both.elasticsearch.quarantined(
        replace(search, after=paged[-1].key if paged else None), chance.randint(1, 30)
    ):
        paged += items
    assert paged == expected
    counted = replace(search, snapshot=None)
    limit = chance.randint(1, 6)
    assert both.elasticsearch.quarantine_summary(counted, limit) == both.sqlite.quarantine_summary(counted, limit)


def test_something_is_listed(both: Both) -> None:
    """What is compared above is not nothing, and of both states."""
    found = [item for seed in range(40) for item in both.sqlite.quarantined(drawn(random.Random(seed)), 1000)]  # noqa: S311 - as above
    assert len(found) > 50
    assert {item.replayed_as is None for item in found} == {True, False}
    assert any(item.row.pointer == LONG for item in found)


def test_one_record_is_its_organizations_alone(both: Both) -> None:
    """By its reference; another organization, and a day on which it is gone, do not find it."""
    for owner in (*ORGANIZATIONS, "org_quarantining_nobody"):
        for reference in [one for listed in both.references.values() for one in listed[::6]]:
            expected = both.sqlite.quarantined_one(owner, reference, TODAY)
            assert both.elasticsearch.quarantined_one(owner, reference, TODAY) == expected
            assert both.elasticsearch.quarantined_one(owner, reference, TODAY + 400) is None


def of_other_tests(client: Elasticsearch) -> int:
    """Return how many inputs others have left in the cluster, none of which was replayed."""
    query = {
        "bool": {
            "filter": [{"range": {"klyra.expire_day": {"gt": TODAY}}}],
            "must_not": [{"term": {"klyra.log": ORIGIN}}],
        }
    }
    return int(request(client, "POST", "/klyra-audit-quarantine-*/_count", {"query": query})["count"])


def test_the_backlog_is_the_same_also_with_a_document_twice(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around a rollover a document may be accepted again; nothing of it is listed or counted twice."""
    monkeypatch.setattr("klyra_collector.store.elasticsearch.quarantine_reader._THOSE", 10)
    search = QuarantineSearch(organization_id=ACME, filters=QuarantineFilters(), today=TODAY)
    backlog = both.sqlite.quarantine_backlog(TODAY)
    assert backlog.waiting > 20
    expected = replace(backlog, waiting=backlog.waiting + of_other_tests(both.client))
    assert both.elasticsearch.quarantine_backlog(TODAY) == expected
    assert both.elasticsearch.quarantine_backlog(TODAY + 4000) == both.sqlite.quarantine_backlog(TODAY + 4000)
    found = request(both.client, "POST", f"/{STREAM}/_search", {"size": 40, "query": {"match_all": {}}})["hits"]["hits"]
    request(both.client, "POST", f"/{STREAM}/_rollover")
    lines = [line for hit in found for line in ({"create": {"_index": STREAM, "_id": hit["_id"]}}, hit["_source"])]
    create(both.client, lines)
    assert both.elasticsearch.quarantine_backlog(TODAY) == expected
    assert both.elasticsearch.quarantined(search, 1000) == both.sqlite.quarantined(search, 1000)
    assert both.elasticsearch.quarantine_summary(search, 9) == both.sqlite.quarantine_summary(search, 9)
