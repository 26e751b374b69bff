"""otelcol → klyra-audit → otelcol: what is acknowledged at the front arrives at the back, in order, signed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from klyra_audit.audit_canonical import canonical_record
from klyra_audit.audit_integrity import signed_fields
from klyra_audit.catalog import Catalog
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind, Leaf
from klyra_collector.data_directory import DataDirectory
from klyra_collector.destination_status import State, read_statuses
from klyra_collector.receive.own_form import open_own_form
from klyra_collector.receive.wire import decode_protobuf
from klyra_collector.registry import Registry
from support import collector, otelcol, otlp
from support import sink as sinks
from support.collector import ACME, OPERATOR
from support.ports import free_ports
from support.sink import Answer, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline"
PATIENCE_SECONDS = 40
SECRET = "Bearer kS-9f2c-never-to-be-seen"
BATCH = 20


@dataclass
class Pipeline:
    """A collector with an Enterprise organization, and whatever follows it.

    Attributes:
        root: the data directory.
        running: the collector.
        configuration: the follower's file.
    """

    root: Path
    running: collector.Running
    configuration: Path

    def configure(self, endpoint: str, **members: Any) -> None:
        """Configure one destination, `back`."""
        settings = {"name": "back", "endpoint": endpoint, "linger_seconds": 0.05, "heartbeat_seconds": 0, **members}
        lines = [f"{name} = {toml(value)}" for name, value in settings.items()]
        self.configuration.write_text("\n".join(["[[destination]]", *lines, ""]))

    @contextlib.contextmanager
    def following(self, **environment: str) -> Iterator[subprocess.Popen]:
        """Run the follower until the block ends, unless it is dead by then."""
        command = [sys.executable, "-m", "klyra_collector", "serve", "--role", "follower"]
        command += ["--config", str(self.configuration), "--data", str(self.root)]
        with (self.root / "follower.log").open("ab") as log:
            process = subprocess.Popen(command, env=os.environ | environment, stderr=log, stdout=log)
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(20) in (0, -9), (self.root / "follower.log").read_text()

    def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `klyra-audit destination …` with the follower's configuration."""
        command = [sys.executable, "-m", "klyra_collector", "destination", *words]
        command += ["--config", str(self.configuration), "--data", str(self.root)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)

    def emit(self, count: int, url: str | None = None) -> list[str]:
        """Send entries to the collector, or to what stands before it; return their ids once acknowledged."""
        events = [otlp.prepared(resource=resource(number)) for number in range(count)]
        body = otlp.own_form(*events, boot=otlp_boot())
        if url is None:
            answer = self.running.post("/v1/logs", body)
        else:
            answer = httpx.post(url, content=body, headers={"Content-Type": sinks.PROTOBUF}, timeout=30)
        assert answer.status_code == 200, answer.text
        return [event.record_id for event in events]

    def sealed(self) -> list[Any]:
        """Return every EVENT of the organization in the ledger, in order."""
        return [record for record in self.running.sealed() if record.leaf.kind == Kind.EVENT]

    def status(self) -> Any:
        """Return how the destination is doing; None before the follower said."""
        return next(iter(read_statuses(DataDirectory(self.root).cursors)), None)


def toml(value: Any) -> str:
    """Return a setting's value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def otlp_boot() -> str:
    """Return a fresh boot."""
    from klyra_audit import ids

    return str(ids.new_uuid7())


def resource(number: int) -> dict[str, object]:
    """Return a resource that tells an event's number."""
    return {"type": "moderation", "id": f"mod_{number}", "name": None}


def await_that(condition: Callable[[], bool], what: str, explain: Callable[[], str] = str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"gave up waiting: {what} {explain()}")


@pytest.fixture
def pipeline(tmp_path) -> Iterator[Pipeline]:
    """A running collector whose organization may have destinations."""
    root = tmp_path / "data"
    keys = collector.make_keys(root)
    with contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load())) as registry:
        registry.set_plan(ACME, "enterprise", by=OPERATOR)
    running = collector.start(root, keys)
    try:
        yield Pipeline(root, running, tmp_path / "klyra-audit.toml")
    finally:
        running.terminate()


@pytest.fixture
def sink() -> Iterator[Sink]:
    """What stands at the very end."""
    with sinks.listening() as made:
        yield made


@contextlib.contextmanager
def front(pipeline: Pipeline, folder: Path, monkeypatch) -> Iterator[str]:
    """Run the example's collector before ours; give its address."""
    [port] = free_ports(1)
    folder.mkdir()
    for name, value in {
        "FRONT_PORT": str(port),
        "FRONT_KEY": pipeline.running.keys[ACME],
        "AUDIT_URL": pipeline.running.url,
        "WORK": str(folder),
    }.items():
        monkeypatch.setenv(name, value)
    with otelcol.running(folder, (EXAMPLE / "front.yaml").read_text(), [port]):
        yield f"http://127.0.0.1:{port}/v1/logs"


@contextlib.contextmanager
def back(sink: Sink, folder: Path, monkeypatch) -> Iterator[dict[str, str]]:
    """Run the example's collector behind ours, with an exporter to a sink; give its addresses by protocol."""
    http, grpc = free_ports(2)
    folder.mkdir()
    monkeypatch.setenv("BACK_PORT", str(http))
    monkeypatch.setenv("BACK_GRPC_PORT", str(grpc))
    text = (EXAMPLE / "back.yaml").read_text()
    exporter = f"exporters:\n  otlp_http:\n    logs_endpoint: {sink.url}\n    sending_queue: {{enabled: false}}\n"
    text = text.replace("exporters: [debug]", "exporters: [debug, otlp_http]").replace("exporters:\n", exporter, 1)
    with otelcol.running(folder, text, [http, grpc]):
        yield {"http": f"http://127.0.0.1:{http}/v1/logs", "grpc": f"grpc://127.0.0.1:{grpc}"}


def unique(found: list[str]) -> list[str]:
    """Return ids without repeats, in order of their first arrival."""
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_from_collector_to_collector(pipeline, sink, tmp_path, monkeypatch, protocol) -> None:
    """Everything acknowledged at the front arrives at the back in ledger order, signed, with what proves it."""
    with (
        back(sink, tmp_path / "back", monkeypatch) as addresses,
        front(pipeline, tmp_path / "front", monkeypatch) as url,
    ):
        pipeline.configure(addresses[protocol])
        acknowledged = pipeline.emit(BATCH, url) + pipeline.emit(BATCH, url)
        with pipeline.following():
            acknowledged += pipeline.emit(BATCH, url)
            await_that(lambda: set(acknowledged) <= set(sink.ids()), "all entries", lambda: str(pipeline.status()))
    arrived = unique(sink.ids())
    order = [identifier for identifier in arrived if identifier in set(acknowledged)]
    assert order == acknowledged
    public = load_pem_public_key(pipeline.command("key").stdout.encode())
    sealed = {record.index: record for record in pipeline.sealed()}
    for item in sink.records():
        check_signature(item, public)
        check_proof(item, sealed)


def check_signature(item: dict[str, Any], public: Any) -> None:
    """Verify a record's `audit.integrity.value`, though two programs of others have carried it."""
    signature = base64.b64decode(item["audit.integrity.value"])
    public.verify(signature, canonical_record(signed_fields(item["record"])))
    assert item["resource"]["audit.integrity.algorithm"] == "EdDSA"


def check_proof(item: dict[str, Any], sealed: dict[int, Any]) -> None:
    """Verify that a record holds what the ledger's leaf commits to."""
    record = sealed[item["klyra.index"]]
    assert item["klyra.leaf"] == record.leaf_bytes
    listed = json.loads(item["klyra.sections"])
    parts = sections.split_at(json.loads(item["body"]), tuple(listed["actor"]), tuple(listed["target"]))
    salts = sections.Salts.unpack(item["klyra.salts"])
    assert sections.commitments(parts, salts).event_commit() == Leaf.unpack(item["klyra.leaf"]).commit


def test_another_klyra_audit_seals_the_same_events(pipeline, tmp_path) -> None:
    """Chained, the second ledger commits to the same ids and the same content as the first."""
    other_root = tmp_path / "other"
    keys = collector.make_keys(other_root)
    other = collector.start(other_root, keys)
    try:
        pipeline.configure(f"{other.url}/v1/logs", headers={"authorization": "env:NEXT_KEY"})
        sent = pipeline.emit(BATCH)
        with pipeline.following(NEXT_KEY=f"Bearer {keys['many']}"):
            await_that(lambda: set(sent) <= set(commits_of(other.sealed())), "the second ledger")
        first, second = commits_of(pipeline.sealed()), commits_of(other.sealed())
        assert {name: second[name] for name in sent} == {name: first[name] for name in sent}
        assert not [record for record in other.sealed() if record.leaf.kind == Kind.QUARANTINE]
    finally:
        other.terminate()


def commits_of(records: list[Any]) -> dict[str, bytes]:
    """Return the commit of every event by its id."""
    events = [record for record in records if record.leaf.kind == Kind.EVENT]
    return {json.loads(record.body.sections.core)["id"]: record.leaf.commit for record in events}


def test_a_destination_that_is_down_delays_nothing(pipeline, tmp_path) -> None:
    """Sealing goes on while nobody listens at the back; once somebody does, nothing is missing."""
    [port] = free_ports(1)
    pipeline.configure(f"http://127.0.0.1:{port}/v1/logs")
    with pipeline.following():
        await_that(lambda: pipeline.status() and pipeline.status().state is State.RETRYING, "the first attempt")
        sent = pipeline.emit(BATCH) + pipeline.emit(BATCH)
        assert set(sent) <= set(commits_of(pipeline.sealed()))
        with sinks.listening(port) as sink:
            await_that(lambda: set(sent) <= set(sink.ids()), "what was sealed meanwhile")
            assert [name for name in sink.ids() if name in set(sent)] == sent


def test_a_slow_destination_delays_no_other(pipeline, sink) -> None:
    """Two destinations, one of which never answers: the other gets everything."""
    with sinks.listening() as slow:
        slow.decide = lambda _: time.sleep(0.2) or Answer(503, {"Retry-After": "3600"})
        pipeline.configure(sink.url)
        text = pipeline.configuration.read_text()
        second = text.replace('"back"', '"slow"').replace(json.dumps(sink.url), json.dumps(slow.url))
        pipeline.configuration.write_text(text + second)
        sent = pipeline.emit(BATCH)
        with pipeline.following():
            sent += pipeline.emit(BATCH)
            await_that(lambda: set(sent) <= set(sink.ids()), "the other destination")
    assert slow.taken == []


def test_killed_between_confirmation_and_cursor(pipeline, sink) -> None:
    """A follower killed after the destination took a batch sends the same bytes again, then goes on behind it."""
    pipeline.configure(sink.url, batch_entries=7)
    killed: list[subprocess.Popen] = []

    def kill_first(request: ExportLogsServiceRequest) -> Answer:
        if len(sink.requests) == 2:
            killed[0].kill()  # the sink has the batch; nobody will ever read its answer
            killed[0].wait()
        return sinks.TAKEN

    sink.decide = kill_first
    sent = pipeline.emit(BATCH)
    with pipeline.following() as process:
        killed.append(process)
        await_that(lambda: process.poll() is not None, "the kill")
    before = len(sink.requests)
    with pipeline.following():
        await_that(lambda: set(sent) <= set(sink.ids()), "the rest")
        await_that(lambda: pipeline.status().index >= pipeline.sealed()[-1].index, "the cursor")
    assert sink.requests[before] == sink.requests[before - 1]
    repeated = [name for name in sink.ids() if sink.ids().count(name) > 1]
    assert 0 < len(set(repeated)) <= 7
    assert [name for name in unique(sink.ids()) if name in set(sent)] == sent


def test_a_refused_key_alarms_and_recovers(pipeline, sink) -> None:
    """401 pauses the destination: list says so with exit 1; when the far side lets us in again, all of it arrives."""
    sink.decide = lambda _: Answer(401)
    pipeline.configure(sink.url, headers={"authorization": "env:BACK_TOKEN"}, paused_seconds=0.3)
    sent = pipeline.emit(BATCH)
    with pipeline.following(BACK_TOKEN=SECRET):
        await_that(lambda: pipeline.status() and pipeline.status().state is State.PAUSED, "the pause")
        listed = pipeline.command("list", "--json")
        assert (listed.returncode, json.loads(listed.stdout)[0]["state"]) == (1, "paused")
        tried = pipeline.command("test", "back", BACK_TOKEN=SECRET)
        assert (tried.returncode, tried.stdout) == (1, "back refuses us: 401 Unauthorized\n")
        sink.decide = lambda _: sinks.TAKEN
        await_that(lambda: set(sent) <= set(sink.ids()), "what waited")
        await_that(lambda: pipeline.status().state is State.DELIVERING, "the end of the alarm")
        listed = pipeline.command("list")
        assert (listed.returncode, "delivering" in listed.stdout) == (0, True)
        tried = pipeline.command("test", "back", BACK_TOKEN=SECRET)
        assert (tried.returncode, "it has taken the test event log_" in tried.stdout) == (0, True)
    assert sink.headers[0]["authorization"] == SECRET
    assert_nowhere(pipeline, listed.stdout + tried.stdout)


def assert_nowhere(pipeline: Pipeline, output: str) -> None:
    """Look for the secret in everything that was written and printed."""
    assert SECRET not in output
    for path in pipeline.root.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_who_may_not_have_destinations_is_refused_at_the_start(pipeline, sink) -> None:
    """An organization on another plan is named with its plan, and nothing starts."""
    pipeline.configure(sink.url, organizations=["org_other"])
    command = [sys.executable, "-m", "klyra_collector", "serve", "--role", "follower"]
    command += ["--config", str(pipeline.configuration), "--data", str(pipeline.root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Destination back is for org_other, whose plan is business." in done.stderr
    assert "Destinations need the plan enterprise" in done.stderr


def test_only_entitled_organizations_are_forwarded(pipeline, sink) -> None:
    """Entries of an organization without destinations in its plan stay here."""
    pipeline.configure(sink.url)
    foreign = otlp.prepared("org_other")
    assert pipeline.running.post(
        "/v1/logs", otlp.own_form(foreign, boot=otlp_boot()), key=pipeline.running.keys["org_other"]
    ).is_success
    sent = pipeline.emit(BATCH)
    with pipeline.following():
        await_that(lambda: set(sent) <= set(sink.ids()), "the organization's own")
        await_that(lambda: pipeline.status().skipped.get("organization", 0) > 0, "the other's to be passed over")
    assert foreign.record_id not in sink.ids()
    assert {item["resource"]["klyra.organization.id"] for item in sink.records()} == {ACME}


def test_the_record_is_our_own_form(pipeline, sink) -> None:
    """What goes out is read back by our receiver as the event that was sealed."""
    pipeline.configure(sink.url, compression="none", sign=False)
    sent = pipeline.emit(3)
    with pipeline.following():
        await_that(lambda: set(sent) <= set(sink.ids()), "the entries")
    opened = [open_own_form(wire.own_form()) for body in sink.requests for wire in decode_protobuf(body)]
    assert set(sent) <= {item.document["id"] for item in opened}
    assert "audit.integrity.value" not in sink.records()[0]


def test_the_example_runs(tmp_path, require_peer) -> None:
    """The example's script sends an event through all three and shows it sealed and signed."""
    import shutil

    require_peer("curl", shutil.which("curl"))
    front_port, back_port, grpc_port = free_ports(3)
    environment = os.environ | {
        "WORK": str(tmp_path),
        "OTELCOL": str(otelcol.program()),
        "FRONT_PORT": str(front_port),
        "BACK_PORT": str(back_port),
        "BACK_GRPC_PORT": str(grpc_port),
        "KLYRA_API__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__HTTP__LISTEN": "127.0.0.1:0",
        "KLYRA_OTLP__GRPC__LISTEN": "127.0.0.1:0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [EXAMPLE / "run.sh"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"message":"left the company"' in done.stdout
    assert "audit.integrity.value" in done.stdout
    assert "delivering" in done.stdout
