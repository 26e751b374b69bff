"""Signs of life: when they are sealed, and where they go."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from klyra_audit.catalog import Catalog
from klyra_audit.errors import RetryLater
from klyra_audit.format.sections import OPERATOR_ORGANIZATION_ID
from klyra_collector.fanout.heartbeat import EVENT_TYPE, Heartbeats, is_heartbeat_of
from klyra_collector.fanout.source import Wanted
from klyra_collector.receive.senders import OPERATOR_TENANCY as OPERATOR
from klyra_collector.registry import Registry
from support import sink as sinks
from support.delivering import NAME, bench
from support.records import STARTUP, record, submission
from support.sealing import MIDSUMMER_US, SetClock, open_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.sink import Sink

HOUR_US = 3600 * 10**6


class Clock:
    """A time that is set."""

    now_us = MIDSUMMER_US

    def __call__(self) -> int:
        """Return it."""
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    """Midnight of midsummer's day."""
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    """A registry whose outbox is empty."""
    with contextlib.closing(
        Registry.open(f"sqlite:///{tmp_path}/registry.sqlite", Catalog.load(), clock=clock)
    ) as made:
        yield made


def waiting(registry: Registry) -> list[tuple[str, str]]:
    """Return organization and destination of each sign of life that waits to be sealed."""
    commands = registry.pending_commands(100)
    documents = [(command.organization_id, command.payload["document"]) for command in commands]
    assert {document["event_type"] for _, document in documents} <= {EVENT_TYPE}
    return [(owner, document["resource"]["id"]) for owner, document in documents]


def test_one_in_each_interval(registry, clock) -> None:
    """None in the one in which the follower was started, so that starting it often adds nothing; then one each."""
    beating = Heartbeats(registry, lambda: [("back", "otlp", 3600), ("often", "splunk", 600)], clock)
    for _ in range(3):
        beating.beat()
    assert waiting(registry) == []
    for minutes in range(0, 121, 5):
        clock.now_us = MIDSUMMER_US + minutes * 60 * 10**6
        beating.beat()
    found = waiting(registry)
    assert found.count((OPERATOR_ORGANIZATION_ID, "back")) == 2
    assert found.count((OPERATOR_ORGANIZATION_ID, "often")) == 12


def test_a_registry_that_does_not_answer_is_asked_again(registry, clock, monkeypatch) -> None:
    """The sign of life comes late, not never."""
    beating = Heartbeats(registry, lambda: [("back", "otlp", 3600)], clock)
    clock.now_us += HOUR_US

    def fail(*_: object) -> None:
        raise RetryLater("It is away.", remedy="Wait.", code="away")

    monkeypatch.setattr(registry, "record_event", fail)
    with capture_logs() as logs:
        beating.beat()
    assert [(line["event"], line["code"]) for line in logs] == [("destination_heartbeat_failed", "away")]
    monkeypatch.undo()
    beating.beat()
    assert len(waiting(registry)) == 1


def test_it_ends_when_it_is_told_to(registry, clock) -> None:
    """It beats on a thread of its own."""
    beating, stop = Heartbeats(registry, lambda: [("back", "otlp", 3600)], clock), threading.Event()
    thread = threading.Thread(target=beating.run, args=(stop,))
    thread.start()
    clock.now_us += HOUR_US
    deadline = time.monotonic() + 10
    while not waiting(registry):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def heartbeat(name: str):
    """Return a sign of life as the outbox has it sealed."""
    return record(
        OPERATOR,
        event_type=EVENT_TYPE,
        actor={"type": "system", "id": "klyra-audit", "name": None},
        resource={"type": "siem_destination", "id": name, "name": None},
        action="create",
        metadata={"purpose": "alive", "interval_seconds": 3600},
    )


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A receiver."""
    with sinks.listening() as made:
        yield made


@pytest.mark.parametrize("wanted", [None, Wanted(event_types=frozenset({"user.added"}))])
def test_it_goes_to_its_own_destination_whatever_that_wants(data_directory, sink, wanted) -> None:
    """Other destinations' signs of life, and what else is the operator's, go nowhere."""
    own, other, customers = heartbeat(NAME), heartbeat("other"), record(STARTUP)
    ledger = open_ledger(data_directory, SetClock())
    ledger.commit([submission(own, other, record(OPERATOR), customers)])
    ledger.close()
    with bench(data_directory, sink.url, wanted=wanted, heartbeats=True) as delivering:
        delivering.deliver()
        assert delivering.status().skipped["organization"] == 2
    assert sink.ids() == [own.record_id] + ([] if wanted else [customers.record_id])


def test_a_destination_that_wants_none_gets_none(data_directory, sink) -> None:
    """The operator's entries are not looked into at all."""
    ledger = open_ledger(data_directory, SetClock())
    ledger.commit([submission(heartbeat(NAME))])
    ledger.close()
    with bench(data_directory, sink.url) as delivering:
        delivering.deliver()
    assert sink.ids() == []


def test_what_is_one() -> None:
    """Type and destination decide."""
    document = {"event_type": EVENT_TYPE, "resource": {"id": "back"}}
    assert is_heartbeat_of("back", document)
    assert not is_heartbeat_of("forth", document)
    assert not is_heartbeat_of("back", document | {"event_type": "user.added"})
