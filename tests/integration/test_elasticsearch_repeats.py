"""An entry id that is sealed again is shown once, as the embedded store shows it: the first that is kept."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_audit import timestamps
from klyra_audit.format.leaf import Kind
from klyra_collector.store.elasticsearch.connection import request
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.store.elasticsearch.reader import ElasticsearchReader
from klyra_collector.store.elasticsearch.repeats import Repeats
from klyra_collector.store.follower import Follower
from klyra_collector.store.searching import Filters, Search
from klyra_collector.store.sqlite import SqliteStore
from klyra_collector.store.summarizing import Shape
from support.elasticsearch_faults import identity, own_ledger
from support.elasticsearch_following import following, prepared
from support.entries import TODAY, TODAY_US, MemoryLedger, document, organization_reference

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klyra_collector.store.searching import Found
    from support.elasticsearch import Node
    from support.elasticsearch_following import Following, Keys

DAY_US = 86_400 * 1_000_000
MOMENT_NS = timestamps.to_nanoseconds("2026-03-10T11:00:00Z")


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


@pytest.fixture
def log(request: pytest.FixtureRequest) -> str:
    """The first shard of one test."""
    return f"repeats/{request.node.name}/2026"


@dataclass
class Both:
    """The two stores, which follow one ledger."""

    ledger: MemoryLedger
    logs: tuple[str, str]
    sqlite: SqliteStore
    followed: Following
    reader: ElasticsearchReader
    keys: Keys
    today: int = TODAY

    @property
    def organization_id(self) -> str:
        """Of this test alone."""
        return f"org_{hashlib.sha256(self.logs[0].encode()).hexdigest()[:12]}"

    def seal(self, number: int, content: str, *, shard: int = 0, **options: Any) -> None:
        """Seal an entry under the id of a number."""
        moment = timestamps.from_nanoseconds(MOMENT_NS + len(content) * 1_000_000_000)
        event = document(number, organization_id=self.organization_id, timestamp=moment)
        event["id"] = identity(self.logs[0], number)
        event["actor"] = {"type": "user", "id": content, "name": None}
        self.ledger.seal(event, origin=self.logs[shard], **options)

    def control(self, kind: Kind, **content: Any) -> None:
        """Seal a control document about the first shard."""
        about = {"type": kind.name.lower(), "org_ref": organization_reference(self.organization_id).hex()}
        self.ledger.control(kind, about | content, origin=self.logs[0], organization_id=self.organization_id)

    def follow(self, *, rolls_over: bool = False) -> None:
        """Have both stores come up to the ledger, and searches find all of it."""
        embedded = Follower(self.ledger, self.sqlite)
        while embedded.step():
            pass
        self.followed.follow()
        self.keys.refresh()
        self.followed.store._parts.searchable._next = 0.0
        self.followed.store.shrink()
        sizes = {log: self.ledger.committed(log) for log in self.logs if self.ledger.committed(log)}
        assert dict(load(self.followed.cursors).searchable) == sizes
        if rolls_over:
            for plan in ("startup", "business"):
                request(self.keys.administrator, "POST", f"/klyra-audit-{plan}/_rollover")

    def shown(self) -> list[str]:
        """Return the contents that are shown, which both stores agree about in every way of asking."""
        search = Search(organization_id=self.organization_id, filters=Filters(), today=self.today)
        expected = self.sqlite.search(search, 1000)
        assert self.reader.search(search, 1000) == expected
        paged: list[Found] = []
        while page := self.reader.search(replace(search, after=paged[-1].key if paged else None), 1):
            paged += page
        assert paged == expected
        with self.reader.export(search) as exported:
            assert list(exported) == expected
        shape = Shape(10, 3)
        assert self.reader.summarize(search, shape) == self.sqlite.summarize(search, shape)
        for number in range(10):
            asked = self.organization_id, identity(self.logs[0], number), self.today
            assert self.reader.get(*asked) == self.sqlite.get(*asked)
        return sorted(orjson.loads(item.entry)["actor"]["id"] or "erased" for item in expected)


@pytest.fixture
def both(keys: Keys, log: str, tmp_path: Path) -> Iterator[Both]:
    """Two stores of an empty ledger of two shards."""
    logs = (log, f"{log}-2")
    with (
        own_ledger(keys, log),
        own_ledger(keys, logs[1]),
        contextlib.closing(SqliteStore.open(tmp_path / "store.sqlite")) as sqlite,
    ):
        ledger = MemoryLedger(*logs)
        with following(keys, ledger, tmp_path / "cursors") as followed:
            reader = ElasticsearchReader(keys.reader, tmp_path / "cursors")
            yield Both(ledger, logs, sqlite, followed, reader, keys)


def test_in_one_batch(both: Both) -> None:
    """A search finds neither of them yet."""
    for content in ("a", "bb", "ccc"):
        both.seal(1, content)
    both.seal(2, "dddd")
    both.follow()
    assert both.shown() == ["a", "dddd"]


@pytest.mark.parametrize("rolls_over", [False, True])
def test_later(both: Both, *, rolls_over: bool) -> None:
    """In the same index, in the next one, in another stream, in another shard."""
    both.seal(1, "a")
    both.seal(2, "bb")
    both.follow(rolls_over=rolls_over)
    both.seal(1, "ccc")
    both.seal(3, "dddd")
    both.follow(rolls_over=rolls_over)
    both.seal(1, "eeeee", retention_days=90)
    both.seal(2, "ffffff", shard=1)
    both.follow()
    assert both.shown() == ["a", "bb", "dddd"]


def test_another_organization_s_entry_of_the_same_id(both: Both) -> None:
    """It hides nothing."""
    event = document(1, organization_id="org_elsewhere")
    event["id"] = identity(both.logs[0], 1)
    both.ledger.seal(event, origin=both.logs[0])
    both.seal(1, "a")
    both.follow()
    assert both.shown() == ["a"]


def test_the_first_is_deleted(both: Both) -> None:
    """The next one is shown, one after the other."""
    both.seal(1, "a")
    both.seal(1, "bb", retention_days=90)
    both.follow(rolls_over=True)
    both.seal(1, "ccc", retention_days=365)
    both.follow()
    assert both.shown() == ["a"]
    for day, content in ((31, "bb"), (91, "ccc")):
        both.today = TODAY + day
        both.control(Kind.EXPIRY, cutoff_day=both.today, count=0, seq_digest="00" * 32, held=[])
        both.follow()
        assert both.shown() == [content]


def test_the_first_is_kept_for_longer(both: Both) -> None:
    """So the next one waits for longer, and for each further extension."""
    both.seal(1, "a")
    both.follow(rolls_over=True)
    both.seal(1, "bb", retention_days=730)
    both.follow()
    for days in (90, 365):
        both.control(Kind.EXTEND, first_seq=0, last_seq=0, retention_days=days)
        both.follow()
        both.today = TODAY + days
        assert both.shown() == ["a"]
    ids = [hit["_id"] for hit in both.keys.documents(both.logs[0])]
    assert ids[1].endswith(f"~{TODAY + 366}s")


def test_an_erasure_shows_nothing_more(both: Both) -> None:
    """A later sealing that is written again without a person stays hidden."""
    both.seal(1, "a")
    both.seal(1, "bb")
    both.follow()
    both.control(Kind.ERASURE, actor=[[1, 1]], target=[], basis="request", requested_day=TODAY)
    both.follow()
    assert both.shown() == ["a"]


def test_a_legal_hold_shows_nothing_more(both: Both) -> None:
    """Both move, and one is shown."""
    both.seal(1, "a")
    both.seal(1, "bb")
    both.follow()
    both.control(Kind.HOLD, hold_id="hold_1", from_us=TODAY_US - DAY_US, to_us=None, selection_c=None)
    both.follow()
    assert both.shown() == ["a"]


@pytest.mark.parametrize("rolls_over", [False, True])
def test_a_replay(both: Both, tmp_path: Path, *, rolls_over: bool) -> None:
    """From the beginning, with the first one gone: it is written again, and is the one that is shown."""
    both.seal(1, "a")
    both.seal(1, "bb")
    both.seal(2, "ccc")
    both.follow(rolls_over=rolls_over)
    gone = both.keys.documents(both.logs[0])[0]
    request(both.keys.administrator, "DELETE", f"/{gone['_index']}/_doc/{gone['_id']}?refresh=true")
    with following(both.keys, both.ledger, tmp_path / "again") as followed:
        again = replace(both, followed=followed, reader=ElasticsearchReader(both.keys.reader, tmp_path / "again"))
        again.follow()
        assert again.shown() == ["a", "ccc"]


def test_what_a_search_finds_is_forgotten(both: Both) -> None:
    """Memory does not grow with the ledger."""
    repeats = Repeats(both.keys.reader)
    placed = {"log": both.logs[0], "expire_day": TODAY + 30}
    documents = [
        {"organization_id": "o", "id": f"log_{number}", "klyra": placed | {"index": number}} for number in range(5)
    ]
    assert repeats.shown_from(documents) == [None] * 5
    assert repeats.shown_from(documents) == [None] * 5
    repeats.forget({both.logs[0]: 3, "other/log/2026": 9})
    assert sorted(repeats._recent) == [("o", "log_3"), ("o", "log_4")]
    repeats.forget({both.logs[0]: 5})
    assert not repeats._recent
