"""Emitters with keys: what they sign is checked before the seal, kept with the body, and verified."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from klyra_audit import Actor, AuditEmitter, InvalidEvent, events
from klyra_audit.catalog import Catalog
from klyra_audit.format.batch import Evidence
from klyra_audit.format.keys import SigningKey
from klyra_audit.format.leaf import Flag, Kind
from klyra_audit.transports.otlp_http import OtlpHttpTransport, encode_batch
from klyra_collector.data_directory import DataDirectory
from klyra_collector.registry import Registry
from support import collector
from support.collector import ACME

NAME = "payments"
KEY = SigningKey.from_seed(NAME, bytes(range(32)))
STRANGER = SigningKey.from_seed(NAME, bytes(range(1, 33)))
PROTOBUF = {"Content-Type": "application/x-protobuf"}


def registry(root):
    """Return the registry of a data directory."""
    return contextlib.closing(Registry.open(DataDirectory(root).registry_url, Catalog.load()))


@pytest.fixture
def running(tmp_path):
    """A collector that knows the key of one emitter."""
    data = tmp_path / "data"
    keys = collector.make_keys(data)
    with registry(data) as opened:
        opened.add_emitter_key(NAME, str(KEY.verifying_key), ACME, by=collector.OPERATOR)
    started = collector.start(data, keys)
    yield started
    if started.process.poll() is None:
        assert started.terminate() == 0


def emitter(running, transport=None, key=KEY, name=NAME) -> AuditEmitter:
    """Return an emitter that signs, unless it has no key."""
    way = transport or running.url
    return AuditEmitter(
        way, api_key=running.keys[ACME], organization_id=ACME, emitter_id=name, signing_key=key, timeout=10
    )


def created():
    """Return a small valid event."""
    return events.moderation_created(actor=Actor.user("usr_1"), moderation_id="mod_1", content_type="text")


def from_emitter(running) -> list:
    """Return what was sealed with a place in an emitter's sequence."""
    return [record for record in running.sealed() if record.leaf.emitter]


def verify(running) -> str:
    """Stop the collector and return what a verification says."""
    assert running.terminate() == 0
    command = [sys.executable, "-m", "klyra_collector", "verify", str(running.root)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


class Pipeline(OtlpHttpTransport):
    """Sends a batch as something in between would: in other pieces, to the endpoint for everybody."""

    def __init__(self, running, cut) -> None:
        super().__init__(running.url, running.keys[ACME], 10)
        self.url, self.key, self.cut = running.url, running.keys[ACME], cut
        self.answers: list[httpx.Response] = []

    def send(self, batch):
        """Send what is made of a batch; there are no receipts."""
        request = ExportLogsServiceRequest.FromString(encode_batch(batch))
        for piece in self.cut(request):
            headers = PROTOBUF | {"Authorization": f"Bearer {self.key}"}
            answer = httpx.post(f"{self.url}/v1/logs", content=piece.SerializeToString(), headers=headers)
            assert answer.status_code == 200
            self.answers.append(answer)


def in_single_records(request):
    """Cut a request into requests of one record each, the last first."""
    for record in reversed(request.resource_logs[0].scope_logs[0].log_records):
        piece = ExportLogsServiceRequest()
        resource_logs = piece.resource_logs.add()
        resource_logs.resource.CopyFrom(request.resource_logs[0].resource)
        resource_logs.scope_logs.add().log_records.add().CopyFrom(record)
        yield piece


def twice_in_one(request):
    """Join a request with itself: what was sent twice arrives in one piece."""
    joined = ExportLogsServiceRequest()
    joined.MergeFrom(request)
    joined.MergeFrom(request)
    yield joined


def emit_batch(sender: AuditEmitter, count: int) -> None:
    """Have events delivered in one batch."""
    with sender._delivery._turn:
        for _ in range(count):
            sender.emit(created())
    assert sender.flush(20)


def test_what_an_emitter_signs_is_sealed_with_the_evidence(running) -> None:
    """Leaves say that the signature was checked, bodies hold the note and the path, verification finds both right."""
    with emitter(running) as sender:
        emit_batch(sender, 5)
    sealed = from_emitter(running)
    assert [record.leaf.emitter_seq for record in sealed] == [0, 1, 2, 3, 4]
    assert all(record.leaf.flags & Flag.BATCH_CHECKED for record in sealed)
    for record in sealed:
        batch = Evidence.parse(record.body.attachment).verify(record.leaf.commit, KEY.verifying_key)
        assert (batch.emitter_id, batch.count > 1) == (NAME, True)
    assert "INTACT" in verify(running)


@pytest.mark.parametrize("cut", [in_single_records, twice_in_one])
def test_a_batch_that_was_cut_or_joined_on_the_way_is_checked_all_the_same(running, cut) -> None:
    """Every part carries the commits of the whole batch."""
    with emitter(running, Pipeline(running, cut)) as sender:
        emit_batch(sender, 7)
    sealed = from_emitter(running)
    assert sorted(record.leaf.emitter_seq for record in sealed) == list(range(7))
    assert all(record.leaf.flags & Flag.BATCH_CHECKED for record in sealed)
    assert "INTACT" in verify(running)


def without_signature(request):
    """Take the signature away."""
    resource = request.resource_logs[0].resource
    kept = [attribute for attribute in resource.attributes if not attribute.key.startswith("klyra.batch")]
    del resource.attributes[:]
    resource.attributes.extend(kept)
    yield request


def with_other_salts(request):
    """Change what the commits are made of."""
    for record in request.resource_logs[0].scope_logs[0].log_records:
        record.attributes[0].value.bytes_value = bytes(48)
    yield request


def with_other_places(request):
    """Move the events by one place in the sequence."""
    for record in request.resource_logs[0].scope_logs[0].log_records:
        record.attributes[1].value.int_value += 1
    yield request


def with_other_commits(request):
    """Change the commits that travel along."""
    for attribute in request.resource_logs[0].resource.attributes:
        if attribute.key == "klyra.batch.commits":
            attribute.value.bytes_value = bytes(len(attribute.value.bytes_value))
    yield request


def with_fewer_commits(request):
    """Leave one of the commits out."""
    for attribute in request.resource_logs[0].resource.attributes:
        if attribute.key == "klyra.batch.commits":
            attribute.value.bytes_value = attribute.value.bytes_value[32:]
    yield request


@pytest.mark.parametrize(
    "cut", [without_signature, with_other_salts, with_other_places, with_other_commits, with_fewer_commits]
)
def test_what_the_emitter_did_not_sign_is_quarantined(running, cut) -> None:
    """Nothing of it becomes an entry under the emitter's name."""
    with emitter(running, Pipeline(running, cut)) as sender:
        emit_batch(sender, 2)
    kinds = [record.leaf.kind for record in running.sealed() if record.leaf.kind in (Kind.EVENT, Kind.QUARANTINE)]
    assert Kind.QUARANTINE in kinds
    assert not any(record.leaf.kind == Kind.EVENT and record.leaf.emitter for record in running.sealed())


@pytest.mark.parametrize("key", [None, STRANGER], ids=["without a key", "with a stranger's key"])
def test_the_strict_endpoint_refuses_what_no_key_in_force_vouches_for(running, key) -> None:
    """The emitter is told, the event is kept in quarantine, and what follows goes on."""
    with emitter(running, key=key) as sender, pytest.raises(InvalidEvent, match="quarantine"):
        sender.emit(created(), wait=True)
    assert from_emitter(running)[-1].leaf.kind == Kind.QUARANTINE


def test_a_revoked_key_vouches_for_nothing_more(running) -> None:
    """What it signed before stays; an emitter that had a key does not go back to none."""
    with emitter(running) as sender:
        sender.emit(created(), wait=True)
    with registry(running.root) as opened:
        opened.revoke_emitter_key(str(KEY.verifying_key), None, by=collector.OPERATOR)
    time.sleep(2.1)  # for so long the collector may believe what it knew
    for key in (KEY, None):
        with emitter(running, key=key) as sender, pytest.raises(InvalidEvent):
            sender.emit(created(), wait=True)
    assert [record.leaf.kind for record in from_emitter(running)] == [Kind.EVENT, Kind.QUARANTINE, Kind.QUARANTINE]
    assert "INTACT" in verify(running)


def test_an_emitter_without_a_registered_key_needs_none(running) -> None:
    """Its events are sealed, and no leaf says that a signature was checked."""
    with emitter(running, key=None, name="another") as sender:
        sender.emit(created(), wait=True)
    (record,) = from_emitter(running)
    assert (record.leaf.kind, record.leaf.flags & Flag.BATCH_CHECKED, record.body.attachment) == (Kind.EVENT, 0, b"")
