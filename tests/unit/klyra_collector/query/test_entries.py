"""Lists, pages, one entry; what retention leaves of them."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

import pytest

from support.api import (
    EVENTS,
    OPERATOR,
    OTHER,
    Api,
    assert_problem,
    ids,
)
from support.entries import ORIGIN, TODAY_US, document, entry_of

if TYPE_CHECKING:
    import httpx

DAY_US = 86_400 * 1_000_000


class TestLists:
    """What a list answer is."""

    def test_an_entry_has_the_eight_fields_in_order(self, client: httpx.Client) -> None:
        """Entries are exactly those of the product page."""
        answer = client.get("/v1/audit-logs?order=asc&limit=1").json()
        assert list(answer) == ["data", "has_more", "next_cursor"]
        assert answer["data"] == [entry_of(EVENTS[0])]
        assert list(answer["data"][0]) == list(entry_of(EVENTS[0]))

    def test_integrity_on_request(self, api: Api, client: httpx.Client) -> None:
        """include=integrity says where the entry was sealed, in lists and of one entry."""
        leaf = base64.b64encode(api.ledger.read(ORIGIN, 2, 1)[0].leaf_bytes).decode()
        expected = entry_of(EVENTS[2]) | {"integrity": {"log": ORIGIN, "index": 2, "leaf": leaf}}
        listed = client.get("/v1/audit-logs?event_types=user.added&include=integrity").json()["data"]
        assert listed == [expected]
        assert client.get(f"/v1/audit-logs/{EVENTS[2]['id']}?include=integrity").json() == expected

    def test_one_entry(self, client: httpx.Client) -> None:
        """An entry by its id is the entry itself."""
        answer = client.get(f"/v1/audit-logs/{EVENTS[3]['id']}")
        assert answer.json() == entry_of(EVENTS[3])
        assert json.loads(answer.headers["Klyra-Filters"]) == {"id": EVENTS[3]["id"]}

    def test_parameters_of_one_entry(self, client: httpx.Client) -> None:
        """Filters have no place beside an id."""
        answer = client.get(f"/v1/audit-logs/{EVENTS[3]['id']}?status=success")
        assert_problem(answer, 400, "unknown_parameter", parameter="status")

    def test_a_page_has_100_entries_unless_asked(self, fresh: Api) -> None:
        """The default page holds 100, the largest 1000."""
        fresh.seal(*(document(number) for number in range(1001)))
        with fresh.client() as client:
            assert len(ids(client.get("/v1/audit-logs"))) == 100
            answer = client.get("/v1/audit-logs?limit=1000")
            assert len(ids(answer)) == 1000
            assert answer.json()["has_more"] is True

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_pages_neither_shift_nor_repeat_while_entries_arrive(self, fresh: Api, order: str) -> None:
        """Walking by cursor gives what there was at the first page, whatever is sealed meanwhile."""
        fresh.seal(*(document(number) for number in range(10, 40, 2)))
        with fresh.client() as client:
            before = ids(client.get("/v1/audit-logs", params={"order": order}))
            walked: list[str] = []
            cursor: dict[str, str] = {}
            for late in range(11, 31, 2):
                answer = client.get("/v1/audit-logs", params={"order": order, "limit": 4, **cursor})
                walked += ids(answer)
                cursor = {"cursor": answer.json()["next_cursor"]}
                if not answer.json()["has_more"]:
                    assert answer.json()["next_cursor"] is None
                    break
                fresh.seal(document(late), document(late + 100))
            assert walked == before

    def test_a_cursor_belongs_to_its_search(self, api: Api, client: httpx.Client) -> None:
        """Other filters, another order, another organization or a changed letter make it invalid."""
        first = client.get("/v1/audit-logs?limit=2&status=success").json()
        cursor = first["next_cursor"]
        again = client.get("/v1/audit-logs", params={"limit": 3, "status": "success", "cursor": cursor})
        assert len(ids(again)) == 3
        changed = ("A" if cursor[0] != "A" else "B") + cursor[1:]
        for parameters in (
            {"cursor": cursor},
            {"cursor": cursor, "status": "failure"},
            {"cursor": cursor, "status": "success", "order": "asc"},
            {"cursor": changed, "status": "success"},
            {"cursor": cursor[:-5], "status": "success"},
            {"cursor": "x" * 20_000, "status": "success"},
            {"cursor": "ünï", "status": "success"},
        ):
            answer = client.get("/v1/audit-logs", params=parameters)
            assert_problem(answer, 400, "invalid_cursor", parameter="cursor")
        with api.client(organization_id=OTHER) as other:
            answer = other.get("/v1/audit-logs", params={"status": "success", "cursor": cursor})
            assert_problem(answer, 400, "invalid_cursor")


class TestRetention:
    """The window, and what is outside it."""

    def test_every_list_states_the_window(self, client: httpx.Client) -> None:
        """The window reaches back as many days as the plan keeps."""
        headers = client.get("/v1/audit-logs").headers
        assert headers["Klyra-Window-Start"] == "2026-02-08T00:00:00Z"
        assert headers["Klyra-Window-End"] == "2026-03-10T12:00:00.000Z"
        assert headers["Klyra-Retention-Days"] == "30"

    @pytest.mark.parametrize(
        "times",
        [
            {"start_time": "2023-06-01T00:00:00Z", "end_time": "2023-06-30T23:59:59Z"},
            {"end_time": "2026-02-07T23:59:59Z"},
            {"start_time": "2027-01-01T00:00:00Z"},
        ],
    )
    def test_outside_the_window(self, client: httpx.Client, times: dict[str, str]) -> None:
        """A list outside is empty and says why; an export outside is refused, naming the window."""
        listed = client.get("/v1/audit-logs", params=times)
        assert ids(listed) == []
        assert "2026-02-08T00:00:00Z" in listed.json()["warnings"][0]
        refused = client.post("/v1/audit-logs/export", json=times)
        found = assert_problem(refused, 422, "outside_window", window_start="2026-02-08T00:00:00Z", retention_days=30)
        assert found["window_end"] == "2026-03-10T12:00:00.000Z"

    def test_an_export_that_starts_before_the_window_is_answered_for_it(self, client: httpx.Client) -> None:
        """It holds what is kept, and its headers say from when."""
        answer = client.post("/v1/audit-logs/export", json={"start_time": "2023-06-01T00:00:00Z"})
        assert len(answer.json()) == 6
        assert answer.headers["Klyra-Window-Start"] == "2026-02-08T00:00:00Z"

    def test_an_old_timestamp_sealed_lately_is_there(self, fresh: Api) -> None:
        """Retention runs from sealing: a late arrival is found at its own time, however long ago."""
        fresh.seal(document(0, timestamp="2023-06-15T14:30:45Z"))
        times = {"start_time": "2023-06-01T00:00:00Z", "end_time": "2023-06-30T23:59:59Z"}
        with fresh.client() as client:
            assert ids(client.get("/v1/audit-logs")) == [document(0)["id"]]
            assert ids(client.get("/v1/audit-logs", params=times)) == [document(0)["id"]]
            assert len(client.post("/v1/audit-logs/export", json=times).json()) == 1

    def test_an_expired_entry_is_gone_at_once(self, fresh: Api) -> None:
        """The day its retention ends an entry is in no answer, before anything has been deleted."""
        fresh.seal(document(0))
        path = f"/v1/audit-logs/{document(0)['id']}"
        with fresh.client() as client:
            fresh.clock.now_us = TODAY_US + 30 * DAY_US
            assert len(ids(client.get("/v1/audit-logs"))) == 1
            assert client.get(path).status_code == 200
            fresh.clock.now_us = TODAY_US + 31 * DAY_US
            assert ids(client.get("/v1/audit-logs")) == []
            assert_problem(client.get(path), 404, "not_found")
            assert client.post("/v1/audit-logs/export", json={}).json() == []

    def test_a_shorter_plan_keeps_what_was_sealed_before(self, fresh: Api) -> None:
        """After a downgrade the window still begins where the earliest kept entry was sealed."""
        fresh.seal(document(0, organization_id=OTHER), ingest_us=TODAY_US - 200 * DAY_US, retention_days=365)
        fresh.registry.set_plan(OTHER, "startup", by=OPERATOR)
        with fresh.client(organization_id=OTHER) as client:
            plan = client.get("/v1/plan").json()
            assert plan["window_start"] == "2025-08-22T00:00:00Z"
            assert plan["retention_days"] == 30
