"""Keys, scopes, organizations, sessions, and what is recorded of who read what."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from klyra_collector.query.app import create_app
from support.api import (
    EVENTS,
    OPERATOR,
    OTHER,
    Api,
    assert_problem,
    ids,
    numbers,
    serving,
    unavailable,
)
from support.entries import ACME

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestIsolation:
    """Organizations do not see each other, not even that there is something."""

    def test_another_organizations_id_is_a_missing_one(self, api: Api) -> None:
        """The answer for another's entry is, byte for byte, the one for no entry."""
        with api.client(organization_id=OTHER) as client:
            anothers = client.get(f"/v1/audit-logs/{EVENTS[3]['id']}")
            missing = client.get("/v1/audit-logs/log_zzzzzzzzzz")
            malformed = client.get("/v1/audit-logs/anything%20else")
        assert_problem(anothers, 404, "not_found")
        assert anothers.content == missing.content == malformed.content
        assert anothers.headers.keys() == missing.headers.keys()

    def test_lists_and_exports_hold_ones_own(self, api: Api) -> None:
        """Another organization's key finds its own entry of the same id."""
        with api.client(organization_id=OTHER) as client:
            assert ids(client.get("/v1/audit-logs")) == [EVENTS[0]["id"]]
            assert len(client.post("/v1/audit-logs/export", json={}).json()) == 1

    def test_the_operator_names_the_organization(self, api: Api) -> None:
        """A key of the operator reads the organization it names, and nothing without naming one."""
        with api.client(organization_id=None) as client:
            assert ids(client.get(f"/v1/audit-logs?organization_id={OTHER}")) == [EVENTS[0]["id"]]
            answer = client.post("/v1/audit-logs/search", json={"organization_id": ACME, "status": "failure"})
            assert numbers(answer) == [3]
            assert client.get(f"/v1/audit-logs/{EVENTS[3]['id']}?organization_id={ACME}").status_code == 200
            assert client.get(f"/v1/plan?organization_id={ACME}").json()["plan"] == "startup"
            assert client.get("/v1/plan?organization_id=operator").json()["plan"] == "enterprise"
            assert_problem(client.get("/v1/audit-logs"), 400, "organization_missing", parameter="organization_id")
            unknown = client.get("/v1/audit-logs?organization_id=org_nobody")
            assert_problem(unknown, 404, "unknown_organization")

    def test_each_access_of_the_operator_is_an_entry(self, fresh: Api) -> None:
        """The organization sees every look of the operator at its log, never merged."""
        with fresh.client(organization_id=None) as client:
            for _ in range(3):
                client.get(f"/v1/audit-logs?organization_id={ACME}&status=failure")
            client.post("/v1/audit-logs/export", json={"organization_id": ACME})
            client.get(f"/v1/plan?organization_id={ACME}")
        recorded = fresh.recorded("operator.accessed")
        assert [event["metadata"]["call"] for event in recorded] == [
            *["GET /v1/audit-logs"] * 3,
            "POST /v1/audit-logs/export",
            "GET /v1/plan",
        ]
        assert recorded[0]["metadata"]["filters"] == {"status": ["failure"]}
        assert recorded[0]["metadata"]["client_ip"] == "127.0.0.1"
        assert recorded[0]["actor"]["type"] == "api_key"
        assert len(fresh.recorded("audit_log.exported")) == 1
        assert fresh.recorded("audit_log.queried") == []


class TestRecording:
    """Reading the log is in the log."""

    def test_reads_with_the_same_filters_are_one_entry(self, fresh: Api) -> None:
        """The first read of five minutes is recorded with who, from where, with what; further ones are merged."""
        with fresh.client() as client:
            client.get("/v1/audit-logs?status=failure&event_types=b,a")
            client.post("/v1/audit-logs/search", json={"event_types": ["a", "b"], "status": "failure", "limit": 5})
            client.get("/v1/audit-logs")
            client.get("/v1/audit-logs/log_zzzzzzzzzz")
        first, second, third = fresh.recorded("audit_log.queried")
        assert first["metadata"] == {
            "filters": {"event_types": ["a", "b"], "status": ["failure"]},
            "returned": 0,
            "client_ip": "127.0.0.1",
            "user_agent": "tests/1",
        }
        assert first["actor"]["id"].startswith("key_")
        assert second["metadata"]["filters"] == {}
        assert third["metadata"]["filters"] == {"id": "log_zzzzzzzzzz"}

    def test_exports_are_never_merged(self, fresh: Api) -> None:
        """Every export is an entry with its filters, format and window."""
        with fresh.client() as client:
            for _ in range(2):
                client.post("/v1/audit-logs/export", json={"format": "csv", "status": "failure"})
        first, _ = fresh.recorded("audit_log.exported")
        assert first["metadata"]["format"] == "csv"
        assert first["metadata"]["filters"] == {"status": ["failure"]}
        assert first["metadata"]["window_start"] == "2026-02-08T00:00:00Z"
        assert first["metadata"]["client_ip"] == "127.0.0.1"

    @pytest.mark.parametrize(
        ("method", "path", "recorder"),
        [
            ("GET", "/v1/audit-logs", "note_read"),
            ("POST", "/v1/audit-logs/search", "note_read"),
            ("GET", f"/v1/audit-logs/{EVENTS[0]['id']}", "note_read"),
            ("POST", "/v1/audit-logs/export", "record_event"),
        ],
    )
    def test_what_cannot_be_recorded_is_not_answered(
        self, fresh: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str, recorder: str
    ) -> None:
        """Without its entry a read is refused until later, and shows nothing."""
        fresh.seal(*EVENTS)
        monkeypatch.setattr(fresh.registry, recorder, unavailable)
        with fresh.client() as client:
            answer = client.request(method, path)
        assert_problem(answer, 503, "registry_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
        assert EVENTS[0]["id"] not in answer.text

    def test_windows_are_closed_when_the_server_starts(self, fresh: Api) -> None:
        """A server that starts records the counts of merged reads whose time is over."""
        with fresh.client() as client:
            for _ in range(4):
                client.get("/v1/audit-logs")
        fresh.clock.now_us += 301 * 1_000_000
        app = create_app(
            registry=fresh.registry,
            store=fresh.store,
            catalog=fresh.catalog,
            policies=fresh.policies,
            dashboard=None,
            clock=fresh.clock,
            cursor_key=bytes(32),
        )
        with serving(app) as url:
            for _ in range(200):
                if len(fresh.recorded("audit_log.queried")) == 2:
                    break
                httpx.get(f"{url}/healthz")
        assert fresh.recorded("audit_log.queried")[1]["metadata"]["reads"] == 4


class TestAccess:
    """Keys and scopes."""

    @pytest.mark.parametrize(
        ("header", "code"),
        [
            (None, "not_authenticated"),
            ("Basic dXNlcjpwYXNz", "not_authenticated"),
            ("Bearer", "not_authenticated"),
            ("Bearer nonsense", "key_refused"),
            ("Bearer klyra_sk_000000000000_" + "0" * 43 + "_000000", "key_refused"),
        ],
    )
    def test_without_a_valid_key(self, api: Api, header: str | None, code: str) -> None:
        """Every call is refused with what to send."""
        headers = {} if header is None else {"Authorization": header}
        for method, path in (
            ("GET", "/v1/audit-logs"),
            ("POST", "/v1/audit-logs/search"),
            ("GET", "/v1/audit-logs/log_zzzzzzzzzz"),
            ("POST", "/v1/audit-logs/export"),
            ("GET", "/v1/plan"),
            ("GET", "/v1/catalog"),
            ("POST", "/v1/sessions"),
        ):
            answer = httpx.request(method, api.url + path, headers=headers)
            assert_problem(answer, 401, code)
            assert answer.headers["WWW-Authenticate"] == "Bearer"

    def test_a_revoked_key_is_refused_and_recorded(self, fresh: Api) -> None:
        """The organization sees that its revoked key was tried, from where, and at which call."""
        with fresh.client() as client:
            assert client.get("/v1/audit-logs").status_code == 200
            (key,) = fresh.registry.keys(ACME)
            fresh.registry.revoke_key(key.key_id, OPERATOR)
            assert_problem(client.get("/v1/audit-logs"), 401, "key_refused", reason="revoked")
        (denied,) = fresh.recorded("access.denied")
        assert denied["metadata"]["reason"] == "revoked"
        assert denied["metadata"]["client_ip"] == "127.0.0.1"
        assert denied["actor"]["id"] == key.key_id
        assert denied["resource"]["id"] == "GET /v1/audit-logs"

    @pytest.mark.parametrize(
        ("scopes", "method", "path", "needed"),
        [
            (("export",), "GET", "/v1/audit-logs", ["read"]),
            (("export",), "GET", "/v1/audit-logs/log_zzzzzzzzzz", ["read"]),
            (("read",), "POST", "/v1/audit-logs/export", ["export"]),
            (("emit",), "GET", "/v1/plan", ["read", "export"]),
        ],
    )
    def test_a_missing_scope_is_named_and_recorded(
        self, fresh: Api, scopes: tuple[str, ...], method: str, path: str, needed: list[str]
    ) -> None:
        """A key may do what its scopes say and nothing else."""
        with fresh.client(*scopes) as client:
            assert_problem(client.request(method, path), 403, "scope_missing", scopes=needed)
        (denied,) = fresh.recorded("access.denied")
        assert denied["metadata"]["reason"] == "scope_missing"

    def test_a_refusal_does_not_wait_for_its_record(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A denied caller is denied even if that cannot be recorded."""
        monkeypatch.setattr(fresh.registry, "record_access_denied", unavailable)
        answer = httpx.get(f"{fresh.url}/v1/audit-logs", headers={"Authorization": "Bearer nonsense"})
        assert_problem(answer, 401, "key_refused")


class TestSessions:
    """Browsers."""

    PAGE = {"X-Klyra-Request": "1"}  # noqa: RUF012 - read only

    @contextmanager
    def browser(self, api: Api, *scopes: str) -> Iterator[httpx.Client]:
        """A client with a session cookie and no key."""
        with httpx.Client(base_url=api.url) as client:
            key = api.key(*(scopes or ("read", "export")))
            answer = client.post("/v1/sessions", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 201
            yield client

    def test_a_key_becomes_a_cookie(self, api: Api) -> None:
        """The cookie cannot be read by scripts or sent from other sites, and ends with the session."""
        key = api.key("read", "export")
        answer = httpx.post(f"{api.url}/v1/sessions", headers={"Authorization": f"Bearer {key}"})
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert "Max-Age=43200" in cookie
        assert key not in cookie
        session = answer.json()
        assert session["organization_id"] == ACME
        assert session["scopes"] == ["read", "export"]
        assert session["expires_at"] == "2026-03-11T00:00:00.000Z"
        assert answer.headers["Cache-Control"] == "no-store"

    def test_over_https_the_cookie_stays_there(self, api: Api) -> None:
        """A server behind a proxy that speaks HTTPS marks the cookie as secure."""
        headers = {"Authorization": f"Bearer {api.key('read')}", "X-Forwarded-Proto": "https"}
        assert "Secure" in httpx.post(f"{api.url}/v1/sessions", headers=headers).headers["Set-Cookie"]

    def test_a_session_reads(self, api: Api) -> None:
        """The page's calls work with the cookie alone."""
        with self.browser(api) as client:
            assert client.get("/v1/sessions/current").json()["organization_id"] == ACME
            assert len(ids(client.get("/v1/audit-logs"))) == 6
            assert len(ids(client.post("/v1/audit-logs/search", json={}, headers=self.PAGE))) == 6
            assert client.get("/v1/plan").json()["plan"] == "startup"
            assert client.post("/v1/audit-logs/export", json={}, headers=self.PAGE).status_code == 200

    def test_another_site_cannot_act_for_a_browser(self, api: Api) -> None:
        """A changing method by cookie needs a header that other sites' pages cannot add."""
        with self.browser(api) as client:
            for method, path in (
                ("POST", "/v1/audit-logs/search"),
                ("POST", "/v1/audit-logs/export"),
                ("DELETE", "/v1/sessions/current"),
            ):
                assert_problem(client.request(method, path), 403, "header_missing")
            assert client.get("/v1/sessions/current").status_code == 200

    def test_scopes_of_the_key_are_those_of_the_session(self, api: Api) -> None:
        """A session may do no more than the key it came from."""
        with self.browser(api, "read") as client:
            answer = client.post("/v1/audit-logs/export", json={}, headers=self.PAGE)
            assert_problem(answer, 403, "scope_missing")

    def test_a_key_that_may_only_emit_opens_no_session(self, api: Api) -> None:
        """A browser is never given the scope emit."""
        answer = httpx.post(f"{api.url}/v1/sessions", headers={"Authorization": f"Bearer {api.key('emit')}"})
        assert_problem(answer, 400, "bad_scope")

    def test_signing_out(self, api: Api) -> None:
        """The session is gone, the cookie is taken back, and doing it again is no error."""
        with self.browser(api) as client:
            cookie = client.cookies["klyra_session"]
            answer = client.delete("/v1/sessions/current", headers=self.PAGE)
            assert answer.status_code == 204
            assert "klyra_session" not in client.cookies
            assert client.delete("/v1/sessions/current", headers=self.PAGE).status_code == 204
            assert_problem(client.get("/v1/sessions/current"), 401, "no_session")
        stale = {"Cookie": f"klyra_session={cookie}"}
        assert_problem(httpx.get(f"{api.url}/v1/audit-logs", headers=stale), 401, "not_authenticated")
        assert_problem(httpx.get(f"{api.url}/v1/sessions/current", headers=stale), 401, "no_session")

    def test_a_one_time_link(self, fresh: Api) -> None:
        """A sign-in token opens a session once; the second use is refused and recorded."""
        token = fresh.registry.create_sign_in(ACME, ["read"], OPERATOR)
        first = httpx.post(f"{fresh.url}/v1/sessions", json={"sign_in": token})
        assert first.status_code == 201
        assert first.json()["scopes"] == ["read"]
        second = httpx.post(f"{fresh.url}/v1/sessions", json={"sign_in": token})
        assert_problem(second, 401, "sign_in_refused", reason="used")
        assert fresh.recorded("access.denied", "operator")[0]["metadata"]["reason"] == "sign_in_used"
        strange = httpx.post(f"{fresh.url}/v1/sessions", json={"token": token})
        assert_problem(strange, 400, "unknown_parameter", parameter="token")

    def test_reads_of_a_session_name_its_actor(self, fresh: Api) -> None:
        """What a browser reads is recorded under whom it signed in as."""
        with self.browser(fresh) as client:
            client.get("/v1/audit-logs")
        (queried,) = fresh.recorded("audit_log.queried")
        (key,) = fresh.registry.keys(ACME)
        assert queried["actor"]["id"] == key.key_id
