"""Requests damaged at random, from near misses to noise, for what must survive them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST = 8  # changes to one request
_LONGEST = 24  # bytes put in at once
_TELLING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff" * 9 + b"\x01", b"\xdd\xff\xff\xff\xff", b"[" * 200, b'"', b"\n")
# What OTLP/JSON gives a meaning to, and what it never expects there.
_NAMES = (
    *("resourceLogs", "resource", "attributes", "scopeLogs", "scope", "logRecords", "key", "value", "stringValue"),
    *("intValue", "boolValue", "doubleValue", "bytesValue", "arrayValue", "kvlistValue", "values", "body", "traceId"),
    *("timeUnixNano", "observedTimeUnixNano", "severityNumber", "eventName", "flags", "droppedAttributesCount", "x"),
)
_TEXTS = ("klyra.actor.id", "audit.record.id", "klyra.salts", "event.name", "moderation.created", "NaN", "AAAA", "1")


def damaged(seeds: Sequence[bytes]) -> strategies.SearchStrategy[bytes]:
    """Return requests made of valid ones: pieces of them changed, taken out, doubled, put in, or from another."""
    place = strategies.floats(0, 1, exclude_max=True)
    put = strategies.one_of(strategies.binary(max_size=_LONGEST), strategies.sampled_from(_TELLING))
    change = strategies.tuples(strategies.sampled_from("rixdcs"), place, place, put)
    changes = strategies.lists(change, max_size=_MOST)
    return strategies.builds(_damage, strategies.sampled_from(seeds), strategies.sampled_from(seeds), changes)


def _damage(request: bytes, other: bytes, changes: Sequence[tuple[str, float, float, bytes]]) -> bytes:
    for kind, at, until, put in changes:
        start, end = sorted((int(at * len(request)), int(until * len(request))))
        match kind:
            case "r":
                request = request[:start] + put + request[start + len(put) :]
            case "i":
                request = request[:start] + put + request[start:]
            case "x":
                request = request[:start] + request[end:]
            case "d":
                request = request[:end] + request[start:end][:4096] + request[end:]
            case "c":
                request = request[:start]
            case "s":
                request = request[:start] + other[int(until * len(other)) :]
    return request


def otlp_documents() -> strategies.SearchStrategy[Any]:
    """Return JSON that is anything between OTLP and nonsense."""
    leaves = strategies.one_of(
        strategies.none(),
        strategies.booleans(),
        strategies.integers(-(2**70), 2**70),
        strategies.floats(),
        strategies.text(max_size=12),
        strategies.sampled_from(_TEXTS),
    )
    names = strategies.one_of(strategies.sampled_from(_NAMES), strategies.text(max_size=6))
    values = strategies.recursive(
        leaves,
        lambda inner: strategies.one_of(
            strategies.lists(inner, max_size=4), strategies.dictionaries(names, inner, max_size=5)
        ),
        max_leaves=24,
    )
    records = strategies.lists(values, max_size=3)
    framed = records.map(lambda made: {"resourceLogs": [{"scopeLogs": [{"logRecords": made}]}]})
    return strategies.one_of(framed, values)
