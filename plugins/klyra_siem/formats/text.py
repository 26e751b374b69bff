r"""The formats `cef` and `leef`: one line of text each.

CEF: header fields escape `|` and `\`, values escape `=`, `\` and line ends (ArcSight, "Common Event Format",
version 26). LEEF 2.0 separates values by tabs and escapes nothing, so that a tab or line end in a value becomes a
space (IBM, "LEEF event components"). The last key, `klyraRecord`, is the JSON object that the copy is verified by.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from klyra_audit import timestamps
from klyra_siem.formats.integrity import integrity_of
from klyra_siem.formats.mapping import member, row_of, severity_of, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klyra_audit.audit_integrity import RecordKey
    from klyra_audit.format.canonical import JsonObject
    from klyra_siem.destination import SealedEntry

RECORD_KEY: Final = "klyraRecord"

_VENDOR = "Klyra|AuditLogs|1"
_NS_PER_MS = 1_000_000
_IPV6 = 6
_LINE_ENDS = re.compile(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")
_CEF_VALUE = {"\\": "\\\\", "=": "\\=", "\n": "\\n", "\r": "\\r"}
_CEF_ESCAPE = re.compile(r"[\\=\n\r]")
_CEF_ESCAPED = re.compile(r"\\([\\=nr])")
_CEF_PLAIN = {"\\": "\\", "=": "=", "n": "\n", "r": "\r"}


class CefFormat:
    """ArcSight Common Event Format, version 0."""

    name = "cef"
    content: Literal["json", "text"] = "text"

    def __init__(self, key: RecordKey | None) -> None:
        self._key = key

    def encode(self, entry: SealedEntry) -> bytes:
        """Return one line without its end; the same entry gives the same bytes."""
        document, described = entry.document, table("text")["cef"]
        row = row_of(document)
        severity = described["severities"][str(severity_of(document, row))]
        header = f"CEF:0|{_VENDOR}|{_header(document['event_type'])}|{_header(row['title'])}|{severity}|"
        pairs = [*_labelled(entry, described), (RECORD_KEY, _record(entry, self._key))]
        return (header + " ".join(f"{name}={escaped(value)}" for name, value in pairs)).encode()


class LeefFormat:
    """IBM Log Event Extended Format, version 2.0."""

    name = "leef"
    content: Literal["json", "text"] = "text"

    def __init__(self, key: RecordKey | None) -> None:
        self._key = key

    def encode(self, entry: SealedEntry) -> bytes:
        """Return one line without its end; the same entry gives the same bytes."""
        pairs = [*_pairs(entry, table("text")["leef"]), (RECORD_KEY, _record(entry, self._key))]
        header = f"LEEF:2.0|{_VENDOR}|{_header(entry.document['event_type'])}|x09|"
        return (header + "\t".join(f"{name}={value}" for name, value in pairs)).encode()


def escaped(value: str) -> str:
    """Return a value as CEF writes it."""
    return _CEF_ESCAPE.sub(lambda found: _CEF_VALUE[found[0]], value)


def unescaped(value: str) -> str:
    """Return what `escaped` was given."""
    return _CEF_ESCAPED.sub(lambda found: _CEF_PLAIN[found[1]], value)


def record_in(line: str) -> str | None:
    """Return the JSON text of a line's `klyraRecord`; None if the line has none."""
    begin = line.find(f"{RECORD_KEY}=")
    if begin < 0:
        return None
    value = line[begin + len(RECORD_KEY) + 1 :].rstrip("\r\n")
    return unescaped(value) if "CEF:" in line[:begin] else value


def _labelled(entry: SealedEntry, described: JsonObject) -> Iterator[tuple[str, str]]:
    for name, value in _pairs(entry, described):
        if name in described["labels"]:
            yield f"{name}Label", described["labels"][name]
        yield name, value


def _pairs(entry: SealedEntry, described: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield the keys of a line with what they say, in the table's order; what an entry lacks is left out."""
    sources = _sources(entry, described)
    for name, source in described["keys"].items():
        value = sources.get(source)
        if value is None and "." in source:
            value = member(entry.document, *source.split("."))
        if value is not None:
            yield name, _LINE_ENDS.sub(" ", str(value))


def _sources(entry: SealedEntry, described: JsonObject) -> dict[str, Any]:
    document = entry.document
    metadata = document.get("metadata", {})
    moment = timestamps.to_nanoseconds(document["timestamp"]) // _NS_PER_MS
    categories = metadata.get("categories")
    return {
        **{name: document[name] for name in ("id", "event_type", "action", "status")},
        **{name: metadata.get(name) for name in ("user_agent", "content_type", "content_hash", "client_ip")},
        **_addresses(metadata.get("client_ip")),
        "time_ms": moment,
        "time": timestamps.from_microseconds(moment * 1000),
        "time_format": "yyyy-MM-dd'T'HH:mm:ss.SSSX",
        "severity": described["severities"][str(severity_of(document, row_of(document)))],
        "categories": ",".join(map(str, categories)) if isinstance(categories, list) else None,
        "organization": entry.organization_id,
        "log": entry.origin,
        "index": entry.index,
    }


def _addresses(text: object) -> dict[str, str]:
    try:
        address = ipaddress.ip_address(str(text))
    except ValueError:
        return {}
    return {"client_ipv6" if address.version == _IPV6 else "client_ipv4": str(address)}


def _header(text: str) -> str:
    return _LINE_ENDS.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|")


def _record(entry: SealedEntry, key: RecordKey | None) -> str:
    return orjson.dumps(integrity_of(entry, key)).decode()
