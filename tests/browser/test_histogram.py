"""The bars over the list: how many entries over time, in a real browser on the real API."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

from browser.reader import address, sign_in, summary

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from browser.served import Site


def chart(page: Page) -> Locator:
    """The bars, as one control."""
    return page.get_by_role("slider", name="Entries over time")


def test_the_bars_count_what_the_list_would_show(page: Page, site: Site) -> None:
    """The caption says how many entries there are; each bar says how many of them are its own."""
    sign_in(page, site, "?range=all")
    expect(page.locator("klyra-histogram figcaption")).to_contain_text(
        f"{len(site.entries(system=False))} entries, a bar for"
    )
    told = chart(page).locator("title").evaluate_all("titles => titles.map(title => title.textContent)")
    counts = [int(re.search(r": (\d+) entr", text)[1]) for text in told]
    assert sum(counts) == len(site.entries(system=False))
    assert 1 < len(counts) <= 60


def test_a_click_narrows_the_search_to_the_time_of_a_bar(page: Page, site: Site) -> None:
    """The address says the time of the bar, and the list shows as many entries as the bar said."""
    sign_in(page, site, "?range=all")
    bar = chart(page).locator(".bar").last
    told = int(re.search(r": (\d+) entr", bar.locator("title").text_content())[1])
    bar.click()
    expect(page).to_have_url(re.compile("start_time"))
    assert address(page).keys() == {"start_time", "end_time"}
    expect(page.locator("klyra-histogram figcaption")).to_contain_text(re.compile(rf"^\D*.*{told} entr"))


def test_the_keyboard_walks_along_the_bars(page: Page, site: Site) -> None:
    """Arrow keys say each bar's time and count; Enter narrows the search to it."""
    sign_in(page, site, "?range=all")
    chart(page).focus()
    bars = chart(page).locator(".bar").count()
    page.keyboard.press("Home")
    expect(chart(page)).to_have_attribute("aria-valuenow", "0")
    expect(chart(page)).to_have_attribute("aria-valuetext", re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*: \d+ entr"))
    page.keyboard.press("ArrowLeft")
    expect(chart(page)).to_have_attribute("aria-valuenow", "0")
    page.keyboard.press("End")
    expect(chart(page)).to_have_attribute("aria-valuenow", str(bars - 1))
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("start_time"))


def test_times_of_the_bars_follow_the_zone(page: Page, site: Site) -> None:
    """Whoever reads in UTC reads the bars in UTC."""
    sign_in(page, site, "?range=all")
    page.get_by_role("button", name="UTC").click()
    expect(chart(page)).to_have_attribute("aria-valuetext", re.compile(" UTC: "))


def test_without_entries_there_are_no_bars(page: Page, site: Site) -> None:
    """Nothing found is said once, by the list."""
    sign_in(page, site, "?event_types=no.such")
    expect(summary(page)).to_have_text("No entries.")
    expect(chart(page)).to_be_hidden()


def test_the_list_needs_no_bars(page: Page, site: Site) -> None:
    """When the counts cannot be had, everything else goes on."""
    page.route("**/v1/audit-logs/summary", lambda route: route.abort())
    sign_in(page, site)
    expect(summary(page)).to_have_text("100 newest entries")
    expect(chart(page)).to_be_hidden()
