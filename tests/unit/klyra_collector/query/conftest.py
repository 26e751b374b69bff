"""A running query API, whole and fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.api import EVENTS, OTHER, running_api
from support.entries import document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from support.api import Api


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


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    """A client of Acme that may read and export."""
    with api.client() as opened:
        yield opened
