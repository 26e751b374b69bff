"""The embedded store read as a copy: what its follower wrote, and whatever somebody put into the file."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from klyra_audit.format import sections
from klyra_collector.store import schema
from klyra_collector.verify import copies_sqlite
from klyra_collector.verify.copies_schema import SCHEMAS
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
        assert not list(copy.strays({}))
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
        (stray,) = copy.strays({})
    assert "position 7" in stray.reason


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
    assert refused


def refusal(path) -> str:
    """Return why a store is refused."""
    with pytest.raises(CannotVerify) as caught:
        documents(path)
    assert caught.value.code == "no_store"
    return str(caught.value)


class TestSchema:
    """A file with anything else in it than the store makes is none: what stands in a schema can compute, or hide."""

    def test_it_is_the_one_that_the_store_makes(self, tmp_path) -> None:
        """The verifier knows it as data, since it imports nothing of the store."""
        schema.create(tmp_path / "store.sqlite")
        with closing(sqlite3.connect(tmp_path / "store.sqlite")) as connection:
            described = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema").fetchall()
        assert frozenset(described) == SCHEMAS[schema.VERSION]
        assert max(SCHEMAS) == schema.VERSION

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE VIEW harmless AS SELECT 1",
            "CREATE TABLE harmless (a)",
            "CREATE TRIGGER late AFTER INSERT ON entries BEGIN DELETE FROM words; END",
            "CREATE INDEX more ON entries (id)",
            "CREATE VIRTUAL TABLE found USING fts5(words)",
            "DROP INDEX entries_by_actor_id",
            "ALTER TABLE entries ADD COLUMN more INTEGER GENERATED ALWAYS AS (position * 2) VIRTUAL",
            "ALTER TABLE words RENAME COLUMN word TO term",
        ],
    )
    def test_another_one_is_refused(self, store, statement) -> None:
        """Whatever is more, fewer or other."""
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute(statement)
        assert "tables and indexes" in refusal(store)

    def test_a_view_without_end_in_place_of_a_table_is_not_read(self, store) -> None:
        """It would fill memory and disk."""
        with closing(sqlite3.connect(store)) as connection, connection:
            names = [row[1] for row in connection.execute("PRAGMA table_info(entries)")]
            connection.execute("DROP TABLE entries")
            shown = ", ".join(f"n AS {name}" for name in names)
            rows = "t(n) AS (SELECT 1 << 40 UNION ALL SELECT n FROM t)"
            connection.execute(f"CREATE VIEW entries AS WITH RECURSIVE {rows} SELECT {shown} FROM t")  # noqa: S608 - names of ours
        assert "tables and indexes" in refusal(store)

    def test_an_index_that_leaves_an_entry_out_is_found(self, store) -> None:
        """The entry would be in the table, and in no search; the text of the schema does not show it."""
        with closing(sqlite3.connect(store, isolation_level=None)) as connection:
            ((position,),) = connection.execute("SELECT min(position) FROM entries")
            name = "entries_by_timestamp"
            ((text,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (name,))
            connection.execute(f"DROP INDEX {name}")
            connection.execute(f"{text} WHERE position <> {position}")
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (text, name))
            ((version,),) = connection.execute("PRAGMA schema_version")
            connection.execute(f"PRAGMA schema_version = {version + 1}")
        assert f"missing from index {name}" in refusal(store)


class TestBounds:
    """What a file can ask of whoever reads it."""

    def test_a_tree_with_more_rows_than_atoms_is_given_up(self, tmp_path, monkeypatch) -> None:
        """Twenty pages, each of which names the next one hundreds of times: SQLite itself would read for ever."""
        monkeypatch.setattr(copies_sqlite, "STEPS", 2_000_000)
        path = tmp_path / "store.sqlite"
        path.write_bytes(endless_schema())
        assert "interrupted" in refusal(path)

    def test_a_value_of_absurd_length_is_not_loaded(self, store) -> None:
        """No entry is longer than 32 KiB."""
        with closing(sqlite3.connect(store)) as connection, connection:
            connection.execute(
                "UPDATE entries SET entry = zeroblob(2000000) WHERE position = (SELECT min(position) FROM entries)"
            )
        assert "too big" in refusal(store)

    def test_a_journal_that_would_change_it_is_not_passed_over(self, store) -> None:
        """SQLite would play it back when the store is opened for use, and it would say something else."""
        store.with_name(f"{store.name}-journal").write_bytes(b"")
        assert "-journal" in refusal(store)

    @pytest.mark.parametrize("suffix", ["", "-wal"])
    def test_a_pipe_does_not_block(self, store, suffix) -> None:
        """A FIFO that nobody writes to, as the store or beside it."""
        path = store.with_name(f"{store.name}{suffix}")
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        assert "no regular file" in refusal(store)

    def test_nothing_is_written_beside_a_store_that_is_not_in_use(self, store) -> None:
        """Evidence is read where it lies, if need be from a medium that cannot be written."""
        documents(store)
        assert [path.name for path in store.parent.iterdir()] == [store.name]

    def test_a_store_in_use_is_read_with_what_its_log_holds(self, store) -> None:
        """Its newest rows stand beside the file."""
        before = sum(map(len, documents(store).values()))
        with closing(schema.connect(store)) as connection:
            connection.execute("DELETE FROM entries WHERE position = (SELECT min(position) FROM entries)")
            assert store.with_name(f"{store.name}-wal").stat().st_size
            assert sum(map(len, documents(store).values())) == before - 1


def endless_schema() -> bytes:
    """Return a database whose table of contents has 500 to the power of 17 rows, in 20 pages."""
    size, children, last = 4096, 500, 20

    def page(kind: int, cells: list[bytes], *, right: bytes = b"", offset: int = 0) -> bytes:
        places, position = [], size
        for cell in cells:
            position -= len(cell)
            places.append(position.to_bytes(2))
        start = bytes([kind, 0, 0]) + len(cells).to_bytes(2) + position.to_bytes(2) + b"\0" + right + b"".join(places)
        return start.ljust(position - offset, b"\0") + b"".join(reversed(cells))

    def row(kind: str, name: str, root: int, sql: str) -> bytes:
        texts = [text.encode() for text in (kind, name, "a", sql)]
        types = [13 + 2 * len(text) for text in texts]
        types.insert(3, 1)
        values = b"".join(texts[:3]) + bytes([root]) + texts[3]
        record = bytes([1 + len(types), *types]) + values
        return bytes([len(record), 1]) + record

    def interior(below: int, *, first: int | None = None, offset: int = 0) -> bytes:
        numbers = [first or below, *[below] * (children - 1)]
        return page(5, [number.to_bytes(4) + b"\1" for number in numbers], right=below.to_bytes(4), offset=offset)

    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"PRAGMA page_size = {size}")
        connection.execute("CREATE TABLE a (b)")
        header = bytearray(connection.serialize()[:100])
    header[28:32] = last.to_bytes(4)
    header[60:64] = max(SCHEMAS).to_bytes(4)  # user_version
    pages = [interior(3, first=2, offset=100), page(13, [row("table", "a", 3, "CREATE TABLE a (b UNIQUE)")])]
    pages += [interior(number + 1) for number in range(3, last)]
    pages.append(page(13, [row("index", "sqlite_autoindex_a_1", 4, "")]))
    return bytes(header) + b"".join(pages)
