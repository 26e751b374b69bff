"""Entries, their details, states and export, in a real browser on the real API."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

from browser.reader import (
    CONTRAST,
    FIELDS,
    LEAST_CONTRAST,
    LIVE_PAUSE_MS,
    NARROW,
    PAGE_SIZE,
    UNNAMED,
    address,
    downloads,
    export,
    menu,
    moderations,
    rows,
    shown_ids,
    sign_in,
    summary,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

    from browser.served import Site


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
