"""The emitter over OTLP/HTTP, OTLP/gRPC and Fluent Forward: the same promises, whatever breaks on the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from concurrent import futures
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status as RpcStatus
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from klyra_audit import Actor, AuditEmitter, InvalidEvent, events
from klyra_audit.catalog import Catalog
from klyra_audit.emitter import NoReceipts, NotSealedYet
from klyra_audit.errors import Paused
from klyra_audit.format import sections
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import Flag, Kind, Leaf
from klyra_audit.receipt import AlreadySealed
from klyra_audit.spool import segment
from klyra_audit.transports.client_tls import ClientTls
from klyra_audit.transports.forward_emitter import ForwardTransport
from klyra_audit.transports.otlp_grpc import OtlpGrpcTransport
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support import collector, forward
from support.certificates import Authority
from support.collector import ACME, OTHER
from support.cutting import proxy
from support.forward import SHARED_KEY
from support.otlp import prepared

WAYS = ("http", "grpc", "forward")
# What the collector's process runs first: its wall clock is the real one and what a file says.
JUMPING = """
import time
real = time.time_ns
def jumped():
    with open({!r}) as file:
        return real() + int(file.read() or 0) * 1_000_000_000
time.time_ns = jumped
time.time = lambda: jumped() / 1e9
"""
KEY = SigningKey.from_seed("signs", bytes(range(32)))
WITH_RECEIPTS = ("http", "grpc")
NAMES = {"http": "otlp_http", "grpc": "otlp_grpc", "forward": "forward"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for most tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = forward.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


def registry(root):
    """Return the registry of a data directory."""
    return contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load()))


def place(running, way: str) -> str:
    """Return where a collector listens, `host:port`."""
    return running.addresses[NAMES[way]].removeprefix("http://")


def same_places(running) -> dict[str, str]:
    """Return the settings of a collector that takes the place of another."""
    return {
        "OTLP__HTTP__LISTEN": place(running, "http"),
        "OTLP__GRPC__LISTEN": place(running, "grpc"),
        "FORWARD__LISTEN": place(running, "forward"),
        "FORWARD__KEY": f"file:{running.root / 'secret-key'}",
    }


def emitter(running, way: str, spool, *, at: str | None = None, **options) -> AuditEmitter:
    """Return an emitter of ACME's on one of the ways, with receipts where there are any."""
    address = f"{way}://{at or place(running, way)}"
    if way == "grpc":
        options = {"receipts_from": running.url} | options
    options = {"api_key": running.keys[ACME], "organization_id": ACME, "timeout": 5, "emitter_id": "ways"} | options
    return AuditEmitter(address, spool=spool, **options)


def created(**context):
    """Return a small valid event."""
    return events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text", **context)


@dataclass(frozen=True)
class FromEmitter:
    """What was sealed with a place in an emitter's sequence: the entry's id, None for one in quarantine."""

    record_id: str | None
    emitter: int
    sequence: int
    flags: int


def from_emitters(running, start: int = 0) -> list[FromEmitter]:
    """Return what emitters sent, in the ledger's order."""
    found = []
    for record in running.sealed(start):
        leaf = record.leaf
        if leaf.emitter and leaf.kind in (Kind.EVENT, Kind.QUARANTINE):
            named = sections.join(record.body.sections)["id"] if leaf.kind == Kind.EVENT else None
            found.append(FromEmitter(named, leaf.emitter, leaf.emitter_seq, leaf.flags))
    return found


def assert_whole(found: list[FromEmitter], spooled) -> None:
    """Find every event once, in the order of its emission and of an unbroken sequence."""
    assert [item.record_id for item in found] == [one.record_id for one in spooled]
    assert [item.sequence for item in found] == list(range(len(found)))
    assert len({item.emitter for item in found}) == 1


def deliver(sender: AuditEmitter, seconds: float = 30) -> None:
    """Wait until everything is delivered."""
    assert sender.flush(seconds), sender.status()


class TestDelivery:
    """What each way does when nothing is wrong."""

    @pytest.mark.parametrize("way", WAYS)
    def test_events_are_sealed_once_and_in_order(self, running, tmp_path, way) -> None:
        """More than fit in one batch; the spool is empty afterwards."""
        before = len(running.sealed())
        with emitter(running, way, tmp_path / "s") as sender:
            spooled = [sender.emit(created()) for _ in range(150)]
            deliver(sender)
            assert (sender.status().delivered, sender.status().refused, sender.status().waiting) == (150, 0, 0)
        assert_whole(from_emitters(running, before), spooled)
        assert list((tmp_path / "s").iterdir()) == []

    @pytest.mark.parametrize("way", WITH_RECEIPTS)
    def test_waiting_returns_a_checked_receipt(self, running, tmp_path, way) -> None:
        """The leaf in it is the ledger's."""
        with emitter(running, way, tmp_path / "s") as sender:
            receipt = sender.emit(created(), wait=True)
        assert running.sealed(receipt.index)[0].leaf_bytes == receipt.leaf
        assert Leaf.unpack(receipt.leaf).kind == Kind.EVENT

    @pytest.mark.parametrize(("way", "options"), [("forward", {}), ("grpc", {"receipts_from": ""})])
    def test_waiting_where_no_receipts_are_is_refused_at_once(self, running, tmp_path, way, options) -> None:
        """It is a matter of configuration, the error says of which; nothing was kept."""
        with emitter(running, way, tmp_path / "s", **options) as sender:
            with pytest.raises(NoReceipts) as caught:
                sender.emit(created(), wait=True)
            assert (caught.value.code, isinstance(caught.value, Paused)) == ("no_receipts", True)
            assert ("receipts_from" in caught.value.remedy) == (way == "grpc")
            assert sender.status().emitted == 0
            spooled = sender.emit(created())
            deliver(sender)
        assert from_emitters(running)[-1].record_id == spooled.record_id

    @pytest.mark.parametrize("way", WAYS)
    def test_signed_batches_are_checked(self, tmp_path, way) -> None:
        """Each entry carries what its emitter's signature needs; the ledger notes that it was checked."""
        root = tmp_path / "data"
        keys = collector.make_keys(root)
        with registry(root) as opened:
            opened.add_emitter_key("signs", str(KEY.verifying_key), ACME, by=collector.OPERATOR)
        started = forward.start(root, keys)
        with emitter(started, way, tmp_path / "s", emitter_id="signs", signing_key=KEY) as sender:
            spooled = [sender.emit(created()) for _ in range(80)]
            deliver(sender)
        found = from_emitters(started)
        assert_whole(found, spooled)
        assert all(item.flags & Flag.BATCH_CHECKED for item in found)
        assert started.terminate() == 0

    @pytest.mark.parametrize("way", WAYS)
    def test_a_forked_child_has_a_connection_and_a_boot_of_its_own(self, running, tmp_path, way) -> None:
        """Parent and child go on, and neither's events are taken for the other's."""
        before = len(running.sealed())
        with emitter(running, way, tmp_path / "s", emitter_id=f"forks-{way}") as sender:
            spooled = [sender.emit(created()) for _ in range(3)]
            deliver(sender)
            child = os.fork()
            if child == 0:
                sender.emit(created())
                os._exit(0 if sender.flush(20) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            spooled += [sender.emit(created()) for _ in range(3)]
            deliver(sender)
        found = from_emitters(running, before)
        assert sorted(item.sequence for item in found) == [0, 0, 1, 2, 3, 4, 5]
        assert_whole([item for item in found if item.emitter == found[0].emitter], spooled)

    def test_many_forks_while_the_parent_sends(self, running, tmp_path) -> None:
        """Over gRPC, whose library keeps threads of its own."""
        before = len(running.sealed())
        stop = threading.Event()
        with emitter(running, "grpc", tmp_path / "s", emitter_id="forks") as sender:

            def emit() -> None:
                while not stop.is_set():
                    sender.emit(created(), wait=True)

            thread = threading.Thread(target=emit)
            thread.start()
            statuses = []
            for _ in range(8):
                child = os.fork()
                if child == 0:
                    sender.emit(created())
                    os._exit(0 if sender.flush(20) else 1)
                statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            stop.set()
            thread.join()
            deliver(sender)
            emitted = sender.status().emitted
        assert statuses == [0] * 8
        assert len(from_emitters(running, before)) == emitted + 8

    def test_an_event_of_an_earlier_run_is_said_to_be_sealed(self, running, tmp_path) -> None:
        """Over gRPC as over HTTP: the first receipt, and no second entry."""
        event = created(id="log_01j8zc3x5mf0q6k1v2b3n4p5q6", timestamp="2026-06-01T00:00:00Z")
        with emitter(running, "grpc", tmp_path / "s") as sender:
            first = sender.emit(event, wait=True)
        with emitter(running, "grpc", tmp_path / "s") as another, pytest.raises(AlreadySealed) as caught:
            another.emit(event, wait=True)
        assert (caught.value.receipt.index, caught.value.receipt.leaf) == (first.index, first.leaf)


class TestRefused:
    """One event that is no entry never stands in the way of others."""

    @pytest.mark.parametrize("way", WAYS)
    def test_the_others_go_on(self, running, tmp_path, way) -> None:
        """It is kept in quarantine, at its own place in the sequence."""
        before = len(running.sealed())
        with emitter(running, way, tmp_path / "s", strict=False) as sender:
            spooled = [sender.emit(created(client_ip="nowhere" if number == 2 else None)) for number in range(5)]
            deliver(sender)
            assert sender.status().delivered == 5
            assert sender.status().refused == (0 if way == "forward" else 1)
        found = sorted(from_emitters(running, before), key=lambda item: item.sequence)
        assert [item.record_id for item in found] == [
            None if number == 2 else one.record_id for number, one in enumerate(spooled)
        ]
        assert [item.sequence for item in found] == [0, 1, 2, 3, 4]

    def test_who_waits_is_told_pointer_and_reason(self, running, tmp_path) -> None:
        """Over gRPC the receipts say so."""
        with emitter(running, "grpc", tmp_path / "s", strict=False) as sender:
            with pytest.raises(InvalidEvent, match="quarantine") as caught:
                sender.emit(created(client_ip="nowhere"), wait=True)
            assert caught.value.pointer == "/metadata/client_ip"
            assert sender.emit(created(), wait=True)

    def test_another_organizations_event_is_refused(self, running, tmp_path) -> None:
        """As over HTTP."""
        with (
            emitter(running, "grpc", tmp_path / "s", organization_id=OTHER) as sender,
            pytest.raises(InvalidEvent) as caught,
        ):
            sender.emit(created(), wait=True)
        assert caught.value.pointer == "/organization_id"

    def test_a_place_that_was_taken_by_another_event_is_refused(self, running, tmp_path) -> None:
        """A spool that was restored from a copy goes over the same numbers again: what is new is in quarantine."""
        first = emitter(running, "grpc", tmp_path / "s", at="127.0.0.1:9", emitter_id="restored")
        first.emit(created())
        first.close(timeout=0)
        shutil.copytree(tmp_path / "s", tmp_path / "copy")
        with emitter(running, "grpc", tmp_path / "s", emitter_id="restored") as sender:
            deliver(sender)
        # The same boot and number, another event: as an emitter would write it that went on from the copy.
        (path,) = (tmp_path / "copy").rglob(f"*{segment.SUFFIX}")
        content = path.read_bytes()
        identity, begin = segment.read_header(content)
        path.write_bytes(content[:begin] + segment.encode_frame(segment.SpooledEvent(0, prepared(ACME))))
        with emitter(running, "grpc", tmp_path / "copy", emitter_id="restored") as sender:
            deliver(sender)
            assert (sender.status().state, sender.status().refused) == ("delivering", 1)
        assert identity.emitter_id == "restored"


class TestBrokenConnections:
    """An answer that never arrives: the request is sent again, and nothing is sealed twice."""

    @pytest.mark.parametrize("way", WAYS)
    def test_a_reset_after_the_request_was_read(self, running, tmp_path, way) -> None:
        """The ledger has the events, the emitter cannot know; in the end each is there once."""
        before = len(running.sealed())
        with proxy(place(running, way)) as between:
            between.cut = lambda: between.cuts < 2 and len(from_emitters(running, before)) > 0
            with emitter(running, way, tmp_path / "s", at=between.address) as sender:
                spooled = [sender.emit(created()) for _ in range(20)]
                deliver(sender)
            assert between.cuts == 2
        assert_whole(from_emitters(running, before), spooled)

    @pytest.mark.parametrize("way", WAYS)
    def test_a_collector_killed_between_sealing_and_answer(self, tmp_path, way) -> None:
        """What it sealed is recognised by the next one."""
        root = tmp_path / "data"
        keys = collector.make_keys(root)
        first = forward.start(root, keys)

        def is_sealed() -> bool:
            if between.cuts or not from_emitters(first):
                return False
            first.kill()
            return True

        with proxy(place(first, way)) as between:
            between.cut = is_sealed
            with emitter(first, way, tmp_path / "s", at=between.address) as sender:
                spooled = [sender.emit(created()) for _ in range(5)]
                deadline = time.monotonic() + 20
                while not between.cuts and time.monotonic() < deadline:
                    time.sleep(0.01)
                assert (between.cuts, sender.status().waiting) == (1, 5)
                second = collector.start(root, keys, **same_places(first))
                deliver(sender)
        assert_whole(from_emitters(second), spooled)
        assert second.terminate() == 0

    @pytest.mark.parametrize("way", WAYS)
    def test_a_collector_that_is_away_for_a_moment(self, running, tmp_path, way) -> None:
        """Nothing is lost, whoever delivers."""
        before = len(running.sealed())
        away = emitter(running, way, tmp_path / "s", at="127.0.0.1:9", timeout=1)
        spooled = [away.emit(created()) for _ in range(3)]
        assert away.close(timeout=0.5) is False
        assert away.status().last_error is not None
        with emitter(running, way, tmp_path / "s") as sender:
            deliver(sender)
        assert_whole(from_emitters(running, before), spooled)

    def test_receipts_that_cannot_be_asked_for_keep_the_event_in_the_spool(self, running, tmp_path) -> None:
        """It is sealed, but not checked; once somebody answers, it is."""
        before = len(running.sealed())
        with emitter(running, "grpc", tmp_path / "s", receipts_from="http://127.0.0.1:9", timeout=1) as sender:
            with pytest.raises(NotSealedYet):
                sender.emit(created(), wait=True)
            assert (len(from_emitters(running, before)), sender.status().waiting) == (1, 1)
            sender.close(timeout=0)
        with emitter(running, "grpc", tmp_path / "s") as sender:
            deliver(sender)
        assert len(from_emitters(running, before)) == 1


class TestOverload:
    """A collector that asks to wait."""

    @pytest.mark.parametrize("way", WAYS)
    def test_everything_arrives_in_the_end(self, tmp_path, way) -> None:
        """An organization that may send little: nobody loses anything, on no way."""
        root = tmp_path / "data"
        started = collector.start(
            root,
            collector.make_keys(root),
            INTAKE__ORGANIZATION_EVENTS_PER_SECOND="40",
            INTAKE__ORGANIZATION_BURST="5",
            FORWARD__LISTEN="127.0.0.1:0",
            FORWARD__KEY=f"file:{self.key(root)}",
        )
        with emitter(started, way, tmp_path / "s") as sender:
            spooled = []
            for _ in range(4):
                spooled += [sender.emit(created()) for _ in range(15)]
                sender.flush(0.05)
            deliver(sender)
        assert_whole(from_emitters(started), spooled)
        assert started.terminate() == 0

    def key(self, root):
        """Return a file with ACME's key, of a registry that has one more."""
        with registry(root) as opened:
            made = opened.create_key(organization_id=ACME, scopes={"emit"}, label="f", by=collector.OPERATOR)
        path = root / "forward-key"
        path.write_text(made.secret_text)
        return path


class Scripted:
    """A gRPC server that answers as it is told.

    Attributes:
        answers: for the next calls: a status code with trailers, or a response.
        asked_at: when each call came.
    """

    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.asked_at: list[float] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        service = "opentelemetry.proto.collector.logs.v1.LogsService"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _export(self, _: bytes, context) -> bytes:
        self.asked_at.append(time.monotonic())
        answer = self.answers.pop(0) if self.answers else ExportLogsServiceResponse()
        if isinstance(answer, ExportLogsServiceResponse):
            return answer.SerializeToString()
        code, trailers = answer
        context.set_trailing_metadata(trailers)
        context.abort(code, "as told")
        raise AssertionError


def rejecting(count: int) -> ExportLogsServiceResponse:
    """Return a success that rejects records, as other receivers do."""
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = count
    response.partial_success.error_message = "not here"
    return response


def delayed(trailer: str, seconds: float) -> tuple:
    """Return trailers that ask to wait, where one of both kinds of clients looks for it."""
    info = RetryInfo(retry_delay=Duration(nanos=int(seconds * 1e9)))
    if trailer == "google.rpc.retryinfo-bin":
        return ((trailer, info.SerializeToString()),)
    status = RpcStatus(code=14, message="busy")
    status.details.add().Pack(info)
    return ((trailer, status.SerializeToString()),)


class TestAnswersOverGrpc:
    """How the emitter takes what a server says; what our collector never says, too."""

    @pytest.mark.parametrize("trailer", ["google.rpc.retryinfo-bin", "grpc-status-details-bin"])
    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
    def test_it_waits_as_long_as_it_is_told(self, tmp_path, trailer, code) -> None:
        """By either trailer."""
        with (
            Scripted((code, delayed(trailer, 0.7))) as server,
            AuditEmitter(f"grpc://{server.target}", organization_id=ACME, spool=tmp_path / "s") as sender,
        ):
            sender.emit(created())
            deadline = time.monotonic() + 10
            while sender.status().waiting and time.monotonic() < deadline:
                time.sleep(0.02)
            first, second = server.asked_at
        assert second - first >= 0.6

    @pytest.mark.parametrize(
        ("answer", "code"),
        [
            ((grpc.StatusCode.INVALID_ARGUMENT, ()), "refused_whole"),
            ((grpc.StatusCode.RESOURCE_EXHAUSTED, ()), "batch_too_large"),
            (rejecting(1), "refused_whole"),
            ((grpc.StatusCode.UNIMPLEMENTED, ()), "not_a_collector"),
            ((grpc.StatusCode.UNAUTHENTICATED, ()), "key_refused"),
            ((grpc.StatusCode.PERMISSION_DENIED, ()), "key_refused"),
        ],
    )
    def test_what_nobody_keeps_stays_in_the_spool(self, tmp_path, answer, code) -> None:
        """Somebody has to act, and is told; afterwards it is delivered."""
        with Scripted(answer) as server, OtlpGrpcTransport(server.target, "k", 5) as transport:
            sender = AuditEmitter(transport, organization_id=ACME, spool=tmp_path / "s")
            sender._delivery.stop()
            sender._delivery._stopping = True
            sender.emit(created())
            assert sender.flush(5) is False
            assert (sender.status().state, sender.status().waiting) == ("paused", 1)
            assert sender._delivery.progress.last_error.code == code
            assert sender.close(5) is True

    def test_an_event_that_is_rejected_is_found_and_the_others_go_on(self, tmp_path) -> None:
        """A batch is halved until what is rejected stands alone."""
        with Scripted(rejecting(1)) as server, OtlpGrpcTransport(server.target, "k", 5) as transport:
            sender = AuditEmitter(transport, organization_id=ACME, spool=tmp_path / "s")
            sender._delivery.stop()
            sender._delivery._stopping = True
            for _ in range(4):
                sender.emit(created())
            assert sender.close(5) is True
        assert len(server.asked_at) == 3

    def test_a_warning_is_logged(self, running, tmp_path, caplog) -> None:
        """Without receipts it is all that is told of what is in quarantine."""
        with emitter(running, "grpc", tmp_path / "s", strict=False, receipts_from="") as sender:
            sender.emit(created(client_ip="nowhere"))
            deliver(sender)
        assert "1 of 1 records were quarantined" in caplog.text


class TestSecured:
    """TLS, client certificates, Forward's handshake, and Unix sockets."""

    def test_all_ways_over_tls_with_client_certificates(self, tmp_path) -> None:
        """One set of files serves the way there and the receipts."""
        authority = Authority(tmp_path)
        server, client = authority.issue("server"), authority.issue("client")
        files = {
            "CERTIFICATE": str(server.certificate),
            "KEY": str(server.key),
            "CLIENT_CA": str(authority.certificate),
        }
        root = tmp_path / "data"
        keys = collector.make_keys(root)
        settings = {
            f"{section}__TLS__{name}": value
            for section in ("OTLP__HTTP", "OTLP__GRPC", "FORWARD")
            for name, value in files.items()
        }
        started = collector.start(
            root,
            keys,
            FORWARD__LISTEN="127.0.0.1:0",
            FORWARD__KEY=forward.secret(root, "key", keys[ACME]),
            **settings,
        )
        tls = ClientTls(authority.certificate, client.certificate, client.key)
        options = {"api_key": keys[ACME], "organization_id": ACME, "tls": tls, "timeout": 5}
        http = f"https://{started.addresses['otlp_http'].removeprefix('https://')}"
        grpc_address, forward_address = started.addresses["otlp_grpc"], started.addresses["forward"]
        with AuditEmitter(http, spool=tmp_path / "h", **options) as sender:
            assert sender.emit(created(), wait=True)
        with AuditEmitter(f"grpcs://{grpc_address}", receipts_from=http, spool=tmp_path / "g", **options) as sender:
            assert sender.emit(created(), wait=True)
        with AuditEmitter(f"forwards://{forward_address}", spool=tmp_path / "f", **options) as sender:
            sender.emit(created())
            deliver(sender)
        assert len(from_emitters(started)) == 3
        assert started.terminate() == 0

    def test_the_handshake_of_forward(self, tmp_path) -> None:
        """With the shared key events arrive; with another nothing does, and an operator is asked for."""
        root = tmp_path / "data"
        keys = collector.make_keys(root)
        started = forward.start(root, keys, SHARED_KEY=forward.secret(root, "shared", SHARED_KEY))
        for shared_key, state in (("wrong", "paused"), (SHARED_KEY, "closed")):
            way = ForwardTransport(place(started, "forward"), shared_key=shared_key, compressed="gzip", timeout=5)
            sender = AuditEmitter(way, organization_id=ACME, spool=tmp_path / shared_key)
            sender.emit(created())
            assert sender.flush(5) is (state == "closed")
            assert state in (sender.status().state, "closed")
            sender.close(0)
        assert len(from_emitters(started)) == 1
        assert started.terminate() == 0

    def test_all_ways_over_unix_sockets(self, tmp_path) -> None:
        """As a sidecar listens."""
        root = tmp_path / "data"
        keys = collector.make_keys(root)
        settings = {
            f"{section}__LISTEN": f"unix:{tmp_path}/{name}"
            for section, name in (("OTLP__HTTP", "http"), ("OTLP__GRPC", "grpc"), ("FORWARD", "forward"))
        }
        started = collector.start(root, keys, FORWARD__KEY=forward.secret(root, "key", keys[ACME]), **settings)
        for way in WAYS:
            options = {"receipts_from": f"http+unix://{tmp_path}/http"} if way == "grpc" else {}
            address = f"{way}+unix://{tmp_path}/{way}"
            with AuditEmitter(
                address, api_key=keys[ACME], organization_id=ACME, spool=tmp_path / "s", timeout=5, **options
            ) as sender:
                sender.emit(created())
                deliver(sender)
        assert len(from_emitters(started)) == 3
        assert started.terminate() == 0


class TestClocks:
    """Clocks that jump, at either end."""

    @pytest.mark.parametrize("way", WAYS)
    def test_the_collectors_clock(self, tmp_path, monkeypatch, way) -> None:
        """No time goes back in the ledger; it may pause until an operator confirms; order and sequence stay."""
        offset = tmp_path / "offset"
        offset.write_text("0")
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(JUMPING.format(str(offset)))
        paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        root = tmp_path / "data"
        keys = collector.make_keys(root)
        started = forward.start(root, keys)
        with emitter(started, way, tmp_path / "s", timeout=2) as sender:
            spooled = []
            for seconds in (0, -300, 3600, 0):
                offset.write_text(str(seconds))
                spooled += [sender.emit(created()) for _ in range(3)]
                sender.flush(0.3)
            assert started.terminate() == 0
            started = collector.start(root, keys, **same_places(started), CONFIRM_CLOCK="true")
            deliver(sender)
        assert_whole(from_emitters(started), spooled)
        times = [record.leaf.ingest_us for record in started.sealed()]
        assert times == sorted(times)
        assert started.terminate() == 0

    @pytest.mark.parametrize("way", WAYS)
    def test_the_emitters_clock(self, running, tmp_path, monkeypatch, way) -> None:
        """Events keep the order of their emission, whatever their timestamps say."""
        before = len(running.sealed())
        real = time.time_ns
        with emitter(running, way, tmp_path / "s") as sender:
            spooled = []
            for hours in (0, -24, 0.2, -1, 0):
                monkeypatch.setattr(time, "time_ns", lambda hours=hours: real() + int(hours * 3_600_000_000_000))
                spooled.append(sender.emit(created()))
            monkeypatch.undo()
            deliver(sender)
        assert_whole(from_emitters(running, before), spooled)
