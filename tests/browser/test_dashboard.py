"""The dashboard in a real browser, on the real API: what a reader sees, does and is told."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

    from browser.served import Site

PAGE_SIZE = 100
NARROW = {"width": 390, "height": 844}
LIVE_PAUSE_MS = 5000
UNNAMED = r"- (?:textbox|checkbox|radio|button|searchbox)(?: \[.*\])?:?$"  # in an accessibility snapshot
FIELDS = ["id", "timestamp", "event_type", "actor", "resource", "action", "status", "metadata"]

# Lower luminance contrast than this is hard to read (WCAG 2.2, 1.4.3); large and disabled text is not on the page.
LEAST_CONTRAST = 4.5
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (color) => [...rgba(color)].slice(0, 3)
    .map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, position) => sum + part * [0.2126, 0.7152, 0.0722][position], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "white";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    const [light, dark] = [luminance(getComputedStyle(node).color), luminance(ground(node))].sort((a, b) => b - a);
    found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
}"""


def sign_in(page: Page, site: Site, search: str = "", scopes: tuple[str, ...] = ("read", "export")) -> None:
    """Open the page at a search and sign in with a fresh key."""
    page.goto(site.url + search)
    page.get_by_label("API key").fill(site.new_key(scopes))
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Audit logs", exact=True)).to_be_visible()
    expect(summary(page)).not_to_have_text("Loading…")


def summary(page: Page) -> Locator:
    """The line that says how many entries are shown."""
    return page.locator(".result-summary")


def rows(page: Page) -> Locator:
    """The rows of the table."""
    return page.locator("tbody tr")


def shown_ids(page: Page) -> list[str]:
    """Return the ids of the entries in the table, in its order."""
    return rows(page).evaluate_all("rows => rows.map(row => row.dataset.id)")


def moderations(site: Site) -> list[dict[str, Any]]:
    """Return the entries of moderations that were created, newest first."""
    return [entry for entry in site.entries() if entry["event_type"] == "moderation.created"]


def menu(page: Page, name: str) -> Locator:
    """The filter menu of a name, such as `Status`, opened."""
    found = page.locator("details.menu", has=page.locator("summary", has_text=re.compile(rf"^{name} ")))
    found.locator("summary").click()
    return found


def address(page: Page) -> dict[str, list[str]]:
    """Return the parameters in the page's address."""
    return parse_qs(urlsplit(page.url).query)


def searches(page: Page) -> list[dict[str, Any]]:
    """Return a list that grows by the body of each search the page sends."""
    bodies: list[dict[str, Any]] = []

    def note(request: Any) -> None:
        if request.url.endswith("/v1/audit-logs/search"):
            bodies.append(request.post_data_json)

    page.on("request", note)
    return bodies


def downloads(page: Page) -> list[Any]:
    """Return a list that grows by each file the page offers to save."""
    files: list[Any] = []

    def note(download: Any) -> None:
        files.append(download)

    page.on("download", note)
    return files


def export(page: Page, kind: str) -> bytes:
    """Export what is shown and return the file's bytes."""
    page.get_by_role("button", name="Export…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("radio", name=re.compile(rf"^{kind} ?[A-Z]")).check()
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Export", exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text("Saved")
    return Path(download.value.path()).read_bytes()


class TestSignIn:
    """The way in and out."""

    def test_a_key_opens_the_log_of_its_organization(self, page: Page, site: Site) -> None:
        """The page shows whose log it is, the plan, how long it keeps, and the newest entries."""
        sign_in(page, site)
        header = page.locator("header").first
        expect(header).to_contain_text(site.organization_id)
        expect(header).to_contain_text("business · kept 90 days")
        expect(summary(page)).to_have_text("100 newest entries")
        assert shown_ids(page) == [entry["id"] for entry in site.entries(system=False)[:PAGE_SIZE]]

    def test_the_key_is_not_kept(self, page: Page, site: Site) -> None:
        """After the sign-in the key is in no field, storage, address or cookie that a script can read."""
        page.goto(site.url)
        key = site.new_key(("read",))
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(rows(page).first).to_be_visible()
        everything = page.evaluate(
            "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, location.href,"
            " document.documentElement.outerHTML, [...document.querySelectorAll('input')].map(i => i.value)])"
        )
        assert key not in everything
        assert page.evaluate("document.cookie") == ""

    def test_a_wrong_key_is_told_with_a_remedy(self, page: Page, site: Site) -> None:
        """A refused key leaves the reader at the form with the API's words, and the key to be mended."""
        page.goto(site.url)
        page.get_by_label("API key").fill("klyra_sk_nonsense")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text(re.compile(r"key", re.IGNORECASE))
        expect(page.get_by_label("API key")).to_have_value("klyra_sk_nonsense")
        expect(page.get_by_label("API key")).to_be_focused()

    def test_a_one_time_link_signs_in_and_leaves_the_address(self, page: Page, site: Site) -> None:
        """The token of a link is redeemed and gone from the address; the filters beside it stay."""
        page.goto(f"{site.url}?status=failure#sign-in={site.new_sign_in()}")
        expect(rows(page).first).to_be_visible()
        assert page.url == f"{site.url}?status=failure"
        assert page.evaluate("history.length") <= 2

    def test_a_used_link_is_refused(self, page: Page, browser: Browser, site: Site) -> None:
        """A second reader with the same link is told so, and can sign in with a key."""
        link = f"{site.url}#sign-in={site.new_sign_in()}"
        page.goto(link)
        expect(rows(page).first).to_be_visible()
        other = browser.new_page()
        other.goto(link)
        expect(other.get_by_role("alert")).to_contain_text("link")
        expect(other.get_by_label("API key")).to_be_visible()
        assert "sign-in" not in other.url
        other.close()

    def test_a_used_link_does_not_sign_out_its_first_reader(self, page: Page, site: Site) -> None:
        """Whoever is signed in and follows the link again stays signed in."""
        link = f"{site.url}#sign-in={site.new_sign_in()}"
        page.goto(link)
        expect(rows(page).first).to_be_visible()
        page.goto("about:blank")
        page.goto(link)
        expect(rows(page).first).to_be_visible()

    def test_the_session_survives_a_reload(self, page: Page, site: Site) -> None:
        """A reload asks for no key again."""
        sign_in(page, site)
        page.reload()
        expect(rows(page).first).to_be_visible()

    def test_a_session_that_ends_takes_the_entries_off_the_screen(self, page: Page, site: Site) -> None:
        """The next call after the end leads to the sign-in, which says why and comes back to the same filters."""
        sign_in(page, site, "?status=failure")
        page.context.clear_cookies()
        page.get_by_role("button", name="Refresh").click()
        expect(page.get_by_text("Your session has ended")).to_be_visible()
        assert rows(page).count() == 0
        page.get_by_label("API key").fill(site.new_key(("read",)))
        page.keyboard.press("Enter")
        expect(rows(page).first).to_be_visible()
        assert address(page) == {"status": ["failure"]}

    def test_a_session_that_expires_unused_takes_the_entries_off_the_screen(self, page: Page, site: Site) -> None:
        """Nobody need touch the page for it to notice that its time is over."""
        page.clock.install()
        sign_in(page, site)
        page.context.clear_cookies()
        page.clock.fast_forward(30 * 24 * 3600 * 1000)
        expect(page.get_by_text("Your session has ended")).to_be_visible()
        assert rows(page).count() == 0

    def test_signing_out_ends_the_session_in_every_tab(self, page: Page, site: Site) -> None:
        """After the sign-out neither this tab nor another of the same browser shows entries, reloaded or not."""
        sign_in(page, site)
        other = page.context.new_page()
        other.goto(site.url)
        expect(rows(other).first).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("You are signed out")).to_be_visible()
        expect(other.get_by_label("API key")).to_be_visible()
        page.reload()
        expect(page.get_by_label("API key")).to_be_visible()


class TestFilters:
    """Every filter of the product page, in the menus and in the address."""

    def test_filters_live_in_the_address(self, page: Page, site: Site) -> None:
        """A filter chosen is in the address and applied; back takes it away, forward brings it again."""
        sign_in(page, site)
        everything = shown_ids(page)
        status = menu(page, "Status")
        status.get_by_role("checkbox", name="failure").check()
        status.get_by_role("button", name="Apply").click()
        failures = [e["id"] for e in site.entries(system=False) if e["status"] == "failure"]
        expect(rows(page)).to_have_count(len(failures))
        assert address(page) == {"status": ["failure"]}
        assert shown_ids(page) == failures
        page.go_back()
        expect(rows(page)).to_have_count(PAGE_SIZE)
        assert address(page) == {}
        assert shown_ids(page) == everything
        page.go_forward()
        expect(rows(page)).to_have_count(len(failures))

    def test_every_filter_in_the_address_reaches_the_api(self, page: Page, site: Site) -> None:
        """A shared link asks for exactly what it says, ids with commas included."""
        bodies = searches(page)
        sign_in(
            page,
            site,
            "?start_time=2023-06-01T00:00:00Z&end_time=2023-06-30T23:59:59Z&event_types=moderation.created,user.added"
            "&actor_types=user,api_key&actor_ids=usr_1&actor_ids=a%2Cb&resource_types=moderation&resource_ids=mod_1"
            "&actions=create&status=success,failure&client_ip=198.51.100.0/24",
        )
        assert bodies == [
            {
                "start_time": "2023-06-01T00:00:00Z",
                "end_time": "2023-06-30T23:59:59Z",
                "event_types": ["moderation.created", "user.added"],
                "actor_types": ["user", "api_key"],
                "actor_ids": ["usr_1", "a,b"],
                "resource_types": ["moderation"],
                "resource_ids": ["mod_1"],
                "actions": ["create"],
                "status": ["success", "failure"],
                "client_ip": "198.51.100.0/24",
                "limit": PAGE_SIZE,
            }
        ]

    def test_every_menu_sets_its_filters(self, page: Page, site: Site) -> None:
        """What is ticked and written in the menus is applied when they close, and is what the address then says."""
        sign_in(page, site)
        events = menu(page, "Events")
        events.get_by_role("checkbox", name="moderation.created").check()
        actor = menu(page, "Actor")
        actor.get_by_role("checkbox", name="user").check()
        actor.get_by_label("Ids").fill("usr_1\n usr,2 \n\nusr_1")
        resource = menu(page, "Resource")
        resource.get_by_label("Types").fill("moderation, webhook")
        resource.get_by_label("Ids").fill("mod_1")
        menu(page, "Action").get_by_role("checkbox", name="update").check()
        client = menu(page, "Client IP")
        client.get_by_label("Address or block").fill(" 2001:db8::/32 ")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("client_ip"))
        assert address(page) == {
            "event_types": ["moderation.created"],
            "actor_types": ["user"],
            "actor_ids": ["usr_1", "usr,2"],
            "resource_types": ["moderation,webhook"],
            "resource_ids": ["mod_1"],
            "actions": ["update"],
            "client_ip": ["2001:db8::/32"],
        }
        page.get_by_role("button", name="Clear filters").first.click()
        expect(rows(page)).to_have_count(PAGE_SIZE)
        assert address(page) == {}

    def test_escape_discards_what_was_not_applied(self, page: Page, site: Site) -> None:
        """Escape in a menu changes nothing, closes it and returns the focus to it."""
        sign_in(page, site)
        status = menu(page, "Status")
        status.get_by_role("checkbox", name="failure").check()
        page.keyboard.press("Escape")
        expect(status.locator("summary")).to_be_focused()
        expect(status).not_to_have_attribute("open", "")
        expect(rows(page)).to_have_count(PAGE_SIZE)
        assert address(page) == {}

    @pytest.mark.parametrize(
        ("title", "hours"), [("Last hour", 1), ("Last 24 hours", 24), ("Last 7 days", 168), ("Last 30 days", 720)]
    )
    def test_a_preset_is_a_start_in_steps_of_five_minutes(self, page: Page, site: Site, title: str, hours: int) -> None:
        """A preset asks for entries since then, up to five minutes more, so that a refresh repeats the same search."""
        sign_in(page, site, "?range=all")
        bodies = searches(page)
        now = page.evaluate("Date.now() / 1000")
        menu(page, "Time").get_by_role("button", name=title).click()
        expect(menu(page, "Time").locator(".menu-value")).to_have_text(title)
        start = page.evaluate("time => Date.parse(time) / 1000", bodies[0]["start_time"])
        assert start % 300 == 0
        assert hours * 3600 - 5 < now - start < hours * 3600 + 305
        assert "end_time" not in bodies[0]

    def test_all_kept_asks_for_no_time(self, page: Page, site: Site) -> None:
        """The widest range has neither start nor end, and shows what lies before the other presets."""
        bodies = searches(page)
        sign_in(page, site, "?range=all&actor_ids=usr_old")
        assert not {"start_time", "end_time"} & bodies[0].keys()
        assert rows(page).count() == sum(e["actor"]["id"] == "usr_old" for e in site.entries(system=False)) > 0

    def test_an_exact_range_is_read_in_the_zone_shown(self, page: Page, site: Site) -> None:
        """Times typed in local time, then in UTC, reach the API as the moments they mean."""
        sign_in(page, site)
        bodies = searches(page)
        time = menu(page, "Time")
        time.get_by_label("From").fill("2023-06-01T02:00:00")
        time.get_by_label("To,").fill("2023-06-30T23:59:59")
        page.keyboard.press("Enter")
        expect(page.locator(".message h2")).to_have_text("No entry matches")
        assert (bodies[0]["start_time"], bodies[0]["end_time"]) == ("2023-06-01T00:00:00Z", "2023-06-30T21:59:59Z")
        page.get_by_role("button", name="UTC").click()
        time = menu(page, "Time")
        expect(time.get_by_label("From")).to_have_value("2023-06-01T00:00")
        time.get_by_label("From").fill("2023-06-02T00:00:00")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("06-02"))
        assert address(page)["start_time"] == ["2023-06-02T00:00:00Z"]

    def test_an_end_before_the_start_is_refused_in_the_form(self, page: Page, site: Site) -> None:
        """A reversed range is never sent."""
        sign_in(page, site)
        bodies = searches(page)
        time = menu(page, "Time")
        time.get_by_label("From").fill("2023-06-02T00:00:00")
        time.get_by_label("To,").fill("2023-06-01T00:00:00")
        time.get_by_role("button", name="Apply").click()
        assert time.get_by_label("To,").evaluate("field => field.validationMessage") == "The end lies before the start."
        page.get_by_role("heading", name="Audit logs").click()
        assert not bodies
        assert address(page) == {}

    def test_a_time_finer_than_the_field_survives_an_unchanged_menu(self, page: Page, site: Site) -> None:
        """Opening and closing the menu changes nothing of a link."""
        search = "?start_time=2023-06-01T00%3A00%3A00.123456789Z&end_time=2023-06-30"
        sign_in(page, site, search)
        menu(page, "Time")
        page.get_by_role("heading", name="Audit logs").click()
        assert page.url == site.url + search

    def test_system_events_appear_when_asked_for(self, page: Page, site: Site) -> None:
        """The System group is neither listed nor offered until the reader says so, and then it is both."""
        sign_in(page, site)
        site.seal_outbox()
        page.get_by_role("button", name="Refresh").click()
        expect(rows(page).filter(has_text="api_key.created").first).to_be_visible()
        hidden = {e["id"] for e in site.entries()} - {e["id"] for e in site.entries(system=False)}
        assert hidden
        assert not hidden & set(shown_ids(page))
        events = menu(page, "Events")
        expect(events.get_by_role("group", name="System")).to_be_hidden()
        events.get_by_role("checkbox", name="Show System events").check()
        expect(events.get_by_role("group", name="System")).to_be_visible()
        events.get_by_role("button", name="Apply").click()
        expect(rows(page).first).to_be_visible()
        page.wait_for_url("**/?system=1")
        expect(rows(page).filter(has_text="audit_log.queried").first).to_be_visible()

    def test_an_unknown_event_type_is_named(self, page: Page, site: Site) -> None:
        """The API's warnings are shown above the entries."""
        sign_in(page, site, "?event_types=moderation.created,no.such_type")
        expect(page.locator(".warnings")).to_contain_text("no.such_type")
        expect(rows(page).first).to_be_visible()
        menu(page, "Events")
        page.get_by_role("heading", name="Audit logs").click()
        assert address(page)["event_types"] == ["moderation.created,no.such_type"]


class TestEntries:
    """The table and the details of one entry."""

    def test_paging_shows_every_entry_once_in_order(self, page: Page, site: Site) -> None:
        """Load more goes on by cursor to the oldest entry, where the button leaves and the focus stays in the table."""
        sign_in(page, site, "?range=all&actor_ids=usr_8f3k2m")
        expected = [entry["id"] for entry in site.entries() if entry["actor"]["id"] == "usr_8f3k2m"]
        more = page.get_by_role("button", name="Load more")
        for loaded in range(2 * PAGE_SIZE, len(expected) + PAGE_SIZE, PAGE_SIZE):
            more.focus()
            page.keyboard.press("Enter")
            expect(rows(page)).to_have_count(min(loaded, len(expected)))
        assert shown_ids(page) == expected
        expect(more).to_be_hidden()
        expect(rows(page).last).to_be_focused()
        expect(summary(page)).to_have_text(f"{len(expected)} entries")

    def test_a_page_that_cannot_be_loaded_leaves_the_others(self, page: Page, site: Site) -> None:
        """When the next page fails, what is shown stays, the failure is told, and another try goes on."""
        sign_in(page, site)
        page.route("**/v1/audit-logs/search", lambda route: route.abort())
        page.get_by_role("button", name="Load more").click()
        expect(page.get_by_role("alert")).to_contain_text("could not be reached")
        assert rows(page).count() == PAGE_SIZE
        page.unroute("**/v1/audit-logs/search")
        page.get_by_role("button", name="Try again").click()
        expect(rows(page)).to_have_count(2 * PAGE_SIZE)

    def test_values_are_text_whatever_they_hold(self, page: Page, site: Site) -> None:
        """Markup in any field is shown as written, runs nothing and loads nothing; hidden characters are spelled."""
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        sign_in(page, site, f"?actor_ids={site.hostile_id}")
        expect(rows(page)).to_have_count(1)
        rows(page).first.click()
        page.wait_for_load_state("networkidle")
        details = page.get_by_role("region", name="Moderation")
        expect(details).to_contain_text("<img src=x onerror=window.broken=1>")
        expect(details).to_contain_text(r"\u{202e}gnp.exe")
        assert "\u202e" not in page.locator("body").inner_text()
        assert page.locator("klyra-viewer img").count() == 1
        assert page.evaluate("window.broken") is None
        assert all(urlsplit(url).path.startswith("/v1/") or "." in url for url in requests)
        assert not [url for url in requests if not url.startswith(site.url)]

    def test_an_erased_person_is_shown_as_erased(self, page: Page, site: Site) -> None:
        """Where a person's data were erased the page says so, and offers no filter by what is gone."""

        def erase(route: Route) -> None:
            answer = route.fetch()
            found = answer.json()
            found["data"][0]["actor"] |= {"id": None, "name": None}
            route.fulfill(response=answer, json=found)

        page.route("**/v1/audit-logs/search", erase)
        sign_in(page, site)
        expect(rows(page).first.locator(".actor")).to_contain_text("(erased)")
        rows(page).first.click()
        expect(page.get_by_role("button", name="This resource")).to_be_visible()
        expect(page.get_by_role("button", name="This actor")).to_be_hidden()

    def test_details_show_all_eight_fields(self, page: Page, site: Site) -> None:
        """The panel names each field with its value, and its JSON is the entry as the API gives it."""
        sign_in(page, site, "?event_types=moderation.created")
        entry = moderations(site)[1]
        rows(page).nth(1).click()
        details = page.locator("klyra-entry-details")
        for name in FIELDS[:-1]:
            expect(details.locator("dt", has_text=re.compile(f"^{name}$"))).to_be_visible()
        expect(details).to_contain_text(entry["id"])
        expect(details).to_contain_text(entry["timestamp"])
        expect(details).to_contain_text(entry["metadata"]["client_ip"])
        raw = json.loads(details.locator("pre").inner_text())
        assert raw == entry
        assert list(raw) == FIELDS
        assert address(page)["entry"] == [entry["id"]]

    def test_the_json_can_be_copied(self, page: Page, site: Site) -> None:
        """The button puts the JSON on the clipboard and says so."""
        sign_in(page, site, f"?actor_ids={site.hostile_id}")
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        rows(page).first.click()
        page.get_by_role("button", name="Copy JSON").click()
        expect(page.get_by_role("status").filter(has_text="Copied")).to_be_visible()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert json.loads(copied)["actor"]["id"] == site.hostile_id
        assert "\u202e" not in copied

    def test_the_table_works_by_keyboard(self, page: Page, site: Site) -> None:
        """One tab stop, arrows move, Enter opens, Escape closes and returns to the row."""
        sign_in(page, site)
        assert page.locator("tbody [tabindex='0']").count() == 1
        rows(page).first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(rows(page).nth(2)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#details-heading")).to_be_focused()
        expect(rows(page).nth(2)).to_have_attribute("aria-selected", "true")
        page.keyboard.press("Escape")
        expect(page.locator("klyra-entry-details")).to_be_hidden()
        expect(rows(page).nth(2)).to_be_focused()
        page.keyboard.press("End")
        expect(rows(page).last).to_be_focused()
        page.keyboard.press("Home")
        expect(rows(page).first).to_be_focused()

    def test_an_open_entry_can_be_shared(self, page: Page, site: Site) -> None:
        """A link to an entry opens it even when the filters do not show it; back closes it."""
        entry = site.entries(system=False)[-1]
        sign_in(page, site, f"?entry={entry['id']}")
        details = page.locator("klyra-entry-details")
        expect(details).to_contain_text(entry["id"])
        rows(page).first.click()
        page.get_by_role("button", name="Close details").click()
        expect(details).to_be_hidden()
        page.go_back()
        expect(details).to_be_visible()

    def test_an_entry_that_is_not_there_is_told(self, page: Page, site: Site) -> None:
        """A link to an entry that has expired, or is of another organization, says so and leaves the list usable."""
        sign_in(page, site, "?entry=log_77777777777777777777777777")
        expect(page.get_by_role("alert")).to_contain_text("retention has ended")
        rows(page).first.click()
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.locator("klyra-entry-details pre")).to_be_visible()

    @pytest.mark.parametrize(
        ("button", "names"),
        [
            ("This actor", ["actor_types", "actor_ids"]),
            ("This resource", ["resource_types", "resource_ids"]),
            ("This client IP", ["client_ip"]),
            ("This event type", ["event_types"]),
        ],
    )
    def test_one_click_narrows_to_entries_alike(self, page: Page, site: Site, button: str, names: list[str]) -> None:
        """From an entry, the reader gets the entries with the same actor, resource, address or type."""
        entry = moderations(site)[0]
        sign_in(page, site, f"?entry={entry['id']}")
        page.get_by_role("button", name=button).click()
        values = {
            "actor_types": entry["actor"]["type"],
            "actor_ids": entry["actor"]["id"],
            "resource_types": entry["resource"]["type"],
            "resource_ids": entry["resource"]["id"],
            "client_ip": entry["metadata"]["client_ip"],
            "event_types": entry["event_type"],
        }
        wanted = {name: [values[name]] for name in names} | {"entry": [entry["id"]]}
        expect(page).to_have_url(re.compile(names[0]))
        assert address(page) == wanted
        expect(summary(page)).not_to_have_text("Loading…")
        assert entry["id"] in shown_ids(page)

    def test_live_adds_new_entries_at_the_top(self, page: Page, site: Site) -> None:
        """While live, an entry sealed meanwhile appears above the others, which keep their place and focus."""
        page.clock.install()
        sign_in(page, site)
        page.get_by_role("button", name="Load more").click()
        expect(rows(page)).to_have_count(2 * PAGE_SIZE)
        before = shown_ids(page)
        rows(page).nth(3).focus()
        focused = before[3]
        page.get_by_role("button", name="Live").click()
        rows(page).nth(3).focus()
        added = site.add(actor={"type": "user", "id": "usr_live", "name": "Live"})
        page.clock.run_for(LIVE_PAUSE_MS + 1)
        expect(rows(page).first).to_contain_text("usr_live")
        assert shown_ids(page) == [added["id"], *before]
        expect(page.locator(f"[data-id='{focused}']")).to_be_focused()
        expect(page.get_by_role("button", name="Live")).to_have_attribute("aria-pressed", "true")

    def test_live_stops_when_the_server_is_gone_and_says_so(self, page: Page, site: Site) -> None:
        """A failing look for newer entries ends the live mode instead of pretending."""
        page.clock.install()
        sign_in(page, site)
        page.get_by_role("button", name="Live").click()
        page.route("**/v1/audit-logs/search", lambda route: route.abort())
        page.clock.run_for(LIVE_PAUSE_MS + 1)
        expect(summary(page)).to_contain_text("Live stopped")
        expect(page.get_by_role("button", name="Live")).to_have_attribute("aria-pressed", "false")
        assert rows(page).count() == PAGE_SIZE

    def test_utc_shows_the_time_as_sealed(self, page: Page, site: Site) -> None:
        """The toggle shows each time in UTC, and the address keeps it."""
        sign_in(page, site)
        sealed = site.entries(system=False)[0]["timestamp"]
        page.get_by_role("button", name="UTC").click()
        expect(rows(page).first.locator(".time")).to_contain_text(sealed[11:19])
        assert address(page) == {"zone": ["utc"]}

    @pytest.mark.parametrize(
        ("shown", "newest", "merged"),
        [
            ("dcba", "edc", "edcba"),
            ("dcba", "dcba", "dcba"),
            ("dcba", "ecb", "ecba"),  # d has expired
            ("dba", "dcb", "dcba"),  # c arrived late
            ("dcba", "hgf", None),  # more arrived than a page holds
            ("", "cba", None),
        ],
    )
    def test_the_newest_page_meets_what_is_shown(
        self, page: Page, site: Site, shown: str, newest: str, merged: str | None
    ) -> None:
        """The two are joined where they meet; where they do not, the join is refused."""
        page.goto(site.url)
        joined = page.evaluate(
            """async ([shown, newest]) => {
              const { mergeNewest } = await import("/entry-list.js");
              const entries = (letters) => [...letters].map((id) => ({ id }));
              return mergeNewest(entries(shown), entries(newest))?.map((entry) => entry.id).join("") ?? null;
            }""",
            [shown, newest],
        )
        assert joined == merged


class TestStates:
    """What the page says when there is nothing to show."""

    def test_no_match_offers_a_way_on(self, page: Page, site: Site) -> None:
        """An empty answer offers all kept and no filters, each of which is one click."""
        sign_in(page, site, "?range=1h&actor_ids=usr_nobody")
        expect(page.get_by_role("heading", name="No entry matches")).to_be_visible()
        page.get_by_role("button", name="Search all kept").click()
        expect(page).to_have_url(re.compile("range=all"))
        page.locator(".message").get_by_role("button", name="Clear filters").click()
        expect(rows(page).first).to_be_visible()

    def test_a_refused_filter_is_told_in_the_apis_words(self, page: Page, site: Site) -> None:
        """A bad address shows the API's problem, which names the filter."""
        sign_in(page, site, "?client_ip=nowhere")
        expect(page.get_by_role("alert").get_by_role("heading")).to_contain_text("client_ip")
        expect(page.get_by_role("alert").get_by_role("paragraph")).to_contain_text("198.51.100.0/24")
        assert rows(page).count() == 0

    def test_an_unreachable_server_can_be_tried_again(self, page: Page, site: Site) -> None:
        """Without an answer the page says so and a retry brings the entries."""
        sign_in(page, site)
        page.route("**/v1/audit-logs/search", lambda route: route.abort())
        page.get_by_role("button", name="Refresh").click()
        expect(page.get_by_role("alert")).to_contain_text("could not be reached")
        page.unroute("**/v1/audit-logs/search")
        page.get_by_role("button", name="Try again").click()
        expect(rows(page).first).to_be_visible()

    def test_a_start_without_the_server_can_be_tried_again(self, page: Page, site: Site) -> None:
        """A page that cannot even ask for its session offers another try."""
        page.route("**/v1/sessions/current", lambda route: route.abort())
        page.goto(site.url)
        expect(page.get_by_role("alert")).to_contain_text("could not be reached")
        page.unroute("**/v1/sessions/current")
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_label("API key")).to_be_visible()

    def test_a_key_of_no_organization_is_told_and_let_out(self, page: Page, site: Site) -> None:
        """The operator's key shows why there is no log to show, and a way to sign out."""
        page.goto(site.url)
        page.get_by_label("API key").fill(site.new_operator_key())
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("organization")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("You are signed out")).to_be_visible()

    def test_an_answer_that_is_late_says_loading(self, page: Page, site: Site) -> None:
        """While the first answer is awaited the page says so."""
        held: list[Route] = []

        def hold(route: Route) -> None:
            held.append(route)

        page.route("**/v1/audit-logs/search", hold)
        page.goto(site.url)
        page.get_by_label("API key").fill(site.new_key(("read",)))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Loading entries…")).to_be_visible()
        held[0].continue_()
        expect(rows(page).first).to_be_visible()

    def test_a_proxys_refusal_without_words_is_still_told(self, page: Page, site: Site) -> None:
        """An answer that carries no problem document is named by its status."""
        sign_in(page, site)
        page.route("**/v1/audit-logs/search", lambda route: route.fulfill(status=502, body="<html>"))
        page.get_by_role("button", name="Refresh").click()
        expect(page.get_by_role("alert")).to_contain_text("502")


class TestExport:
    """The export dialog."""

    def test_each_format_holds_the_entries_shown(self, page: Page, site: Site) -> None:
        """CSV, JSON and NDJSON hold the entries of the present filters, all of them, in the page's order or not."""
        sign_in(page, site, "?range=all&status=failure")
        expected = sorted(e["id"] for e in site.entries(system=False) if e["status"] == "failure")
        as_csv = list(csv.DictReader(io.StringIO(export(page, "CSV").decode())))
        assert sorted(row["id"] for row in as_csv) == expected
        page.get_by_role("button", name="Close", exact=True).click()
        as_json = json.loads(export(page, "JSON"))
        assert sorted(entry["id"] for entry in as_json) == expected
        page.get_by_role("button", name="Close", exact=True).click()
        as_lines = [json.loads(line) for line in export(page, "NDJSON").splitlines()]
        assert as_lines == as_json

    def test_the_dialog_says_what_is_exported(self, page: Page, site: Site) -> None:
        """The filters stand in the dialog in words, the hidden System group among them."""
        sign_in(page, site, "?status=failure")
        page.get_by_role("button", name="Export…").click()
        dialog = page.get_by_role("dialog", name="Export entries")
        for words in ("Last 7 days", "All but System", "failure"):
            expect(dialog).to_contain_text(words)

    def test_a_stream_that_breaks_off_saves_nothing(self, page: Page, site: Site) -> None:
        """A failure in the middle is shown as a failure, with no file; another try can succeed."""
        sign_in(page, site, "?range=all")
        saved = downloads(page)
        page.get_by_role("button", name="Export…").click()
        dialog = page.get_by_role("dialog")
        with site.export_fails_after(600):
            dialog.get_by_role("button", name="Export", exact=True).click()
            expect(dialog.get_by_role("alert")).to_contain_text("No file was saved")
        assert not saved
        with page.expect_download():
            dialog.get_by_role("button", name="Export", exact=True).click()
        expect(dialog.get_by_role("alert")).to_be_hidden()

    def test_a_running_export_shows_bytes_and_can_be_cancelled(self, page: Page, site: Site) -> None:
        """The progress counts what has arrived; Cancel ends it without a file, and the dialog is fresh again."""
        sign_in(page, site, "?range=all")
        saved = downloads(page)
        page.get_by_role("button", name="Export…").click()
        dialog = page.get_by_role("dialog")
        with site.export_waits_after(600):
            dialog.get_by_role("button", name="Export", exact=True).click()
            expect(dialog.locator(".received")).to_have_text(re.compile(r"^[\d.]+ (bytes|kB) received$"))
            expect(dialog.get_by_role("progressbar")).to_be_visible()
            dialog.get_by_role("button", name="Cancel").click()
        expect(dialog).to_be_hidden()
        assert not saved
        page.get_by_role("button", name="Export…").click()
        expect(dialog.get_by_role("button", name="Export", exact=True)).to_be_visible()
        expect(dialog.get_by_role("progressbar")).to_be_hidden()

    def test_a_refusal_is_told_in_the_apis_words(self, page: Page, site: Site) -> None:
        """A range that is wholly outside what is kept shows the API's problem and leaves the dialog usable."""
        sign_in(page, site, "?end_time=2001-01-01T00:00:00Z")
        page.get_by_role("button", name="Export…").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Export", exact=True).click()
        expect(dialog.get_by_role("alert")).not_to_be_empty()
        expect(dialog.get_by_role("button", name="Export", exact=True)).to_be_visible()

    def test_a_reader_without_the_scope_is_told(self, page: Page, site: Site) -> None:
        """Who may not export learns which scope is missing before trying."""
        sign_in(page, site, scopes=("read",))
        page.get_by_role("button", name="Export…").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("alert")).to_contain_text("scope export")
        expect(dialog.get_by_role("button", name="Export", exact=True)).to_be_hidden()


class TestPage:
    """What holds of the page as a whole."""

    def test_a_strict_policy_is_kept(self, page: Page, site: Site) -> None:
        """The page is served with a policy that allows nothing inline and no other site, and never breaks it."""
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        answer = page.goto(site.url)
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert re.search(r"default-src '(self|none)'", policy)
        assert "unsafe" not in policy
        sign_in(page, site)
        rows(page).first.click()
        export(page, "CSV")
        page.wait_for_load_state("networkidle")
        assert [text for text in complaints if "401" not in text] == []

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_can_be_read_in_both_schemes(self, page: Page, site: Site, scheme: Any) -> None:
        """Every text on the page, the open menus and the dialog has the contrast WCAG AA asks for."""
        page.emulate_media(color_scheme=scheme)
        page.goto(site.url)
        low = [found for found in page.evaluate(CONTRAST) if found[0] < LEAST_CONTRAST]
        sign_in(page, site, "?range=all&status=success,failure&event_types=moderation.created,no.such_type")
        rows(page).first.click()
        low += [found for found in page.evaluate(CONTRAST) if found[0] < LEAST_CONTRAST]
        menu(page, "Events")
        low += [found for found in page.evaluate(CONTRAST) if found[0] < LEAST_CONTRAST]
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Export…").click()
        low += [found for found in page.evaluate(CONTRAST) if found[0] < LEAST_CONTRAST]
        assert low == []

    def test_every_control_has_a_name(self, page: Page, site: Site) -> None:
        """A screen reader finds a name for each field and button, and one heading for the page."""
        sign_in(page, site)
        rows(page).first.click()
        for summary_line in page.locator("details.menu summary").all():
            summary_line.click()
            assert re.findall(UNNAMED, page.aria_snapshot(), re.MULTILINE) == []
            page.keyboard.press("Escape")
        assert page.locator("h1").count() == 1

    def test_a_narrow_screen_shows_one_thing_at_a_time(self, page: Page, site: Site) -> None:
        """On a phone nothing needs scrolling sideways, and the details take the whole screen."""
        page.set_viewport_size(NARROW)
        sign_in(page, site)
        assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        rows(page).first.click()
        box = page.locator("klyra-entry-details").bounding_box()
        assert box == {"x": 0, "y": 0, **NARROW}
        page.keyboard.press("Escape")
        panel = menu(page, "Time").locator(".menu-panel").bounding_box()
        assert panel is not None
        assert panel["x"] >= 0
        assert panel["x"] + panel["width"] <= NARROW["width"]
