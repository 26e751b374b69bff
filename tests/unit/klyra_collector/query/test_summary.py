"""Counts over entries: the same filters as a list, the same rights, and an entry like any other read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.api import EVENTS, Api, assert_problem
from support.entries import document

if TYPE_CHECKING:
    import httpx

PATH = "/v1/audit-logs/summary"


def test_counts_are_those_of_the_list(client: httpx.Client) -> None:
    """Total, times and frequent values are of what a list with the same filters shows."""
    listed = client.get("/v1/audit-logs?limit=1000&order=asc").json()["data"]
    answer = client.get(PATH).json()
    assert list(answer) == ["total", "first", "last", "interval_seconds", "buckets", "top"]
    assert answer["total"] == len(listed)
    assert (answer["first"], answer["last"]) == (listed[0]["timestamp"], listed[-1]["timestamp"])
    assert sum(one["success"] + one["failure"] for one in answer["buckets"]) == len(listed)
    assert sum(one["entries"] for one in answer["top"]["event_types"]) == len(listed)


def test_filters_stand_where_a_lists_do(client: httpx.Client) -> None:
    """In the query, in the body of a GET, in the body of a POST: three ways to the same answer."""
    asked = {"event_types": ["user.added"], "buckets": 5}
    answers = [
        client.get(f"{PATH}?event_types=user.added&buckets=5"),
        client.request("GET", PATH, json=asked),
        client.post(PATH, json=asked),
    ]
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["top"]["event_types"] == [{"value": "user.added", "entries": 1}]
    assert json.loads(answers[0].headers["Klyra-Filters"]) == {"event_types": ["user.added"]}


def test_buckets_have_no_gaps_and_are_round(fresh: Api) -> None:
    """An hour and a half of entries in at most ten spans: of fifteen minutes each, empty ones too."""
    times = ["2026-03-10T10:02:00Z", "2026-03-10T10:03:00Z", "2026-03-10T11:31:00.5Z"]
    statuses = ["success", "failure", "success"]
    fresh.seal(
        *(
            document(number, timestamp=time, status=status)
            for number, (time, status) in enumerate(zip(times, statuses, strict=True))
        )
    )
    with fresh.client() as client:
        answer = client.get(f"{PATH}?buckets=10").json()
    assert answer["interval_seconds"] == 900
    assert [one["start"][11:16] for one in answer["buckets"]] == [
        "10:00",
        "10:15",
        "10:30",
        "10:45",
        "11:00",
        "11:15",
        "11:30",
    ]
    assert [(one["success"], one["failure"]) for one in answer["buckets"]] == [(1, 1), *[(0, 0)] * 5, (1, 0)]


def test_nothing_found_is_an_answer_too(client: httpx.Client) -> None:
    """No times, no buckets, and a warning where there is one."""
    answer = client.get(f"{PATH}?event_types=no.such").json()
    assert (answer["total"], answer["first"], answer["interval_seconds"], answer["buckets"]) == (0, None, 0, [])
    assert answer["top"]["actor_ids"] == []
    assert "no.such" in answer["warnings"][0]


def test_frequent_values_can_be_left_out(client: httpx.Client) -> None:
    """Whoever draws time alone does not make the store count values."""
    assert set(map(len, client.get(f"{PATH}?top=0").json()["top"].values())) == {0}
    assert max(map(len, client.get(f"{PATH}?top=1").json()["top"].values())) == 1


@pytest.mark.parametrize(
    ("query", "parameter"), [("buckets=1", "buckets"), ("top=101", "top"), ("order=asc", "order"), ("limit=5", "limit")]
)
def test_what_makes_no_sense_is_named(client: httpx.Client, query: str, parameter: str) -> None:
    """Order and pages are a list's."""
    answer = client.get(f"{PATH}?{query}")
    assert (answer.status_code, answer.json()["parameter"]) == (400, parameter)


def test_another_organization_adds_nothing(api: Api) -> None:
    """An organization counts its own entries alone, and a key without the right to read counts nothing."""
    with api.client() as client:
        before = client.get(PATH).json()["total"]
        assert 0 < before <= len(EVENTS)
    with api.client("emit") as client:
        assert_problem(client.get(PATH), 403, "scope_missing")
