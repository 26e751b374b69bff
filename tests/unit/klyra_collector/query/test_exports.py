"""Files: their formats, their headers, and what becomes of one that cannot be finished."""

from __future__ import annotations

import csv
import io
import json
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from klyra_collector.query import exports
from klyra_collector.registry.policies import Policies
from support.api import (
    EVENTS,
    Api,
    assert_problem,
    break_exports,
    running_api,
    unavailable,
)
from support.entries import document, entry_of

if TYPE_CHECKING:
    from pathlib import Path

COLUMNS = (
    "id",
    "timestamp",
    "event_type",
    "actor_type",
    "actor_id",
    "actor_name",
    "resource_type",
    "resource_id",
    "resource_name",
    "action",
    "status",
    "client_ip",
    "user_agent",
    "metadata",
)


class TestExports:
    """Files."""

    def test_json(self, client: httpx.Client) -> None:
        """One array of entries, newest first unless asked otherwise."""
        answer = client.post("/v1/audit-logs/export", json={})
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json() == [entry_of(event) for event in reversed(EVENTS)]
        ascending = client.post("/v1/audit-logs/export", json={"order": "asc"})
        assert ascending.json() == [entry_of(event) for event in EVENTS]

    def test_ndjson(self, client: httpx.Client) -> None:
        """One entry on each line and nothing else."""
        answer = client.post("/v1/audit-logs/export", json={"format": "ndjson", "order": "asc"})
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert answer.text.endswith("}\n")
        assert [json.loads(line) for line in answer.text.splitlines()] == [entry_of(event) for event in EVENTS]

    def test_csv(self, client: httpx.Client) -> None:
        """RFC 4180 in UTF-8 with CRLF, null as nothing, formulas disarmed, all metadata as JSON."""
        answer = client.post("/v1/audit-logs/export", json={"format": "csv", "order": "asc"})
        assert answer.headers["Content-Type"].startswith("text/csv; charset=utf-8")
        assert answer.content.count(b"\r\n") == 7
        rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline=""), strict=True))
        assert list(rows[0]) == list(COLUMNS)
        assert [row["id"] for row in rows] == [event["id"] for event in EVENTS]
        assert rows[0]["resource_name"] == ""
        assert rows[2]["actor_id"] == "usr_1,ada"
        assert rows[4]["user_agent"] == "'=cmd|' /C calc'!A0"
        assert rows[5]["actor_name"] == "'@scan"
        assert rows[5]["user_agent"] == ""
        assert [json.loads(row["metadata"]) for row in rows] == [event["metadata"] for event in EVENTS]

    @pytest.mark.parametrize(("rendering", "content"), [("json", b"[]\n"), ("ndjson", b"")])
    def test_nothing_found_is_an_empty_file(self, client: httpx.Client, rendering: str, content: bytes) -> None:
        """An export that matches nothing is whole and empty."""
        answer = client.post("/v1/audit-logs/export", json={"format": rendering, "actor_ids": "nobody"})
        assert (answer.status_code, answer.content) == (200, content)
        header = client.post("/v1/audit-logs/export", json={"format": "csv", "actor_ids": "nobody"})
        assert header.text.startswith("id,timestamp,")
        assert header.text.count("\r\n") == 1

    def test_headers(self, client: httpx.Client) -> None:
        """An export names its file, filters and window, and warns of filters that match nothing."""
        answer = client.post("/v1/audit-logs/export", json={"event_types": ["a.b"], "format": "csv"})
        assert answer.headers["Content-Disposition"] == 'attachment; filename="audit-logs-org_acme-2026-03-10.csv"'
        assert json.loads(answer.headers["Klyra-Filters"]) == {"event_types": ["a.b"]}
        assert answer.headers["Klyra-Window-Start"] == "2026-02-08T00:00:00Z"
        assert "a.b" in json.loads(answer.headers["Klyra-Warnings"])[0]

    @pytest.mark.parametrize(
        ("body", "code", "parameter"),
        [
            ({"format": "xml"}, "invalid_parameter", "format"),
            ({"limit": 5}, "unknown_parameter", "limit"),
            ({"cursor": "x"}, "unknown_parameter", "cursor"),
        ],
    )
    def test_refusals(self, client: httpx.Client, body: dict[str, Any], code: str, parameter: str) -> None:
        """What an export cannot do is refused before it begins."""
        assert_problem(client.post("/v1/audit-logs/export", json=body), 400, code, parameter=parameter)

    def test_a_format_outside_the_plan_is_refused(self, tmp_path: Path) -> None:
        """The plan is named, and /v1/plan does not offer the format."""
        plans = Policies.load().plans
        policies = Policies({**plans, "startup": replace(plans["startup"], export_formats=("json",))})
        with running_api(tmp_path, policies=policies) as api, api.client() as client:
            answer = client.post("/v1/audit-logs/export", json={"format": "csv"})
            assert_problem(answer, 403, "format_not_in_plan", plan="startup")
            assert client.get("/v1/plan").json()["export_formats"] == ["json"]

    def test_a_long_export_is_whole_and_in_order(self, fresh: Api) -> None:
        """Thousands of entries over many chunks come complete, while others arrive."""
        fresh.seal(*(document(number) for number in range(3000)))
        with (
            fresh.client() as client,
            client.stream("POST", "/v1/audit-logs/export", json={"format": "ndjson", "order": "asc"}) as answer,
        ):
            lines = answer.iter_lines()
            first = next(lines)
            fresh.seal(*(document(number) for number in range(3000, 3100)))
            found = [json.loads(line)["resource"]["id"] for line in (first, *lines)]
        assert sorted(found) == sorted(f"mod_{number}" for number in range(3000))

    def test_a_failure_midway_breaks_the_connection(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """No client can take a part of an export for the whole."""
        break_exports(fresh, monkeypatch)
        with fresh.client() as client, client.stream("POST", "/v1/audit-logs/export", json={}) as answer:
            assert answer.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                answer.read()
        assert "klyra_exports_broken_total 1.0" in httpx.get(f"{fresh.url}/metrics").text

    def test_a_failure_at_once_is_a_problem(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before the first byte there is time for a document."""
        monkeypatch.setattr(fresh.store, "export", unavailable)
        with fresh.client() as client:
            answer = client.post("/v1/audit-logs/export", json={})
            assert_problem(answer, 503, "registry_unavailable")
        assert fresh.recorded("audit_log.exported") == []

    def test_a_client_that_takes_nothing_is_given_up(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stalled download does not hold the store for ever."""
        monkeypatch.setattr(exports, "_STALLED_SECONDS", 0.2)
        note = "x" * 20_000
        fresh.seal(*(document(number, metadata={"note": note}) for number in range(1500)))
        with socket.create_connection(("127.0.0.1", int(fresh.url.rpartition(":")[2])), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            key = fresh.key("export")
            request = f"POST /v1/audit-logs/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            connection.sendall(f"{request}Content-Length: 0\r\n\r\n".encode())
            for _ in range(500):
                if "klyra_exports_broken_total 1.0" in httpx.get(f"{fresh.url}/metrics").text:
                    break
            received = 0
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
        assert received < 1500 * 20_000

    def test_a_client_that_goes_away_is_noticed(self, fresh: Api) -> None:
        """A download that is broken off by the client ends the export."""
        note = "x" * 20_000
        fresh.seal(*(document(number, metadata={"note": note}) for number in range(1500)))
        with fresh.client() as client, client.stream("POST", "/v1/audit-logs/export", json={}) as answer:
            next(answer.iter_raw())
        for _ in range(500):
            text = httpx.get(f"{fresh.url}/metrics").text
            if 'klyra_http_requests_total{method="POST",route="/v1/audit-logs/export"' in text:
                break
        assert 'klyra_http_requests_total{method="POST",route="/v1/audit-logs/export"' in text
