"""What each destination's module sends, given back in that vendor's own shapes of export, is recognised whole.

The modules' requests are taken apart as the vendors' documentation says they are, and put into the envelopes that
their exports have.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json

import pytest

from klyra_collector.reconcile.reconciling import Verdict
from klyra_collector.reconcile.rows import read_rows
from klyra_siem import datadog, splunk, sumo_logic
from klyra_siem.formats import NAMES, record_format
from support.entries import MemoryLedger
from support.siem.cloud import options
from support.siem.events import EVENT_TYPES, delivered
from support.siem.reconciling import reconcile, sealed_in

HERE = "https://127.0.0.1:1"
SECRET = "not-a-secret"
AWS = {"log_group": "/klyra", "region": "eu-central-1", "access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}
AZURE = {
    "data_collection_rule": "dcr-0123456789abcdef0123456789abcdef",
    "stream": "Custom-KlyraAudit",
    "tenant_id": "00000000-0000-0000-0000-000000000001",
    "client_id": "00000000-0000-0000-0000-000000000002",
    "client_secret": SECRET,
}


def as_csv(rows: list[dict]) -> bytes:
    """Return rows as the vendors' pages download them."""
    written = io.StringIO()
    writer = csv.DictWriter(written, fieldnames=sorted({name for row in rows for name in row}))
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue().encode()


def as_lines(rows: list[object]) -> bytes:
    """Return one JSON value a line."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_json(value: object) -> bytes:
    """Return one JSON value."""
    return json.dumps(value).encode()


def requested(create, settings: dict, name: str, entries, endpoint: str = HERE) -> bytes:
    """Return the body that a destination would send."""
    record = record_format(name, None)
    with contextlib.closing(create(options(endpoint, settings, record=record, compression="none"))) as made:
        content = made.encode(entries).content
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def of_splunk(name: str, entries) -> dict[str, bytes]:
    """Exports of a search: `_raw` is what stood in `event`."""
    body = requested(splunk.create, {"token": SECRET, "acknowledge": False}, name, entries)
    events = [json.loads(line) for line in body.split(b"\n")]
    raws = [one["event"] if isinstance(one["event"], str) else json.dumps(one["event"]) for one in events]
    rows = [{"_time": "2026", "_raw": raw, **one["fields"]} for raw, one in zip(raws, events, strict=True)]
    return {
        "csv": as_csv(rows),
        "json": as_json({"preview": False, "results": rows}),
        "export": as_lines([{"preview": False, "offset": 0, "result": row} for row in rows]),
        "raw": "\n".join(raws).encode(),
    }


def of_datadog(name: str, entries) -> dict[str, bytes]:
    """Answers of the Logs Search API: a log's own attributes stand in `attributes.attributes`."""
    logs = json.loads(requested(datadog.create, {"api_key": SECRET}, name, entries))
    reserved = ("message", "service", "status", "ddtags", "hostname")
    found = []
    for number, log in enumerate(logs):
        own = {key: value for key, value in log.items() if key not in reserved}
        found.append(
            {
                "id": f"AQ{number}",
                "type": "log",
                "attributes": {"message": log["message"], "status": log["status"], "attributes": own},
            }
        )
    pages = [{"data": found[:7], "links": {"next": "…"}}, {"data": found[7:]}]
    return {"search": as_json(found), "pages": as_lines(pages)}


def of_sumo_logic(name: str, entries) -> dict[str, bytes]:
    """Exports of a search: `_raw` is the line."""
    body = requested(sumo_logic.create, {}, name, entries, f"{HERE}/receiver/v1/http/{'Z' * 40}")
    rows = [{"_messagetime": "1", "_raw": line} for line in body.decode().splitlines()]
    return {"csv": as_csv(rows), "job": as_json({"fields": [], "messages": [{"map": row} for row in rows]})}


def of_cloudwatch(name: str, entries) -> dict[str, bytes]:
    """Answers of GetLogEvents and of Insights, and what CreateExportTask writes to S3."""
    from klyra_siem import cloudwatch

    events = json.loads(requested(cloudwatch.create, AWS, name, entries))["logEvents"]
    insights = [[{"field": "@message", "value": one["message"]}, {"field": "@ptr", "value": "x"}] for one in events]
    exported = "".join(f"2026-03-10T11:00:00.000Z {one['message']}\n" for one in events)
    return {
        "events": as_json({"events": [one | {"ingestionTime": 1} for one in events], "nextToken": "f"}),
        "insights": as_json({"results": insights, "statistics": {}, "status": "Complete"}),
        "csv": as_csv([{"@timestamp": "2026", "@message": one["message"]} for one in events]),
        "s3": gzip.compress(exported.encode()),
    }


def of_azure_monitor(name: str, entries) -> dict[str, bytes]:
    """Answers of the query API and of `az monitor log-analytics query`, and the portal's CSV."""
    from klyra_siem import azure_monitor

    rows = json.loads(requested(azure_monitor.create, AZURE, name, entries))
    columns = sorted({column for row in rows for column in row})
    table = {
        "name": "PrimaryResult",
        "columns": [{"name": column, "type": "string"} for column in columns],
        "rows": [[row.get(column) for column in columns] for row in rows],
    }
    return {"query": as_json({"tables": [table]}), "az": as_json(rows), "csv": as_csv(rows)}


def of_google(name: str, entries) -> dict[str, bytes]:
    """`gcloud logging read --format=json`, entries.list, rows of BigQuery; numbers are floating-point there."""
    from klyra_siem import google_cloud_logging as google

    written = [google.log_entry(entry, record_format(name, None)) for entry in entries]
    found = [json.loads(one, parse_int=float) for one in written]
    return {"gcloud": as_json(found), "list": as_json({"entries": found}), "bigquery": as_lines(found)}


VENDORS = {
    "splunk": of_splunk,
    "datadog": of_datadog,
    "sumo-logic": of_sumo_logic,
    "cloudwatch": of_cloudwatch,
    "azure-monitor": of_azure_monitor,
    "google-cloud-logging": of_google,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("vendor", VENDORS)
def test_every_shape_of_export(vendor, name) -> None:
    """All entries are OK, in every format, whatever the vendor wraps around them."""
    ledger = MemoryLedger()
    sealed_in(ledger)
    for shape, export in VENDORS[vendor](name, delivered(ledger)).items():
        answers, summary = reconcile(ledger, read_rows(io.BytesIO(export)))
        assert {one.verdict for one in answers} == {Verdict.OK}, (shape, answers[:2])
        assert len(answers) == summary.rows == len(EVENT_TYPES), shape
