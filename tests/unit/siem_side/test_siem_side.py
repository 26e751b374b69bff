"""What customers install in their SIEM: parsed strictly, and every field that it names is one that is really sent."""

from __future__ import annotations

import configparser
import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from klyra_siem.azure_monitor_rows import COLUMNS
from klyra_siem.formats import NAMES, record_format
from klyra_siem.formats.mapping import table
from klyra_siem.splunk import sourcetype_of
from support.siem.cloud import send
from support.siem.events import EVENT_TYPES, sealed
from support.siem.intakes import INTAKES

try:
    import sqlglot
    from sqlglot import exp
except ModuleNotFoundError:  # a development tool
    sqlglot = None

FOLDER = Path(__file__).resolve().parents[3] / "dashboards" / "siem"
ADD_ON = FOLDER / "splunk" / "klyra_audit"
SCHEMES = table("event_types")
SOURCE = "klyra"  # what the destination says in `ddsource`


def members(value: Any, prefix: str = "") -> set[str]:
    """Return the dotted path of every member of a JSON value."""
    if not isinstance(value, dict):
        return {prefix}
    found = {prefix} if prefix else set()
    for name, inner in value.items():
        found |= members(inner, f"{prefix}.{name}" if prefix else name)
    return found


def native() -> set[str]:
    """Return every path of the native records of all event types."""
    written = record_format("native", None)
    return set().union(*(members(json.loads(written.encode(entry))) for entry in sealed()))


def rows_of(kind: str, written: str = "native") -> list[dict[str, Any]]:
    """Return what a search at a vendor gives for an entry of each type."""
    entries = sealed()
    with INTAKES[kind](record=record_format(written, None)) as intake:
        intake.service.now = entries[0].filed_ns / 1e9
        send(intake.destination, entries)
        return [next((row[name] for name in ("result", "map") if name in row), row) for row in intake.rows()]


def conf(name: str) -> configparser.ConfigParser:
    """Return a .conf file of the add-on, every setting once."""
    parsed = configparser.ConfigParser(interpolation=None, strict=True, delimiters=("=",), comment_prefixes=("#",))
    parsed.optionxform = str  # type: ignore[method-assign,assignment] - names keep their case
    parsed.read_string((ADD_ON / "default" / f"{name}.conf").read_text())
    return parsed


class TestSplunk:
    """The add-on."""

    @pytest.mark.parametrize("path", sorted((ADD_ON / "default").glob("*.conf")), ids=lambda path: path.stem)
    def test_every_file_parses(self, path) -> None:
        """No setting twice, no line that is none."""
        assert conf(path.stem).sections()

    @pytest.mark.parametrize("written", NAMES)
    def test_every_source_type_is_whole_and_timed(self, written) -> None:
        """Nothing is cut off, and the time is found in real records where Splunk looks for it."""
        stanza = conf("props")[sourcetype_of(written)]
        assert (stanza["TRUNCATE"], stanza["SHOULD_LINEMERGE"]) == ("0", "false")
        for entry in sealed():
            line = record_format(written, None).encode(entry).decode()
            assert not re.search(stanza["LINE_BREAKER"], line)
            found = re.search(stanza["TIME_PREFIX"] + r"(.*)", line)
            assert found is not None, (written, line[:200])
            looked_at = found[1][: int(stanza["MAX_TIMESTAMP_LOOKAHEAD"])]
            pattern = {"%s%3N": r"\d{13}\b"}.get(stanza["TIME_FORMAT"], r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
            assert re.match(pattern, looked_at), (written, looked_at)

    def test_every_field_is_in_an_event(self) -> None:
        """Aliases and expressions name what events or their indexed fields hold, or what another one makes."""
        stanza = conf("props")[sourcetype_of("native")]
        made = {value.split(" ASNEW ")[1] for name, value in stanza.items() if name.startswith("FIELDALIAS-")}
        made |= {name.removeprefix("EVAL-") for name in stanza if name.startswith("EVAL-")}
        sent = native() | {name for row in rows_of("splunk") for name in row}
        for name, value in stanza.items():
            if name.startswith("FIELDALIAS-"):
                assert value.split(" ASNEW ")[0] in sent, name
            if name.startswith("EVAL-"):
                assert set(re.findall(r"'([^']+)'", value)) <= sent | made, name

    def test_the_lookup_is_what_the_mapping_says(self) -> None:
        """A row for each type, and one for each action."""
        with (ADD_ON / "lookups" / "klyra_audit_event_types.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        known = {row["event_type"]: row for row in rows if row["event_type"] != "*"}
        assert set(known) == set(EVENT_TYPES)
        for name, row in known.items():
            mapped = SCHEMES["event_types"][name]
            assert (row["entry_action"], row["title"]) == (mapped["action"], mapped["title"])
            assert (row["action"], row["change_type"], row["dataset"]) == (
                mapped["cim"]["action"],
                mapped["cim"]["change_type"],
                mapped["cim"]["dataset"],
            )
        assert {row["entry_action"] for row in rows if row["event_type"] == "*"} == set(SCHEMES["actions"])
        assert conf("transforms")["klyra_audit_event_types"]["filename"] == "klyra_audit_event_types.csv"

    def test_tags_and_event_types_belong_together(self) -> None:
        """Each tag is of an event type; account management is what the mapping says it is."""
        event_types = conf("eventtypes")
        assert {name.removeprefix("eventtype=") for name in conf("tags").sections()} == set(event_types.sections())
        named = set(re.findall(r"event_type=([\w.]+)", event_types["klyra_audit_account_management"]["search"]))
        rows = SCHEMES["event_types"].items()
        assert named == {name for name, row in rows if row["cim"]["dataset"] == "Account_Management"}

    def test_searches_name_indexed_fields(self) -> None:
        """Saved searches and macros use what every format has beside the record."""
        fields = {name for row in rows_of("splunk", "cef") for name in row}
        assert {"event_id", "event_type", "klyra_log"} <= fields
        texts = [section.get("search", "") for section in conf("savedsearches").values()]
        texts += [section.get("definition", "") for section in conf("macros").values()]
        assert set(re.findall(r"\b(event_\w+)", " ".join(texts))) <= fields
        assert all(
            section["enableSched"] == "0" for name, section in conf("savedsearches").items() if name != "DEFAULT"
        )


class TestDatadog:
    """The pipeline and the monitor."""

    def test_every_source_is_in_a_log(self) -> None:
        """Of one format or another; what another processor made counts."""
        pipeline = json.loads((FOLDER / "datadog" / "pipeline.json").read_text())
        sent = {"status", "timestamp"}
        for written in ("native", "ocsf-1.1.0", "ecs"):
            sent |= set().union(*(members(row.get("attributes", row)) for row in rows_of("datadog", written)))
            sent |= set().union(*(members(row) for row in rows_of("datadog", written)))
        sent = {name.removeprefix("attributes.").removeprefix("content.") for name in sent}
        made = {one["target"] for one in pipeline["processors"] if "target" in one}
        for processor in pipeline["processors"]:
            assert any(one in sent | made for one in processor["sources"]), processor["name"]
            assert processor["type"] in {
                *("date-remapper", "attribute-remapper", "status-remapper"),
                *("user-agent-parser", "geo-ip-parser"),
            }
        assert pipeline["filter"] == {"query": f"source:{SOURCE}"}

    def test_the_monitor_looks_for_heartbeats(self) -> None:
        """By the field that every log has."""
        monitor = json.loads((FOLDER / "datadog" / "silence-monitor.json").read_text())
        assert "@evt.name:heartbeat.sent" in monitor["query"]
        assert monitor["type"] == "log alert"
        assert monitor["query"].endswith(f"< {monitor['options']['thresholds']['critical']}")


class TestSumoLogic:
    """The rule and the searches."""

    def test_every_field_is_in_a_line(self) -> None:
        """Names and paths are as many, and each path is sent."""
        rule = json.loads((FOLDER / "sumo-logic" / "field-extraction-rule.json").read_text())
        sent = set().union(*(members(row) for row in lines_of_sumo()))
        clauses = rule["parseExpression"].split(" | ")
        assert all(clause.startswith("json ") and clause.endswith(" nodrop") for clause in clauses)
        for clause in clauses:
            paths, names = clause.removeprefix("json ").removesuffix(" nodrop").rsplit(" as ", 1)
            found = re.findall(r'"([^"]+)"', paths)
            assert len(found) == len(names.split(","))
            assert set(found) <= sent, clause

    @pytest.mark.parametrize("path", sorted((FOLDER / "sumo-logic").glob("*.sumo")), ids=lambda path: path.stem)
    def test_every_search_is_of_our_lines(self, path) -> None:
        """The scope first, then one operator a line."""
        scope, *rest = path.read_text().splitlines()
        assert scope.startswith("_sourceCategory=klyra/audit")
        assert rest
        assert all(re.match(r"\| [a-z_]+", line) for line in rest)


def lines_of_sumo() -> list[dict[str, Any]]:
    """Return the lines of all event types as Sumo Logic has them."""
    return [json.loads(row["_raw"]) for row in rows_of("sumo-logic")]


class TestAzureMonitor:
    """Table, rule and functions."""

    TEMPLATE = json.loads((FOLDER / "azure-monitor" / "table-and-rule.json").read_text())

    def resource(self, kind: str) -> dict[str, Any]:
        """Return the one resource of a kind."""
        [found] = [one for one in self.TEMPLATE["resources"] if one["type"] == kind]
        return dict(found)

    def test_table_and_stream_have_the_columns_of_the_rows(self) -> None:
        """Each with its type: a column that lacks is lost without a word."""
        in_table = self.resource("Microsoft.OperationalInsights/workspaces/tables")["properties"]["schema"]["columns"]
        rule = self.resource("Microsoft.Insights/dataCollectionRules")["properties"]
        in_stream = rule["streamDeclarations"]["Custom-KlyraAudit"]["columns"]
        for columns in (in_table, in_stream):
            assert [(one["name"], one["type"].lower()) for one in columns] == list(dict(COLUMNS).items())
        reserved = {"id", "Title", "Type", "TenantId", "UniqueId", "_ResourceId", "_SubscriptionId"}
        assert not {one["name"] for one in in_table} & reserved

    def test_the_rule_leads_into_the_table(self) -> None:
        """Stream, destination and output belong together; the collector's identity may publish, and nothing else."""
        rule = self.resource("Microsoft.Insights/dataCollectionRules")
        [flow] = rule["properties"]["dataFlows"]
        assert rule["kind"] == "Direct"
        assert flow["outputStream"] == "Custom-KlyraAudit_CL"
        assert set(flow["streams"]) == set(rule["properties"]["streamDeclarations"])
        assert flow["destinations"] == [one["name"] for one in rule["properties"]["destinations"]["logAnalytics"]]
        used = set(re.findall(r"parameters\('(\w+)'\)", json.dumps(self.TEMPLATE)))
        assert used == set(self.TEMPLATE["parameters"])

    @pytest.mark.parametrize("path", sorted((FOLDER / "azure-monitor").glob("*.kql")), ids=lambda path: path.stem)
    def test_every_query_is_balanced_and_of_the_table(self, path) -> None:
        """Brackets close, and operators stand behind a pipe."""
        text = re.sub(r"//.*", "", path.read_text())
        bare = re.sub(r'"[^"]*"', '""', text)
        assert "KlyraAudit_CL" in text
        assert all(bare.count(left) == bare.count(right) for left, right in ("()", "[]", "{}"))
        operators = set(re.findall(r"^\s*\|\s*([a-z-]+)", text, re.MULTILINE))
        assert operators <= {"where", "summarize", "extend", "project", "project-away", "project-rename", "lookup"}

    def test_the_parser_is_what_the_mapping_says(self) -> None:
        """A row for each type, and one for each action; columns that it reads are those of the table."""
        text = (FOLDER / "azure-monitor" / "vimAuditEventKlyra.kql").read_text()
        rows = re.findall(
            r'^    "([^"]*)", "([^"]*)", "([^"]*)", "([^"]*)", "([^"]*)", "([^"]*)",?$', text, re.MULTILINE
        )
        known = {row[0]: row for row in rows if row[0] != "*"}
        assert set(known) == set(EVENT_TYPES)
        for name, (_, action, event_type, _, object_type, schema) in known.items():
            mapped = SCHEMES["event_types"][name]
            assert (action, event_type) == (mapped["action"], mapped["asim"]["event_type"])
            assert (object_type, schema) == (mapped["asim"].get("object_type", "User"), mapped["asim"]["schema"])
        assert {row[1] for row in rows if row[0] == "*"} == set(SCHEMES["actions"])
        read = set(re.findall(r"= (?:coalesce\()?([A-Z]\w+)", text)) & {
            *("EventTime", "ResourceName", "ResourceId", "ResourceType", "ActorId", "ActorName", "ActorType"),
            *("OrganizationId", "ClientIp", "LogOrigin", "LogIndex", "Leaf", "Status"),
        }
        assert read <= set(dict(COLUMNS))


class TestCloudWatch:
    """Queries, filter and alarm, by AWS's own description of its calls."""

    def test_every_call_is_one_that_aws_describes(self) -> None:
        """Members and types are validated as the command line would."""
        session = pytest.importorskip("botocore.session").get_session()
        validate = pytest.importorskip("botocore.validate").ParamValidator()
        folder = FOLDER / "cloudwatch"
        queries = json.loads((folder / "query-definitions.json").read_text())
        calls = [("logs", "PutQueryDefinition", one) for one in queries]
        calls.append(("logs", "PutMetricFilter", json.loads((folder / "metric-filter.json").read_text())))
        calls.append(("cloudwatch", "PutMetricAlarm", json.loads((folder / "silence-alarm.json").read_text())))
        for service, call, given in calls:
            described = session.get_service_model(service).operation_model(call).input_shape
            report = validate.validate(given, described)
            assert not report.has_errors(), (call, report.generate_report())

    def test_every_field_is_in_an_event(self) -> None:
        """Insights' own begin with @."""
        sent = native()
        for one in json.loads((FOLDER / "cloudwatch" / "query-definitions.json").read_text()):
            text = re.sub(r'"[^"]*"', "", one["queryString"])
            for line in text.split("\n"):
                words = line.removeprefix("| ")
                if words.startswith("fields "):
                    named = {name.strip() for name in words.removeprefix("fields ").split(",")}
                    assert {name for name in named if not name.startswith("@")} <= sent, one["name"]
                for name in re.findall(r"ispresent\(([\w.]+)\)|dedup (\w+)|count_distinct\((\w+)\)", words):
                    assert {part for part in name if part} <= sent, one["name"]


@pytest.mark.skipif(sqlglot is None, reason="for want of sqlglot")
class TestGoogle:
    """Sink, metric, policy and queries."""

    @pytest.mark.parametrize(
        "path", sorted((FOLDER / "google-cloud-logging").glob("*.sql")), ids=lambda path: path.stem
    )
    def test_every_query_is_bigquerys_and_names_what_is_sent(self, path) -> None:
        """Parsed in its dialect; every member of the payload is one of ours."""
        [statement] = sqlglot.parse(path.read_text(), read="bigquery", error_level=sqlglot.ErrorLevel.RAISE)
        named = {found.sql(dialect="bigquery") for found in statement.find_all(exp.Dot, exp.Column)}
        payload = {re.sub(r"[`\s]", "", one).removeprefix("jsonPayload.") for one in named if "jsonPayload" in one}
        assert {one for one in payload if one != "jsonPayload"} <= native()

    def test_sink_metric_and_policy_are_of_one_log(self) -> None:
        """The log of the page, and the metric that the policy looks at."""
        folder = FOLDER / "google-cloud-logging"
        sink, metric, policy = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("sink", "heartbeat-metric", "silence-policy")
        )
        assert sink["filter"] in metric["filter"]
        [condition] = policy["conditions"]
        assert f'user/{metric["name"]}"' in condition["conditionAbsent"]["filter"]
        assert 'jsonPayload.event_type="heartbeat.sent"' in metric["filter"]

    def test_googles_own_messages_take_them(self) -> None:
        """Unknown members and wrong types are refused by the protocol's description."""
        types = pytest.importorskip("google.cloud.logging_v2.types")
        folder = FOLDER / "google-cloud-logging"
        types.LogSink.from_json((folder / "sink.json").read_text(), ignore_unknown_fields=False)
        types.LogMetric.from_json((folder / "heartbeat-metric.json").read_text(), ignore_unknown_fields=False)


def test_every_page_leads_to_its_files() -> None:
    """Whoever sets a destination up finds what to install."""
    for folder in sorted(path for path in FOLDER.iterdir() if path.is_dir()):
        page = FOLDER.parents[1] / "docs" / "destinations" / f"{folder.name}.md"
        assert f"dashboards/siem/{folder.name}" in page.read_text(), page.name


def test_splunks_module_names_the_source_types() -> None:
    """One for each family of formats, each with a stanza."""
    assert {sourcetype_of(name) for name in ("native", "ocsf-1.1.0", "ecs", "cef", "leef")} == set(
        conf("props").sections()
    )
