"""Rows of an export, whichever vendor wrote it: CSV, JSON, one JSON value a line, or lines of text; gzip or not.

| vendor | what is understood |
|--|--|
| Splunk | CSV and JSON of a search (`_raw`), `{"results": […]}`, `{"result": {…}}` a line |
| Datadog | answers of the Logs Search API, `{"data": […]}`; CSV |
| Sumo Logic | CSV (`_raw`), `{"messages": [{"map": {…}}]}` |
| CloudWatch Logs | `get-log-events`, `filter-log-events`, Insights (`{"results": [[{"field": …}]]}`, CSV), S3 |
| Azure Monitor | `{"tables": […]}` of the query API, rows as JSON, CSV |
| Google Cloud Logging | `gcloud logging read --format=json`, `{"entries": […]}`, rows of BigQuery |

One row is in memory at a time; an envelope that holds many rows in one JSON object, up to `LONGEST_VALUE` characters.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from typing import IO, TYPE_CHECKING, Any, Final, cast

from klyra_collector.reconcile.errors import ExportUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_VALUE: Final = 64 * 1024 * 1024

Row = dict[str, Any] | str

_CHUNK = 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_LISTS = ("results", "events", "data", "entries", "messages", "value")
_OWN = frozenset({"klyra", "unmapped"})  # members of a record, which is no envelope
_SPACE = " \t\r\n"
_BETWEEN = _SPACE + ","
_REMEDY = "Export again, as CSV, JSON or one JSON object a line; see docs/reconcile.md."


def read_rows(file: IO[bytes]) -> Iterator[Row]:
    """Yield every row: an object, or a text where a row is a line.

    Args:
        file: the export, read forward once.

    Raises:
        ExportUnreadable: it is nothing of that, or it ends in its middle.
    """
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", file))
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        buffered = io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=buffered)))
    text = io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="")
    try:
        yield from _rows(text)
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, OSError) as error:
        raise ExportUnreadable(f"The export cannot be read: {error}.", remedy=_REMEDY) from error
    finally:
        text.detach()


def _rows(text: io.TextIOWrapper) -> Iterator[Row]:
    first = _first_line(text)
    begin = first.lstrip()[:1]
    if begin in {"[", "{"} and begin:
        for value in _values(text, first):
            yield from _unwrapped(value)
    elif _is_header(first):
        yield from csv.DictReader(_lines(first, text))
    else:
        yield from (line.rstrip("\r\n") for line in _lines(first, text) if line.strip())


def _first_line(text: io.TextIOWrapper) -> str:
    """Return the first line that is not empty, or as much of it as one chunk holds."""
    while True:
        line = text.readline(_CHUNK)
        if line.strip() or not line:
            return line


def _lines(first: str, text: io.TextIOWrapper) -> Iterator[str]:
    line = first
    while line:
        if len(line) >= LONGEST_VALUE:
            raise ExportUnreadable("A line of the export is too long to be one.", remedy=_REMEDY)
        yield line
        line = text.readline(LONGEST_VALUE)


def _is_header(line: str) -> bool:
    """Say whether a line names the columns of CSV rather than being a record."""
    return bool(line.strip()) and not any(mark in line for mark in ("{", "CEF:", "LEEF:"))


def _values(text: io.TextIOWrapper, first: str) -> Iterator[Any]:
    """Yield the elements of a JSON array, or JSON values one after another."""
    decoder = json.JSONDecoder()
    buffer = first.lstrip()
    is_array = buffer.startswith("[")
    position = 1 if is_array else 0
    while True:
        while position < len(buffer) and buffer[position] in _BETWEEN:
            position += 1
        if position == len(buffer):
            buffer, position = text.read(_CHUNK), 0
            if not buffer:
                break
            continue
        if is_array and buffer[position] == "]":
            return
        value, buffer, position = _next(decoder, buffer[position:], text)
        yield value
    if is_array:
        raise _broken_off()


def _next(decoder: json.JSONDecoder, buffer: str, text: io.TextIOWrapper) -> tuple[Any, str, int]:
    """Return the value at the beginning of a buffer, reading on, twice as much each time, until it is whole."""
    while True:
        try:
            value, end = decoder.raw_decode(buffer)
        except json.JSONDecodeError as error:
            more = text.read(max(_CHUNK, len(buffer))) if len(buffer) < LONGEST_VALUE else ""
            if not more:
                raise _broken_off() from error
            buffer += more
        except RecursionError as error:
            raise ExportUnreadable("A row of the export is nested too deeply.", remedy=_REMEDY) from error
        else:
            return value, buffer, end


def _unwrapped(value: object) -> Iterator[Row]:
    """Yield the rows of an envelope, or the value itself where it is a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from _of_list(value)
    elif isinstance(value, dict):
        yield from _of_object(value)


def _of_list(items: list[Any]) -> Iterator[Row]:
    """Yield the row of a list of fields, as Insights of CloudWatch Logs gives it, or the rows that a list holds."""
    if items and all(isinstance(item, dict) and set(item) == {"field", "value"} for item in items):
        yield {item["field"]: item["value"] for item in items}
        return
    for item in items:
        yield from _unwrapped(item)


def _of_object(members: dict[str, Any]) -> Iterator[Row]:
    if not _OWN & set(members):
        if isinstance(members.get("tables"), list):
            yield from _of_tables(members["tables"])
            return
        if isinstance(members.get("result"), dict):
            yield members["result"]
            return
        for name in _LISTS:
            if isinstance(members.get(name), list):
                yield from _of_list(members[name])
                return
    yield members


def _of_tables(tables: list[Any]) -> Iterator[Row]:
    """Yield the rows of the tables that Azure Monitor's query API answers with."""
    for table in tables:
        if not isinstance(table, dict) or not isinstance(table.get("columns"), list):
            raise ExportUnreadable("A table of the export has no columns.", remedy=_REMEDY)
        names = [str(column.get("name")) if isinstance(column, dict) else str(column) for column in table["columns"]]
        for row in table.get("rows") or ():
            yield dict(zip(names, row, strict=False))


def _broken_off() -> ExportUnreadable:
    return ExportUnreadable("The export ends in its middle, or is no JSON from some row on.", remedy=_REMEDY)
