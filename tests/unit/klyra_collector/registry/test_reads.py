"""Reads as entries, merged."""

from __future__ import annotations

import threading

import pytest

from klyra_audit.errors import Rejected
from klyra_audit.event import Actor
from klyra_collector.registry import Registry

READER = Actor.api_key("key_9z8y7x6w5v4u", "Dashboard")
FILTERS = {"event_types": ["moderation.created"], "limit": 100}


def read(registry, returned=3, **changes) -> None:
    """Note a read that differs from others by `changes`."""
    origin = {"client_ip": "198.51.100.7", "user_agent": "curl/8"}
    arguments = {"organization_id": "org_a", "actor": READER, "filters": FILTERS, **origin, **changes}
    registry.note_read(returned=returned, **arguments)


def test_the_first_read_is_told_at_once(registry, told) -> None:
    """Who read what, from where, and how much came back."""
    read(registry)
    (document,) = told.new_documents()
    assert (document["event_type"], document["action"]) == ("audit_log.queried", "read")
    assert document["actor"] == {"type": "api_key", "id": "key_9z8y7x6w5v4u", "name": "Dashboard"}
    metadata = document["metadata"]
    assert (metadata["client_ip"], metadata["user_agent"]) == ("198.51.100.7", "curl/8")
    assert "moderation.created" in str(metadata)


def test_further_reads_are_counted_and_told_when_the_window_closes(registry, told, clock) -> None:
    """Two entries for any number of reads in five minutes."""
    read(registry)
    told.new()
    for _ in range(3):
        clock.advance(minutes=1)
        read(registry, returned=5)
    assert told.new() == []
    assert registry.close_read_windows() == 0
    clock.advance(minutes=2)
    assert registry.close_read_windows() == 1
    (document,) = told.new_documents()
    assert document["event_type"] == "audit_log.queried"
    assert (document["metadata"]["reads"], document["metadata"]["returned"]) == (4, 18)
    assert registry.close_read_windows() == 0


def test_a_window_of_one_read_closes_silently(registry, told, clock) -> None:
    """Its only read was told already."""
    read(registry)
    told.new()
    clock.advance(minutes=5)
    assert registry.close_read_windows() == 0
    assert told.new() == []


def test_a_read_after_the_window_closes_it_and_opens_another(registry, told, clock) -> None:
    """Even if nobody called for closing; the counts come before the new first read."""
    read(registry)
    read(registry)
    told.new()
    clock.advance(minutes=5)
    read(registry)
    closing, first = told.new_documents()
    assert closing["metadata"]["reads"] == 2
    assert "reads" not in first["metadata"]


@pytest.mark.parametrize(
    "changes",
    [
        {"filters": {**FILTERS, "limit": 10}},
        {"filters": {}},
        {"actor": Actor.api_key("key_000000000000")},
        {"actor": Actor.user("key_9z8y7x6w5v4u")},
        {"client_ip": "198.51.100.8"},
        {"client_ip": None},
        {"organization_id": "org_b"},
    ],
)
def test_reads_that_differ_are_not_merged(registry, told, admin, changes) -> None:
    """Other filters, another reader, another place, another organization: each is told."""
    registry.create_organization("org_b", "business", by=admin)
    told.new()
    read(registry)
    read(registry, **changes)
    assert len(told.new()) == 2


@pytest.mark.parametrize("changes", [{"filters": dict(reversed(FILTERS.items()))}, {"user_agent": "curl/9"}])
def test_reads_that_mean_the_same_are_merged(registry, told, changes) -> None:
    """The order of filters and the program that asks make no difference."""
    read(registry)
    read(registry, **changes)
    assert len(told.new()) == 1


def test_windows_outlive_the_process(url, catalog, registry, told, clock) -> None:
    """Another one finds the counts and closes them."""
    read(registry)
    read(registry)
    told.new()
    registry.close()
    clock.advance(minutes=6)
    with Registry.open(url, catalog, clock=clock) as after:
        assert after.close_read_windows() == 1
        assert after.pending_commands(100)[-1].payload["document"]["metadata"]["reads"] == 2


def test_two_processes_count_in_one_window(registry, second, told, clock) -> None:
    """No read is lost and none is told twice, however they interleave."""
    threads = [
        threading.Thread(target=lambda process=process: [read(process) for _ in range(20)])
        for process in (registry, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told.new()) == 1
    clock.advance(minutes=5)
    assert sorted([registry.close_read_windows(), second.close_read_windows()]) == [0, 1]
    (document,) = told.new_documents()
    assert document["metadata"]["reads"] == 40


def test_many_windows_are_closed_in_batches(registry, told, clock, monkeypatch) -> None:
    """All of them, whatever fits into one transaction."""
    monkeypatch.setattr("klyra_collector.registry.reads.CLOSED_AT_ONCE", 2)
    for limit in range(5):
        read(registry, filters={"limit": limit})
        read(registry, filters={"limit": limit})
    told.new()
    clock.advance(minutes=5)
    assert registry.close_read_windows() == 5
    assert len(told.new()) == 5


def test_a_clock_that_was_set_back_ends_a_window(registry, told, clock) -> None:
    """Rather than stretching it until the clock is there again."""
    read(registry)
    read(registry)
    told.new()
    clock.advance(days=-1)
    assert registry.close_read_windows() == 1
    read(registry)
    assert len(told.new()) == 2


def test_reading_an_unknown_organization_is_rejected(registry) -> None:
    """There is no log it could be told in."""
    with pytest.raises(Rejected) as caught:
        read(registry, organization_id="org_b")
    assert caught.value.code == "unknown_organization"
