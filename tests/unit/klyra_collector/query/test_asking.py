"""How filters are given, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.api import (
    EVENTS,
    assert_problem,
    ids,
    numbers,
    running_api,
)
from support.entries import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx


@pytest.fixture(scope="module")
def precise(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a log with entries a nanosecond to a second apart."""
    fractions = ["", ".000000999", ".000999", ".05", ".1", ".999", ".999999999"]
    with running_api(tmp_path_factory.mktemp("precise")) as running:
        running.seal(
            *(document(number, timestamp=f"2026-03-10T11:00:00{text}Z") for number, text in enumerate(fractions)),
            document(9, timestamp="2026-03-10T11:00:01Z"),
        )
        with running.client() as opened:
            yield opened


class TestAsking:
    """How filters are given."""

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", [0, 1, 2, 3, 4, 5]),
            ("event_types=user.added", [2]),
            ("event_types=user.added&event_types=moderation.flagged", [2, 3]),
            ("event_types=user.added,moderation.flagged", [2, 3]),
            ("actor_types=user,system", [2, 5]),
            ("actor_ids=usr_1%2Cada", [2]),
            ("actor_ids=usr_1%2Cada&actor_ids=scanner", [2, 5]),
            ("resource_ids=mod_0&resource_ids=usr_2", [0, 2]),
            ("resource_types=user", [2]),
            ("actions=update", [1, 3]),
            ("status=failure", [3]),
            ("status=failure,success", [0, 1, 2, 3, 4, 5]),
            ("client_ip=203.0.113.9", [4]),
            ("client_ip=198.51.100.0/24", [0, 1, 2, 3]),
            ("client_ip=2001:db8::/32", [5]),
            ("start_time=2026-03-10T11:00:04Z", [4, 5]),
            ("end_time=2026-03-10T11:00:01Z", [0, 1]),
            ("start_time=2026-03-10T12:00:02%2B01:00&end_time=2026-03-10T06:00:03-05:00", [2, 3]),
            ("event_types=moderation.created&client_ip=203.0.113.0/24", [4]),
        ],
    )
    def test_query_string_body_and_search_agree(self, client: httpx.Client, query: str, expected: list[int]) -> None:
        """The same filters find the same entries wherever they stand."""
        by_query = client.get("/v1/audit-logs?" + query)
        assert numbers(by_query) == expected
        filters = json.loads(by_query.headers["Klyra-Filters"])
        for answer in (
            client.request("GET", "/v1/audit-logs", json=filters),
            client.post("/v1/audit-logs/search", json=filters),
        ):
            assert answer.content == by_query.content
            assert json.loads(answer.headers["Klyra-Filters"]) == filters

    def test_filters_may_stand_in_both_places(self, client: httpx.Client) -> None:
        """Different parameters of one search may stand in query string and body."""
        answer = client.request("GET", "/v1/audit-logs?limit=1", json={"event_types": "moderation.created"})
        assert ids(answer) == [EVENTS[5]["id"]]
        assert answer.json()["has_more"] is True

    def test_the_same_filters_are_always_written_the_same(self, client: httpx.Client) -> None:
        """Klyra-Filters sorts, removes repetitions, writes times in UTC and addresses in one notation."""
        answer = client.get(
            "/v1/audit-logs?event_types=user.added,api_key.created&event_types=user.added&limit=3&order=asc"
            "&client_ip=198.51.100.77/24&start_time=2026-03-10t12:00:00.10%2b01:00&end_time=2026-03-10T11:59:59Z"
        )
        assert json.loads(answer.headers["Klyra-Filters"]) == {
            "client_ip": "198.51.100.0/24",
            "end_time": "2026-03-10T11:59:59Z",
            "event_types": ["api_key.created", "user.added"],
            "start_time": "2026-03-10T11:00:00.10Z",
        }

    def test_filters_of_any_language_fit_a_header(self, client: httpx.Client) -> None:
        """Values beyond ASCII are escaped in the header."""
        answer = client.post("/v1/audit-logs/search", json={"actor_ids": ["usr_ünï 😀"]})
        assert ids(answer) == []
        assert json.loads(answer.headers["Klyra-Filters"]) == {"actor_ids": ["usr_ünï 😀"]}

    def test_null_is_no_filter(self, client: httpx.Client) -> None:
        """A member that is null is as good as absent."""
        answer = client.post("/v1/audit-logs/search", json={"start_time": None, "status": None, "cursor": None})
        assert len(ids(answer)) == 6

    @pytest.mark.parametrize(
        ("query", "parameter"),
        [
            ("bogus=1", "bogus"),
            ("Limit=1", "Limit"),
            ("organization_id=org_other", "organization_id"),
            ("format=json", "format"),
        ],
    )
    def test_unknown_parameters(self, client: httpx.Client, query: str, parameter: str) -> None:
        """A parameter that does not exist is named, with those that do."""
        found = assert_problem(client.get("/v1/audit-logs?" + query), 400, "unknown_parameter", parameter=parameter)
        assert "event_types" in found["remedy"]
        name, value = query.split("=")
        assert_problem(client.post("/v1/audit-logs/search", json={name: value}), 400, "unknown_parameter")

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("start_time", "yesterday"),
            ("start_time", ""),
            ("start_time", "2026-03-10"),
            ("start_time", "2026-03-10T11:00:00"),
            ("start_time", "2026-13-10T11:00:00Z"),
            ("start_time", "2026-02-30T11:00:00Z"),
            ("end_time", "2026-03-10T25:00:00Z"),
            ("end_time", "2026-03-10T11:00:00.1234567890Z"),
            ("end_time", "0001-01-01T00:00:00+14:00"),
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "-1"),
            ("limit", "ten"),
            ("limit", "1.5"),
            ("limit", ""),
            ("order", "random"),
            ("client_ip", "nowhere"),
            ("client_ip", "198.51.100.0/33"),
            ("client_ip", "fe80::1%eth0"),
            ("status", "broken"),
            ("actions", "destroy"),
            ("actor_types", "robot"),
            ("event_types", ""),
            ("actor_ids", "a\x00b"),
            ("resource_ids", "x" * 257),
            ("include", "secrets"),
            ("cursor", "abc"),
            ("cursor", ""),
        ],
    )
    def test_bad_values(self, client: httpx.Client, parameter: str, value: str) -> None:
        """A value that cannot be used is refused with the parameter's name and a remedy, wherever it stands."""
        code = "invalid_cursor" if parameter == "cursor" else "invalid_parameter"
        by_query = client.get("/v1/audit-logs", params={parameter: value})
        found = assert_problem(by_query, 400, code, parameter=parameter)
        assert parameter in found["detail"]
        assert_problem(client.post("/v1/audit-logs/search", json={parameter: value}), 400, code, parameter=parameter)

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("limit", 1.5),
            ("limit", True),
            ("limit", [1]),
            ("start_time", 1767225600),
            ("event_types", []),
            ("event_types", [1]),
            ("event_types", {"a": 1}),
            ("actor_ids", [f"usr_{number}" for number in range(101)]),
            ("client_ip", ["198.51.100.7"]),
            ("order", None),
        ],
    )
    def test_bad_types(self, client: httpx.Client, parameter: str, value: object) -> None:
        """A JSON value of another type is refused the same way."""
        answer = client.post("/v1/audit-logs/search", json={parameter: value})
        assert_problem(answer, 400, "invalid_parameter", parameter=parameter)

    def test_a_parameter_in_both_places_is_refused(self, client: httpx.Client) -> None:
        """The same parameter in query string and body is an error, even with the same value."""
        answer = client.request("GET", "/v1/audit-logs?limit=5", json={"limit": 5})
        assert_problem(answer, 400, "repeated_parameter", parameter="limit")

    def test_a_parameter_given_twice_is_refused(self, client: httpx.Client) -> None:
        """Only lists may be repeated."""
        answer = client.get("/v1/audit-logs?limit=5&limit=6")
        assert_problem(answer, 400, "repeated_parameter", parameter="limit")

    def test_filters_that_are_too_long_together_are_refused(self, client: httpx.Client) -> None:
        """What could not be recorded is not searched."""
        values = [f"{number:0256d}" for number in range(100)]
        answer = client.post("/v1/audit-logs/search", json={"actor_ids": values})
        assert_problem(answer, 400, "filters_too_long")

    @pytest.mark.parametrize(
        ("body", "content_type", "status", "code"),
        [
            (b"{", "application/json", 400, "invalid_body"),
            (b"[]", "application/json", 400, "invalid_body"),
            (b'"x"', "application/json; charset=utf-8", 400, "invalid_body"),
            (b'{"actor_ids": "\xff"}', "application/json", 400, "invalid_body"),
            (b'{"actor_ids": "\\ud800"}', "application/json", 400, "invalid_body"),
            (b"limit=1", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
            (b"{}" + b" " * (1024 * 1024), "application/json", 413, "body_too_large"),
        ],
    )
    def test_bad_bodies(self, client: httpx.Client, body: bytes, content_type: str, status: int, code: str) -> None:
        """A body that is no JSON object in UTF-8, or too large, is refused with a problem."""
        for method, path in (("POST", "/v1/audit-logs/search"), ("GET", "/v1/audit-logs")):
            answer = client.request(method, path, content=body, headers={"Content-Type": content_type})
            assert_problem(answer, status, code)

    def test_a_large_body_without_length_is_refused(self, client: httpx.Client) -> None:
        """A chunked body is counted while it arrives."""
        chunks = (b" " * 65536 for _ in range(32))
        answer = client.post("/v1/audit-logs/search", content=chunks, headers={"Content-Type": "application/json"})
        assert_problem(answer, 413, "body_too_large")

    def test_a_query_that_is_not_utf_8_is_refused(self, client: httpx.Client) -> None:
        """Bytes that are no text are not guessed at."""
        assert_problem(client.get("/v1/audit-logs?actor_ids=%FF"), 400, "invalid_query")

    def test_an_unknown_event_type_matches_nothing_and_is_named(self, client: httpx.Client) -> None:
        """It is a warning, not an error; known types beside it still match."""
        answer = client.get("/v1/audit-logs?event_types=moderation.updated,user.added")
        assert numbers(answer) == [2]
        assert answer.json()["warnings"] == [
            "The event type moderation.updated is not in the catalog and matches nothing."
        ]
        assert "warnings" not in client.get("/v1/audit-logs").json()
        alone = client.get("/v1/audit-logs?event_types=moderation.updated&resource_types=spaceship")
        assert ids(alone) == []
        assert len(alone.json()["warnings"]) == 2

    def test_times_the_wrong_way_round_are_warned_about(self, client: httpx.Client) -> None:
        """A range that ends before it starts is empty, and says why."""
        answer = client.get("/v1/audit-logs?start_time=2026-03-10T11:00:03Z&end_time=2026-03-10T11:00:02Z")
        assert ids(answer) == []
        assert "before start_time" in answer.json()["warnings"][0]

    @pytest.mark.parametrize(
        ("end", "found"),
        [
            ("2026-03-10T11:00:00Z", 7),
            ("2026-03-10T11:00:00.0Z", 4),
            ("2026-03-10T11:00:00.000Z", 3),
            ("2026-03-10T11:00:00.000000Z", 2),
            ("2026-03-10T11:00:00.000000000Z", 1),
            ("2026-03-10T11:00:00.000000999Z", 2),
            ("2026-03-10T11:00:00.999999999Z", 7),
            ("2026-03-10T11:00:00.999Z", 7),
            ("2026-03-10T10:59:59Z", 0),
        ],
    )
    def test_the_end_covers_its_written_precision(self, precise: httpx.Client, end: str, found: int) -> None:
        """A second covers all of it, a millisecond all of it, a nanosecond only itself."""
        assert len(ids(precise.get("/v1/audit-logs", params={"end_time": end}))) == found
