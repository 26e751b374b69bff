"""Applications on the OpenTelemetry SDK: with our processor nothing is lost; what their other processors do stays."""

from __future__ import annotations

import time

import pytest
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from klyra_audit import AuditEmitter, InvalidEvent
from klyra_audit.format import sections
from klyra_audit.format.leaf import Kind
from klyra_audit.integrations.opentelemetry_processor import KlyraAuditProcessor
from klyra_audit.mapping.table import Additions
from support import collector
from support.collector import ACME

ATTRIBUTES = {
    "audit.actor.id": "usr_1",
    "audit.actor.type": "user",
    "audit.target.id": "usr_2",
    "audit.action": "DELETE",
    "audit.outcome": "success",
    "client.address": "203.0.113.9",
    "ticket": "OPS-7",
    "tags": ["a", "b"],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One collector for all tests of this file."""
    root = tmp_path_factory.mktemp("data")
    started = collector.start(root, collector.make_keys(root))
    yield started
    assert started.terminate() == 0


@pytest.fixture
def emitter(running, tmp_path):
    """An emitter of ACME's."""
    with AuditEmitter(
        running.url, api_key=running.keys[ACME], organization_id=ACME, emitter_id="sdk", spool=tmp_path / "s"
    ) as made:
        yield made


def providing(processor) -> tuple[LoggerProvider, InMemoryLogRecordExporter]:
    """Return a provider with our processor and one of the application's own."""
    provider = LoggerProvider(Resource({"service.name": "shop", "region": "eu"}), shutdown_on_exit=False)
    own = InMemoryLogRecordExporter()
    provider.add_log_record_processor(processor)
    provider.add_log_record_processor(SimpleLogRecordProcessor(own))
    return provider, own


def sealed(running) -> list[tuple[dict, int]]:
    """Return the documents of events with a place in an emitter's sequence, and the place."""
    return [
        (sections.join(record.body.sections), record.leaf.emitter_seq)
        for record in running.sealed()
        if record.leaf.kind == Kind.EVENT and record.leaf.emitter
    ]


def test_audit_records_are_events_and_the_others_are_left_alone(running, emitter) -> None:
    """Resource, scope, trace and every attribute are kept; the application's own processor sees everything."""
    provider, own = providing(KlyraAuditProcessor(emitter))
    logger = provider.get_logger("shop.admin", "1.2")
    span = trace.NonRecordingSpan(trace.SpanContext(0xA1, 0xB2, is_remote=False))
    with trace.use_span(span):
        logger.emit(LogRecord(timestamp=time.time_ns(), event_name="user.removed", attributes=ATTRIBUTES, body="gone"))
        logger.emit(LogRecord(timestamp=time.time_ns(), body="nothing to audit"))
    assert provider.force_flush() is True
    document, sequence = sealed(running)[-1]
    assert (document["event_type"], document["actor"]["id"], document["resource"]["id"], sequence) == (
        "user.removed",
        "usr_1",
        "usr_2",
        0,
    )
    metadata = document["metadata"]
    assert (metadata["client_ip"], metadata["message"]) == ("203.0.113.9", "gone")
    assert (metadata["trace_id"], metadata["span_id"]) == (f"{0xA1:032x}", f"{0xB2:016x}")
    assert (metadata["attributes"]["ticket"], metadata["attributes"]["tags"]) == ("OPS-7", ["a", "b"])
    assert (metadata["resource"]["service.name"], metadata["resource"]["region"]) == ("shop", "eu")
    assert "shop.admin" in str(metadata)
    assert len(own.get_finished_logs()) == 2
    assert emitter.status().emitted == 1


def test_an_invalid_audit_record_reaches_the_one_who_emits_it(emitter) -> None:
    """With the pointer; an audit trail that swallows errors is none."""
    provider, _ = providing(KlyraAuditProcessor(emitter))
    with pytest.raises(InvalidEvent) as caught:
        provider.get_logger("shop").emit(LogRecord(timestamp=time.time_ns(), event_name="user.removed"))
    assert caught.value.pointer == "/actor/id"


def test_names_of_ones_own_are_understood(running, emitter) -> None:
    """The same additions as in the collector's configuration."""
    additions = Additions(attributes={"actor.id": ("principal",)})
    provider, _ = providing(KlyraAuditProcessor(emitter, additions=additions))
    attributes = {"principal": "usr_9", "audit.target.id": "usr_2"}
    provider.get_logger("shop").emit(
        LogRecord(timestamp=time.time_ns(), event_name="user.removed", attributes=attributes)
    )
    assert provider.force_flush() is True
    assert sealed(running)[-1][0]["actor"]["id"] == "usr_9"


def test_the_application_decides_what_is_audited(emitter) -> None:
    """By a function of its own."""
    processor = KlyraAuditProcessor(emitter, is_audit=lambda foreign: foreign.attributes.get("audit") is True)
    provider, _ = providing(processor)
    provider.get_logger("shop").emit(
        LogRecord(timestamp=time.time_ns(), event_name="user.removed", attributes=ATTRIBUTES)
    )
    assert emitter.status().emitted == 0


def test_shutdown_closes_the_emitter(running, emitter) -> None:
    """Everything that can be delivered is."""
    provider, _ = providing(KlyraAuditProcessor(emitter))
    provider.get_logger("shop").emit(
        LogRecord(timestamp=time.time_ns(), event_name="user.removed", attributes=ATTRIBUTES)
    )
    provider.shutdown()
    assert emitter.status().state == "closed"
    assert emitter.status().waiting == 0
