"""How tests drive the dashboard: sign in, read what is shown, see what was asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

try:
    from playwright.sync_api import expect
except ModuleNotFoundError:  # the `browser` fixture says so
    expect = None

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

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
