"""The tables and indexes of the embedded store, as data: what a file must have, and nothing else, to be read as one.

A database file is a program as much as a table: a view in the place of a table never ends, a trigger or a generated
column computes, an index that leaves rows out hides them. So the text of the whole schema is compared.
`klyra_collector.store.schema`, which the verifier does not import, makes it; a test compares the two.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATEMENTS: Final = """
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
CREATE TABLE quarantine (
    position INTEGER PRIMARY KEY,
    org_ref BLOB NOT NULL,
    reference TEXT NOT NULL,
    sealed_us INTEGER NOT NULL,
    expire_day INTEGER NOT NULL,
    sealing_day INTEGER NOT NULL,
    org_seq INTEGER NOT NULL,
    encoding TEXT NOT NULL,
    key_id TEXT,
    reason TEXT NOT NULL,
    pointer TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size INTEGER NOT NULL,
    leaf BLOB NOT NULL,
    replayed_as TEXT
) STRICT;
CREATE UNIQUE INDEX quarantine_by_reference ON quarantine (org_ref, reference);
CREATE INDEX quarantine_by_time ON quarantine (org_ref, sealed_us);
CREATE INDEX quarantine_by_expire_day ON quarantine (org_ref, expire_day);
CREATE INDEX quarantine_waiting ON quarantine (sealed_us, expire_day) WHERE replayed_as IS NULL;
CREATE INDEX entries_by_event_type ON entries (organization, event_type, timestamp);
CREATE INDEX entries_by_actor_type ON entries (organization, actor_type, timestamp);
CREATE INDEX entries_by_resource_type ON entries (organization, resource_type, timestamp);
CREATE INDEX entries_by_action ON entries (organization, action, timestamp);
CREATE INDEX entries_by_status ON entries (organization, status, timestamp);
CREATE INDEX entries_by_actor_id ON entries (organization, actor_id, timestamp);
CREATE INDEX entries_by_resource_id ON entries (organization, resource_id, timestamp);
"""
_CREATED: Final = re.compile(r"CREATE (?:UNIQUE )?(TABLE|INDEX) (\w+)(?: ON (\w+))?")
_UNIQUE_TABLES: Final = ("origins", "organizations", "words")  # each with the index that SQLite makes for UNIQUE

Described = tuple[str, str, str, str | None]  # type, name, table, SQL: a row of sqlite_schema


def _described(statement: str) -> Described:
    created = _CREATED.match(statement)
    if created is None:
        raise ValueError(statement)
    kind, name, table = created.groups()
    return (kind.lower(), name, table or name, statement)


_NEWEST: Final[frozenset[Described]] = frozenset(
    [
        *(_described(statement.strip()) for statement in _STATEMENTS.split(";") if statement.strip()),
        *(("index", f"sqlite_autoindex_{table}_1", table, None) for table in _UNIQUE_TABLES),
    ]
)

SCHEMAS: Final[Mapping[int, frozenset[Described]]] = {  # by version; 2 added quarantine
    1: frozenset(described for described in _NEWEST if described[2] != "quarantine"),
    2: _NEWEST,
}
