"""The SQL of a search: which index drives it, and one statement for each value of the filter that does.

Every statement yields rows in the order of the sort key straight from an index, so that a page costs what it
returns, and the statements of several values are merged. Pure: no connection here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from klyra_collector.store.searching import AddressRange, Order

# Most telling first: what usually leaves the fewest entries.
DRIVERS = (
    "resource_id",
    "actor_id",
    "client_ip",
    "event_type",
    "resource_type",
    "actor_type",
    "action",
    "status",
)
_NO_LIMIT = -1

Value = int | str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """A search in the store's own numbers.

    Attributes:
        organization: its number.
        today: entries must expire after it.
        order: of (timestamp, position).
        columns: filtered column → numbers or texts, never empty.
        client_ip: 16-byte bounds, both included.
        low: least timestamp, included; None for no bound.
        high: first timestamp behind, excluded; None for no bound.
        after: only what lies behind this (timestamp, position) in the order.
        below: ranges of positions, last excluded; None for all.
    """

    organization: int
    today: int
    order: Order
    columns: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    client_ip: AddressRange | None = None
    low: int | None = None
    high: int | None = None
    after: tuple[int, int] | None = None
    below: Sequence[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with its parameters."""

    sql: str
    parameters: tuple[Value, ...]


@dataclass(slots=True)
class _Where:
    """Collects conditions with their parameters."""

    terms: list[str] = field(default_factory=list)
    parameters: list[Value] = field(default_factory=list)

    def add(self, term: str, *parameters: Value) -> None:
        self.terms.append(term)
        self.parameters += parameters

    def __str__(self) -> str:
        return " AND ".join(self.terms)


def candidates(conditions: Conditions) -> list[str]:
    """Return the columns whose index could drive the search, most telling first."""
    filtered = {*conditions.columns, *(("client_ip",) if conditions.client_ip else ())}
    return [column for column in DRIVERS if column in filtered]


def count(conditions: Conditions, driver: str, value: Value | None, limit: int) -> Statement:
    """Return the statement that counts what the index of a driver would look at, up to `limit`."""
    where = _driven(conditions, driver, value)
    _bound(where, conditions)
    inner = f"SELECT 1 FROM entries INDEXED BY entries_by_{driver} WHERE {where} LIMIT ?"  # noqa: S608 - our names
    return Statement(f"SELECT count(*) FROM ({inner})", (*where.parameters, limit))  # noqa: S608 - our names


def selects(conditions: Conditions, driver: str | None, limit: int | None) -> list[Statement]:
    """Return statements that yield (position, timestamp, leaf, entry), each in the search's order.

    Behind a sort key there are two for each value: the rest of its timestamp, and all further timestamps. One
    condition on both columns would be a range of the timestamp alone to SQLite, which then reads the ties again.

    Args:
        conditions: of the search.
        driver: the column whose index is walked, one statement a value; None walks all of the organization's.
        limit: rows of each; None for all.
    """
    found: list[Statement] = []
    for value in conditions.columns.get(driver or "", [None]):
        if conditions.after is not None:
            where = _driven(conditions, driver, value)
            where.add(f"timestamp = ? AND position {_beyond(conditions)} ?", *conditions.after)
            found.append(_select(where, conditions, driver, limit))
        where = _driven(conditions, driver, value)
        _bound(where, conditions)
        found.append(_select(where, conditions, driver, limit))
    return found


def aggregate(conditions: Conditions, driver: str | None, what: str, tail: str) -> Statement:
    """Return the statement that computes something over all entries of a search.

    Args:
        conditions: of the search; a key to begin behind is left out.
        driver: the column whose index is walked; None walks all of the organization's.
        what: the columns of the result, of our own names.
        tail: what follows the conditions, such as GROUP BY.
    """
    where = _driven(conditions, driver, None)
    if driver is not None and driver in conditions.columns:
        values = conditions.columns[driver]
        where.add(f"{driver} IN ({', '.join('?' * len(values))})", *values)
    _bound(where, replace(conditions, after=None))
    where.add("expire_day > ?", conditions.today)
    where.add("shown = 1")
    _filter(where, conditions, driver)
    _below(where, conditions)
    index = driver or "timestamp"
    sql = f"SELECT {what} FROM entries INDEXED BY entries_by_{index} WHERE {where} {tail}"  # noqa: S608 - our names
    return Statement(sql, tuple(where.parameters))


def _select(where: _Where, conditions: Conditions, driver: str | None, limit: int | None) -> Statement:
    where.add("expire_day > ?", conditions.today)
    where.add("shown = 1")
    _filter(where, conditions, driver)
    _below(where, conditions)
    index, order = driver or "timestamp", conditions.order
    sql = (
        f"SELECT position, timestamp, leaf, entry FROM entries INDEXED BY entries_by_{index} "  # noqa: S608 - our names
        f"WHERE {where} ORDER BY timestamp {order}, position {order} LIMIT ?"
    )
    return Statement(sql, (*where.parameters, _NO_LIMIT if limit is None else limit))


def _driven(conditions: Conditions, driver: str | None, value: Value | None) -> _Where:
    """Return the conditions that the index of a driver begins with."""
    where = _Where()
    where.add("organization = ?", conditions.organization)
    if value is not None:
        where.add(f"{driver} = ?", value)
    elif driver == "client_ip" and conditions.client_ip is not None:
        _add_addresses(where, conditions.client_ip)
    return where


def _bound(where: _Where, conditions: Conditions) -> None:
    """Bound the timestamp; a sort key to begin behind is the closer bound on its side."""
    low, high, after = conditions.low, conditions.high, conditions.after
    if after is not None:
        where.add(f"timestamp {_beyond(conditions)} ?", after[0])
    if low is not None and (after is None or conditions.order == "desc"):
        where.add("timestamp >= ?", low)
    if high is not None and (after is None or conditions.order == "asc"):
        where.add("timestamp < ?", high)


def _beyond(conditions: Conditions) -> str:
    return "<" if conditions.order == "desc" else ">"


def _filter(where: _Where, conditions: Conditions, driver: str | None) -> None:
    for column, values in conditions.columns.items():
        if column != driver:
            # The sign keeps SQLite from looking for an index of its own.
            where.add(f"+{column} IN ({', '.join('?' * len(values))})", *values)
    if conditions.client_ip is not None and driver != "client_ip":
        _add_addresses(where, conditions.client_ip)


def _add_addresses(where: _Where, addresses: AddressRange) -> None:
    if addresses.low == addresses.high:
        where.add("client_ip = ?", addresses.low)
    else:
        where.add("client_ip BETWEEN ? AND ?", addresses.low, addresses.high)


def _below(where: _Where, conditions: Conditions) -> None:
    if conditions.below is None:
        return
    # The sign leaves the index to the sort key.
    terms = ["+position >= ? AND +position < ?"] * len(conditions.below) or ["0"]
    where.add(f"({' OR '.join(terms)})", *(bound for span in conditions.below for bound in span))
