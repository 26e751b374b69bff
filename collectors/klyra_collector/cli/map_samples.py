"""Samples of other programs' records, as a person has them in a file: what kind they are, and the records in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from klyra_audit.errors import Rejected
from klyra_audit.forward import library
from klyra_audit.forward.encoding import pack_entries
from klyra_audit.forward.message import RawEntry
from klyra_audit.timestamps import NANOSECONDS
from klyra_collector.receive.forward.record import ForwardRecord, Source
from klyra_collector.receive.wire_json import decode_json

if TYPE_CHECKING:
    from klyra_collector.receive.forward.tags import TagTypes
    from klyra_collector.receive.wire import WireRecord

_REQUEST = "resourceLogs"
_TAG, _RECORD, _TIME = "tag", "record", "time"
_OF_LOG_RECORDS = {"attributes", "body", "eventName", "timeUnixNano", "observedTimeUnixNano"}


class NoSample(Rejected):
    """The file holds no record that could be mapped."""

    code = "no_sample"


def read_samples(content: bytes, types: TagTypes, now_ns: int) -> list[WireRecord]:
    """Return the records of a file: one JSON object, or one on each line.

    Args:
        content: an ExportLogsServiceRequest or a single logRecord of OTLP/JSON, or a Forward record,
            `{"tag": …, "record": {…}}` with or without `time` in seconds since 1970.
        types: which event type a tag stands for.
        now_ns: the time of a Forward record that has none.

    Raises:
        NoSample: it is none of these; says on which line.
        MalformedRequest: it is OTLP/JSON only at first sight.
    """
    return [record for number, item in _objects(content) for record in _records(number, item, types, now_ns)]


def _objects(content: bytes) -> list[tuple[int, dict[str, Any]]]:
    """Return the JSON objects with the lines on which they begin."""
    try:
        found = [(1, orjson.loads(content))]
    except orjson.JSONDecodeError as whole:
        try:
            found = [
                (number, orjson.loads(line)) for number, line in enumerate(content.splitlines(), 1) if line.strip()
            ]
        except orjson.JSONDecodeError:
            found = []
        if len(found) < 2:  # noqa: PLR2004 - a single line has just been refused as a whole
            raise _no_sample(f"is neither JSON nor JSON lines: {whole}") from whole
    for number, item in found:
        if not isinstance(item, dict):
            raise _no_sample(f"has no JSON object on line {number}")
    return found


def _records(number: int, item: dict[str, Any], types: TagTypes, now_ns: int) -> list[WireRecord]:
    if _REQUEST in item:
        records = decode_json(orjson.dumps(item))
        if not records:
            raise _no_sample(f"has a request without records on line {number}")
        return records
    if isinstance(item.get(_TAG), str) and isinstance(item.get(_RECORD), dict):
        return [_forward(item, types, now_ns)]
    if _OF_LOG_RECORDS & item.keys():
        return decode_json(orjson.dumps({_REQUEST: [{"scopeLogs": [{"logRecords": [item]}]}]}))
    raise _no_sample(f"has something else than a request, a log record or a Forward record on line {number}")


def _forward(item: dict[str, Any], types: TagTypes, now_ns: int) -> WireRecord:
    time = item.get(_TIME)
    nanoseconds = int(time * NANOSECONDS) if isinstance(time, int | float) else now_ns
    packed, _ = pack_entries([(nanoseconds, item[_RECORD])])
    tag = item[_TAG]
    return ForwardRecord(Source(tag, library.msgpack().packb(tag), acknowledged=True, types=types), RawEntry(packed))


def _no_sample(problem: str) -> NoSample:
    return NoSample(f"The sample {problem}.", remedy="See: klyra-audit map --help")
