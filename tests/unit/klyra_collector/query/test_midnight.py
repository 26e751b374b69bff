"""At the stroke of the midnight that ends an entry's time it is gone from every answer, though nothing deleted it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from klyra_audit.format.leaf import Leaf
from support.api import Api, assert_problem, ids
from support.entries import RETENTION_DAYS, TODAY, document
from support.ledgers import ACME, DAY_US, small_ledger
from support.published import publishing_api

if TYPE_CHECKING:
    import httpx

ENTRY = "log_00000000000000000000000007"  # of the ledger below, kept for 30 days
MIDNIGHT_US = (TODAY + 1 + RETENTION_DAYS) * DAY_US
OLD = {"start_time": "2020-01-01T00:00:00Z"}


def listed(client: httpx.Client) -> list[str]:
    """List with filters in the query string."""
    return ids(client.get("/v1/audit-logs", params={"limit": 10}))


def listed_by_body(client: httpx.Client) -> list[str]:
    """List with filters in the body of a GET, as the product page's own curl sends them."""
    return ids(client.request("GET", "/v1/audit-logs", json={"event_types": ["moderation.created"]}))


def searched(client: httpx.Client) -> list[str]:
    """List by POST, each filter driving the search over an index of its own."""
    found = [ids(client.post("/v1/audit-logs/search", json=filters)) for filters in FILTERS]
    assert all(item == found[0] for item in found)
    return found[0]


def exported(client: httpx.Client) -> list[str]:
    """Export as JSON."""
    answer = client.post("/v1/audit-logs/export", json={"format": "json"})
    return [entry["id"] for entry in answer.raise_for_status().json()]


def got(client: httpx.Client) -> list[str]:
    """Get the entry by its id."""
    answer = client.get(f"/v1/audit-logs/{document(0)['id']}")
    if answer.status_code == 404:
        return []
    return [answer.raise_for_status().json()["id"]]


FILTERS = [
    {},
    {"resource_ids": ["mod_0"]},
    {"actor_ids": ["key_9z8y7x6w5v4u"]},
    {"client_ip": "198.51.100.0/24"},
    {"event_types": ["moderation.created"]},
    {"start_time": "2026-03-01T00:00:00Z"},
]


@pytest.mark.parametrize("look", [listed, listed_by_body, searched, exported, got], ids=lambda look: look.__name__)
def test_an_entry_is_shown_until_midnight_and_not_after(fresh: Api, look: Callable[[httpx.Client], list[str]]) -> None:
    """One microsecond decides: every way of looking shows the entry before it, none does from it on."""
    fresh.seal(document(0))
    with fresh.client() as client:
        fresh.clock.now_us = MIDNIGHT_US - 1
        assert look(client) == [document(0)["id"]]
        fresh.clock.now_us = MIDNIGHT_US
        assert look(client) == []


def test_the_next_page_shows_nothing_that_has_ended_since(fresh: Api) -> None:
    """A cursor from before midnight finds behind it only what is in force when it is used."""
    fresh.seal(*(document(number) for number in range(4)))
    fresh.seal(document(4, timestamp="2026-03-01T00:00:00Z"), retention_days=90)
    with fresh.client() as client:
        fresh.clock.now_us = MIDNIGHT_US - 1
        first = client.get("/v1/audit-logs", params={"limit": 2})
        assert len(ids(first)) == 2
        fresh.clock.now_us = MIDNIGHT_US
        rest = client.get("/v1/audit-logs", params={"limit": 10, "cursor": first.json()["next_cursor"]})
        assert ids(rest) == [document(4)["id"]]


def test_the_window_moves_on(fresh: Api) -> None:
    """Before midnight the window begins on the day of sealing, after it that day is outside."""
    fresh.seal(document(0))
    asked = {"format": "json", "start_time": "2026-03-10T00:00:00Z", "end_time": "2026-03-10T23:59:59Z"}
    with fresh.client() as client:
        fresh.clock.now_us = MIDNIGHT_US - 1
        before = client.post("/v1/audit-logs/export", json=asked)
        assert before.headers["klyra-window-start"].startswith("2026-03-10")
        fresh.clock.now_us = MIDNIGHT_US
        assert_problem(client.post("/v1/audit-logs/export", json=asked), 422, "outside_window")


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Api]:
    """The API beside a ledger in files, whose bodies are all still there."""
    with publishing_api(small_ledger(), tmp_path) as running:
        yield running


def test_nothing_is_proved_after_its_time(published: Api) -> None:
    """The evidence of an entry, which holds its sections, ends with the entry, while the body still lies there."""
    leaf = next(
        Leaf.unpack(encoded)
        for index, encoded in enumerate(small_ledger().leaves)
        if index == 7  # the entry's
    )
    with published.client("verify", organization_id=ACME) as client:
        published.clock.now_us = leaf.expire_day * DAY_US - 1
        assert client.get(f"/v1/audit-logs/{ENTRY}/proof").status_code == 200
        published.clock.now_us = leaf.expire_day * DAY_US
        assert_problem(client.get(f"/v1/audit-logs/{ENTRY}/proof"), 404, "not_found")
