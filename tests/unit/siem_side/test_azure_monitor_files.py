"""What customers install in Azure: the template's shape, columns equal to those of the rows, queries that read them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from klyra_siem.azure_monitor_rows import COLUMNS, RESERVED, row
from klyra_siem.formats import record_format
from support.siem.events import EVENT_TYPES, sealed
from support.siem.kusto import Scope, balanced, columns_of, without_comments
from support.siem.shipped import FOLDER, SCHEMES, json_of, text_of

TABLE = "Microsoft.OperationalInsights/workspaces/tables"
RULE = "Microsoft.Insights/dataCollectionRules"
ROLE = "Microsoft.Authorization/roleAssignments"
METRICS_PUBLISHER = "3913510d-42f4-4e42-8a64-420c390055eb"  # the same in every tenant (Azure built-in roles, "Monitor")
QUERIES = sorted((FOLDER / "azure-monitor").glob("*.kql"))
AUDIT_EVENT_TYPES = {"Set", "Read", "Create", "Delete", "Execute", "Enable", "Disable", "Start", "Stop", "Other"}
USER_EVENT_TYPES = {"UserCreated", "UserDeleted", "UserModified", "UserAddedToGroup", "UserRemovedFromGroup"}
EVERY_SCHEMA = {  # "Advanced Security Information Model (ASIM) common fields": mandatory
    *("TimeGenerated", "EventCount", "EventStartTime", "EventEndTime", "EventType", "EventResult", "EventProduct"),
    *("EventVendor", "EventSchema", "EventSchemaVersion", "Dvc"),
}
AUDIT_EVENT = {  # the mapping's fields, and those that are mandatory in the schema
    *("EventOriginalUid", "EventOriginalType", "Operation", "Object", "ObjectType", "ActorUserId", "ActorUsername"),
    *("ActorUserType", "ActorScopeId", "SrcIpAddr", "HttpUserAgent", "AdditionalFields", "EventSeverity"),
}
USER_MANAGEMENT = {"ActorUsername", "ActorUsernameType", "TargetUsername", "TargetUsernameType", "GroupName"}


def template() -> dict[str, Any]:
    """Return the ARM template."""
    found: dict[str, Any] = json_of("azure-monitor", "table-and-rule.json")
    return found


def resource(kind: str) -> dict[str, Any]:
    """Return its one resource of a kind."""
    [found] = [one for one in template()["resources"] if one["type"] == kind]
    return dict(found)


def parser(name: str) -> tuple[list[list[str]], set[str], set[str]]:
    """Return a parser's rows of event types, the columns that it reads and those that it gives."""
    text = without_comments(text_of("azure-monitor", f"{name}.kql"))
    described = re.search(r"^let EventTypes = datatable\(([^)]*)\) \[\n(.*?)\n\];", text, re.DOTALL | re.MULTILINE)
    function = re.search(r"^let Parser = \((.*?)\) \{\n(.*?)\n\};", text, re.DOTALL | re.MULTILINE)
    assert described is not None
    assert function is not None
    types = re.findall(r"(\w+): \w+", described[1])
    parameters = set(re.findall(r"(\w+): \w+ =", function[1]))
    passed = re.search(r"^Parser\(\n(.*)\)$", text, re.DOTALL | re.MULTILINE)
    assert passed is not None
    assert set(re.findall(r"(\w+) = \1\b", passed[1])) == parameters
    tables = {"KlyraAudit_CL": COLUMNS, "EventTypes": types, "Known": types, "Actions": set(types) - {types[0]}}
    scope = Scope(tables, parameters)
    given = columns_of(function[2], scope)
    rows = [[json.loads(cell) for cell in line.strip().rstrip(",").split(", ")] for line in described[2].split("\n")]
    assert all(len(one) == len(types) for one in rows)
    return rows, scope.read, given


def test_table_and_stream_have_the_columns_of_the_rows() -> None:
    """Each with its type, in one order: a column that lacks is lost without a word."""
    in_table = resource(TABLE)["properties"]["schema"]["columns"]
    in_stream = resource(RULE)["properties"]["streamDeclarations"]["Custom-KlyraAudit"]["columns"]
    assert [(one["name"], one["type"]) for one in in_stream] == list(COLUMNS.items())
    assert [(one["name"], one["type"]) for one in in_table] == [
        (name, {"datetime": "dateTime"}.get(kind, kind)) for name, kind in COLUMNS.items()
    ]
    for one in in_table:
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,44}", one["name"])
        assert one["name"] not in RESERVED


def test_every_member_of_a_row_is_a_column() -> None:
    """Of every event type; and no column is without a value in all of them but the record's continuations."""
    written = record_format("native", None)
    sent = set().union(*(json.loads(row(entry, written)) for entry in sealed()))
    assert sent == set(COLUMNS) - {"Record2", "Record3", "Record4"}


def test_the_template_has_the_documented_shape() -> None:
    """Schema, versions, and nothing that the types of resources do not have."""
    found = template()
    assert set(found) == {"$schema", "contentVersion", "parameters", "variables", "resources", "outputs"}
    assert found["$schema"].endswith("/2019-04-01/deploymentTemplate.json#")
    table, rule, role = resource(TABLE), resource(RULE), resource(ROLE)
    assert set(table) == {"type", "apiVersion", "name", "properties"}
    assert set(table["properties"]) == {"plan", "retentionInDays", "schema"}
    assert set(table["properties"]["schema"]) == {"name", "columns"}
    assert set(rule) == {"type", "apiVersion", "name", "location", "kind", "dependsOn", "properties"}
    assert set(rule["properties"]) == {"streamDeclarations", "destinations", "dataFlows"}
    assert rule["apiVersion"] >= "2023-03-11"  # the first with kind Direct
    assert set(role) == {"type", "apiVersion", "name", "scope", "dependsOn", "properties"}
    assert set(role["properties"]) == {"roleDefinitionId", "principalId", "principalType"}
    for one in found["parameters"].values():
        assert set(one) <= {"type", "defaultValue", "minValue", "maxValue", "metadata"}
        assert one["metadata"]["description"]


def test_parameters_and_variables_are_declared_and_used() -> None:
    """Expressions of the template close, and name what is there."""
    found = template()
    texts = [text for text in _strings(found) if text.startswith("[")]
    assert all(text.endswith("]") and balanced(text) for text in texts)
    used = " ".join(texts)
    assert set(re.findall(r"parameters\('(\w+)'\)", used)) == set(found["parameters"])
    assert set(re.findall(r"variables\('(\w+)'\)", used)) == set(found["variables"])
    assert found["variables"]["publisher"] == METRICS_PUBLISHER


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _strings(one)]


def test_the_rule_leads_into_the_table() -> None:
    """Stream, destination and output belong together, and rows are not changed on their way."""
    rule, table = resource(RULE), resource(TABLE)
    [flow] = rule["properties"]["dataFlows"]
    assert rule["kind"] == "Direct"
    assert flow["transformKql"] == "source"
    assert flow["outputStream"] == f"Custom-{table['properties']['schema']['name']}"
    assert flow["streams"] == list(rule["properties"]["streamDeclarations"])
    assert flow["destinations"] == [one["name"] for one in rule["properties"]["destinations"]["logAnalytics"]]
    assert resource(ROLE)["scope"] == f"{RULE}/{rule['name']}"


def test_outputs_are_what_the_configuration_asks_for() -> None:
    """The rule's immutable id and its endpoint."""
    outputs = template()["outputs"]
    assert outputs["dataCollectionRule"]["value"].endswith(".immutableId]")
    assert outputs["endpoint"]["value"].endswith(".endpoints.logsIngestion]")


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_every_query_is_balanced(path) -> None:
    """Brackets and quotes."""
    assert balanced(without_comments(path.read_text()))


@pytest.mark.parametrize("name", ["KlyraAudit", "deduplicate", "silence"])
def test_every_column_of_a_query_is_there(name) -> None:
    """At the operator that reads it."""
    assert columns_of(without_comments(text_of("azure-monitor", f"{name}.kql")), Scope({"KlyraAudit_CL": COLUMNS}))


@pytest.mark.parametrize(
    "wrong", ["where EventTyp == 1", "project Id", "extend A = B", "summarize C = max(D)", "where nosuch(Leaf)"]
)
def test_a_column_or_function_that_is_not_there_is_found(wrong) -> None:
    """So that the tests above mean something."""
    with pytest.raises(AssertionError):
        columns_of(f"KlyraAudit_CL\n| {wrong}", Scope({"KlyraAudit_CL": COLUMNS}))


@pytest.mark.parametrize("name", ["KlyraAudit", "deduplicate", "vimAuditEventKlyra", "vimUserManagementKlyra"])
def test_every_entry_is_found_once(name) -> None:
    """Whatever reads entries leaves repeats out."""
    assert "| summarize arg_max(TimeGenerated, *) by EventId" in text_of("azure-monitor", f"{name}.kql")


def test_audit_events_are_what_the_mapping_says() -> None:
    """A row for each type of that schema and one for each action, with event types that the schema has."""
    rows, read, given = parser("vimAuditEventKlyra")
    expected = [
        [name, one["action"], one["asim"]["event_type"], one["asim"]["object_type"], one["severity"]]
        for name, one in SCHEMES["event_types"].items()
        if one["asim"]["schema"] == "AuditEvent"
    ]
    expected += [
        ["*", action, one["asim"]["event_type"], one["asim"]["object_type"], one["severity"]]
        for action, one in SCHEMES["actions"].items()
    ]
    assert rows == expected
    assert {one[2] for one in rows} <= AUDIT_EVENT_TYPES
    assert given >= EVERY_SCHEMA | AUDIT_EVENT
    assert read >= {"EventType", "Action", "EventId", "EventTime", "Status", "ActorId", "ResourceId", "ClientIp"}


def test_user_management_is_what_the_mapping_says() -> None:
    """A row for each type of that schema."""
    rows, read, given = parser("vimUserManagementKlyra")
    assert rows == [
        [name, one["action"], one["asim"]["event_type"], one["asim"].get("event_sub_type", ""), one["severity"]]
        for name, one in SCHEMES["event_types"].items()
        if one["asim"]["schema"] == "UserManagement"
    ]
    assert {one[2] for one in rows} <= USER_EVENT_TYPES
    assert given >= EVERY_SCHEMA | USER_MANAGEMENT
    assert read >= {"ResourceName", "ResourceId", "Record", "Record4"}


def test_an_entry_is_in_one_parser_only() -> None:
    """What one of them has, the other leaves out."""
    rows, _, _ = parser("vimUserManagementKlyra")
    left_out = re.search(
        r'strcat\(EventType, "/", Action\) !in \(([^)]*)\)', text_of("azure-monitor", "vimAuditEventKlyra.kql")
    )
    assert left_out is not None
    assert re.findall(r'"([^"]+)"', left_out[1]) == [f"{name}/{action}" for name, action, *_ in rows]
    audited, _, _ = parser("vimAuditEventKlyra")
    assert {one[0] for one in rows} | {one[0] for one in audited} - {"*"} == set(EVENT_TYPES)


@pytest.mark.parametrize("name", ["vimAuditEventKlyra", "vimUserManagementKlyra"])
def test_the_parameters_to_enter_are_those_of_the_function(name) -> None:
    """The comment at the top, which is copied into the workspace, names each with its type."""
    text = text_of("azure-monitor", f"{name}.kql")
    function = re.search(r"^let Parser = \((.*?)\) \{", text, re.DOTALL | re.MULTILINE)
    assert function is not None
    declared = re.findall(r"(\w+): (\w+) =", function[1])
    comment = "".join(line for line in text.splitlines() if line.startswith("//   "))
    assert re.findall(r"(\w+):(\w+)=", comment) == declared
