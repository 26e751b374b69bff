"""Opening the registry's database and writing to it from several places at once."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
from sqlalchemy import select

from klyra_audit.errors import Halted, Paused, RetryLater
from klyra_collector.registry import database as database_module
from klyra_collector.registry.database import Database
from klyra_collector.registry.errors import (
    RegistryDamaged,
    RegistryTooNew,
    RegistryUnavailable,
    RegistryUnreachable,
)
from klyra_collector.registry.tables import ORGANIZATIONS, REGISTRY, SCHEMA_VERSION


@pytest.fixture
def path(tmp_path):
    """Where the registry is, or will be."""
    return tmp_path / "registry.sqlite"


@pytest.fixture
def url(path):
    """The registry's URL."""
    return f"sqlite:///{path}"


@pytest.fixture
def database(url):
    """An open registry."""
    database = Database.open(url)
    yield database
    database.close()


def insert(connection, name: str) -> None:
    """Write a row that depends on nothing."""
    row = {"organization_id": name, "plan": "startup", "policy": "startup", "retention_days": 30, "created_at": 0}
    connection.execute(ORGANIZATIONS.insert().values(row))


def insert_then_fail(connection) -> None:
    """Write a row, then stumble."""
    insert(connection, "org_a")
    raise ZeroDivisionError


def names(database: Database) -> list[str]:
    """Return the rows written by `insert`."""
    with database.reading() as connection:
        return list(connection.execute(select(ORGANIZATIONS.c.organization_id)).scalars())


def start(program: str, url: str) -> subprocess.Popen[bytes]:
    """Start a process of its own that runs a program on a registry."""
    return subprocess.Popen([sys.executable, "-c", program, url], env={"PYTHONPATH": ":".join(sys.path)})


OPEN = """
import sys
from klyra_collector.registry.database import Database
Database.open(sys.argv[1]).close()
"""
KILLED_WHILE_WRITING = """
import os, signal, sys
from klyra_collector.registry.database import Database
from klyra_collector.registry.tables import ORGANIZATIONS as table
with Database.open(sys.argv[1]).writing() as connection:
    row = dict(organization_id="org_x", plan="p", policy="p", retention_days=1, created_at=0)
    connection.execute(table.insert().values(row))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_new_registry_is_private_durable_and_in_wal_mode(database, path) -> None:
    """Only its owner may read it, commits are synced, readers do not wait for writers."""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with database.reading() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_processes_may_open_a_new_registry_together(url) -> None:
    """One of them makes the tables, all of them open it."""
    processes = [start(OPEN, url) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_failed_block_changes_nothing(database) -> None:
    """What was written before the error is rolled back."""
    with pytest.raises(ZeroDivisionError), database.writing() as connection:
        insert_then_fail(connection)
    assert names(database) == []


def test_a_check_inside_a_write_still_holds_when_it_commits(database) -> None:
    """Threads that read and then write do so one after the other."""

    def add() -> None:
        for _ in range(20):
            with database.writing() as connection:
                count = len(list(connection.execute(select(ORGANIZATIONS.c.organization_id))))
                insert(connection, f"org_{count}")

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 80


def test_a_writer_killed_in_the_middle_leaves_nothing(database, url) -> None:
    """After `kill -9` inside a transaction the next writer finds the state before it."""
    assert start(KILLED_WHILE_WRITING, url).wait() == -signal.SIGKILL
    with database.writing() as connection:
        insert(connection, "org_a")
    assert names(database) == ["org_a"]


def test_a_registry_that_stays_locked_is_unavailable(url, path, monkeypatch) -> None:
    """Another writer that does not let go is a reason to try again later, not a failure for good."""
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.05)
    database = Database.open(url)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RegistryUnavailable, match="locked") as caught, database.writing():
        pass
    other.close()
    database.close()
    assert isinstance(caught.value, RetryLater)
    assert caught.value.code == "registry_unavailable"
    assert "again shortly" in caught.value.remedy


def test_a_new_registry_that_is_locked_is_unavailable(url, path, monkeypatch) -> None:
    """Even switching the file to WAL waits, and then says that it is busy."""
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(RegistryUnavailable, match="locked"):
        Database.open(url)
    other.close()


def test_connections_that_are_all_in_use_are_unavailable(database, monkeypatch) -> None:
    """A pool that is exhausted is a reason to try again later."""
    monkeypatch.setattr(database._engine.pool, "_timeout", 0.01)
    held = [database._engine.connect() for _ in range(15)]
    with pytest.raises(RegistryUnavailable, match="in use") as caught, database.reading():
        pass
    for connection in held:
        connection.close()
    assert caught.value.code == "registry_unavailable"


def test_a_registry_of_a_later_version_is_refused(database, url) -> None:
    """Tables that this version does not know are not touched."""
    with database.writing() as connection:
        connection.execute(REGISTRY.update().values(schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(RegistryTooNew, match=rf"version {SCHEMA_VERSION + 1}") as caught:
        Database.open(url)
    assert isinstance(caught.value, Halted)
    assert caught.value.code == "registry_too_new"
    assert "later one" in caught.value.remedy


def test_a_file_that_is_no_registry_is_refused(url, path) -> None:
    """A file that is something else is not overwritten."""
    content = b"no database, but long enough to be read as one " * 100
    path.write_bytes(content)
    with pytest.raises(RegistryDamaged, match="not a database") as caught:
        Database.open(url)
    assert isinstance(caught.value, Halted)
    assert caught.value.code == "registry_damaged"
    assert "backup" in caught.value.remedy
    assert path.read_bytes() == content


def test_damage_found_later_halts(database) -> None:
    """A page that was overwritten is no reason to try again."""
    with database.writing() as connection:
        connection.exec_driver_sql("PRAGMA writable_schema = ON")
        connection.exec_driver_sql("UPDATE sqlite_master SET rootpage = 9999 WHERE name = 'organizations'")
    database.close()
    with pytest.raises(RegistryDamaged):
        names(database)


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nonexistent/folder/registry.sqlite", "no url", "oracle9://x", "postgresql+nodriver://x/y"],
)
def test_an_address_that_cannot_be_used_pauses(url) -> None:
    """An operator must mend the setting or the folder; then the same call succeeds."""
    with pytest.raises(RegistryUnreachable) as caught:
        Database.open(url)
    assert isinstance(caught.value, Paused)
    assert caught.value.code == "registry_unreachable"
    assert caught.value.remedy


def test_a_file_that_vanishes_pauses(database, path) -> None:
    """A folder that is gone while the server runs is for an operator to mend."""
    database.close()
    for file in path.parent.iterdir():
        file.unlink()
    path.mkdir()
    with pytest.raises(RegistryUnreachable, match="unable to open") as caught, database.writing():
        pass
    assert "folder exists" in caught.value.remedy
