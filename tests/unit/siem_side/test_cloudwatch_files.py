"""What customers install in AWS, by AWS's own description of its calls, compared with events that are really sent."""

from __future__ import annotations

import re

import pytest

from klyra_audit.catalog import Catalog
from support.siem.kusto import balanced
from support.siem.shipped import SCHEMES, json_of, native

QUERIES = json_of("cloudwatch", "query-definitions.json")
COMMANDS = {"fields", "filter", "sort", "dedup", "limit", "stats"}
FUNCTIONS = {"ispresent", "count", "count_distinct", "bin"}
WORDS = {"as", "by", "in", "desc", "asc", "and", "or", "not"}


def calls():
    """Return every call that the folder's README has somebody make: service, operation, parameters."""
    for query in QUERIES:
        yield "logs", "PutQueryDefinition", query
    yield "logs", "PutMetricFilter", json_of("cloudwatch", "metric-filter.json")
    yield "cloudwatch", "PutMetricAlarm", json_of("cloudwatch", "silence-alarm.json")


@pytest.mark.parametrize(("service", "operation", "given"), list(calls()))
def test_every_call_is_one_that_aws_describes(service, operation, given) -> None:
    """Members that exist, those that are required, and their types, as AWS's command line checks them."""
    loaders = pytest.importorskip("botocore.session", reason="for want of botocore")
    validate = pytest.importorskip("botocore.validate", reason="for want of botocore").ParamValidator()
    described = loaders.get_session().get_service_model(service).operation_model(operation).input_shape
    report = validate.validate(given, described)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query["name"])
def test_every_field_of_a_query_is_in_an_event(query) -> None:
    """Or one of CloudWatch's own, or one that the query names itself."""
    text = query["queryString"]
    assert balanced(text)
    bare = re.sub(r'"[^"]*"', "", text)
    lines = [line.removeprefix("| ") for line in bare.split("\n")]
    assert {line.split()[0] for line in lines} <= COMMANDS
    assert set(re.findall(r"(\w+)\(", bare)) <= FUNCTIONS
    own = set(re.findall(r" as (\w+)", bare))
    read = set(re.findall(r"(?<![\w.@])[a-z][\w.]*(?!\w*\()", bare)) - COMMANDS - WORDS - own
    assert read <= native(), read - native()
    assert set(re.findall(r"@\w+", bare)) <= {"@timestamp", "@message"}


def test_repeats_are_left_out_and_nothing_stands_behind_but_a_limit() -> None:
    """What CloudWatch Logs Insights allows behind `dedup`."""
    for query in QUERIES:
        commands = [line.removeprefix("| ") for line in query["queryString"].split("\n")]
        if any(command.startswith("dedup ") for command in commands):
            behind = commands[commands.index("dedup id") + 1 :]
            assert all(command.startswith("limit ") for command in behind)
    assert sum("| dedup id" in query["queryString"] for query in QUERIES) == 3


def test_event_types_of_a_query_are_in_the_catalog() -> None:
    """The administrative ones are all of those that are administration."""
    [query] = [one["queryString"] for one in QUERIES if "Who administered" in one["name"]]
    named = re.findall(r'"([\w.]+)"', query)
    described = Catalog.load().event_types
    assert set(named) == {name for name in SCHEMES["event_types"] if not name.startswith("moderation.")}
    assert set(named) <= set(described)


def test_silence_is_told_by_the_metric_of_heartbeats() -> None:
    """Filter and alarm have one metric, and no data is an alarm."""
    counting, alarm = json_of("cloudwatch", "metric-filter.json"), json_of("cloudwatch", "silence-alarm.json")
    [metric] = counting["metricTransformations"]
    assert (alarm["Namespace"], alarm["MetricName"]) == (metric["metricNamespace"], metric["metricName"])
    assert alarm["TreatMissingData"] == "breaching"
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 2 * 3600


def test_every_file_is_of_one_log_group() -> None:
    """That of the page."""
    groups = {group for query in QUERIES for group in query["logGroupNames"]}
    assert groups == {json_of("cloudwatch", "metric-filter.json")["logGroupName"]} == {"/klyra/audit/production"}
