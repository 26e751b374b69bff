"""What customers install in Google Cloud: Google's own messages take it, BigQuery's dialect is parsed."""

from __future__ import annotations

import json
import re

import pytest

from klyra_siem.formats import record_format
from klyra_siem.google_cloud_logging import log_entry
from support.siem.events import sealed
from support.siem.shipped import FOLDER, all_members, json_of, text_of

NAME = "google-cloud-logging"
QUERIES = sorted((FOLDER / NAME).glob("*.sql"))
CONDITIONS = ("conditionAbsent", "conditionThreshold")  # a metric that stops, and one that goes on with zeros
OF_A_TABLE = {"insertId", "timestamp", "receiveTimestamp", "severity", "logName", "jsonPayload"}  # "BigQuery schema"


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_every_query_is_bigquerys_and_reads_what_is_sent(path) -> None:
    """Parsed in its dialect; columns are those of an exported log's table, the payload's members are ours."""
    sqlglot = pytest.importorskip("sqlglot", reason="for want of sqlglot")
    [statement] = sqlglot.parse(path.read_text(), read="bigquery", error_level=sqlglot.ErrorLevel.RAISE)
    written = record_format("native", None)
    sent = all_members(json.loads(log_entry(entry, written)) for entry in sealed())
    aliases = {one.alias for one in statement.find_all(sqlglot.exp.Alias)}
    read = {found.sql(dialect="bigquery").replace("`", "") for found in statement.find_all(sqlglot.exp.Column)}
    read |= {found.sql(dialect="bigquery").replace("`", "") for found in statement.find_all(sqlglot.exp.Dot)}
    columns = {one for one in read if one not in aliases and one != "*" and "klyra_com_audit" not in one}
    assert columns, path.name
    for column in columns:
        assert column.split(".")[0] in OF_A_TABLE, column
        assert not column.startswith("jsonPayload.") or column in sent, column
    [table] = {one.sql(dialect="bigquery", comments=False) for one in statement.find_all(sqlglot.exp.Table)} - {
        "`PROJECT.klyra_audit.entries`",
        "`PROJECT`.`klyra_audit`.`entries`",
    }
    assert table.replace("`", "") == "PROJECT.klyra_audit.klyra_com_audit"


@pytest.mark.parametrize("wrong", ["SELECT FROM", "SELECT a FROM t QUALIFY", "SELECT (a FROM t"])
def test_what_is_no_query_is_found(wrong) -> None:
    """So that the test above means something."""
    sqlglot = pytest.importorskip("sqlglot", reason="for want of sqlglot")
    with pytest.raises(sqlglot.errors.ParseError):
        sqlglot.parse(wrong, read="bigquery", error_level=sqlglot.ErrorLevel.RAISE)


def test_every_entry_is_found_once() -> None:
    """In the view and in the query for anything else: by what is the same whenever an entry is sent."""
    once = "QUALIFY ROW_NUMBER() OVER (PARTITION BY insertId ORDER BY receiveTimestamp) = 1"
    for name in ("entries", "deduplicate"):
        assert text_of(NAME, f"{name}.sql").rstrip().endswith(once)


def test_googles_own_messages_take_them() -> None:
    """Members and types that they do not have are refused."""
    types = pytest.importorskip("google.cloud.logging_v2.types", reason="for want of google-cloud-logging")
    types.LogSink.from_json(text_of(NAME, "sink.json"), ignore_unknown_fields=False)
    types.LogMetric.from_json(text_of(NAME, "heartbeat-metric.json"), ignore_unknown_fields=False)


def test_sink_metric_and_policy_are_of_one_log() -> None:
    """The log that the destination writes to by itself, and the metric that the policy looks at."""
    sink, metric, policy = (json_of(NAME, f"{name}.json") for name in ("sink", "heartbeat-metric", "silence-policy"))
    assert sink["filter"] == 'log_id("klyra.com/audit")'
    assert (
        metric["filter"]
        == f'{sink["filter"]} AND labels.event_type="heartbeat.sent" AND NOT jsonPayload.metadata.purpose="test"'
    )
    absent, none = (one[kind] for one, kind in zip(policy["conditions"], CONDITIONS, strict=True))
    for condition in (absent, none):
        assert f'metric.type="logging.googleapis.com/user/{metric["name"]}"' in condition["filter"]
        assert 'resource.type="global"' in condition["filter"]
    assert (absent["duration"], none["aggregations"][0]["alignmentPeriod"]) == ("7200s", "7200s")
    assert (none["comparison"], none["thresholdValue"]) == ("COMPARISON_LT", 1)
    assert sink["destination"].endswith("/projects/PROJECT/datasets/klyra_audit")
    assert sink["bigqueryOptions"] == {"usePartitionedTables": True}


def test_the_table_is_named_after_the_log() -> None:
    """Google replaces what a table's name may not have."""
    assert re.sub(r"[^A-Za-z0-9]", "_", "klyra.com/audit") == "klyra_com_audit"
