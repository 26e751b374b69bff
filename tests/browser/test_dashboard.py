"""Signing in and filtering, in a real browser on the real API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

from browser.reader import (
    PAGE_SIZE,
    address,
    menu,
    rows,
    searches,
    shown_ids,
    sign_in,
    summary,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from browser.served import Site


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
        expect(other.get_by_label("API key", exact=True)).to_be_visible()
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
        expect(other.get_by_label("API key", exact=True)).to_be_visible()
        page.reload()
        expect(page.get_by_label("API key", exact=True)).to_be_visible()


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

    def test_what_is_being_written_survives_another_menus_apply(self, page: Page, site: Site) -> None:
        """A menu applies a moment after the next one was opened; what is already written there is not lost."""
        sign_in(page, site)
        menu(page, "Action").get_by_role("checkbox", name="update").check()
        page.evaluate("""() => {
            const next = document.querySelector("details[data-filter=address]");
            next.open = true;
            const field = next.querySelector("input[name=client_ip]");
            field.value = "2001:db8::/32";
            field.dispatchEvent(new InputEvent("input", { bubbles: true }));
        }""")
        expect(page).to_have_url(re.compile("actions=update"))
        field = page.locator("input[name=client_ip]")
        expect(field).to_have_value("2001:db8::/32")
        field.press("Enter")
        expect(page).to_have_url(re.compile("client_ip"))
        assert address(page) == {"actions": ["update"], "client_ip": ["2001:db8::/32"]}

    def test_what_was_written_and_closed_survives_another_menus_apply(self, page: Page, site: Site) -> None:
        """Somebody faster than the page closes a menu before the one before it was applied; both are applied."""
        sign_in(page, site)
        menu(page, "Action").get_by_role("checkbox", name="update").check()
        page.evaluate("""() => {
            const next = document.querySelector("details[data-filter=address]");
            next.open = true;
            const field = next.querySelector("input[name=client_ip]");
            field.value = "2001:db8::/32";
            field.dispatchEvent(new InputEvent("input", { bubbles: true }));
            next.open = false;
        }""")
        expect(page).to_have_url(re.compile("client_ip"))
        assert address(page) == {"actions": ["update"], "client_ip": ["2001:db8::/32"]}

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
