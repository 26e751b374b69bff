"""Read the embedded store as a copy. The file may have been made by anybody: every value is looked at before use.

Before any of its rows is read, the file must have the store's schema to the letter and pass SQLite's own check, which
compares every index with its table: else it is no store. Every statement's work is bounded by the length of the file,
and every value's length by what the store writes.
"""

from __future__ import annotations

import ipaddress
import re
import sqlite3
import stat
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import orjson

from klyra_audit.format.leaf import LEAF_SIZE
from klyra_collector.verify.copies import CopyDocument
from klyra_collector.verify.copies_schema import SCHEMAS
from klyra_collector.verify.errors import CannotVerify
from klyra_collector.verify.files import exists
from klyra_collector.verify.verdicts import Problem, Verdict

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from klyra_audit.format.canonical import JsonObject
    from klyra_audit.format.sections import SectionName
    from klyra_collector.verify.copies import Fields

_INDEX_BITS: Final = 40  # of a position, below the number of the origin
_INDEX_MASK: Final = (1 << _INDEX_BITS) - 1
_MAX_NUMBER: Final = 1 << (63 - _INDEX_BITS)
_WORDS: Final = ("event_type", "actor_type", "resource_type", "action", "status")
_COLUMNS: Final = ", ".join(f"(SELECT word FROM words WHERE number = entries.{name})" for name in _WORDS)  # noqa: S608 - names of ours
_HIDDEN: Final = (
    "shown != 1 AND NOT EXISTS (SELECT 1 FROM entries AS twin WHERE twin.organization = entries.organization "
    "AND twin.id = entries.id AND twin.shown = 1)"
)
_DOCUMENTS: Final = (
    f"SELECT position, (SELECT organization_id FROM organizations WHERE number = organization), leaf, expire_day, "  # noqa: S608 - names of ours
    f"id, timestamp, {_COLUMNS}, actor_id, resource_id, client_ip, entry, {_HIDDEN} "
    "FROM entries WHERE position BETWEEN ? AND ? ORDER BY position"
)
_FIELDS: Final = ("id", "timestamp", *_WORDS, "actor_id", "resource_id", "client_ip", "entry", "hidden")
_FIRST_FIELD: Final = 4
_STRAYS: Final = "SELECT position FROM entries WHERE position >> 40 NOT IN (SELECT number FROM origins)"
_DESCRIBED: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema"
_JOURNAL: Final = "-journal"
_BESIDE: Final = ("-wal", "-shm", _JOURNAL)
_SHAPE: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", re.ASCII)
_LOWEST_NS: Final = -(2**63)
_MAPPED: Final = bytes(10) + b"\xff\xff"
_REMEDY: Final = "Name the store.sqlite of this software; a damaged one is built again from the ledger."

MAX_VALUE_BYTES: Final = 1024 * 1024  # an entry has 32 KiB
MAX_PAGES: Final = 1 << 30  # of 8 KiB: SQLite's check has a bit for each
STEPS: Final = 50_000_000  # of SQLite's machine, for any statement: a second or so
STEPS_PER_BYTE: Final = 20  # of the file; what is asked takes less than one
_STEPS_AT_ONCE: Final = 100_000
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 64 * 1024,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 64,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 2,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 16,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 16,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_GUARDS: Final = ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON")

PERSONAL: Final[Mapping[SectionName, tuple[str, ...]]] = {
    "actor": ("actor_id", "client_ip"),
    "target": ("resource_id",),
}


class SqliteCopy:
    """The embedded store at one moment: all reads are of one transaction."""

    personal = PERSONAL

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._steps_left = 0
        try:
            uri, self._bytes = _locate(path)
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        except (sqlite3.Error, OSError, ValueError, RuntimeError) as error:
            raise self._cannot(error) from error
        try:
            self._guard()
            self._begin()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cursors(self) -> Mapping[str, int]:
        """See `CopyReader`."""
        found: dict[str, int] = {}
        for origin, next_index in self._rows("SELECT origin, next_index FROM origins"):
            if type(origin) is not str or type(next_index) is not int or not 0 <= next_index <= _INDEX_MASK:
                raise self._cannot(ValueError("its table of origins is damaged"))
            found[origin] = next_index
        return found

    def documents(self, log: str) -> Iterator[CopyDocument]:
        """See `CopyReader`."""
        for (number,) in self._rows("SELECT number FROM origins WHERE origin = ?", log):
            if type(number) is int and 0 <= number < _MAX_NUMBER:
                first = number << _INDEX_BITS
                for row in self._rows(_DOCUMENTS, first, first | _INDEX_MASK):
                    yield _document(log, row)

    def quarantined(self, _log: str) -> None:
        """See `CopyReader`: what it has of quarantined input only lists what is in the ledger."""
        return

    def strays(self, _known: Collection[str]) -> Iterator[Problem]:
        """See `CopyReader`."""
        for (position,) in self._rows(_STRAYS):
            yield Problem(Verdict.EXTRA, f"the row at position {position} is of no shard that the store knows")

    def fields_of(self, entry: JsonObject) -> Fields:
        """See `CopyReader`."""
        return columns_of(entry) | {"entry": _text_of(entry), "hidden": 0}

    def _guard(self) -> None:
        """Set the bounds of everything that follows."""
        for category, limit in _LIMITS.items():
            self._connection.setlimit(category, limit)
        self._connection.set_progress_handler(self._spend, _STEPS_AT_ONCE)
        for guard in _GUARDS:
            list(self._rows(f"PRAGMA {guard}"))

    def _spend(self) -> bool:
        """Say whether a statement has done more than its file can ask for, which ends it."""
        self._steps_left -= _STEPS_AT_ONCE
        return self._steps_left < 0

    def _begin(self) -> None:
        list(self._rows("BEGIN"))
        ((version,),) = self._rows("PRAGMA user_version")  # the first read fixes what the transaction sees
        schema = SCHEMAS.get(version)
        if schema is None:
            raise self._cannot(ValueError(f"it is of version {version}, not {max(SCHEMAS)}"))
        described = list(islice(self._rows(_DESCRIBED), len(schema) + 1))
        if len(described) != len(schema) or frozenset(described) != schema:
            raise self._cannot(ValueError("its tables and indexes are not those that the store makes"))
        ((pages,),) = self._rows("PRAGMA page_count")
        if pages > MAX_PAGES:
            raise self._cannot(ValueError(f"it has {pages} pages"))
        for (said,) in self._rows("PRAGMA integrity_check(1)"):
            if said != "ok":
                raise self._cannot(ValueError(f"SQLite finds it damaged: {said}"))

    def _rows(self, query: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        self._steps_left = STEPS + STEPS_PER_BYTE * self._bytes
        try:
            yield from self._connection.execute(query, parameters)
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            raise self._cannot(error) from error

    def _cannot(self, error: Exception) -> CannotVerify:
        return CannotVerify(f"{self._path} cannot be read as a store: {error}.", code="no_store", remedy=_REMEDY)


def _locate(path: Path) -> tuple[str, int]:
    """Return the URI to open a store by, and how many bytes there are to read.

    A store that nobody has open is one file, and read as if it could not change: SQLite then writes nothing beside it,
    and neither waits nor recovers. One in use has a log beside it, which belongs to it.

    Raises:
        OSError: there is none.
        ValueError: something is no regular file, or a rollback journal lies beside it, which would change what it says.
    """
    resolved = path.resolve(strict=True)
    files = [resolved, *(resolved.with_name(resolved.name + suffix) for suffix in _BESIDE)]
    there = [file for file in files if exists(file)]
    if not all(stat.S_ISREG(file.lstat().st_mode) for file in there):
        raise ValueError("it is no regular file, or what lies beside it is none")
    if resolved.with_name(resolved.name + _JOURNAL) in there:
        raise ValueError(f"{_JOURNAL} lies beside it, which the store never has")
    uri = f"file:{quote(str(resolved))}?mode=ro"
    return (uri if len(there) > 1 else f"{uri}&immutable=1"), sum(file.lstat().st_size for file in there)


def _document(log: str, row: tuple[Any, ...]) -> CopyDocument:
    position, organization_id, leaf, expire_day = row[:_FIRST_FIELD]
    return CopyDocument(
        log=log,
        index=position & _INDEX_MASK,
        leaf=leaf if type(leaf) is bytes and len(leaf) == LEAF_SIZE else b"",
        organization_id=organization_id if type(organization_id) is str else "",
        expire_day=expire_day if type(expire_day) is int else -1,
        fields=dict(zip(_FIELDS, row[_FIRST_FIELD:], strict=True)),
    )


def columns_of(entry: JsonObject) -> Fields:
    """Return what an entry is searched by; KeyError, TypeError or ValueError if it is no event document."""
    actor, resource = entry["actor"], entry["resource"]
    return {
        "id": entry["id"],
        "timestamp": nanoseconds(entry["timestamp"]),
        "event_type": entry["event_type"],
        "actor_type": actor["type"],
        "resource_type": resource["type"],
        "action": entry["action"],
        "status": entry["status"],
        "actor_id": actor.get("id"),
        "resource_id": resource.get("id"),
        "client_ip": _address_key(entry["metadata"].get("client_ip")),
    }


def _text_of(entry: JsonObject) -> bytes:
    """Return the JSON text of the eight members, as the store keeps it to show."""
    return orjson.dumps(
        {
            "id": entry["id"],
            "timestamp": entry["timestamp"],
            "event_type": entry["event_type"],
            "actor": _party(entry["actor"]),
            "resource": _party(entry["resource"]),
            "action": entry["action"],
            "status": entry["status"],
            "metadata": entry["metadata"],
        }
    )


def _party(members: JsonObject) -> JsonObject:
    return {"type": members["type"], "id": members.get("id"), "name": members.get("name")}


def nanoseconds(text: object) -> int:
    """Return an RFC 3339 timestamp in nanoseconds since 1970, as the store keeps it for sorting."""
    matched = _SHAPE.fullmatch(text) if type(text) is str else None
    if matched is None:
        raise ValueError("it has no timestamp")
    seconds = int(datetime.fromisoformat(f"{matched[1]}+00:00").timestamp())
    return max(min(seconds * 10**9 + int((matched[2] or "0").ljust(9, "0")), -_LOWEST_NS - 1), _LOWEST_NS)


def _address_key(text: object) -> bytes | None:
    """Return an IP address as the store keeps it: 16 bytes, IPv4 mapped into IPv6; None for anything else."""
    if type(text) is not str:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.packed if address.version == 6 else _MAPPED + address.packed  # noqa: PLR2004 - IP version
