"""The follower into Elasticsearch looks at its own copy: a real server, documents that somebody touches."""

from __future__ import annotations

import random
from contextlib import closing
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from klyra_collector.dead_letters import DeadLetter, DeadLetters
from klyra_collector.seal.durable import Disk
from klyra_collector.store.elasticsearch.cursor import load
from klyra_collector.supervise.self_check import EVERY_SECONDS, Copy, SelfCheck
from support.elasticsearch_following import following, prepared
from support.entries import TODAY_US, MemoryLedger, document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.elasticsearch import Node
    from support.elasticsearch_following import Following, Keys

ENTRIES = 5


@pytest.fixture(scope="module")
def keys(cluster: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    """Clients of each key."""
    with prepared(cluster, tmp_path_factory.mktemp("keys")) as made:
        yield made


class Watched:
    """A store with some entries, the check of it, and a clock."""

    def __init__(self, keys: Keys, store: Following, log: str, dead_letters: DeadLetters) -> None:
        self.keys = keys
        self.store = store
        self.log = log
        self.now = 0.0
        self.dead_letters = dead_letters
        copy = Copy(
            reader=store.ledger,  # type: ignore[arg-type] # in memory
            client=keys.reader,
            cursors=store.cursors,
            dead_letters=dead_letters,
            wall_us=lambda: TODAY_US + int(self.now * 1_000_000),
        )
        chance = random.Random(7)  # noqa: S311 - the same entries on every run, all of so few
        self.check = SelfCheck(copy, chance=chance, monotonic=lambda: self.now)

    def seal(self, number: int, **options: Any) -> None:
        """Seal an entry whose id belongs to one test alone."""
        event = document(number) | {"id": f"log_{abs(hash((self.log, number))):026}"[:30]}
        self.store.ledger.seal(event, origin=self.log, **options)

    def follow(self) -> None:
        """Have a search find all that is sealed."""
        while load(self.store.cursors).searchable.get(self.log) != self.store.ledger.committed(self.log):
            self.store.follow()
            self.keys.refresh()
            self.store.store.shrink()

    def documents(self) -> list[dict[str, Any]]:
        """Return the documents by index."""
        return [hit["_source"] for hit in self.keys.documents(self.log)]

    def replace(self, *sources: dict[str, Any]) -> None:
        """Have only these documents be there, as somebody with all rights can."""
        lines: list[dict[str, Any]] = [
            {"delete": {"_index": hit["_index"], "_id": hit["_id"]}} for hit in self.keys.documents(self.log)
        ]
        for source in sources:
            name = {"_index": "klyra-audit-startup", "_id": f"{source['organization_id']}:{source['id']}"}
            lines += [{"create": name}, source]
        body = b"".join(orjson.dumps(line) + b"\n" for line in lines)
        self.keys.administrator.bulk(operations=body, refresh=True)  # type: ignore[arg-type] # bytes are sent as they are

    def later(self, seconds: float = EVERY_SECONDS) -> str | None:
        """Let time pass; return what the check says then."""
        self.now += seconds
        found = self.check.tell()
        return found.get("self_check")


@pytest.fixture
def watched(request: pytest.FixtureRequest, keys: Keys, tmp_path: Path) -> Iterator[Watched]:
    """Five entries that a search finds."""
    log = f"self-check/{request.node.name}/2026"
    with following(keys, MemoryLedger(log), tmp_path / "cursors") as store, closing(Disk()) as disk:
        made = Watched(keys, store, log, DeadLetters(store.cursors, "elasticsearch", disk))
        for number in range(ENTRIES):
            made.seal(number)
        yield made


def test_a_copy_that_is_right_passes(watched: Watched) -> None:
    """It is looked at as soon as a search finds something, and then now and then."""
    watched.now = 10
    assert watched.check.tell() == {"self_check": "pending", "self_check_age_seconds": 10}
    watched.follow()
    assert watched.check.tell() == {"self_check": "passed", "self_check_age_seconds": 0}
    watched.now = 40
    assert watched.check.tell() == {"self_check": "passed", "self_check_age_seconds": 30}
    watched.now = 10 + EVERY_SECONDS
    assert watched.check.tell() == {"self_check": "passed", "self_check_age_seconds": 0}


def test_an_empty_ledger_has_nothing_to_look_at(watched: Watched) -> None:
    """An age that grows for want of entries would raise an alarm."""
    watched.store.ledger.forget(watched.log)
    assert watched.check.tell() == {}


def other_actor(source: dict[str, Any]) -> None:
    """Change what the entry is found by."""
    source["actor"]["id"] = "somebody else"


def other_organization(source: dict[str, Any]) -> None:
    """Give the entry to somebody else."""
    source["organization_id"] = "org_other"


def other_section(source: dict[str, Any]) -> None:
    """Change what the entry is shown by."""
    parts = source["klyra"]["sections"]
    parts["core"] = parts["core"].replace("success", "failure")


def other_leaf(source: dict[str, Any]) -> None:
    """Change what the entry is proved by."""
    source["klyra"]["leaf"] = "AAAA" + source["klyra"]["leaf"][4:]


def no_status(source: dict[str, Any]) -> None:
    """Take something away."""
    del source["status"]


@pytest.mark.parametrize("change", [other_actor, other_organization, other_section, other_leaf, no_status])
def test_a_changed_document_is_found(watched: Watched, change: Callable[[dict[str, Any]], None]) -> None:
    """Once may be a change under way; twice is a failure, which lasts until the document is right again."""
    watched.follow()
    before = watched.documents()
    changed = deepcopy(before)
    change(changed[2])
    watched.replace(*changed)
    assert watched.later() == "pending"
    assert watched.later(30) == "failed"
    assert watched.later() == "failed"
    watched.replace(*before)
    assert watched.later() == "passed"


def test_a_document_that_is_gone_is_found(watched: Watched) -> None:
    """What was deleted is not there; what was refused for good, or is at its last day, need not be."""
    watched.follow()
    watched.replace()
    assert watched.later() == "pending"
    assert watched.later(30) == "failed"
    letters = [
        DeadLetter(origin=watched.log, index=index, entry_id="", organization_id="", status="400", refused_us=0)
        for index in range(ENTRIES)
    ]
    watched.dead_letters.add(letters)
    assert watched.later() == "passed"


def test_an_entry_at_its_end_need_not_be_there(watched: Watched) -> None:
    """The sweep may come first."""
    watched.follow()
    watched.replace()
    watched.now = 31 * 86_400
    assert watched.check.tell()["self_check"] == "passed"


def test_what_is_found_is_judged_though_the_ledger_is_always_ahead(watched: Watched) -> None:
    """Under steady traffic a search never finds all that is sealed."""
    watched.follow()
    assert watched.later() == "passed"
    changed = watched.documents()
    other_actor(changed[1])
    watched.replace(*changed)
    watched.seal(ENTRIES)
    assert watched.later() == "passed", "wrong once may be a change under way"
    assert watched.later(30) == "passed", "the copy has not got to where the ledger was then"
    watched.follow()
    watched.seal(ENTRIES + 1)
    assert watched.later(30) == "failed"


def test_a_change_under_way_is_none_that_counts(watched: Watched) -> None:
    """What was wrong, and is right once the copy has got to where the ledger was, passes."""
    watched.follow()
    before = watched.documents()
    changed = deepcopy(before)
    other_actor(changed[1])
    watched.replace(*changed)
    assert watched.later() == "pending"
    watched.replace(*before)
    assert watched.later(30) == "passed"


def test_what_is_sealed_and_not_found_yet_need_not_be_there(watched: Watched) -> None:
    """Only what a search has found is drawn."""
    watched.follow()
    for number in range(ENTRIES, 100):
        watched.seal(number)
    assert watched.later() == "passed"


def test_the_age_grows_while_nothing_can_be_concluded(watched: Watched) -> None:
    """It is what an alarm looks at: a check that never ends is as good as none."""
    assert watched.later(4000) == "pending"
    assert watched.check.tell()["self_check_age_seconds"] == 4000
