"""Destinations that organizations set up: each change with its entry, and nobody else's."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from klyra_audit.catalog import Catalog
from klyra_audit.errors import Rejected
from klyra_collector.registry import Registry
from klyra_collector.registry.destinations import (
    MOST_DESTINATIONS,
    TRIAL_LIFETIME_US,
    DestinationSpec,
    new_destination_id,
)
from klyra_collector.registry.origin import Origin
from support.api import OPERATOR
from support.sealing import MIDSUMMER_US

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OURS, OTHERS = "org_ours", "org_others"
ID = "dst-abcdefghijkl"
SPEC = DestinationSpec(
    name="splunk",
    kind="splunk",
    endpoint="https://a.splunkcloud.com",
    format="native",
    when_too_old="restamp",
    filters={"event_types": ["user.added"], "statuses": [], "actors": ["usr_1"]},
    options={"index": "klyra"},
    secrets={"token": "c2VhbGVk"},
)


class Clock:
    """A time that is set."""

    now_us = MIDSUMMER_US

    def __call__(self) -> int:
        """Return it."""
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    """Midsummer."""
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    """Two organizations."""
    url = f"sqlite:///{tmp_path}/registry.sqlite"
    with contextlib.closing(Registry.open(url, Catalog.load(), clock=clock)) as made:
        for name in (OURS, OTHERS):
            made.create_organization(name, "enterprise", by=OPERATOR)
        yield made


def recorded(registry: Registry) -> list[dict]:
    """Return the documents of entries about destinations, oldest first."""
    documents = [one.payload["document"] for one in registry.pending_commands(100) if one.kind == "event"]
    return [one for one in documents if one["event_type"].startswith("siem_destination.")]


def test_a_destination_is_kept_with_its_entry(registry) -> None:
    """The entry says what it is, who did it and from where; no secret, sealed or not."""
    origin = Origin("198.51.100.7", "tests/1")
    made = registry.destinations.create(OURS, ID, SPEC, by=OPERATOR, origin=origin)
    assert registry.destinations.get(OURS, ID) == made
    assert (made.spec, made.version, made.status) == (SPEC, 1, None)
    [entry] = recorded(registry)
    assert (entry["event_type"], entry["organization_id"]) == ("siem_destination.created", OURS)
    assert entry["resource"] == {"type": "siem_destination", "id": ID, "name": "splunk"}
    assert entry["metadata"] == {
        "kind": "splunk",
        "payload": "native",
        "endpoint": "https://a.splunkcloud.com",
        "filters": {"event_types": ["user.added"], "actors": ["usr_1"]},
        "client_ip": "198.51.100.7",
        "user_agent": "tests/1",
    }


def test_a_change_names_what_was_changed(registry) -> None:
    """Never the values; its version counts, so that the follower begins anew."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    changed = replace(SPEC, secrets={"token": "YW5vdGhlcg=="}, options={"index": "other"})
    made = registry.destinations.change(OURS, ID, changed, by=OPERATOR)
    assert (made.version, registry.destinations.get(OURS, ID).spec) == (2, changed)
    [_, entry] = recorded(registry)
    assert (entry["event_type"], entry["metadata"]["changes"]) == ("siem_destination.updated", ["options", "secrets"])
    assert not {"c2VhbGVk", "YW5vdGhlcg=="} & set(str(entry).replace("'", " ").split())


def test_a_pause_is_no_new_version(registry) -> None:
    """A delivery goes on from where it stood."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    made = registry.destinations.change(OURS, ID, replace(SPEC, paused=True), by=OPERATOR)
    assert (made.version, made.spec.paused) == (1, True)
    assert recorded(registry)[1]["metadata"]["changes"] == ["paused"]


def test_nothing_changed_is_nothing_recorded(registry) -> None:
    """Asking twice is asking once."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    registry.destinations.change(OURS, ID, SPEC, by=OPERATOR)
    assert len(recorded(registry)) == 1


def test_a_deleted_one_is_gone_with_its_secrets(registry) -> None:
    """Its entry stays; its name is free."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    registry.destinations.delete(OURS, ID, by=OPERATOR)
    assert registry.destinations.all() == []
    assert [entry["event_type"] for entry in recorded(registry)] == [
        "siem_destination.created",
        "siem_destination.deleted",
    ]
    registry.destinations.create(OURS, new_destination_id(), SPEC, by=OPERATOR)


@pytest.mark.parametrize("call", ["get", "change", "delete", "request_trial"])
def test_another_organizations_is_none(registry, call) -> None:
    """It cannot be told from one that does not exist."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    calls = {
        "get": lambda: registry.destinations.get(OTHERS, ID),
        "change": lambda: registry.destinations.change(OTHERS, ID, SPEC, by=OPERATOR),
        "delete": lambda: registry.destinations.delete(OTHERS, ID, by=OPERATOR),
        "request_trial": lambda: registry.destinations.request_trial(OTHERS, ID),
    }
    with pytest.raises(Rejected) as caught:
        calls[call]()
    assert (caught.value.code, caught.value.remedy) == ("unknown_destination", "List those there are.")
    assert registry.destinations.all(OTHERS) == []
    assert len(registry.destinations.all(OURS)) == 1


def test_a_name_is_one_destination_of_an_organization(registry) -> None:
    """Others may have the same; one's own, neither new nor by renaming."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    registry.destinations.create(OTHERS, new_destination_id(), SPEC, by=OPERATOR)
    other = registry.destinations.create(OURS, new_destination_id(), replace(SPEC, name="two"), by=OPERATOR)
    for act in (
        lambda: registry.destinations.create(OURS, new_destination_id(), SPEC, by=OPERATOR),
        lambda: registry.destinations.change(OURS, other.destination_id, SPEC, by=OPERATOR),
    ):
        with pytest.raises(Rejected) as caught:
            act()
        assert caught.value.code == "destination_exists"
        assert caught.value.remedy == "Choose another name, or change that one."


def test_there_are_not_too_many(registry) -> None:
    """Each costs the follower a thread."""
    for number in range(MOST_DESTINATIONS):
        registry.destinations.create(OURS, new_destination_id(), replace(SPEC, name=f"n{number}"), by=OPERATOR)
    with pytest.raises(Rejected) as caught:
        registry.destinations.create(OURS, new_destination_id(), SPEC, by=OPERATOR)
    assert (caught.value.code, caught.value.remedy) == (
        "too_many_destinations",
        "Delete one that is not needed any more.",
    )
    registry.destinations.create(OTHERS, new_destination_id(), SPEC, by=OPERATOR)


def test_of_an_unknown_organization(registry) -> None:
    """There is none."""
    with pytest.raises(Rejected) as caught:
        registry.destinations.create("org_nobody", ID, SPEC, by=OPERATOR)
    assert caught.value.code == "unknown_organization"


def test_what_the_follower_says_is_kept(registry) -> None:
    """No entry, for nothing was changed; of a deleted one nothing is kept."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    registry.destinations.report(ID, {"state": "delivering", "entries": 3})
    assert registry.destinations.get(OURS, ID).status == {"state": "delivering", "entries": 3}
    registry.destinations.report("dst-gone00000000", {"state": "delivering"})
    assert len(recorded(registry)) == 1


def test_the_last_sealing_key_counts(registry) -> None:
    """None before a follower has run."""
    assert registry.destinations.sealing_key() is None
    for key in (b"1" * 32, b"2" * 32, b"2" * 32):
        registry.destinations.publish_sealing_key(key)
    assert registry.destinations.sealing_key() == b"2" * 32


def test_a_trial_is_asked_for_and_answered(registry, clock) -> None:
    """Each once; those that nobody answered in time are forgotten."""
    registry.destinations.create(OURS, ID, SPEC, by=OPERATOR)
    first = registry.destinations.request_trial(OURS, ID)
    assert registry.destinations.pending_trials() == [(first, ID)]
    assert registry.destinations.trial_answer(first) is None
    registry.destinations.answer_trial(first, {"outcome": "delivered"})
    assert registry.destinations.pending_trials() == []
    assert registry.destinations.trial_answer(first) == {"outcome": "delivered"}
    second = registry.destinations.request_trial(OURS, ID)
    clock.now_us += TRIAL_LIFETIME_US + 1
    assert registry.destinations.pending_trials() == []
    registry.destinations.request_trial(OURS, ID)
    assert registry.destinations.trial_answer(second) is None
    assert registry.destinations.trial_answer(first) is None


def test_ids_differ() -> None:
    """They name files and metrics, and tell nothing."""
    made = {new_destination_id() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one) == 16 and one.startswith("dst-") for one in made)
