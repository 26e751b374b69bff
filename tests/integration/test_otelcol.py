"""A real OpenTelemetry Collector in front of ours: what it was given arrives, whatever happens to us meanwhile."""

from __future__ import annotations

import time

import httpx
import pytest

from klyra_audit import Actor, AuditEmitter, events, ids
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, otelcol, otlp
from support.collector import ACME
from support.otlp import MAPPED
from support.ports import free_ports

BATCH = 50

CONFIGURATION = """
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{port}"}}
exporters:
  otlp_http:
    logs_endpoint: "{http}/v1/logs"
    compression: {compression}
    headers: {{authorization: "Bearer {key}"}}
    retry_on_failure: {{enabled: true, initial_interval: 200ms, max_interval: 1s, max_elapsed_time: 0}}
  otlp_grpc:
    endpoint: "{grpc}"
    tls: {{insecure: true}}
    compression: {compression}
    headers: {{authorization: "Bearer {key}"}}
    retry_on_failure: {{enabled: true, initial_interval: 200ms, max_interval: 1s, max_elapsed_time: 0}}
service:
  telemetry: {{logs: {{level: warn}}, metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [{exporter}]}}
"""


@pytest.fixture(autouse=True)
def _has_peer(require_peer) -> None:
    """Every test needs the program."""
    require_peer("otelcol", otelcol.program())


def configuration(started, port: int, exporter: str, compression: str = "gzip") -> str:
    """Return the Collector's configuration for a collector of ours that listens now."""
    return CONFIGURATION.format(
        port=port,
        http=started.url,
        grpc=started.addresses["otlp_grpc"],
        key=started.keys[ACME],
        exporter=exporter,
        compression=compression,
    )


def send(port: int, count: int) -> set[str]:
    """Give the Collector records with ids of their own, in batches; return the ids."""
    sent = [str(ids.new_uuid7()) for _ in range(count)]
    for start in range(0, count, BATCH):
        records = [
            MAPPED | {"attributes": MAPPED["attributes"] | {"audit.record.id": ident}}
            for ident in sent[start : start + BATCH]
        ]
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/logs",
            content=otlp.foreign(*records),
            headers={"Content-Type": "application/x-protobuf"},
            timeout=30,
        )
        assert answer.status_code == 200
    return set(sent)


def arrived(started) -> list[str]:
    """Return the source ids of what is sealed."""
    events = [item for item in started.sealed() if item.leaf.kind == Kind.EVENT]
    documents = [sections.join(item.body.sections) for item in events]
    return [item["metadata"]["source_id"] for item in documents if item["event_type"] == "user.removed"]


def await_all(started, sent: set[str]) -> None:
    """Wait until all is sealed; each once."""
    deadline = time.monotonic() + 60
    while set(arrived(started)) != sent and time.monotonic() < deadline:
        time.sleep(0.2)
    assert sorted(arrived(started)) == sorted(sent)


@pytest.mark.parametrize(
    ("exporter", "compression"),
    [
        *[("otlp_http", name) for name in ("none", "gzip", "zstd", "zlib", "deflate")],
        *[("otlp_grpc", name) for name in ("none", "gzip")],
    ],
)
def test_what_it_is_given_arrives_once(tmp_path, exporter, compression) -> None:
    """By both exporters, with every compression that they and we know."""
    [port] = free_ports(1)
    data = tmp_path / "data"
    started = collector.start(data, collector.make_keys(data))
    with otelcol.running(tmp_path, configuration(started, port, exporter, compression), [port]):
        await_all(started, send(port, 500))
    assert started.terminate() == 0


@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_a_crash_of_ours_loses_nothing(tmp_path, exporter) -> None:
    """It retries what was not acknowledged; what was acknowledged is there after the crash; nothing is there twice."""
    [port] = free_ports(1)
    data = tmp_path / "data"
    started = collector.start(data, collector.make_keys(data))
    listen = {
        "OTLP__HTTP__LISTEN": started.addresses["otlp_http"].removeprefix("http://"),
        "OTLP__GRPC__LISTEN": started.addresses["otlp_grpc"],
    }
    with otelcol.running(tmp_path, configuration(started, port, exporter), [port]):
        sent = send(port, 500)
        started.kill()
        sent |= send(port, 500)
        again = collector.start(data, started.keys, **listen)
        await_all(again, sent)
    assert again.terminate() == 0


@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_backpressure_delays_and_loses_nothing(tmp_path, exporter) -> None:
    """Requests over the organization's rate are put off by 429 or RESOURCE_EXHAUSTED with a delay, and come again."""
    [port] = free_ports(1)
    data = tmp_path / "data"
    limits = {"INTAKE__ORGANIZATION_EVENTS_PER_SECOND": "200", "INTAKE__ORGANIZATION_BURST": "100"}
    started = collector.start(data, collector.make_keys(data), **limits)
    with otelcol.running(tmp_path, configuration(started, port, exporter), [port]):
        await_all(started, send(port, 800))
    refused = httpx.get(f"{started.url}/metrics").text
    assert 'klyra_requests_refused_total{code="rate_limited"}' in refused
    assert started.terminate() == 0


EMITTERS = """
receivers:
  otlp:
    protocols:
      grpc: {{endpoint: "127.0.0.1:{port}"}}
processors:
  batch: {{timeout: 50ms, send_batch_size: 7, send_batch_max_size: 7}}
exporters:
  otlp_grpc:
    endpoint: "{grpc}"
    tls: {{insecure: true}}
    headers: {{authorization: "Bearer {key}"}}
    retry_on_failure: {{enabled: true, initial_interval: 200ms, max_interval: 1s, max_elapsed_time: 0}}
service:
  telemetry: {{logs: {{level: warn}}, metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], processors: [batch], exporters: [otlp_grpc]}}
"""


def test_an_emitter_behind_it_waits_for_the_ledger(tmp_path) -> None:
    """The Collector acknowledges what only its memory has; with receipts the spool keeps it until it is sealed."""
    root = tmp_path / "data"
    keys = collector.make_keys(root)
    first = collector.start(root, keys)
    places = {
        "OTLP__HTTP__LISTEN": first.url.removeprefix("http://"),
        "OTLP__GRPC__LISTEN": first.addresses["otlp_grpc"],
    }
    (port,) = free_ports(1)
    text = EMITTERS.format(port=port, grpc=first.addresses["otlp_grpc"], key=keys[ACME])
    options = {"organization_id": ACME, "api_key": keys[ACME], "receipts_from": first.url, "timeout": 5}

    def created():
        return events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text")

    with AuditEmitter(f"grpc://127.0.0.1:{port}", spool=tmp_path / "s", **options) as emitter:
        with otelcol.running(tmp_path, text, [port]):
            receipt = emitter.emit(created(), wait=True)
            assert first.sealed(receipt.index)[0].leaf_bytes == receipt.leaf
            first.kill()
            spooled = [emitter.emit(created()) for _ in range(40)]
            assert emitter.flush(3) is False  # the Collector has taken them, and we know better
        # It ends, and what was in its memory is gone.
        second = collector.start(root, keys, **places)
        with otelcol.running(tmp_path, text, [port]):
            assert emitter.flush(60)
    sealed = [
        (sections.join(item.body.sections)["id"], item.leaf.emitter_seq)
        for item in second.sealed()
        if item.leaf.kind == Kind.EVENT and item.leaf.emitter
    ]
    expected = [receipt.record_id, *(one.record_id for one in spooled)]
    assert sorted(sealed, key=lambda one: one[1]) == [(record_id, place) for place, record_id in enumerate(expected)]
    assert second.terminate() == 0
