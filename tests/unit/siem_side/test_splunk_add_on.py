"""The add-on for Splunk: files that parse, expressions and fields tried on what the destination really sends."""

from __future__ import annotations

import csv
import re

import pytest

from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.text import unescaped
from klyra_siem.splunk import sourcetype_of
from support.siem.events import EVENT_TYPES, sealed
from support.siem.shipped import ADD_ON, SCHEMES, conf, received
from support.siem.splunk_fields import evaluated, extracted, fields_of, named_fields

LOOKED_INTO = ("native", "cef", "leef")  # formats whose events become those of the data model
EVERY_CHANGE = {
    *("action", "change_type", "command", "dest", "dvc", "object", "object_category", "object_id", "result"),
    *("src", "status", "user", "user_agent", "user_type", "vendor_account", "vendor_product"),
}
TIMES = {
    "%s%3N": r"\d{13}\b",
    "%Y-%m-%dT%H:%M:%S.%3NZ": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "%Y-%m-%dT%H:%M:%S.%9NZ": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z",
}


@pytest.mark.parametrize("path", sorted((ADD_ON / "default").glob("*.conf")), ids=lambda path: path.stem)
def test_every_file_parses(path) -> None:
    """No setting twice, no line that is none; a long line is not broken without saying so."""
    assert conf(path.stem).sections()
    assert not any(line.startswith((" ", "\t")) for line in path.read_text().splitlines())


def test_every_source_type_that_is_sent_has_a_stanza() -> None:
    """And no other has one."""
    assert {sourcetype_of(name) for name in NAMES} == set(conf("props").sections())


@pytest.mark.parametrize("written", NAMES)
def test_events_are_whole_and_timed(written) -> None:
    """Nothing is cut off or broken, and the time is found where Splunk looks for it first."""
    stanza = conf("props")[sourcetype_of(written)]
    assert (stanza["TRUNCATE"], stanza["SHOULD_LINEMERGE"], stanza["CHARSET"]) == ("0", "false", "UTF-8")
    assert stanza["KV_MODE"] == ("none" if written in {"cef", "leef"} else "json")
    for entry in sealed():
        line = record_format(written, None).encode(entry).decode()
        assert not re.search(stanza["LINE_BREAKER"], line)
        found = re.search(stanza["TIME_PREFIX"] + r"(.*)", line)
        assert found is not None, line
        assert re.match(TIMES[stanza["TIME_FORMAT"]], found[1][: int(stanza["MAX_TIMESTAMP_LOOKAHEAD"])]), found[1]


@pytest.mark.parametrize("written", LOOKED_INTO)
def test_every_type_has_the_fields_of_the_data_model(written) -> None:
    """One value each, and the values of the mapping."""
    entries = {entry.entry_id: entry for entry in sealed()}
    for event in received("splunk", written):
        fields = fields_of(event["sourcetype"], event)
        document = entries[event["fields"]["event_id"]].document
        mapped = SCHEMES["event_types"][document["event_type"]]
        assert set(fields) >= EVERY_CHANGE, EVERY_CHANGE - set(fields)
        assert all(len(fields[name]) == 1 for name in EVERY_CHANGE), fields
        assert {name: fields[name][0] for name in ("action", "change_type", "dataset")} == mapped["cim"]
        assert fields["event_type"] == fields["command"] == [document["event_type"]]
        assert fields["entry_action"] == [document["action"]]
        assert fields["status"] == fields["result"] == [document["status"]]
        assert (fields["src"], fields["object_id"]) == (["2001:db8::7"], [document["resource"]["id"]])
        assert fields["dvc"] == ["collector-1"]


@pytest.mark.parametrize("written", LOOKED_INTO)
def test_account_management_is_about_the_user_acted_upon(written) -> None:
    """`user` is that one, `src_user` who did it; in all other changes `user` is who did it."""
    entries = {entry.entry_id: entry for entry in sealed()}
    for event in received("splunk", written):
        fields = fields_of(event["sourcetype"], event)
        document = entries[event["fields"]["event_id"]].document
        who, whom = (document[name]["name"] or document[name]["id"] for name in ("actor", "resource"))
        is_account = fields["dataset"] == ["Account_Management"]
        assert [
            unescaped(one) if written == "cef" else one for one in fields["src_user" if is_account else "user"]
        ] == [who]
        assert fields["user"] == [whom] if is_account else "src_user" not in fields


def test_attributes_of_content_are_a_list() -> None:
    """Content type, hash and categories, as the mapping table of CIM has them."""
    found = {}
    for event in received("splunk"):
        fields = fields_of(event["sourcetype"], event)
        found[fields["event_type"][0]] = fields.get("object_attrs")
    assert found["moderation.flagged"] == ["sha256:ab", "hate", "threat"]
    assert found["moderation.created"] == ["text"]
    assert found["webhook.deleted"] is None


def test_pairs_of_cef_are_those_that_are_written() -> None:
    """Values hold blanks, escaped equals signs and backslashes; the record for verification is no field."""
    for entry in sealed():
        line = record_format("cef", None).encode(entry).decode()
        pairs = dict(extracted("klyra_audit_cef_pairs", line))
        written = line.partition(" klyraRecord=")[0]
        assert "".join(f" {name}={value}" for name, value in pairs.items())[1:] == written.split("|", 7)[7]
        actor = entry.document["actor"]["name"]
        assert unescaped(pairs.get("suser", "")) == (actor or "")
        assert pairs["externalId"] == entry.entry_id
        assert dict(extracted("klyra_audit_cef_header", line))["cef_event"] == entry.document["event_type"]


def test_a_long_record_costs_the_expression_of_cef_no_depth() -> None:
    """Splunk stops an expression at 1,000 steps of recursion: no group is repeated for each character."""
    expression = conf("transforms")["klyra_audit_cef_pairs"]["REGEX"]
    assert not re.search(r"\|[^)]*\)\*\?", expression)
    [entry, *_] = sealed()
    line = record_format("cef", None).encode(entry).decode().replace("act=create", "act=" + "x y" * 20_000)
    assert dict(extracted("klyra_audit_cef_pairs", line))["act"] == "x y" * 20_000


def test_pairs_of_leef_are_those_that_are_written() -> None:
    """Everything between tabs but the record for verification."""
    for entry in sealed():
        line = record_format("leef", None).encode(entry).decode()
        pairs = extracted("klyra_audit_leef_pairs", line)
        written = line.partition("\tklyraRecord=")[0].partition("|x09|")[2]
        assert "\t".join(f"{name}={value}" for name, value in pairs) == written


@pytest.mark.parametrize("written", LOOKED_INTO)
def test_every_field_that_is_read_is_in_some_event(written) -> None:
    """Aliases and expressions name nothing that no event type has."""
    stanza = conf("props")[sourcetype_of(written)]
    seen = set().union(*(fields_of(event["sourcetype"], event) for event in received("splunk", written)))
    for name, value in stanza.items():
        if name.startswith("FIELDALIAS-"):
            assert value.split(" ASNEW ")[0] in seen, name
        if name.startswith("EVAL-"):
            assert named_fields(value) <= seen, name


def test_a_function_that_splunk_is_not_known_to_have_is_an_error() -> None:
    """So that an expression with a typing error does not pass for one without a value."""
    with pytest.raises(NameError):
        evaluated("coalecse('a')", {})


def test_the_lookup_is_what_the_mapping_says() -> None:
    """A row for each type, then one for each action, for types of an application's own."""
    with (ADD_ON / "lookups" / "klyra_audit_event_types.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = {1: "informational", 2: "low", 3: "medium"}
    known = [row for row in rows if row["event_type"] != "*"]
    assert rows[: len(known)] == known
    assert {row["event_type"] for row in known} == set(EVENT_TYPES)
    for row in rows:
        types, actions = SCHEMES["event_types"], SCHEMES["actions"]
        mapped = types.get(row["event_type"], actions[row["entry_action"]])
        assert row["entry_action"] == mapped.get("action", row["entry_action"])
        assert {name: row[name] for name in ("dataset", "action", "change_type")} == mapped["cim"]
        assert (row["title"], row["severity"]) == (mapped.get("title", ""), names[mapped["severity"]])
    assert {row["entry_action"] for row in rows if row["event_type"] == "*"} == set(SCHEMES["actions"])


def test_tags_belong_to_event_types() -> None:
    """The data model finds changes by the tag `change`, those of accounts by `account` besides."""
    tags, event_types = conf("tags"), conf("eventtypes")
    assert {name.removeprefix("eventtype=") for name in tags.sections()} == set(event_types.sections())
    assert "change" in tags["eventtype=klyra_audit"]
    assert set(tags["eventtype=klyra_audit_account_management"]) == {"account"}
    named = set(re.findall(r"event_type=([\w.]+)", event_types["klyra_audit_account_management"]["search"]))
    rows = SCHEMES["event_types"].items()
    assert named == {name for name, row in rows if row["cim"]["dataset"] == "Account_Management"}
    for section in event_types.values():
        types = set(re.findall(r"sourcetype=([\w:]+)", section.get("search", "")))
        assert types in ({sourcetype_of(name) for name in LOOKED_INTO}, set())


def test_searches_are_balanced_and_name_what_every_format_has() -> None:
    """Quotes and brackets close, macros exist, fields are indexed ones or the search's own."""
    indexed = set().union(*(event["fields"] for event in received("splunk", "cef")))
    macros = conf("macros")
    texts = [section["search"] for name, section in conf("savedsearches").items() if name]
    texts += [section["definition"] for name, section in macros.items() if name]
    for text in texts:
        assert text.count('"') % 2 == text.count("`") % 2 == 0
        bare = re.sub(r'"[^"]*"', "", text)
        assert bare.count("(") == bare.count(")")
        assert set(re.findall(r"`(\w+)`", text)) <= set(macros.sections())
        own = set(re.findall(r" as (\w+)", bare)) | {"_time", "index", "sourcetype", "count"}
        read = set(re.findall(r"(\w+)\s*[=<>]", bare)) | set(re.findall(r"(?:by|dedup) (\w+)", bare))
        assert read <= indexed | own, text


def test_silence_is_told_even_when_nothing_ever_came() -> None:
    """`stats` without `count` gives no row for no events, which no alert would see; nothing runs unasked."""
    searches = conf("savedsearches")
    silence = searches["Klyra audit: no sign of life"]
    assert " | stats count, max(_time) as last | " in silence["search"]
    assert "where count = 0 OR " in silence["search"]
    assert all(section["enableSched"] == "0" for name, section in searches.items() if name)
