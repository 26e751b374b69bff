"""The collector over gRPC: what each call gets for an answer, and what is in the ledger afterwards."""

from __future__ import annotations

import contextlib
import gzip
import socket
import time

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit import ids
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from support import collector, otlp
from support.collector import ACME
from support.otlp import MAPPED

EXPORT = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
LIMIT = 300_000


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root), INTAKE__MAX_REQUEST_BYTES=str(LIMIT))
    yield started
    assert started.terminate() == 0


@pytest.fixture
def since(running):
    """Return the documents of the moderation and user events sealed since the test began."""
    before = len(running.sealed())

    def events() -> list:
        found = [item for item in running.sealed(before) if item.leaf.kind == Kind.EVENT]
        documents = [sections.join(item.body.sections) for item in found]
        return [item for item in documents if item["event_type"] in ("moderation.created", "user.removed")]

    return events


def call(running, body, *, key=None, compression=None, timeout=20):
    """Make one call; return its answer. The key is ACME's unless another is given."""
    metadata = [("authorization", f"Bearer {running.keys[ACME] if key is None else key}")]
    with grpc.insecure_channel(running.addresses["otlp_grpc"]) as channel:
        answer = channel.unary_unary(EXPORT)(body, metadata=metadata, compression=compression, timeout=timeout)
    return ExportLogsServiceResponse.FromString(answer)


def refusal(running, body, **options):
    """Make one call that is refused; return its code, its status with details and its trailing metadata."""
    with pytest.raises(grpc.RpcError) as caught:
        call(running, body, **options)
    trailing = dict(caught.value.trailing_metadata())
    details = trailing.get("grpc-status-details-bin", b"")
    return caught.value.code(), RpcStatus.FromString(details), trailing


def wait_until(condition) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_closed(client: socket.socket) -> bool:
    """Say whether the other side has ended a connection; what it sent until now is skipped."""
    client.settimeout(0)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def own(*events) -> bytes:
    """Return a request in our own form from a boot of its own."""
    return otlp.own_form(*events, boot=str(ids.new_uuid7()))


class TestAccepted:
    """What is sealed."""

    @pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
    def test_a_call_is_answered_when_it_is_sealed(self, running, since, compression) -> None:
        """The answer has no partial success, plain and compressed, and the event is in the ledger by then."""
        event = otlp.prepared()
        assert not call(running, own(event), compression=compression).HasField("partial_success")
        assert since() == [event.document]

    def test_an_empty_request_succeeds(self, running, since) -> None:
        """OTLP clients may send nothing."""
        assert not call(running, b"").HasField("partial_success")
        assert since() == []

    def test_an_invalid_event_is_quarantined_and_warned_of(self, running, since) -> None:
        """Nothing is rejected, so that no client drops anything; the message names the record."""
        answer = call(running, own(otlp.prepared(), otlp.invalid(action="read")))
        assert answer.partial_success.rejected_log_records == 0
        assert "record 1: /action" in answer.partial_success.error_message
        assert len(since()) == 1

    def test_the_same_request_over_http_and_grpc_is_one_event(self, running, since) -> None:
        """Both protocols have one mapping and one memory of what came before."""
        attributes = MAPPED["attributes"] | {"audit.record.id": str(ids.new_uuid7())}
        body = otlp.foreign(MAPPED | {"attributes": attributes})
        call(running, body)
        assert running.post("/v1/logs", body).status_code == 200
        assert len(since()) == 1

    def test_many_calls_at_once_are_all_sealed(self, running, since) -> None:
        """Twice as many as one connection may have under way: the client waits with the rest, and none is lost."""
        metadata = [("authorization", f"Bearer {running.keys[ACME]}")]
        with grpc.insecure_channel(running.addresses["otlp_grpc"]) as channel:
            grpc.channel_ready_future(channel).result(10)  # from here on it knows how many
            export = channel.unary_unary(EXPORT)
            calls = [export.future(own(otlp.prepared()), metadata=metadata, timeout=30) for _ in range(200)]
            for waiting in calls:
                waiting.result()
        assert len(since()) == 200


class TestRefused:
    """What no call can have."""

    @pytest.mark.parametrize("key", ["", "klyra_sk_wrong"])
    def test_without_a_valid_key_it_is_unauthenticated(self, running, key) -> None:
        """The answer says what is wrong with the key, and is nothing to be sent again."""
        code, status, trailing = refusal(running, own(otlp.prepared()), key=key)
        assert (code, status.code) == (grpc.StatusCode.UNAUTHENTICATED, 16)
        assert "google.rpc.retryinfo-bin" not in trailing

    def test_a_key_without_the_scope_is_denied(self, running, since) -> None:
        """A read key does not emit."""
        code, _, _ = refusal(running, own(otlp.prepared()), key=running.keys["reader"])
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert since() == []

    def test_what_is_no_request_is_an_invalid_argument(self, running) -> None:
        """The details say what is wrong; no client sends it again."""
        code, status, trailing = refusal(running, b"hello")
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        violations = BadRequest()
        assert status.details[0].Unpack(violations)
        assert "not a protobuf" in violations.field_violations[0].description
        assert "google.rpc.retryinfo-bin" not in trailing

    def test_a_large_message_is_exhausting_and_not_to_be_sent_again(self, running) -> None:
        """Without RetryInfo a client drops it, as the specification has it for requests over the limit."""
        code, _, trailing = refusal(running, bytes(LIMIT + 1))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "google.rpc.retryinfo-bin" not in trailing

    def test_a_small_message_that_inflates_too_far_is_refused(self, running) -> None:
        """A bomb of a thousandth of its size is measured when it is inflated."""
        code, _, trailing = refusal(running, bytes(50_000_000), compression=grpc.Compression.Gzip)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "google.rpc.retryinfo-bin" not in trailing
        assert len(gzip.compress(bytes(50_000_000))) < LIMIT

    def test_another_method_is_unimplemented(self, running) -> None:
        """Traces and metrics have no place here."""
        path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        with grpc.insecure_channel(running.addresses["otlp_grpc"]) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(path)(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    def test_a_taken_port_is_named_with_its_setting(self, running, tmp_path) -> None:
        """A second collector does not share the port in silence."""
        with pytest.raises(AssertionError, match=r"(?s)Cannot listen on 127.*otlp\.grpc\.listen"):
            collector.start(tmp_path, collector.make_keys(tmp_path), OTLP__GRPC__LISTEN=running.addresses["otlp_grpc"])


class TestBackpressure:
    """When to try again."""

    def test_overload_says_when_in_both_places(self, tmp_path) -> None:
        """UNAVAILABLE carries RetryInfo for the standard's readers and for opentelemetry-python."""
        started = collector.start(tmp_path, collector.make_keys(tmp_path), INTAKE__MAX_INFLIGHT_BYTES="1000")
        try:
            code, status, trailing = refusal(started, own(*(otlp.prepared() for _ in range(10))))
            assert code is grpc.StatusCode.UNAVAILABLE
            inside = RetryInfo()
            assert status.details[0].Unpack(inside)
            assert RetryInfo.FromString(trailing["google.rpc.retryinfo-bin"]) == inside
            assert inside.retry_delay.seconds >= 1
        finally:
            assert started.terminate() == 0

    def test_an_organization_over_its_rate_is_told_when(self, tmp_path) -> None:
        """RESOURCE_EXHAUSTED with RetryInfo is retried; another organization is let in meanwhile."""
        limits = {"INTAKE__ORGANIZATION_EVENTS_PER_SECOND": "0.5", "INTAKE__ORGANIZATION_BURST": "3"}
        started = collector.start(tmp_path, collector.make_keys(tmp_path), **limits)
        try:
            call(started, own(*(otlp.prepared() for _ in range(5))))
            code, _, trailing = refusal(started, own(otlp.prepared()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert RetryInfo.FromString(trailing["google.rpc.retryinfo-bin"]).retry_delay.seconds >= 4
            answer = started.post("/v1/logs", own(otlp.prepared()))
            assert (answer.status_code, int(answer.headers["retry-after"]) >= 4) == (429, True)
            call(started, own(otlp.prepared("org_other")), key=started.keys["org_other"])
        finally:
            assert started.terminate() == 0

    def test_silent_connections_leave_those_that_stand_alone(self, tmp_path) -> None:
        """A connection beyond the bound is closed; one that stands goes on, and there is room when others leave."""
        started = collector.start(tmp_path, collector.make_keys(tmp_path), OTLP__GRPC__MAX_CONNECTIONS="5")
        address = started.addresses["otlp_grpc"]
        host_port = (address.partition(":")[0], int(address.partition(":")[2]))
        metadata = [("authorization", f"Bearer {started.keys[ACME]}")]
        with grpc.insecure_channel(address) as channel:
            export = channel.unary_unary(EXPORT)
            export(own(otlp.prepared()), metadata=metadata, timeout=10)
            silent = [socket.create_connection(host_port, timeout=20) for _ in range(20)]
            wait_until(lambda: sum(map(is_closed, silent)) == 16)
            export(own(otlp.prepared()), metadata=metadata, timeout=10)
            for client in silent:
                client.close()

        def has_room() -> bool:
            with contextlib.suppress(grpc.RpcError):
                call(started, own(otlp.prepared()))
                return True
            return False

        wait_until(has_room)
        assert started.terminate() == 0

    def test_stopping_answers_what_is_under_way(self, tmp_path) -> None:
        """Calls that were begun are sealed and answered, or told to come again; the process ends cleanly."""
        started = collector.start(tmp_path, collector.make_keys(tmp_path))
        metadata = [("authorization", f"Bearer {started.keys[ACME]}")]
        with grpc.insecure_channel(started.addresses["otlp_grpc"]) as channel:
            grpc.channel_ready_future(channel).result(10)
            export = channel.unary_unary(EXPORT)
            calls = [export.future(own(otlp.prepared()), metadata=metadata, timeout=30) for _ in range(50)]
            calls[0].result()
            assert started.terminate() == 0
            outcomes = [waiting.code() for waiting in calls]
        # OTLP clients send again after either (OTLP specification, "Failures"); CANCELLED ends what outlasts the grace.
        assert set(outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        sealed = [item for item in started.sealed() if item.leaf.kind == Kind.EVENT and item.leaf.emitter]
        assert len(sealed) >= outcomes.count(grpc.StatusCode.OK)


class TestUnixSocket:
    """Reached by who may open a file."""

    def test_grpc_and_http_answer_on_sockets(self, tmp_path, since) -> None:
        """Both listen on files that only their owner can open, and remove them when they stop."""
        root = tmp_path / "data"
        paths = {name: tmp_path / f"{name}.sock" for name in ("http", "grpc")}
        settings = {f"OTLP__{name.upper()}__LISTEN": f"unix:{path}" for name, path in paths.items()}
        started = collector.start(root, collector.make_keys(root), **settings)
        assert [path.stat().st_mode & 0o777 for path in paths.values()] == [0o600, 0o600]
        call(started, own(otlp.prepared()))
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(paths["http"]))) as client:
            headers = {"Authorization": f"Bearer {started.keys[ACME]}", "Content-Type": "application/x-protobuf"}
            assert client.post("http://here/v1/logs", content=own(otlp.prepared()), headers=headers).status_code == 200
        assert started.terminate() == 0
        assert [path.exists() for path in paths.values()] == [False, False]

    @pytest.mark.parametrize("protocol", ["HTTP", "GRPC"])
    def test_a_file_left_behind_is_replaced_and_a_live_one_is_not(self, tmp_path, protocol) -> None:
        """After a crash the socket's file is still there; while another collector answers on it, it is taken."""
        root, path = tmp_path / "data", tmp_path / "live.sock"
        keys = collector.make_keys(root)
        listen = {f"OTLP__{protocol}__LISTEN": f"unix:{path}"}
        collector.start(root, keys, **listen).kill()
        assert path.exists()
        again = collector.start(root, keys, **listen)
        other = tmp_path / "other"
        with pytest.raises(AssertionError, match="another program answers there"):
            collector.start(other, collector.make_keys(other), **listen)
        assert again.terminate() == 0


class TestRealClient:
    """opentelemetry-python's own exporter."""

    def test_its_exporter_delivers_through_a_restart(self, tmp_path) -> None:
        """Its retries bridge a collector that is away for a moment."""
        from opentelemetry._logs import LogRecord
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

        started = collector.start(tmp_path, collector.make_keys(tmp_path))
        exporter = OTLPLogExporter(
            endpoint=started.addresses["otlp_grpc"],
            insecure=True,
            headers={"authorization": f"Bearer {started.keys[ACME]}"},
            compression=grpc.Compression.Gzip,
        )
        provider = LoggerProvider(shutdown_on_exit=False)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        logger = provider.get_logger("tests", "1")

        def emit() -> None:
            attributes = MAPPED["attributes"] | {"audit.record.id": str(ids.new_uuid7()), "nested": "flat"}
            logger.emit(LogRecord(timestamp=time.time_ns(), event_name="user.removed", attributes=attributes))

        for _ in range(20):
            emit()
        assert provider.force_flush()
        started.kill()
        again = collector.start(tmp_path, started.keys, OTLP__GRPC__LISTEN=started.addresses["otlp_grpc"])
        for _ in range(20):
            emit()
        provider.shutdown()
        found = [item for item in again.sealed() if item.leaf.kind == Kind.EVENT]
        documents = [sections.join(item.body.sections) for item in found]
        assert sum(document["event_type"] == "user.removed" for document in documents) == 40
        assert again.terminate() == 0
