"""The tables of the embedded store, and how every connection to them is set up."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from klyra_audit.errors import Halted, RetryLater
from klyra_collector.store.quarantine_sqlite import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 2  # 2 added quarantine
INCREMENTAL = 2  # of `auto_vacuum`: the file gives free pages back when it is asked to
WORD_COLUMNS = ("event_type", "actor_type", "resource_type", "action", "status")  # numbers of `words`
TEXT_COLUMNS = ("actor_id", "resource_id")

_BUSY_SECONDS = 1.0
_WRITING_CACHE_KIBIBYTES = 64 * 1024
_READING_CACHE_KIBIBYTES = 8 * 1024  # of each thread; behind it is the system's
_PAGE_BYTES = 8192  # of a new file: rows of some 600 bytes, many random inserts into indexes
_CHECKPOINT_PAGES = 4096
_JOURNAL_BYTES = 64 * 1024 * 1024
_CACHED_STATEMENTS = 256

# `position` orders entries as (origin, index) does and is the rowid, which SQLite appends to every index: an index
# on (organization, column, timestamp) therefore yields the sort order of DESIGN section 7 without sorting.
# `shown` is 0 for a later sealing of an id that the organization has already.
_TABLES = """
CREATE TABLE origins (
    number INTEGER PRIMARY KEY,
    origin TEXT NOT NULL UNIQUE,
    next_index INTEGER NOT NULL
) STRICT;
CREATE TABLE organizations (
    number INTEGER PRIMARY KEY,
    organization_id TEXT NOT NULL UNIQUE,
    org_ref BLOB NOT NULL
) STRICT;
CREATE TABLE words (
    number INTEGER PRIMARY KEY,
    word TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE entries (
    position INTEGER PRIMARY KEY,
    organization INTEGER NOT NULL,
    id TEXT NOT NULL,
    shown INTEGER NOT NULL,
    timestamp INTEGER NOT NULL,
    event_type INTEGER NOT NULL,
    actor_type INTEGER NOT NULL,
    actor_id TEXT,
    resource_type INTEGER NOT NULL,
    resource_id TEXT,
    action INTEGER NOT NULL,
    status INTEGER NOT NULL,
    client_ip BLOB,
    expire_day INTEGER NOT NULL,
    sealing_day INTEGER NOT NULL,
    org_seq INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    entry BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_id ON entries (organization, id) WHERE shown = 1;
CREATE INDEX repeats_by_id ON entries (organization, id) WHERE shown = 0;
CREATE INDEX entries_by_timestamp ON entries (organization, timestamp);
CREATE INDEX entries_by_client_ip ON entries (organization, client_ip, timestamp) WHERE client_ip IS NOT NULL;
CREATE INDEX entries_by_expire_day ON entries (organization, expire_day);
CREATE TABLE kept_days (
    organization INTEGER NOT NULL,
    expire_day INTEGER NOT NULL,
    sealing_day INTEGER NOT NULL,
    PRIMARY KEY (organization, expire_day, sealing_day)
) STRICT, WITHOUT ROWID;
"""
_FILTER_INDEX = "CREATE INDEX entries_by_{0} ON entries (organization, {0}, timestamp);"

_TRANSIENT = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class StoreBusy(RetryLater):
    """The store's file is locked, its disk full or failing; nothing was applied."""

    code = "store_busy"


class StoreDamaged(Halted):
    """The store's file cannot be used; everything in it can be had again from the ledger."""

    code = "store_damaged"


_REBUILD = "Stop the server and delete store.sqlite: the next start builds it again from the ledger."


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn SQLite's errors into `StoreBusy` (again later) and `StoreDamaged` (never again)."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # a mistake of ours, such as a closed connection
            raise
        if code & 0xFF in _TRANSIENT:
            raise StoreBusy(
                f"The store cannot be used now: {error}.", remedy="Check the disk of the data directory."
            ) from error
        raise StoreDamaged(f"The store is damaged: {error}.", remedy=_REBUILD) from error


def create(path: Path) -> None:
    """Make the store's file and its tables unless they exist.

    Raises:
        StoreBusy: not now.
        StoreDamaged: the file is none of ours, or of another version.
    """
    with typed_errors():
        connection = connect(path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            _migrate(connection)
            connection.execute("COMMIT")
        finally:
            connection.close()


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection that may pass between threads, in which transactions are written out."""
    is_new = not path.exists() or path.stat().st_size == 0
    connection = sqlite3.connect(
        path,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=_CACHED_STATEMENTS,
    )
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        if is_new:
            connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # what a power cut takes is followed again
        connection.execute("PRAGMA secure_delete = ON")  # what retention or an erasure removes is overwritten
        cache = _READING_CACHE_KIBIBYTES if read_only else _WRITING_CACHE_KIBIBYTES
        connection.execute(f"PRAGMA cache_size = -{cache}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version > VERSION:
        raise StoreDamaged(f"The store is of version {version}, not {VERSION}.", remedy=_REBUILD)
    indexes = [_FILTER_INDEX.format(column) for column in (*WORD_COLUMNS, *TEXT_COLUMNS)]
    # Quarantined input that a store of version 1 has passed by is listed only in one that is built again.
    of_version = {1: (*_TABLES.split(";"), *indexes), 2: TABLES.split(";")}
    for statements in (statements for number, statements in of_version.items() if number > version):
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
