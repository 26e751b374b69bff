"""The emitter and other real clients against a real collector."""

from __future__ import annotations

import base64
import gc
import http.server
import json
import logging
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource as SdkResource

from klyra_audit import Actor, AuditEmitter, InvalidEvent, Paused, RetryLater, events, ids
from klyra_audit.batch import Batch
from klyra_audit.emitter import default_emitter_id
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind, Leaf
from klyra_audit.otlp import EmitterIdentity
from klyra_audit.receipt import AlreadySealed, ReceiptMismatch
from klyra_audit.transports.http_answers import retry_after
from klyra_audit.transports.otlp_http import OtlpHttpTransport
from klyra_audit.transports.refusal import BatchRefused
from support import collector
from support.collector import ACME, OTHER
from support.otlp import MAPPED


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


@pytest.fixture
def emitter(running):
    """An emitter of ACME's."""
    with AuditEmitter(running.url, api_key=running.keys[ACME], organization_id=ACME, timeout=5) as made:
        yield made


def created(**context):
    """Return a small valid event."""
    return events.moderation_created(
        actor=Actor.user("usr_1", "Zoë"), moderation_id="mod_1", content_type="text", **context
    )


def events_in(running) -> list[object]:
    """Return the sealed events; HEADS records come by themselves, every minute."""
    return [record for record in running.sealed() if Leaf.unpack(record.leaf_bytes).kind == Kind.EVENT]


@contextmanager
def answering(status: int, content: bytes = b"{}", **headers: str):
    """Yield the URL of a server that answers every post like this, and the list of paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestEmitting:
    """What emit returns, and what it raises."""

    def test_returns_a_checked_receipt(self, emitter, running) -> None:
        """The receipt's leaf is the ledger's, and its body is the event."""
        receipt = emitter.emit(created(client_ip="198.51.100.7"), wait=True)
        (record,) = running.sealed(receipt.index)[:1]
        assert record.leaf_bytes == receipt.leaf
        document = sections.join(record.body.sections)
        assert (document["id"], document["actor"]["name"]) == (receipt.record_id, "Zoë")

    def test_sequence_is_gap_free_within_a_boot(self, emitter) -> None:
        """Leaves of one emitter count 0, 1, 2 under one ordinal."""
        leaves = [Leaf.unpack(emitter.emit(created(), wait=True).leaf) for _ in range(3)]
        assert [leaf.emitter_seq for leaf in leaves] == [0, 1, 2]
        assert len({leaf.emitter for leaf in leaves}) == 1

    def test_threads_share_an_emitter(self, emitter) -> None:
        """Concurrent emits each get a receipt of their own, and the sequence has no gap."""
        with ThreadPoolExecutor(8) as threads:
            receipts = list(threads.map(lambda _: emitter.emit(created(), wait=True), range(40)))
        assert len({receipt.index for receipt in receipts}) == 40
        assert sorted(Leaf.unpack(receipt.leaf).emitter_seq for receipt in receipts) == list(range(40))

    def test_a_forked_child_opens_a_boot_of_its_own(self, emitter) -> None:
        """Parent and child never share a place in the sequence."""
        before = Leaf.unpack(emitter.emit(created(), wait=True).leaf)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            leaf = emitter.emit(created(), wait=True).leaf
            os.write(writing, leaf)
            os._exit(0)
        os.waitpid(child, 0)
        leaf = Leaf.unpack(os.read(reading, 1000))
        os.close(reading)
        os.close(writing)
        assert (leaf.emitter != before.emitter, leaf.emitter_seq) == (True, 0)
        assert Leaf.unpack(emitter.emit(created(), wait=True).leaf).emitter_seq == before.emitter_seq + 1

    def test_a_forked_child_leaves_the_connections_of_its_parent_alone(self, emitter) -> None:
        """It neither uses nor drops them: the interpreter would call each an unclosed socket."""
        emitter.emit(created(), wait=True)
        gc.collect()  # what others have left lying about is not the child's
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                emitter.emit(created(), wait=True)
                gc.collect()
            unclosed = [str(each.message) for each in caught if each.category is ResourceWarning]
            os.write(writing, f"{unclosed}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reading, 10_000)
        os.close(reading)
        os.close(writing)
        assert said == b"[]"

    def test_an_invalid_event_raises_before_anything_is_sent(self, emitter, running) -> None:
        """The pointer and the reason come at once."""
        size = len(events_in(running))
        with pytest.raises(InvalidEvent) as caught:
            emitter.emit(created(client_ip="not an address"), wait=True)
        assert caught.value.pointer == "/metadata/client_ip"
        assert len(events_in(running)) == size

    def test_a_float_raises_with_the_remedy(self, emitter) -> None:
        """A float in metadata is refused by the profile."""
        with pytest.raises(InvalidEvent, match="decimal string") as caught:
            emitter.emit(created(metadata={"score": 0.5}), wait=True)
        assert caught.value.pointer == "/metadata/score"

    def test_what_the_collector_refuses_is_quarantined_and_raised(self, running) -> None:
        """An event for another organization is refused, kept in quarantine, and the caller is told."""
        with (
            AuditEmitter(running.url, api_key=running.keys[ACME], organization_id=OTHER, timeout=5) as emitter,
            pytest.raises(InvalidEvent, match="quarantine") as caught,
        ):
            emitter.emit(created(), wait=True)
        assert caught.value.pointer == "/organization_id"
        assert running.sealed()[-1].leaf.kind == Kind.QUARANTINE

    def test_a_refused_key_raises_paused(self, running) -> None:
        """An operator must act; nothing is retried."""
        with (
            AuditEmitter(running.url, api_key="nonsense", organization_id=ACME) as emitter,
            pytest.raises(Paused) as caught,
        ):
            emitter.emit(created(), wait=True)
        assert caught.value.code == "key_refused"

    def test_no_collector_raises_retry_later(self) -> None:
        """When nobody answers within the timeout, the caller is told so, with a remedy."""
        with (
            AuditEmitter("http://127.0.0.1:9", api_key="k", organization_id=ACME, timeout=0.5) as emitter,
            pytest.raises(RetryLater) as caught,
        ):
            emitter.emit(created(), wait=True)
        assert (caught.value.code, bool(caught.value.remedy)) == ("not_sealed_yet", True)

    def test_an_event_without_an_answer_is_sent_again_and_sealed_once(self, running) -> None:
        """After a lost answer the same bytes are sent, recognised, and their receipt checks."""
        before = len(running.sealed())
        transport = LosesAnswers(running.url, running.keys[ACME], 5)
        with AuditEmitter(transport, organization_id=ACME) as emitter:
            receipt = emitter.emit(created(), wait=True)
        assert receipt.duplicate
        assert sum(item.leaf.emitter > 0 and item.leaf.kind == Kind.EVENT for item in running.sealed(before)) == 1

    def test_the_same_object_emitted_again_is_the_same_event(self, emitter, running) -> None:
        """It gets the same receipt, and takes no second place in the sequence."""
        event = created()
        first = emitter.emit(event, wait=True)
        assert emitter.emit(event, wait=True) == first
        assert emitter.emit(event) == emitter.emit(event)
        assert (
            Leaf.unpack(emitter.emit(created(), wait=True).leaf).emitter_seq == Leaf.unpack(first.leaf).emitter_seq + 1
        )

    def test_an_earlier_runs_event_is_said_to_be_sealed(self, emitter, running) -> None:
        """The same id and content from another run: not sealed again, and said so with the first receipt."""
        event = created(id=ids.new_log_id(), timestamp="2026-06-01T00:00:00Z")
        first = emitter.emit(event, wait=True)
        with (
            AuditEmitter(running.url, api_key=running.keys[ACME], organization_id=ACME) as another,
            pytest.raises(AlreadySealed) as caught,
        ):
            another.emit(event, wait=True)
        assert (caught.value.code, bool(caught.value.remedy)) == ("already_sealed", True)
        assert (caught.value.receipt.index, caught.value.receipt.leaf) == (first.index, first.leaf)
        assert sum(item.leaf.emitter > 0 for item in running.sealed(first.index) if item.leaf.kind == Kind.EVENT) == 1


class LosesAnswers(OtlpHttpTransport):
    """Delivers, and loses the first answer."""

    has_lost = False

    def send(self, batch):
        """See `OtlpHttpTransport`."""
        receipts = super().send(batch)
        if not self.has_lost:
            self.has_lost = True
            raise RetryLater("The answer is lost.", retry_after=0)
        return receipts


class TestLyingCollector:
    """Answers that are not to be believed."""

    def receipt(self, running, **changes):
        """Return the answer to an event with members of its receipt changed."""
        with AuditEmitter(running.url, api_key=running.keys[ACME], organization_id=ACME) as emitter:
            receipt = emitter.emit(created(), wait=True)
        members = {
            "record_id": receipt.record_id,
            "log": receipt.log,
            "index": receipt.index,
            "leaf": base64.b64encode(receipt.leaf).decode(),
        }
        return json.dumps({"receipts": [members | changes]}).encode()

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"leaf": "AAAA"},
            {"leaf": None},
            {"leaf": "***"},
            {"index": "x"},
            {"leaf": base64.b64encode(bytes(112)).decode()},
        ],
    )
    def test_a_receipt_for_something_else_raises(self, running, changes) -> None:
        """Another event's receipt, or one that is none, is never taken for an acknowledgement."""
        with (
            answering(200, self.receipt(running, **changes)) as (url, _),
            AuditEmitter(url, api_key="k", organization_id=ACME) as emitter,
            pytest.raises(ReceiptMismatch) as caught,
        ):
            emitter.emit(created(), wait=True)
        assert (caught.value.code, bool(caught.value.remedy)) == ("receipt_mismatch", True)

    @pytest.mark.parametrize("content", [b'{"receipts": []}', b"{}", b"<html>", b"[1]"])
    def test_an_answer_without_the_receipt_raises(self, content) -> None:
        """200 alone acknowledges nothing."""
        with (
            answering(200, content) as (url, _),
            AuditEmitter(url, api_key="k", organization_id=ACME) as emitter,
            pytest.raises(ReceiptMismatch),
        ):
            emitter.emit(created(), wait=True)


class TestTransport:
    """How answers are read."""

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_retryable_answers_are_tried_again_until_the_timeout(self, status) -> None:
        """The same request is sent again while there is time."""
        with (
            answering(status, Retry_After="0") as (url, asked),
            AuditEmitter(url, api_key="k", organization_id=ACME, timeout=1) as emitter,
            pytest.raises(RetryLater),
        ):
            emitter.emit(created(), wait=True)
        assert len(asked) > 1

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry_After": "7"}, 7.0),
            ({"Retry_After": "Mon, 23 Nov 2026 00:00:30 GMT", "Date": "Mon, 23 Nov 2026 00:00:00 GMT"}, 30.0),
            ({"Retry_After": "soon"}, 1.0),
            ({}, 1.0),
        ],
    )
    def test_retry_after_is_read_in_both_forms(self, headers, seconds) -> None:
        """Seconds, or a date compared with the answer's own."""
        assert retry_after(httpx.Response(503, headers={k.replace("_", "-"): v for k, v in headers.items()})) == seconds

    def test_a_refusal_names_the_records(self) -> None:
        """Position, pointer and reason of each refused record are handed on."""
        content = json.dumps({"reason": "no", "records": [{"position": 2, "pointer": "/a", "reason": "is wrong"}]})
        with (
            answering(400, content.encode()) as (url, _),
            OtlpHttpTransport(url, "k", 5) as transport,
            pytest.raises(BatchRefused) as caught,
        ):
            transport.send(Batch(EmitterIdentity("s", "e", "b", ACME), ()))
        (record,) = caught.value.refused
        assert (record.position, record.pointer, record.reason) == (2, "/a", "is wrong")


def test_default_emitter_id_is_printable() -> None:
    """Whatever the program is called, its name can stand in the ledger."""
    assert all("!" <= character <= "~" for character in default_emitter_id())


class TestStockSdk:
    """The OpenTelemetry SDK's own HTTP exporter."""

    def test_its_records_are_sealed(self, running, caplog) -> None:
        """Records with the draft's attributes come out as events, through batching and gzip."""
        from opentelemetry.exporter.otlp.proto.http import Compression

        before = len(running.sealed())
        exporter = OTLPLogExporter(
            endpoint=f"{running.url}/v1/logs",
            headers={"Authorization": f"Bearer {running.keys[ACME]}"},
            compression=Compression.Gzip,
        )
        provider = LoggerProvider(resource=SdkResource.create({"service.name": "billing"}))
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        logger = provider.get_logger("")
        for number in range(20):
            attributes = {key: value for key, value in MAPPED["attributes"].items() if key != "nested"}
            attributes["audit.record.id"] = f"sdk-{number}"
            logger.emit(
                LogRecord(
                    timestamp=MAPPED["time"] + number,
                    event_name="user.removed",
                    body="removed",
                    attributes=attributes,
                )
            )
        with caplog.at_level(logging.WARNING):
            provider.force_flush()
            provider.shutdown()
        assert not caplog.records
        documents = [
            sections.join(item.body.sections) for item in running.sealed(before) if item.leaf.kind == Kind.EVENT
        ]
        named = {document["metadata"].get("source_id") for document in documents} - {None}
        assert named == {f"sdk-{number}" for number in range(20)}
