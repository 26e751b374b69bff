"""Forward with programs that others wrote: fluent-logger, @fluent-org/logger and the OpenTelemetry Collector."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import pytest
from fluent import sender as fluent_sender

from klyra_audit.errors import Paused, RetryLater
from klyra_audit.transports.forward import ForwardClient
from support import collector, fluent_js, forward, otelcol
from support.collector import ACME, OTHER
from support.forward import NANOSECONDS, PASSWORD, SHARED_KEY, USER, entry
from support.ports import free_ports

JS_MODES = ["Message", "Forward", "PackedForward", "CompressedPackedForward"]


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A collector that takes Forward without a handshake."""
    root = tmp_path_factory.mktemp("data")
    started = forward.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A collector that asks for the shared key and a user."""
    root = tmp_path_factory.mktemp("guarded")
    keys = collector.make_keys(root)
    password, key = forward.secret(root, "password", PASSWORD), forward.secret(root, "other", keys[OTHER])
    started = forward.start(
        root,
        keys,
        SHARED_KEY=forward.secret(root, "shared", SHARED_KEY),
        CLIENTS=[{"user": USER, "password": password, "key": key}],
        HOSTNAME="collector",
    )
    yield started
    assert started.terminate() == 0


@pytest.fixture
def javascript(require_peer):
    """@fluent-org/logger, or a skip."""
    require_peer(fluent_js.NAME, fluent_js.modules())
    return fluent_js


def records(count: int = 2) -> list[dict]:
    """Return records that no other test sends."""
    return [entry(number, run=uuid4().hex)[1] for number in range(count)]


def runs(found: list[dict]) -> list[str]:
    """Return which records these events came from."""
    return [item["metadata"]["attributes"]["run"] for item in found]


def eventually(running, begun: int, count: int) -> list[dict]:
    """Return the events sealed since, once there are `count`: of senders that wait for nothing."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = forward.events(running, begun)
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{len(forward.events(running, begun))} of {count} came")


class TestFluentLogger:
    """fluent-logger of PyPI: mode Message, without chunk."""

    @pytest.mark.parametrize("precise", [False, True])
    def test_events_arrive_as_best_effort(self, running, precise) -> None:
        """Its events are sealed in order and marked as what they are; whole seconds unless it is told otherwise."""
        begun = len(running.sealed())
        host, _, port = forward.address(running).rpartition(":")
        logger = fluent_sender.FluentSender("app", host=host, port=int(port), nanosecond_precision=precise)
        sent = records(20)
        for record in sent:
            assert logger.emit_with_time("audit", NANOSECONDS / 1e9 if precise else NANOSECONDS // 10**9, record)
        logger.close()
        found = eventually(running, begun, 20)
        assert runs(found) == [record["run"] for record in sent]
        assert {item["metadata"]["tag"] for item in found} == {"app.audit"}
        assert {item["metadata"]["delivery"] for item in found} == {"best_effort"}
        assert {item["timestamp"][:19] for item in found} == {"2026-06-09T10:13:20"}

    def test_what_it_cannot_pack_is_kept_visibly(self, running) -> None:
        """In place of a record it cannot pack it sends a message that names nothing: it is quarantined."""
        begun = len(running.sealed())
        host, _, port = forward.address(running).rpartition(":")
        logger = fluent_sender.FluentSender("app", host=host, port=int(port))
        logger.emit("audit", {"object": object()})
        logger.emit("audit", records(1)[0])
        logger.close()
        eventually(running, begun, 1)
        assert len(forward.quarantined(running, begun)) == 1


class TestJavascriptClient:
    """The Fluent project's client for Node, which waits for acknowledgements."""

    @pytest.mark.parametrize("mode", JS_MODES)
    def test_every_mode_is_acknowledged(self, running, javascript, mode) -> None:
        """Each chunk is acknowledged, and its entries are sealed with their milliseconds."""
        begun = len(running.sealed())
        sent = records()
        assert javascript.emit(forward.address(running), mode, sent) == [{"acknowledged": True}] * 2
        found = forward.events(running, begun)
        assert sorted(runs(found)) == sorted(record["run"] for record in sent)
        assert not any("delivery" in item["metadata"] for item in found)

    @pytest.mark.parametrize(
        ("proofs", "organization_id"),
        [
            ({"sharedKey": SHARED_KEY, "user": USER, "password": PASSWORD}, OTHER),
            ({"sharedKey": SHARED_KEY}, ACME),
        ],
        ids=["user", "no user"],
    )
    def test_the_handshake_admits_it(self, guarded, javascript, proofs, organization_id) -> None:
        """With what it must know its chunks are acknowledged, under the key it is bound to."""
        begun = len(guarded.sealed())
        said = javascript.emit(forward.address(guarded), "PackedForward", records(), **proofs)
        assert said == [{"acknowledged": True}] * 2
        assert {item["organization_id"] for item in forward.events(guarded, begun)} == {organization_id}

    @pytest.mark.parametrize(
        "proofs",
        [
            {"sharedKey": "another key", "user": USER, "password": PASSWORD},
            {"sharedKey": SHARED_KEY, "user": USER, "password": "wrong"},
            {},
        ],
        ids=["key", "password", "none"],
    )
    def test_without_the_proofs_nothing_is_acknowledged(self, guarded, javascript, proofs) -> None:
        """No acknowledgement comes, and nothing is sealed."""
        begun = len(guarded.sealed())
        said = javascript.emit(forward.address(guarded), "Message", records(1), ackTimeout=1500, **proofs)
        assert "acknowledged" not in json.dumps(said)
        assert forward.events(guarded, begun) == []


class TestOurClient:
    """Our client with servers that others wrote."""

    @pytest.mark.parametrize("compressed", [None, "gzip"])
    @pytest.mark.parametrize("proofs", [{}, {"shared_key": SHARED_KEY, "username": USER, "password": PASSWORD}])
    def test_the_javascript_server_acknowledges_it(self, javascript, compressed, proofs) -> None:
        """Every entry comes out with its nanoseconds, and `send` returns."""
        options = {"sharedKey": SHARED_KEY, "users": {USER: PASSWORD}} if proofs else {}
        [port] = free_ports(1)
        sent = records()
        with javascript.serving(port, **options) as server, ForwardClient(server.address, **proofs) as client:
            for _ in range(2):
                client.send("app.audit", [(NANOSECONDS, record) for record in sent], compressed=compressed)
            found = server.entries(4)
        assert [item["record"] for item in found] == sent * 2
        assert {item["tag"] for item in found} == {"app.audit"}
        assert {tuple(item["time"]) for item in found} == {divmod(NANOSECONDS, 10**9)}

    @pytest.mark.parametrize(
        "proofs",
        [
            {"shared_key": "another key", "username": USER, "password": PASSWORD},
            {"shared_key": SHARED_KEY, "username": USER, "password": "wrong"},
            {},
        ],
        ids=["key", "password", "none"],
    )
    def test_a_refusal_of_the_javascript_server_is_an_error(self, javascript, proofs) -> None:
        """What was not acknowledged is never taken for sent."""
        [port] = free_ports(1)
        with (
            javascript.serving(port, sharedKey=SHARED_KEY, users={USER: PASSWORD}) as server,
            ForwardClient(server.address, timeout=3, **proofs) as client,
            pytest.raises((Paused, RetryLater)),
        ):
            client.send("app.audit", [(NANOSECONDS, records(1)[0])])

    @pytest.mark.parametrize("compressed", [None, "gzip"])
    def test_the_opentelemetry_collector_acknowledges_it(self, running, tmp_path, compressed) -> None:
        """Its fluent_forward receiver acknowledges; what it sends on over OTLP is the same event in our ledger."""
        otelcol.program()
        begun = len(running.sealed())
        [port] = free_ports(1)
        configuration = {
            "receivers": {"fluentforward": {"endpoint": f"127.0.0.1:{port}"}},
            "exporters": {
                "otlphttp": {
                    "endpoint": running.url,
                    "headers": {"Authorization": f"Bearer {running.keys[ACME]}"},
                    "sending_queue": {"enabled": False},
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"logs": {"receivers": ["fluentforward"], "exporters": ["otlphttp"]}},
            },
        }
        sent = [{"event.name": record.pop("event_name")} | record for record in records()]
        with (
            otelcol.running(tmp_path, json.dumps(configuration), [port]),
            ForwardClient(f"127.0.0.1:{port}") as client,
        ):
            client.send("app.audit", [(NANOSECONDS, record) for record in sent], compressed=compressed)
            assert runs(forward.events(running, begun)) == [record["run"] for record in sent]

    @pytest.mark.parametrize("compressed", [None, "gzip", "zstd"])
    def test_our_own_collector_acknowledges_it(self, guarded, compressed) -> None:
        """Entries sent in each way are sealed once, even if they are sent twice."""
        begun = len(guarded.sealed())
        entries = [(NANOSECONDS, record) for record in records()]
        proofs = {"shared_key": SHARED_KEY, "username": USER, "password": PASSWORD}
        with ForwardClient(forward.address(guarded), **proofs) as client:
            client.send("app.audit", entries, compressed=compressed)
            client.send("app.audit", entries)
        assert runs(forward.events(guarded, begun)) == [record["run"] for _, record in entries]
