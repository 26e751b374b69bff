"""The embedded store read as a copy: what its follower wrote, and whatever somebody put into the file."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from klyra_audit.format import sections
from klyra_collector.verify.copies_sqlite import SqliteCopy
from klyra_collector.verify.errors import CannotVerify
from support.baseline import baseline
from support.copies import ListedCopy, change_store, follow, position_of


@pytest.fixture(scope="module")
def forge():
    """The baseline in memory; not to be changed."""
    return baseline()


@pytest.fixture(scope="module")
def pristine(forge, tmp_path_factory):
    """The store that the real follower makes of it; not to be changed."""
    data = forge.write(tmp_path_factory.mktemp("store") / "data")
    return follow(data, forge.newest.now_us)


@pytest.fixture
def store(pristine, tmp_path):
    """A store of one's own."""
    return shutil.copy(pristine, tmp_path / "store.sqlite")


def documents(path) -> dict[str, list]:
    """Return everything a reader yields, by shard."""
    with SqliteCopy(path) as copy:
        return {log: list(copy.documents(log)) for log in copy.cursors()}


def test_every_entry_is_there_in_order(pristine, forge) -> None:
    """Places, leaves, organizations, days and columns are those of the ledger; cursors stand at its end."""
    expected = ListedCopy.of(forge)
    with SqliteCopy(pristine) as copy:
        assert copy.cursors() == expected.applied
        assert not list(copy.strays())
    found = [document for listed in documents(pristine).values() for document in listed]
    assert [(d.log, d.index, d.leaf, d.organization_id, d.expire_day) for d in found] == [
        (d.log, d.index, d.leaf, d.organization_id, d.expire_day) for d in expected.listed
    ]
    for document, other in zip(found, expected.listed, strict=True):
        assert other.fields.items() <= document.fields.items()


def test_the_text_of_an_entry_is_what_the_store_writes(pristine, forge) -> None:
    """For every entry that is whole: no difference in a byte."""
    bodies = {(s.origin, b.index): b for s in forge.shards for f in (*s.bodies.values(), s.held) for b in f}
    with SqliteCopy(pristine) as copy:
        for log in copy.cursors():
            for document in copy.documents(log):
                body = bodies[log, document.index]
                if all(any(section) for section in (body.sections.core, body.sections.actor) if section is not None):
                    parts = body.sections
                    if parts.target is None or any(parts.target):
                        assert copy.fields_of(sections.join(parts)) == document.fields


def test_a_hidden_entry_is_shown_as_hidden(store, forge) -> None:
    """`shown` is 0 only beside another entry of the same id that is shown."""
    log = forge.newest.origin
    index = documents(store)[log][0].index
    change_store(store, "UPDATE entries SET shown = 0 WHERE position = ?", position_of(store, log, index))
    assert documents(store)[log][0].fields["hidden"] == 1


def test_a_row_of_no_shard_is_a_stray(store) -> None:
    """It would be found by searches, and no ledger has its place."""
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("CREATE TEMP TABLE moved AS SELECT * FROM entries LIMIT 1")
        connection.execute("UPDATE moved SET position = 7, id = 'log_other0000'")
        connection.execute("INSERT INTO entries SELECT * FROM moved")
    with SqliteCopy(store) as copy:
        (stray,) = copy.strays()
    assert "position 7" in stray


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000, b"SQLite format 3\x00" + bytes(4096)])
def test_a_file_that_is_no_store(tmp_path, content) -> None:
    """It is refused with what to do, whatever it is."""
    path = tmp_path / "store.sqlite"
    path.write_bytes(content)
    with pytest.raises(CannotVerify) as caught:
        documents(path)
    assert caught.value.code == "no_store"
    assert "store.sqlite" in caught.value.remedy


def test_a_store_of_another_version(store) -> None:
    """Its tables may mean something else."""
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(CannotVerify, match="version 99"):
        documents(store)


def test_no_store_at_all(tmp_path) -> None:
    """A path that leads nowhere makes no file."""
    with pytest.raises(CannotVerify):
        documents(tmp_path / "store.sqlite")
    assert not (tmp_path / "store.sqlite").exists()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE origins SET next_index = -1 WHERE number = (SELECT min(number) FROM origins)",
        "UPDATE origins SET number = -5 WHERE number = (SELECT min(number) FROM origins)",
        "UPDATE entries SET leaf = x'00' WHERE position = (SELECT min(position) FROM entries)",
        "DELETE FROM words WHERE number = (SELECT min(number) FROM words)",
        "DELETE FROM organizations WHERE number = (SELECT min(number) FROM organizations)",
    ],
)
def test_values_that_no_follower_writes(store, damage) -> None:
    """They are read as what they are, or the store is refused; nothing else happens."""
    change_store(store, damage)
    try:
        documents(store)
    except CannotVerify as error:
        assert error.code == "no_store"


def test_hostile_bytes(pristine, tmp_path) -> None:
    """Random damage anywhere in the file leads to documents or to a refusal."""
    chance = random.Random(11)  # noqa: S311 - the same damage on every run
    original = pristine.read_bytes()
    refused = 0
    for number in range(60):
        content = bytearray(original)
        for _ in range(chance.randint(1, 40)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path = tmp_path / f"store-{number}.sqlite"
        path.write_bytes(content)
        try:
            documents(path)
        except CannotVerify:
            refused += 1
    assert 0 < refused < 60
