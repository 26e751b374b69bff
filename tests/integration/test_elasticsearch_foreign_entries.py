"""Entries that nobody sealed, added with a stolen writer's key: a reader beside the ledger shows none of them."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from structlog.testing import capture_logs

from klyra_audit.errors import Halted
from klyra_collector.store.elasticsearch.assembly import metadata_fields
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.documents import Placing, entry_document
from klyra_collector.store.elasticsearch.queries import StoreAltered
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.searching import Filters, Search
from support.elasticsearch_faults import identity, own_ledger, seal
from support.elasticsearch_following import following, prepared
from support.entries import ACME, TODAY, MemoryLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from support.elasticsearch import Node
    from support.elasticsearch_following import Keys

COUNT = 6
LIED = 3  # the place that forged documents name


@dataclass
class Attacked:
    """A store that has followed a ledger of its own.

    Attributes:
        log: the ledger's only shard.
        reader: compares with the ledger.
    """

    log: str
    keys: Keys
    reader: ElasticsearchReader

    def add(self, *documents: dict[str, Any]) -> None:
        """Write documents with the key of the writer."""
        lines = [line for each in documents for line in ({"create": {"_index": "klyra-audit-startup"}}, each)]
        body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        answer = self.keys.writer.bulk(operations=body).body  # type: ignore[arg-type] # bytes are sent as they are
        assert not answer["errors"], answer
        self.keys.refresh()

    def search(self, organization_id: str = ACME, **filters: Any) -> Search:
        """Return a search for all that was sealed."""
        snapshot = {self.log: COUNT}
        return Search(organization_id=organization_id, filters=Filters(**filters), today=TODAY, snapshot=snapshot)

    def shown(self, search: Search, limit: int = 100) -> list[str]:
        """Return the ids that are shown, by search and by export alike."""
        found = [orjson.loads(one.entry)["id"] for one in self.reader.search(search, limit)]
        with self.reader.export(search) as entries:
            exported = [orjson.loads(one.entry)["id"] for one in entries]
        assert exported[:limit] == found
        return found


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def attacked(request: pytest.FixtureRequest, keys: Keys, tmp_path: Path) -> Iterator[Attacked]:
    """Six entries, followed."""
    log = f"foreign/{request.node.name}/2026"
    with own_ledger(keys, log) as ledger:
        for number in range(COUNT):
            seal(ledger, log, number)
        with following(keys, ledger, tmp_path) as follow:
            while load(tmp_path).searchable.get(log) != COUNT:
                follow.follow()
                keys.refresh()
                follow.store.shrink()
        yield Attacked(log, keys, ElasticsearchReader(keys.reader, tmp_path, ledger))


def forged(log: str, index: int = LIED, **members: Any) -> dict[str, Any]:
    """Return the document of an entry that nobody sealed, which agrees with itself."""
    other = MemoryLedger(log)
    for number in range(index):
        seal(other, log, number)
    event_id = f"log_forged{members.pop('number', 0):04}"
    record = seal(other, log, index, **{"actor": {"type": "user", "id": "usr_forged", "name": None}} | members)
    made = entry_document(record, Placing(policy="startup", expire_day=record.leaf.expire_day), metadata_fields())
    return made | {"id": event_id}


ALL = list(reversed(range(COUNT)))


def ids(log: str, numbers: list[int]) -> list[str]:
    """Return the ids of entries."""
    return [identity(log, number) for number in numbers]


def test_an_entry_that_nobody_sealed(attacked: Attacked) -> None:
    """It is not shown, whatever place it names; what was sealed is shown whole, and each one is told of once."""
    attacked.add(forged(attacked.log), forged(attacked.log, 0), forged(attacked.log, COUNT + 4))
    with capture_logs() as logs:
        assert attacked.shown(attacked.search()) == ids(attacked.log, ALL)
        assert attacked.shown(attacked.search(), 2) == ids(attacked.log, ALL[:2])
        assert attacked.shown(attacked.search(actor_ids=("usr_forged",))) == []
    told = [line for line in logs if line["event"] == "elasticsearch.foreign_document"]
    assert len({line["id"] for line in told}) == len(told) == 2  # the one beyond the end is not searched at all
    assert {line["log_level"] for line in told} == {"error"}
    assert all("delete it" in line["remedy"] for line in told)


def test_more_of_them_than_a_page_holds(attacked: Attacked) -> None:
    """Whatever stands before them, every sealed entry is found."""
    attacked.add(*(forged(attacked.log, number=number) for number in range(30)))
    for limit in (1, 3, 5, 100):
        assert attacked.shown(attacked.search(), limit) == ids(attacked.log, ALL[:limit])


def test_an_entry_is_asked_for_by_its_id(attacked: Attacked) -> None:
    """A forged document of the same id does not hide it, and one of no sealed entry is not there."""
    made = forged(attacked.log, 0)
    attacked.add(made, made | {"id": identity(attacked.log, LIED)})
    found = attacked.reader.get(ACME, identity(attacked.log, LIED), TODAY)
    assert found is not None
    assert (found.key.index, orjson.loads(found.entry)["id"]) == (LIED, identity(attacked.log, LIED))
    assert attacked.reader.get(ACME, made["id"], TODAY) is None


def test_a_sealed_entry_under_another_name(attacked: Attacked) -> None:
    """A copy that says to be another organization's, or of another time, is shown to nobody."""
    (hit,) = [one for one in attacked.keys.documents(attacked.log) if one["_source"]["klyra"]["index"] == LIED]
    source = hit["_source"]
    later = source["klyra"] | {"timestamp_ns": source["klyra"]["timestamp_ns"] + 5_000_000_000}
    attacked.add(source | {"organization_id": "org_thief"}, source | {"klyra": later})
    assert attacked.shown(attacked.search("org_thief")) == []
    assert attacked.shown(attacked.search()) == ids(attacked.log, ALL)


def test_a_document_that_is_no_entry_at_all(attacked: Attacked) -> None:
    """It keeps nobody from their entries."""
    (hit, *_) = attacked.keys.documents(attacked.log)
    klyra = hit["_source"]["klyra"]
    for change in ({"leaf": "AAAA"}, {"sections": {"core": "no JSON"}}, {"timestamp_ns": None}, {"index": [2, 3]}):
        attacked.add(hit["_source"] | {"klyra": klyra | change})
    attacked.add({name: hit["_source"][name] for name in ("@timestamp", "organization_id")})
    assert attacked.shown(attacked.search()) == ids(attacked.log, ALL)
    assert attacked.shown(attacked.search(), 3) == ids(attacked.log, ALL[:3])


@pytest.mark.parametrize("leaves_the_leaf", [True, False])
def test_an_entry_that_was_replaced(attacked: Attacked, *, leaves_the_leaf: bool) -> None:
    """By somebody who may do more than add: an answer without it would be short, so there is none."""
    (hit,) = [one for one in attacked.keys.documents(attacked.log) if one["_source"]["klyra"]["index"] == LIED]
    made = forged(attacked.log) | {"id": hit["_source"]["id"]}
    if leaves_the_leaf:
        made["klyra"] |= {"leaf": hit["_source"]["klyra"]["leaf"]}
    path = f"/{hit['_index']}/_doc/{quote(hit['_id'], safe='')}"
    now = request(attacked.keys.administrator, "GET", path)
    version = f"if_seq_no={now['_seq_no']}&if_primary_term={now['_primary_term']}"
    request(attacked.keys.administrator, "PUT", f"{path}?refresh=true&{version}", made)
    for ask in asks(attacked, hit["_source"]["id"]):
        with pytest.raises(StoreAltered) as refused:
            ask()
        assert isinstance(refused.value, Halted)
        assert refused.value.code == "store_altered"
        assert "klyra-audit verify" in refused.value.remedy


def asks(attacked: Attacked, entry_id: str) -> list[Callable[[], object]]:
    """Return each way to read an entry."""

    def export() -> object:
        with attacked.reader.export(attacked.search()) as entries:
            return list(entries)

    return [
        lambda: attacked.reader.search(attacked.search(), 100),
        lambda: attacked.reader.get(ACME, entry_id, TODAY),
        export,
    ]


def test_a_ledger_that_lost_its_end(attacked: Attacked, tmp_path: Path) -> None:
    """What was followed before the loss is still shown: nobody may have it hidden for want of its leaf."""
    (log, first) = attacked.log, LIED
    leaves = {one["_source"]["klyra"]["index"]: one["_source"]["klyra"]["leaf"] for one in attacked.keys.documents(log)}

    class Rest:
        def at(self, origin: str, indexes: Collection[int]) -> dict[int, bytes]:
            assert origin == log
            return {index: b64decode(leaves[index]) for index in indexes if index < first}

    attacked.reader = ElasticsearchReader(attacked.keys.reader, tmp_path, Rest())
    (hit,) = [one for one in attacked.keys.documents(log) if one["_source"]["klyra"]["index"] == COUNT - 1]
    attacked.add(hit["_source"] | {"klyra": hit["_source"]["klyra"] | {"leaf": "AAAA"}})
    with capture_logs() as logs:
        assert attacked.shown(attacked.search()) == ids(log, ALL)
        assert attacked.reader.get(ACME, identity(log, COUNT - 1), TODAY) is not None
    assert {line["event"] for line in logs} == {"elasticsearch.foreign_document"}


def test_a_reader_without_the_ledger(attacked: Attacked, tmp_path: Path) -> None:
    """It shows what agrees with itself: there is nothing to compare it with."""
    attacked.add(forged(attacked.log))
    alone = ElasticsearchReader(attacked.keys.reader, tmp_path)
    assert len(alone.search(attacked.search(actor_ids=("usr_forged",)), 100)) == 1
