"""Setting a destination up on the page of a running server, in a real browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

from support.serving import await_that
from support.siem.self_service import OURS, SMALL, Far, Server, registered, server_on, splunk
from support.siem.splunk import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Locator, Page


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A whole server whose follower has run."""
    root = tmp_path_factory.mktemp("page") / "data"
    with server_on(root, registered(root)) as made:
        await_that(lambda: made.call("POST", "/v1/destinations", {"name": "x"}).status_code != 503, root)
        yield made


@pytest.fixture
def far() -> Iterator[Far]:
    """A strict Splunk."""
    with splunk() as made:
        yield made


@pytest.fixture
def cleared(server: Server) -> Iterator[Server]:
    """The server, without destinations again afterwards."""
    yield server
    for one in server.call("GET", "/v1/destinations").json()["data"]:
        server.call("DELETE", f"/v1/destinations/{one['id']}")


def opened(page: Page, server: Server, organization_id: str = OURS) -> Locator:
    """Sign in as an administrator and open the dialog."""
    page.goto(server.addresses["api"])
    page.get_by_label("API key", exact=True).fill(server.keys[organization_id])
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Destinations…").click()
    return page.get_by_role("dialog", name="Destinations")


def fill(dialog: Locator, far: Far, token: str = TOKEN) -> None:
    """Write into the form what Splunk's administrator was given, and send it."""
    dialog.get_by_role("button", name="Add destination").click()
    dialog.get_by_label("Kind").select_option("Splunk")
    dialog.get_by_label("HTTP Event Collector").fill(far.server.url)
    dialog.get_by_label("Token").fill(token)
    dialog.get_by_label("Indexer acknowledgement").select_option("No")
    dialog.get_by_role("button", name="Add and send test event").click()


def test_from_the_form_to_entries_in_splunk(page: Page, cleared: Server, far: Far) -> None:
    """Set up, tried at once, delivered to, paused, resumed and deleted, without a word of the token on the page."""
    dialog = opened(page, cleared)
    expect(dialog).to_contain_text("Entries are copied nowhere yet.")
    fill(dialog, far)
    item = dialog.get_by_role("listitem")
    expect(item).to_contain_text("It took the test event. 200/0")
    cleared.emit(OURS, 3, 0)
    expect(item).to_contain_text("Delivering")
    expect(item.get_by_text("delivered")).to_contain_text("last taken")
    assert TOKEN not in page.content()
    item.get_by_role("button", name="Pause").click()
    expect(item).to_contain_text("Paused")
    item.get_by_role("button", name="Resume").click()
    expect(item).to_contain_text("Delivering")
    item.get_by_role("button", name="Delete…").click()
    expect(item.get_by_role("alert")).to_contain_text("Nothing more is sent to splunk")
    item.get_by_role("button", name="Keep it").click()
    item.get_by_role("button", name="Delete…").click()
    item.get_by_role("button", name="Delete", exact=True).click()
    expect(dialog).to_contain_text("Entries are copied nowhere yet.")


def test_a_wrong_token_is_told_in_splunks_words(page: Page, cleared: Server, far: Far) -> None:
    """On the spot, by the test event."""
    dialog = opened(page, cleared)
    fill(dialog, far, token="wrong")
    expect(dialog.get_by_role("listitem")).to_contain_text("It does not let us in. 403/4")
    expect(dialog.get_by_role("listitem")).to_contain_text("Invalid token")


def test_what_is_refused_stays_in_the_form(page: Page, cleared: Server, far: Far) -> None:
    """With what to do; nothing of it has to be written again."""
    dialog = opened(page, cleared)
    far.server.url = "https://splunk.internal:8088"
    fill(dialog, far)
    expect(dialog.get_by_role("alert")).to_contain_text("self_service.allowed_hosts")
    expect(dialog.get_by_label("Token")).to_have_value(TOKEN)
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_contain_text("Entries are copied nowhere yet.")


def test_a_plan_without_destinations_is_told_so(page: Page, server: Server) -> None:
    """The dialog says which plan has them, and offers nothing."""
    dialog = opened(page, server, SMALL)
    expect(dialog).to_contain_text("Enterprise plan")
    expect(dialog.get_by_role("button", name="Add destination")).to_be_hidden()
