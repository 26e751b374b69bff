"""CEF and LEEF lines: what a strict reader of each makes of them."""

from __future__ import annotations

import json
import re

import pytest

from klyra_siem.formats import record_format
from klyra_siem.formats.mapping import table
from klyra_siem.formats.text import escaped, unescaped
from support.siem.events import EVENT_TYPES, event, sealed

# Names of the extension dictionary (ArcSight, "Common Event Format", version 26) that are used here.
CEF_KEYS = {
    *("rt", "externalId", "act", "outcome", "cat", "suid", "suser", "sourceUserPrivileges", "src", "c6a2"),
    *("c6a2Label", "requestClientApplication", "fileType", "fileId", "fname", "cn1", "cn1Label"),
    *(f"cs{number}{label}" for number in range(1, 7) for label in ("", "Label")),
}
# Names of IBM's predefined LEEF attributes that are used here; others are free.
LEEF_KEYS = {"devTime", "devTimeFormat", "cat", "sev", "usrName", "accountName", "src", "resource", "role"}


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """Return header fields and extension, read by the rules of the format."""
    *header, extension = re.split(r"(?<!\\)\|", line, maxsplit=7)
    pairs = re.findall(r"(\w+)=((?:\\.|[^\\=])*?)(?=\s\w+=|\Z)", extension)
    rebuilt = " ".join(f"{name}={value}" for name, value in pairs)
    assert rebuilt == extension
    return header, {name: unescaped(value) for name, value in pairs}


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_cef_line_is_read_by_the_rules(event_type) -> None:
    """Header of eight parts, known keys, nothing unescaped, whatever names people have."""
    (entry,) = sealed(event(event_type))
    line = record_format("cef", None).encode(entry).decode()
    header, found = read_cef(line)
    assert header[:4] == ["CEF:0", "Klyra", "AuditLogs", "1"]
    assert header[4] == event_type
    assert int(header[6]) in range(11)
    assert set(found) - {"klyraRecord"} <= CEF_KEYS
    assert all(f"{name}Label" in found for name in found if re.fullmatch(r"cs\d|cn\d|c6a2", name))
    assert (found["externalId"], found["suid"]) == (entry.entry_id, entry.document["actor"]["id"])
    assert found.get("suser") == entry.document["actor"]["name"]
    assert json.loads(found["klyraRecord"])["id"] == entry.entry_id


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_a_leef_line_is_read_by_the_rules(event_type) -> None:
    """Attributes stand between tabs; neither names nor values hold one."""
    (entry,) = sealed(event(event_type))
    line = record_format("leef", None).encode(entry).decode()
    header, attributes = line.split("|x09|", 1)
    found = dict(pair.split("=", 1) for pair in attributes.split("\t"))
    assert header.split("|") == ["LEEF:2.0", "Klyra", "AuditLogs", "1", event_type]
    assert LEEF_KEYS - {"usrName"} <= set(found)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["devTime"])
    assert json.loads(found["klyraRecord"])["index"] == entry.index


def test_a_version_4_address_is_src_and_a_version_6_address_is_not() -> None:
    """CEF's `src` takes four numbers only."""
    four, six = sealed(
        event("user.added", 1, metadata={"client_ip": "198.51.100.7"}),
        event("user.added", 2, metadata={"client_ip": "2001:db8::7"}),
    )
    found = [read_cef(record_format("cef", None).encode(entry).decode())[1] for entry in (four, six)]
    assert (found[0]["src"], "c6a2" in found[0]) == ("198.51.100.7", False)
    assert ("src" in found[1], found[1]["c6a2"]) == (False, "2001:db8::7")


def test_severity_rises_with_failure() -> None:
    """What failed is worse than what went well; what flags, assigns or issues keys is worse than the rest."""

    def severity(name: str, status: str) -> int:
        (entry,) = sealed(event(name, status=status))
        return int(read_cef(record_format("cef", None).encode(entry).decode())[0][6])

    assert severity("webhook.created", "success") < severity("webhook.created", "failure")
    assert severity("api_key.created", "success") == severity("webhook.created", "failure")
    assert severity("role.assigned", "failure") == max(map(int, table("text")["cef"]["severities"].values()))


@pytest.mark.parametrize("value", ["a=b", "\\", "\\=", "a\nb\rc", "\\n", "", "x y=z", "|", "王"])
def test_escaping_is_undone(value) -> None:
    """What is escaped comes back, and has no line end."""
    assert unescaped(escaped(value)) == value
    assert "\n" not in escaped(value)
