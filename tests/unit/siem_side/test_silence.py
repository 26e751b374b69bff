"""The alerts on silence count the signs of life that the engine has sealed, and not the test events of operators."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from klyra_collector.fanout.heartbeat import heartbeat_event
from klyra_collector.fanout.trial import TEST_ORIGIN, trial_entry
from klyra_siem.azure_monitor_rows import row
from klyra_siem.formats import record_format
from klyra_siem.google_cloud_logging import log_entry
from support.entries import ACME, TODAY_US
from support.siem.cloud import send
from support.siem.events import sealed
from support.siem.intakes import INTAKES
from support.siem.shipped import FOLDER, json_of, text_of

if TYPE_CHECKING:
    from klyra_siem.destination import SealedEntry

NATIVE = record_format("native", None)
SPLUNK = ("splunk", "klyra_audit", "default", "savedsearches.conf")


def sign_of_life() -> SealedEntry:
    """Return what the engine seals every hour."""
    [entry] = sealed(heartbeat_event("siem", "splunk", interval_seconds=3600).document(ACME))
    return entry


def at_intake(kind: str, entry: SealedEntry) -> dict[str, Any]:
    """Return what Splunk or Datadog has of an entry, and Sumo Logic's line."""
    with INTAKES[kind](record=NATIVE) as intake:
        intake.service.now = entry.filed_ns / 1e9
        send(intake.destination, [entry])
        [found] = intake.service.lines if kind == "sumo-logic" else intake.service.indexed
        return dict(json.loads(found) if kind == "sumo-logic" else found)


def is_found(name: str, entry: SealedEntry) -> bool:
    """Say whether a vendor's alert counts an entry: what its file says, said in Python."""
    if name == "splunk":
        assert ' event_type=heartbeat.sent klyra_log!="klyra-audit.test/none/0" | ' in text_of(*SPLUNK)
        fields = at_intake(name, entry)["fields"]
        return fields["event_type"] == "heartbeat.sent" and fields["klyra_log"] != TEST_ORIGIN
    if name == "datadog":
        query = json_of(name, "silence-monitor.json")["query"]
        assert 'logs("source:klyra @evt.name:heartbeat.sent -@klyra_log:"klyra-audit.test/none/0"")' in query
        log = at_intake(name, entry)
        return log["evt"]["name"] == "heartbeat.sent" and log["klyra_log"] != TEST_ORIGIN
    if name == "sumo-logic":
        search = text_of(name, "heartbeat.sumo")
        assert '| where event_type = "heartbeat.sent" and klyra_log != "klyra-audit.test/none/0"' in search
        line = at_intake(name, entry)
        return line["event_type"] == "heartbeat.sent" and line["klyra_log"] != TEST_ORIGIN
    return is_found_in_cloud(name, entry)


def is_found_in_cloud(name: str, entry: SealedEntry) -> bool:
    """Say the same for what keeps records as they are."""
    if name == "cloudwatch":
        pattern = json_of(name, "metric-filter.json")["filterPattern"]
        assert pattern == '{ ($.event_type = "heartbeat.sent") && ($.metadata.purpose = "alive") }'
        record = json.loads(NATIVE.encode(entry))
        return bool(record["event_type"] == "heartbeat.sent" and record["metadata"].get("purpose") == "alive")
    if name == "azure-monitor":
        query = text_of(name, "silence.kql")
        assert '| where EventType == "heartbeat.sent" and LogOrigin != "klyra-audit.test/none/0"' in query
        columns = json.loads(row(entry, NATIVE))
        return columns["EventType"] == "heartbeat.sent" and columns["LogOrigin"] != TEST_ORIGIN
    assert name == "google-cloud-logging"
    counted = json_of(name, "heartbeat-metric.json")["filter"]
    assert counted.endswith('AND labels.event_type="heartbeat.sent" AND NOT jsonPayload.metadata.purpose="test"')
    logged = json.loads(log_entry(entry, NATIVE))
    purpose = logged["jsonPayload"]["metadata"].get("purpose")
    return bool(logged["labels"]["event_type"] == "heartbeat.sent" and purpose != "test")


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir() if path.is_dir()))
def test_a_sign_of_life_is_counted_and_nothing_else(name) -> None:
    """Neither a test event, which somebody has sent by hand, nor an entry of another type."""
    [other, *_] = sealed()
    assert is_found(name, sign_of_life())
    assert not is_found(name, trial_entry("siem", TODAY_US))
    assert not is_found(name, other)
