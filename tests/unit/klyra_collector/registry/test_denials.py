"""Refused access as entries, merged."""

from __future__ import annotations

import threading

import pytest

from klyra_collector.registry import Registry
from klyra_collector.registry.errors import RegistryUnavailable

KEY_ID = "key_9z8y7x6w5v4u"


def deny(registry, reason="revoked", endpoint="/v1/logs", key_id=KEY_ID, organization_id="org_a", **origin) -> None:
    """Record a refused attempt."""
    registry.record_access_denied(reason, endpoint, key_id, organization_id, **origin)


def attempts(documents) -> list[int]:
    """Return the counts of entries."""
    return [document["metadata"]["attempts"] for document in documents]


def test_the_first_attempt_is_told_at_once(registry, told) -> None:
    """Whose key, why, where, and from where."""
    deny(registry, client_ip="198.51.100.7", user_agent="otel/1")
    (document,) = told.new_documents()
    assert (document["event_type"], document["status"]) == ("access.denied", "failure")
    assert (document["organization_id"], document["actor"]["id"]) == ("org_a", KEY_ID)
    metadata = document["metadata"]
    assert (metadata["reason"], metadata["attempts"]) == ("revoked", 1)
    assert (metadata["client_ip"], metadata["user_agent"]) == ("198.51.100.7", "otel/1")
    assert "/v1/logs" in str(document)


def test_an_attempt_of_nobody_known_is_told_to_the_operator(registry, told) -> None:
    """A malformed or unknown key belongs to no organization."""
    registry.record_access_denied("malformed", "/v1/logs")
    (document,) = told.new_documents()
    assert document["organization_id"] == "operator"
    assert document["metadata"]["reason"] == "malformed"


def test_a_flood_is_one_entry_in_five_minutes(registry, told, clock) -> None:
    """Each entry says how many attempts there were since the one before."""
    entries = []
    for _ in range(12 * 60):
        deny(registry)
        clock.advance(seconds=1)
        if clock.now % 60_000_000 == 0:
            registry.close_read_windows()
            entries += [(document["timestamp"][11:19], document) for document in told.new_documents()]
    assert [time for time, _ in entries] == ["12:00:00", "12:05:00", "12:10:00"]
    assert attempts(document for _, document in entries) == [1, 299, 300]


def test_attempts_within_a_second_cost_one_write(registry, told, clock) -> None:
    """They are counted in memory and written with the next one, at closing, or at the end."""
    for _ in range(100):
        deny(registry)
    clock.advance(seconds=1)
    deny(registry)
    deny(registry)
    registry.close()
    clock.advance(minutes=5)
    assert registry.close_read_windows() == 1
    assert attempts(told.new_documents()) == [1, 101]


def test_a_window_without_further_attempts_closes_silently(registry, told, clock) -> None:
    """And the next attempt is told at once again."""
    deny(registry)
    clock.advance(minutes=5)
    assert registry.close_read_windows() == 0
    deny(registry)
    assert attempts(told.new_documents()) == [1, 1]


@pytest.mark.parametrize(
    ("change", "entries"),
    [
        ({"endpoint": "/v1/audit"}, 2),
        ({"key_id": "key_000000000000"}, 2),
        ({"organization_id": None}, 2),
        ({"reason": "expired"}, 1),
        ({"client_ip": "198.51.100.7"}, 1),
    ],
)
def test_attempts_are_merged_by_organization_key_and_endpoint(registry, told, change, entries) -> None:
    """Neither the reason nor the address makes another entry: an attacker chooses those."""
    deny(registry)
    deny(registry, **change)
    assert len(told.new()) == entries


def test_the_count_tells_the_newest_reason(registry, told, clock) -> None:
    """A key that expired and was then revoked is told as revoked."""
    deny(registry, reason="expired")
    clock.advance(seconds=2)
    deny(registry, reason="revoked")
    clock.advance(minutes=5)
    registry.close_read_windows()
    assert [document["metadata"]["reason"] for document in told.new_documents()] == ["expired", "revoked"]


def test_two_processes_count_in_one_window(registry, second, told, clock) -> None:
    """However many threads refuse at once, no attempt is lost."""
    threads = [
        threading.Thread(target=lambda process=process: [deny(process) for _ in range(50)])
        for process in (registry, second, registry, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.advance(minutes=5)
    second.close_read_windows()
    registry.close_read_windows()
    clock.advance(minutes=5)
    registry.close_read_windows()
    assert sum(attempts(told.new_documents())) == 200


def test_attempts_that_could_not_be_written_are_counted_later(url, catalog, clock, registry, told, monkeypatch) -> None:
    """While another process holds the registry they stay in memory."""
    monkeypatch.setattr("klyra_collector.registry.database._BUSY_SECONDS", 0.02)
    with Registry.open(url, catalog, clock=clock) as impatient:
        with registry._database.writing(), pytest.raises(RegistryUnavailable):
            deny(impatient)
        deny(impatient)
        clock.advance(seconds=1)
        deny(impatient)
    assert attempts(told.new_documents()) == [3]


def test_a_long_endpoint_is_cut(registry, told) -> None:
    """A route of our own never is that long."""
    deny(registry, endpoint="/" + "x" * 1000)
    assert len(told.new()) == 1


def test_an_unheard_of_clock_change_does_not_stop_telling(registry, told, clock) -> None:
    """A clock that was set back ends the window."""
    deny(registry)
    clock.advance(days=-1)
    deny(registry)
    assert attempts(told.new_documents()) == [1, 1]


@pytest.mark.parametrize(
    ("sent", "told_as"),
    [
        ({"client_ip": "fe80::1%eth0"}, {"client_ip": "fe80::1"}),
        ({"client_ip": "/run/klyra.sock"}, {}),
        ({"client_ip": ""}, {}),
        ({"user_agent": "a\0b"}, {"user_agent": "ab"}),
        ({"user_agent": "x" * 100_000}, {"user_agent": "x" * 1024}),
        ({"user_agent": "\ud800"}, {"user_agent": "?"}),
        ({"user_agent": ""}, {}),
    ],
)
def test_nothing_a_client_sends_keeps_its_refusal_out_of_the_log(registry, told, sent, told_as) -> None:
    """What an entry cannot hold is cut off or left out."""
    deny(registry, **sent)
    (document,) = told.new_documents()
    assert {name: document["metadata"].get(name) for name in ("client_ip", "user_agent")} == {
        "client_ip": None,
        "user_agent": None,
        **told_as,
    }
