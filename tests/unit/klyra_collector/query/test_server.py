"""Plan, catalog, operation, the built-in page, and errors that belong to no call."""

from __future__ import annotations

import json

import httpx
import pytest

from klyra_collector.store.schema import StoreBusy
from support.api import (
    Api,
    assert_problem,
    unavailable,
)
from support.entries import ACME


class TestAccount:
    """Plan and catalog."""

    def test_plan(self, client: httpx.Client) -> None:
        """What the organization has, keeps and may export."""
        assert client.get("/v1/plan").json() == {
            "organization_id": ACME,
            "plan": "startup",
            "policy": "startup",
            "retention_days": 30,
            "window_start": "2026-02-08T00:00:00Z",
            "window_end": "2026-03-10T12:00:00.000Z",
            "export_formats": ["json", "ndjson", "csv"],
            "siem": False,
            "witnessed_at": None,
        }
        assert_problem(client.get("/v1/plan?x=1"), 400, "unknown_parameter", parameter="x")

    def test_catalog(self, client: httpx.Client) -> None:
        """Every event type with words for people."""
        types = {item["name"]: item for item in client.get("/v1/catalog").json()["event_types"]}
        assert types["moderation.created"].keys() == {"name", "title", "description", "group"}
        assert types["audit_log.queried"]["group"] == "system"
        assert len(types) > 15


class TestServer:
    """What belongs to no organization."""

    def test_operation(self, api: Api) -> None:
        """Health, readiness and metrics answer without a key."""
        assert httpx.get(f"{api.url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{api.url}/readyz").json() == {"status": "ok"}
        metrics = httpx.get(f"{api.url}/metrics")
        assert metrics.headers["Content-Type"].startswith("text/plain")
        assert 'route="/readyz"' in metrics.text
        assert 'klyra_follower_lag_entries{follower="store"} 0.0' in metrics.text

    def test_a_server_that_cannot_search_is_not_ready(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """Readiness fails with the store, health does not."""
        monkeypatch.setattr(fresh.store, "check", unavailable)
        assert_problem(httpx.get(f"{fresh.url}/readyz"), 503, "registry_unavailable")
        assert httpx.get(f"{fresh.url}/healthz").status_code == 200

    @pytest.mark.parametrize(
        "path", ["/nothing", "/v1", "/v1/audit-logs/", "/v1/audit-logs/log_1/history", "/README.md"]
    )
    def test_unknown_addresses(self, client: httpx.Client, path: str) -> None:
        """An address that does not exist is a problem too."""
        assert_problem(client.get(path), 404, "unknown_address")

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("DELETE", "/v1/audit-logs", "GET"),
            ("GET", "/v1/audit-logs/export/", None),
            ("POST", "/v1/plan", "GET"),
            ("PUT", "/v1/sessions", "POST"),
        ],
    )
    def test_unknown_methods(self, client: httpx.Client, method: str, path: str, allowed: str | None) -> None:
        """A method an address does not take is refused with those it takes."""
        answer = client.request(method, path)
        if allowed is None:
            assert_problem(answer, 404, "unknown_address")
            return
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allowed

    def test_a_mistake_of_ours_is_a_problem(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """An unexpected error says nothing of what is inside."""
        monkeypatch.setattr(fresh.store, "search", lambda *_: 1 / 0)
        with fresh.client() as client:
            found = assert_problem(client.get("/v1/audit-logs"), 500, "internal_error")
        assert "ZeroDivision" not in json.dumps(found)

    def test_a_busy_store_is_a_503(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """What may pass is told with when to come back."""

        def busy(*_: object) -> None:
            raise StoreBusy("The store is locked.")

        monkeypatch.setattr(fresh.store, "search", busy)
        with fresh.client() as client:
            answer = client.get("/v1/audit-logs")
        assert_problem(answer, 503, "store_busy")
        assert "Retry-After" in answer.headers

    def test_openapi_describes_the_calls(self, api: Api) -> None:
        """Every call with its parameters stands in the description."""
        described = httpx.get(f"{api.url}/openapi.json").json()
        listed = described["paths"]["/v1/audit-logs"]["get"]
        names = {parameter["name"] for parameter in listed["parameters"]}
        assert {"start_time", "event_types", "client_ip", "cursor", "limit"} <= names
        body = described["paths"]["/v1/audit-logs/export"]["post"]["requestBody"]["content"]["application/json"]
        assert "format" in body["schema"]["properties"]
        assert "/v1/sessions/current" in described["paths"]


class TestPage:
    """The built-in page."""

    def test_files_have_their_types(self, api: Api) -> None:
        """The page is at the root, its parts below it, and nothing else of the folder."""
        index = httpx.get(f"{api.url}/")
        assert index.headers["Content-Type"] == "text/html; charset=utf-8"
        assert index.content == httpx.get(f"{api.url}/index.html").content
        script = httpx.get(f"{api.url}/parts/table.js")
        assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert script.text == "export const table = 1;"
        assert httpx.head(f"{api.url}/").status_code == 200

    def test_nothing_but_its_own_files_runs(self, api: Api) -> None:
        """The content security policy allows no inline script, no other origin and no frame."""
        headers = httpx.get(f"{api.url}/").headers
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"

    def test_what_a_browser_has_is_not_sent_again(self, api: Api) -> None:
        """A file that did not change is answered by its tag."""
        first = httpx.get(f"{api.url}/parts/table.js")
        again = httpx.get(f"{api.url}/parts/table.js", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")

    def test_without_a_page_there_is_only_the_api(self, fresh: Api) -> None:
        """A server without a dashboard has nothing at its root."""
        assert_problem(httpx.get(f"{fresh.url}/"), 404, "unknown_address")
