"""The product page's own commands, run by curl against a server."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.api import (
    EVENTS,
    OTHER,
    Api,
    break_exports,
    running_api,
)
from support.entries import document, entry_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A running API with six entries of Acme and one of another organization; tests here change neither."""
    folder = tmp_path_factory.mktemp("api")
    page = folder / "page"
    (page / "parts").mkdir(parents=True)
    (page / "index.html").write_text("<!doctype html><title>Audit logs</title>")
    (page / "parts" / "table.js").write_text("export const table = 1;")
    (page / "README.md").write_text("not for the web")
    with running_api(folder, page) as running:
        running.seal(*EVENTS, document(0, organization_id=OTHER))
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Api]:
    """A running API without entries, for one test."""
    with running_api(tmp_path) as running:
        yield running


class TestProductPage:
    """The commands of the product page, with only host, key and dates changed."""

    CURL = shutil.which("curl")
    pytestmark = pytest.mark.skipif(CURL is None, reason="for want of curl")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run curl."""
        assert self.CURL is not None
        return subprocess.run([self.CURL, "-sS", *arguments], capture_output=True, check=False, timeout=20)

    def test_the_search_command(self, api: Api) -> None:
        """A GET with a JSON body lists the entries its filters match."""
        body = """{
            "start_time": "2026-03-01T00:00:00Z",
            "end_time": "2026-03-30T23:59:59Z",
            "event_types": ["moderation.created", "moderation.updated"],
            "limit": 100
        }"""
        done = self.run(
            "-X", "GET", f"{api.url}/v1/audit-logs",
            "-H", f"Authorization: Bearer {api.key('read', 'export')}",
            "-H", "Content-Type: application/json",
            "-d", body,
        )  # fmt: skip
        answer = json.loads(done.stdout)
        assert [entry["id"] for entry in answer["data"]] == [EVENTS[number]["id"] for number in (5, 4, 0)]
        assert answer["has_more"] is False
        assert answer["next_cursor"] is None
        assert "moderation.updated" in answer["warnings"][0]

    def test_the_export_command(self, api: Api) -> None:
        """A POST with format json gives one array of the entries."""
        body = """{
            "start_time": "2026-03-01T00:00:00Z",
            "end_time": "2026-03-30T23:59:59Z",
            "event_types": ["moderation.created", "moderation.completed"],
            "format": "json"
        }"""
        done = self.run(
            "-X", "POST", f"{api.url}/v1/audit-logs/export",
            "-H", f"Authorization: Bearer {api.key('read', 'export')}",
            "-H", "Content-Type: application/json",
            "-d", body,
        )  # fmt: skip
        assert json.loads(done.stdout) == [entry_of(EVENTS[number]) for number in (5, 4, 1, 0)]

    def test_a_broken_export_fails_the_command(self, fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """When an export breaks off, curl ends with an error instead of a part that looks whole."""
        break_exports(fresh, monkeypatch)
        done = self.run(
            "-X", "POST", f"{fresh.url}/v1/audit-logs/export", "-H", f"Authorization: Bearer {fresh.key('export')}"
        )
        assert done.returncode == 18  # partial file
        assert done.stdout.startswith(b"[\n")
