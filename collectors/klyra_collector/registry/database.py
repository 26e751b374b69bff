"""The registry's database: opening it, reading from it, and writing to it as the only writer.

This module holds every line that depends on the kind of database. Everywhere else a write transaction may rely on
being alone: on SQLite it begins with the write lock, elsewhere with a lock on the registry's one row. A check made
in it (is the id free, is this the ninth length) therefore still holds when it commits, and rows of the outbox are
numbered in the order of their commits.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, event, exc, inspect, select, text
from sqlalchemy.engine import make_url

from klyra_collector.registry.errors import (
    RegistryDamaged,
    RegistryTooNew,
    RegistryUnavailable,
    RegistryUnreachable,
)
from klyra_collector.registry.tables import METADATA, REGISTRY, SCHEMA_VERSION

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL
    from sqlalchemy.engine.interfaces import DBAPIConnection

_BUSY_SECONDS = 10.0
_BUSY_POLL_SECONDS = 0.01
_WRITING = "klyra_writing"
_PREPARING_LOCK = 0x6B6C7972  # any number of our own; held while tables are made on PostgreSQL
_OPERATOR_MUST_ACT = frozenset({"SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"})
_OUR_MISTAKE: Final = (exc.IntegrityError, exc.ProgrammingError, exc.DataError, exc.NotSupportedError)


class Database:
    """Short transactions on the registry, safe with several threads and processes at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Database:
        """Open the registry at an SQLAlchemy URL and make what tables it lacks.

        Raises:
            RegistryTooNew: a later version wrote it.
            RegistryDamaged: it is no registry, or broken.
            RegistryUnreachable: it cannot be opened; an operator must act.
            RegistryUnavailable: others keep it busy.
        """
        database = cls(_engine(url))
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection whose queries all see one moment."""
        with _translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection whose changes are committed together, durably, when the block ends without error."""
        with _translated(), self._transaction() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(select(REGISTRY.c.schema_version).with_for_update())
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with self._engine.connect() as unprepared:
            connection = unprepared.execution_options(**{_WRITING: True})
            with connection.begin():
                yield connection

    def _prepare(self) -> None:
        """Make the tables unless they are there; refuse those of a later version."""
        with self.reading() as connection:
            version = _schema_version(connection)
        if version is None or version < SCHEMA_VERSION:
            with _translated(), self._transaction() as connection:
                version = _make_tables(connection)
        if version > SCHEMA_VERSION:
            raise RegistryTooNew(
                f"The registry has schema version {version}; this software knows up to {SCHEMA_VERSION}.",
                remedy="Run the version that wrote it, or a later one.",
            )


def _schema_version(connection: Connection) -> int | None:
    """Return the version of the tables, None if there are none yet."""
    if not inspect(connection).has_table(REGISTRY.name):
        return None
    return connection.execute(select(REGISTRY.c.schema_version)).scalar_one_or_none()


def _make_tables(connection: Connection) -> int:
    """Make the tables, or those that a later version added, unless another process was first; return their version."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _PREPARING_LOCK})
    version = _schema_version(connection)
    if version is None:
        METADATA.create_all(connection)
        connection.execute(REGISTRY.insert().values(singleton=1, schema_version=SCHEMA_VERSION))
        version = SCHEMA_VERSION
    if version < SCHEMA_VERSION:  # so far versions have only added tables
        METADATA.create_all(connection)
        connection.execute(REGISTRY.update().values(schema_version=SCHEMA_VERSION))
        version = SCHEMA_VERSION
    return version


def _engine(url: str) -> Engine:
    """Return an engine for a URL; nothing is connected yet."""
    try:
        parsed = make_url(url)
        engine = create_engine(parsed, pool_pre_ping=not parsed.drivername.startswith("sqlite"))
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
        raise RegistryUnreachable(
            f"The registry's address cannot be used: {error}.",
            remedy="Set registry.url to sqlite:///<path> or postgresql+psycopg://…, and install its driver.",
        ) from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine, parsed)
    elif engine.dialect.name == "postgresql":
        _prepare_postgresql(engine)
    return engine


def _prepare_postgresql(engine: Engine) -> None:
    """Have every connection give up waiting for another's transaction, as SQLite does."""

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET lock_timeout = {int(_BUSY_SECONDS * 1000)}")
        cursor.close()
        connection.commit()  # a setting made in a transaction that is rolled back is lost


def _prepare_sqlite(engine: Engine, url: URL) -> None:
    """Have every connection use WAL, sync each commit, and leave transactions to us."""
    if url.database:
        _make_private(Path(url.database))

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # otherwise the driver begins transactions of its own
        connection.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        _enter_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")  # committed means durable: reads are answered after it
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(_WRITING, False)
        # A transaction that reads first and then writes would fail at once if another wrote in between.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _make_private(path: Path) -> None:
    """Make a new file readable by its owner alone; SQLite gives the files beside it the same mode."""
    try:
        # Never open one that exists: closing it would drop this process's SQLite locks on it (POSIX).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise _unreachable(error) from error


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch the file to WAL; that one statement does not wait for others by itself."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except connection.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_POLL_SECONDS)
        else:
            return


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the driver's errors into ours, by what the caller can do next."""
    try:
        yield
    except _OUR_MISTAKE:
        raise
    except exc.OperationalError as error:
        if _error_name(error).startswith(tuple(_OPERATOR_MUST_ACT)):
            raise _unreachable(_reason(error)) from error
        raise RegistryUnavailable(
            f"The registry does not answer: {_reason(error)}.", remedy="Send the same request again shortly."
        ) from error
    except exc.TimeoutError as error:
        raise RegistryUnavailable(
            "Every connection to the registry is in use.", remedy="Send the same request again shortly."
        ) from error
    except exc.DatabaseError as error:
        raise RegistryDamaged(
            f"The registry cannot be read: {_reason(error)}.",
            remedy="Stop the collector and restore the registry from a backup.",
        ) from error


def _error_name(error: exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlite_errorname", None) or "")


def _reason(error: exc.DBAPIError) -> str:
    """Return the driver's first line without its full stop; more follows only for those who read its documentation."""
    return str(error.orig).partition("\n")[0].rstrip(".")


def _unreachable(cause: object) -> RegistryUnreachable:
    return RegistryUnreachable(
        f"The registry cannot be opened: {cause}.",
        remedy="Check that its folder exists and that this user may write there.",
    )
