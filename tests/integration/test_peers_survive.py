"""Every kind of real client sends 10,000 events while the collector is killed: each is sealed, once."""

from __future__ import annotations

import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fluent import sender as fluent_sender
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

from support import fluent_js, forward, opentelemetry_js, otelcol, otlp, peers
from support.collector import ACME
from support.otlp import MAPPED
from support.ports import free_ports
from support.restarting import Restarting

if TYPE_CHECKING:
    from collections.abc import Iterator

COUNT = 10_000
KILLS = (2_000, 6_000)
WAIT_SECONDS = 60
TELEMETRYGEN = peers.cache() / "telemetrygen-v0.161.0" / "telemetrygen"
# Without an id: the collector makes one of what a record says, so that a repeat of it is recognised.
ATTRIBUTES = {
    name: value for name, value in MAPPED["attributes"].items() if name != "audit.record.id" and isinstance(value, str)
}
RECORD = {"event_name": MAPPED["event_name"], "attributes": ATTRIBUTES}


@pytest.fixture
def restarting(tmp_path) -> Iterator[Restarting]:
    """A collector that is killed when it has sealed 2,000 and 6,000 records."""
    made = Restarting(tmp_path / "data")
    with made.killed_at(KILLS):
        yield made
    assert made.running.terminate() == 0


def runs(restarting: Restarting) -> Counter[str]:
    """Count how often each event was sealed, by the number its sender gave it."""
    return Counter(item["metadata"]["attributes"]["run"] for item in forward.events(restarting.running))


def assert_all_once(restarting: Restarting) -> None:
    """Assert that every event was sealed once, and that there was something to survive."""
    restarting.await_records(COUNT)
    assert runs(restarting) == Counter(map(str, range(COUNT)))
    assert restarting.kills == len(KILLS)


def authorization(restarting: Restarting) -> str:
    """Return what senders say for themselves."""
    return f"Bearer {restarting.running.keys[ACME]}"


def python_exporter(restarting: Restarting, protocol: str) -> Any:
    """Return the exporter of OpenTelemetry's SDK for Python."""
    if protocol == "http":
        url = f"http://{restarting.address('http')}/v1/logs"
        return HttpExporter(url, headers={"Authorization": authorization(restarting)}, timeout=WAIT_SECONDS)
    headers = (("authorization", authorization(restarting)),)
    return GrpcExporter(restarting.address("grpc"), insecure=True, headers=headers, timeout=WAIT_SECONDS)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_sdk_for_python(restarting, protocol) -> None:
    """Its exporter sends again what was not acknowledged, as long as its queue is large enough and its timeout long."""
    processor = BatchLogRecordProcessor(
        python_exporter(restarting, protocol), max_queue_size=COUNT, export_timeout_millis=WAIT_SECONDS * 1000
    )
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    logger = provider.get_logger("tests")
    for number in range(COUNT):
        attributes = ATTRIBUTES | {"run": str(number)}
        logger.emit(LogRecord(event_name=RECORD["event_name"], attributes=attributes))
    assert provider.force_flush(WAIT_SECONDS * 1000)
    provider.shutdown()
    assert_all_once(restarting)


@pytest.mark.parametrize("protocol", ["proto", "http"])
def test_the_sdk_for_node(restarting, protocol, require_peer) -> None:
    """Its exporters over HTTP send again what was not acknowledged."""
    require_peer(opentelemetry_js.NAME, opentelemetry_js.modules())
    url = f"http://{restarting.address('http')}"
    opentelemetry_js.send(url, protocol, restarting.running.keys[ACME], COUNT, RECORD)
    assert_all_once(restarting)


def test_the_sdk_for_node_over_grpc(restarting, require_peer) -> None:
    """Its gRPC exporter tries nothing again: what was on its way or came meanwhile is lost, the rest is there once."""
    require_peer(opentelemetry_js.NAME, opentelemetry_js.modules())
    opentelemetry_js.send(restarting.address("grpc"), "grpc", restarting.running.keys[ACME], COUNT, RECORD)
    assert set(runs(restarting).values()) == {1}


def telemetrygen(restarting: Restarting, protocol: str, *options: str) -> None:
    """Let OpenTelemetry's load generator send as many events as it can."""
    attributes = ATTRIBUTES | {"klyra.event_type": RECORD["event_name"]}
    given = [part for name, value in attributes.items() for part in ("--telemetry-attributes", f'{name}="{value}"')]
    command = [TELEMETRYGEN, "logs", "--logs", str(COUNT), "--rate", "0", "--batch-size", "500", "--otlp-insecure"]
    command += ["--otlp-endpoint", restarting.address(protocol), "--timeout", f"{WAIT_SECONDS}s"]
    command += ["--otlp-header", f'authorization="{authorization(restarting)}"', *given, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_telemetrygen(restarting, require_peer) -> None:
    """The exporter of Go's SDK over gRPC sends again what was not acknowledged."""
    require_peer("telemetrygen", TELEMETRYGEN.is_file())
    telemetrygen(restarting, "grpc")
    restarting.await_records(COUNT)
    assert (len(forward.events(restarting.running)), restarting.kills) == (COUNT, len(KILLS))


def test_telemetrygen_over_http(restarting, require_peer) -> None:
    """Over HTTP it sends nothing again that met a broken or refused connection; the rest is there, once."""
    require_peer("telemetrygen", TELEMETRYGEN.is_file())
    telemetrygen(restarting, "http", "--otlp-http", "--allow-export-failures")
    sealed = forward.events(restarting.running)
    assert 0 < len({item["id"] for item in sealed}) == len(sealed) <= COUNT


COLLECTOR = """
extensions:
  file_storage: {{directory: {folder}, fsync: true}}
receivers:
  otlp:
    protocols:
      http: {{endpoint: "127.0.0.1:{port}"}}
exporters:
  otlp_http:
    logs_endpoint: "http://{http}/v1/logs"
    headers: {{authorization: "{authorization}"}}
    retry_on_failure: &retry {{enabled: true, initial_interval: 100ms, max_interval: 500ms, max_elapsed_time: 0}}
    sending_queue: &queue {{storage: file_storage, block_on_overflow: true}}
  otlp_grpc:
    endpoint: "{grpc}"
    tls: {{insecure: true}}
    headers: {{authorization: "{authorization}"}}
    retry_on_failure: *retry
    sending_queue: *queue
service:
  extensions: [file_storage]
  telemetry: {{logs: {{level: warn}}, metrics: {{level: none}}}}
  pipelines:
    logs: {{receivers: [otlp], exporters: [{exporter}]}}
"""


def give(port: int, numbers: range) -> None:
    """Give the OpenTelemetry Collector events, again until it has them."""
    records = [
        MAPPED | {"attributes": ATTRIBUTES | {"audit.record.id": str(number), "run": str(number)}} for number in numbers
    ]
    request = otlp.foreign(*records)
    headers = {"Content-Type": "application/x-protobuf"}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/logs", content=request, headers=headers, timeout=WAIT_SECONDS)
    assert answer.status_code == 200


@pytest.mark.parametrize("exporter", ["otlp_http", "otlp_grpc"])
def test_the_opentelemetry_collector(restarting, exporter, tmp_path, require_peer) -> None:
    """Killed as well, it goes on from its queue on disk; what was on its way twice is recognised."""
    require_peer("otelcol", otelcol.program())
    [port] = free_ports(1)
    (tmp_path / "queue").mkdir()
    configuration = COLLECTOR.format(
        folder=tmp_path / "queue",
        port=port,
        http=restarting.address("http"),
        grpc=restarting.address("grpc"),
        authorization=authorization(restarting),
        exporter=exporter,
    )
    parts = [range(start, start + 250) for start in range(0, COUNT, 250)]
    for some, is_killed in ((parts[:13], True), (parts[13:26], True), (parts[26:], False)):
        with otelcol.running(tmp_path, configuration, [port]) as process:
            for numbers in some:
                give(port, numbers)
            if is_killed:
                process.kill()
            else:
                restarting.await_records(COUNT)
    assert_all_once(restarting)


def test_the_fluent_client_for_node(restarting, require_peer) -> None:
    """With acknowledgement, retries and ids of its own it loses nothing, and nothing is doubled."""
    require_peer(fluent_js.NAME, fluent_js.modules())
    record = forward.entry()[1]
    said = fluent_js.emit_numbered(
        restarting.address("forward"), "PackedForward", record, COUNT, retries=100, ackTimeout=3000
    )
    assert said == [{"acknowledged": True}] * COUNT
    assert_all_once(restarting)


def test_fluent_logger(restarting) -> None:
    """It asks for no acknowledgement: what a crash took is lost and what arrived is there once, marked as such."""
    host, _, port = restarting.address("forward").rpartition(":")
    logger = fluent_sender.FluentSender("app", host=host, port=int(port), bufmax=2**30)
    record = forward.entry()[1]
    for number in range(COUNT):
        logger.emit("audit", record | {"audit.record.id": str(number), "run": str(number)})
    logger.close()
    sealed = forward.events(restarting.running)
    assert {item["metadata"]["delivery"] for item in sealed} == {"best_effort"}
    assert set(runs(restarting).values()) == {1}
