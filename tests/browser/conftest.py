"""A browser, and the dashboard served to it."""

from __future__ import annotations

import contextlib
import importlib.util
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from browser.served import ACME, OPERATOR, FaultyStore, Site, history
from klyra_audit.catalog import Catalog
from klyra_collector.config import Settings
from klyra_collector.query.app import create_app
from klyra_collector.registry import Registry
from klyra_collector.registry.policies import Policies
from klyra_collector.registry.registry import wall_us
from support.api import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 20_000
GRACE_SECONDS = 5.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[Site]:
    """The dashboard of an organization with some days of history."""
    settings = Settings(data=tmp_path_factory.mktemp("data"))
    catalog = Catalog.load()
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(Registry.open(settings.registry_url, catalog))
        store = stack.enter_context(contextlib.closing(FaultyStore.open(settings.data_directory.store)))
        registry.create_organization(ACME.organization_id, ACME.plan, by=OPERATOR)
        app = create_app(
            registry=registry,
            store=store,
            catalog=catalog,
            policies=Policies.load(),
            dashboard=repository / "dashboards" / "web",
            clock=wall_us,
            cursor_key=bytes(range(32)),
        )
        site = Site(stack.enter_context(serving(app)) + "/", settings, catalog, registry, store)
        site.seal(history(datetime.now(UTC), catalog))
        yield site


@pytest.fixture(autouse=True)
def leaves_no_process() -> None:
    """A closed page's processes take their time; `browser` makes sure of all of them at its end."""


@pytest.fixture(scope="module")
def browser(require_peer: Callable[[str, object], None]) -> Iterator[Browser]:
    """Chromium, which must leave no process behind."""
    require_peer("playwright", importlib.util.find_spec("playwright"))
    require_peer("chromium", CHROMIUM.exists())
    from playwright.sync_api import sync_playwright

    before = set(psutil.Process().children(recursive=True))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        started = set(psutil.Process().children(recursive=True)) - before
        browser.close()
    _, left = psutil.wait_procs(started, timeout=GRACE_SECONDS)
    assert not left


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a fresh profile, in a zone whose time is never UTC's."""
    with contextlib.closing(
        browser.new_context(timezone_id="Europe/Berlin", viewport={"width": 1440, "height": 900})
    ) as context:
        context.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        yield context.new_page()
