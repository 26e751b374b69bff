"""What customers install in Datadog, read by Datadog's own client and compared with logs that are really sent."""

from __future__ import annotations

from typing import Any

import pytest

from support.siem.shipped import all_members, json_of, received

PATTERNS = "source:klyra"
SEVERAL = ("native", "ocsf-1.1.0", "ecs")


def sent() -> set[str]:
    """Return every attribute of a log, in one format or another."""
    return set().union(*(all_members(received("datadog", written)) for written in SEVERAL))


def as_datadogs(value: Any, version: str, module: str, name: str) -> Any:
    """Return a value as a model of Datadog's client; an error if it is none."""
    pytest.importorskip("datadog_api_client", reason="for want of datadog-api-client")
    from importlib import import_module

    from datadog_api_client import Configuration
    from datadog_api_client.model_utils import validate_and_convert_types

    model = getattr(import_module(f"datadog_api_client.{version}.model.{module}"), name)
    return validate_and_convert_types(value, (model,), ["file"], True, True, Configuration())  # noqa: FBT003 - its API


def is_known(model: Any) -> bool:
    """Say whether Datadog's client has understood all of a model; what it does not know it only carries along."""
    if getattr(model, "_unparsed", False):
        return False
    data = getattr(model, "_data_store", None)
    inner = data.values() if isinstance(data, dict) else model if isinstance(model, list) else ()
    return all(is_known(one) for one in inner)


@pytest.mark.parametrize(
    ("name", "version", "module", "model"),
    [
        ("pipeline", "v1", "logs_pipeline", "LogsPipeline"),
        ("silence-monitor", "v1", "monitor", "Monitor"),
        ("deduplicate", "v2", "logs_aggregate_request", "LogsAggregateRequest"),
    ],
)
def test_datadogs_client_understands_every_file(name, version, module, model) -> None:
    """Every member and every value of an enumeration, and gives back the same."""
    written = json_of("datadog", f"{name}.json")
    made = as_datadogs(written, version, module, model)
    assert is_known(made)
    assert made.to_dict().keys() == written.keys()


def test_what_datadogs_client_does_not_know_is_found() -> None:
    """So that the test above means something."""
    written = json_of("datadog", "pipeline.json")
    written["processors"][1]["type"] = "attribute-remaper"
    assert not is_known(as_datadogs(written, "v1", "logs_pipeline", "LogsPipeline"))


def test_every_source_of_the_pipeline_is_in_a_log() -> None:
    """Of some format; or another processor, before it, has made it."""
    pipeline = json_of("datadog", "pipeline.json")
    available = sent()
    for processor in pipeline["processors"]:
        if processor["type"] == "attribute-remapper":
            assert set(processor["sources"]) <= available, processor["name"]
        assert any(source in available for source in processor["sources"]), processor["name"]
        available |= {processor["target"]} if "target" in processor else set()


def test_the_pipeline_makes_the_attributes_of_the_mapping() -> None:
    """Those that are not sent as they are."""
    made = {one["target"] for one in json_of("datadog", "pipeline.json")["processors"] if "target" in one}
    wanted = {"usr.id", "usr.name", "usr.type", "evt.category", "network.client.ip", "http.useragent"}
    wanted |= {"klyra.resource.type", "klyra.resource.id", "klyra.resource.name"}
    assert wanted <= made
    assert {"evt.id", "evt.name", "evt.outcome", "status", "timestamp"} <= sent()


def test_the_date_of_a_log_is_that_under_which_it_was_sent() -> None:
    """An older one, such as the entry's own after an outage, would have Datadog drop the log."""
    [date] = [one for one in json_of("datadog", "pipeline.json")["processors"] if one["type"] == "date-remapper"]
    assert date["sources"] == ["timestamp"]


def test_everything_is_about_our_logs() -> None:
    """By the source that they are sent with, and attributes that they have."""
    assert {log["ddsource"] for log in received("datadog")} == {"klyra"}
    assert json_of("datadog", "pipeline.json")["filter"]["query"] == PATTERNS
    monitor, counts = json_of("datadog", "silence-monitor.json"), json_of("datadog", "deduplicate.json")
    assert monitor["query"].startswith(f'logs("{PATTERNS} @evt.name:heartbeat.sent ')
    assert monitor["query"].endswith(f"< {monitor['options']['thresholds']['critical']}")
    assert counts["filter"]["query"] == PATTERNS
    assert counts["compute"][1]["metric"] == "@evt.id"
