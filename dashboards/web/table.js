import { button, element } from "./dom.js";
import { display, displayId, formatTime, zoneName } from "./format.js";

/** Those behind the time. */
const COLUMNS = ["Event", "Actor", "Resource", "Action", "Status", "Client IP"];

/**
 * The entries as a table with one tab stop: arrows move, Enter opens. Fires `entry-open` with the entry as detail,
 * and `load-more`.
 */
export class EntryTable extends HTMLElement {
  #titles;
  #zone;
  #rows = new Map();
  #zoneHeading = element("span", { class: "zone" });
  #body = element("tbody");
  #table = element("table", { role: "grid", hidden: true, onkeydown: (event) => this.#key(event) },
    element("caption", { class: "visually-hidden" }, "Entries, newest first. Enter opens the entry of a row."),
    element("thead", {}, element("tr", {},
      element("th", { scope: "col" }, "Time ", this.#zoneHeading),
      COLUMNS.map((name) => element("th", { scope: "col" }, name)))),
    this.#body);
  #more = button("Load more", () => this.dispatchEvent(new Event("load-more")));
  #moreError = element("p", { role: "alert" });
  #foot = element("div", { class: "table-foot", hidden: true }, this.#moreError, this.#more);

  /** @param {Array<{name: string, title: string}>} eventTypes the catalog */
  build(eventTypes) {
    this.#titles = new Map(eventTypes.map((type) => [type.name, type.title]));
    this.replaceChildren(this.#table, this.#foot);
  }

  /**
   * @param {import("./entry-list.js").EntryList} list
   * @param {import("./format.js").Zone} zone
   */
  show(list, zone) {
    if (zone !== this.#zone) this.#useZone(zone);
    const before = this.#rows;
    this.#rows = new Map(list.entries.map((entry) => [entry.id, before.get(entry.id) ?? this.#row(entry)]));
    this.#place();
    this.#table.hidden = list.entries.length === 0 || list.phase === "failed";
    this.#table.setAttribute("aria-busy", String(list.phase === "loading"));
    this.#showFoot(list);
  }

  /** @param {string|null} id of the entry whose details are open */
  mark(id) {
    for (const [rowId, row] of this.#rows) row.setAttribute("aria-selected", String(rowId === id));
  }

  /** @param {string} id of the entry whose row gets the focus, if it is shown */
  focusRow(id) {
    this.#focus(this.#rows.get(id));
  }

  #useZone(zone) {
    this.#zone = zone;
    this.#zoneHeading.textContent = zone === "utc" ? "UTC" : "local";
    this.#zoneHeading.title = zoneName(zone);
    this.#rows = new Map();
  }

  /** Puts the rows in order, moving only those out of place, so that focus and scroll position stay. */
  #place() {
    const wanted = new Set(this.#rows.values());
    for (const row of [...this.#body.rows]) if (!wanted.has(row)) row.remove();
    let next = this.#body.firstElementChild;
    for (const row of wanted) {
      if (row === next) next = next.nextElementSibling;
      else this.#body.insertBefore(row, next);
    }
    const [first] = this.#body.rows;
    if (first && !this.#body.querySelector("[tabindex='0']")) first.tabIndex = 0;
  }

  #row(entry) {
    const { date, time } = formatTime(entry.timestamp, this.#zone);
    const open = () => {
      if (getSelection().isCollapsed) this.dispatchEvent(new CustomEvent("entry-open", { detail: entry }));
    };
    return element("tr", { tabindex: -1, "data-id": entry.id, onclick: open },
      cell("time", time, date),
      cell("event", this.#titles.get(entry.event_type) ?? display(entry.event_type), display(entry.event_type)),
      partyCell("actor", entry.actor),
      partyCell("resource", entry.resource),
      element("td", { class: "action" }, display(entry.action)),
      element("td", { class: "status" }, statusMark(entry.status)),
      element("td", { class: "address" }, element("bdi", {}, display(entry.metadata?.client_ip))));
  }

  #showFoot(list) {
    const failed = list.phase === "ready" && list.error !== null;
    const focused = document.activeElement === this.#more;
    this.#foot.hidden = this.#table.hidden || (!list.hasMore && !failed);
    this.#more.textContent = list.loadingMore ? "Loading…" : failed ? "Try again" : "Load more";
    this.#moreError.textContent = failed ? `Older entries could not be loaded. ${list.error.message}` : "";
    if (focused && this.#foot.hidden) this.#focus(this.#body.lastElementChild);
  }

  #key(event) {
    const row = event.target.closest("tbody tr");
    if (!row) return;
    const target = {
      ArrowDown: row.nextElementSibling,
      ArrowUp: row.previousElementSibling,
      Home: this.#body.firstElementChild,
      End: this.#body.lastElementChild,
    }[event.key];
    if (target) this.#focus(target);
    else if (event.key === "Enter" || event.key === " ") row.click();
    else return;
    event.preventDefault();
  }

  #focus(row) {
    if (!row) return;
    for (const other of this.#body.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    row.tabIndex = 0;
    row.focus();
  }
}

/**
 * @param {string} status
 * @returns {HTMLElement} the status with a mark that does not depend on colour alone
 */
export function statusMark(status) {
  const known = status === "success" || status === "failure";
  return element("span", { class: known ? `mark ${status}` : "mark" }, display(status));
}

function cell(className, main, second) {
  return element("td", { class: className },
    element("bdi", { title: main }, main),
    element("bdi", { class: "second", title: second }, second));
}

/** A name with type and id below it; without a name the id stands in its place. */
function partyCell(className, { type, id, name }) {
  return name
    ? cell(className, display(name), `${display(type)} ${displayId(id)}`)
    : cell(className, displayId(id), display(type));
}
