import { button, element } from "./dom.js";
import { counted, display, formatTime, zoneName } from "./format.js";
import { EntryList } from "./entry-list.js";
import { Live } from "./live.js";
import { messageFor } from "./message.js";
import { readView, viewAddress } from "./address.js";
import { sameFilters, toQuery } from "./filters.js";

/** Time between two looks for newer entries, in milliseconds. */
const LIVE_PAUSE = 5000;

/** The audit log of one organization. The address says what it shows. Fires `sign-out`. */
export class Viewer extends HTMLElement {
  #api;
  #eventTypes;
  #list;
  #view = readView(location);
  #entry = null;
  #live = new Live(() => this.#lookForNewer(), LIVE_PAUSE);
  #onPopState = () => this.#follow();

  #filterBar = document.createElement("klyra-filter-bar");
  #histogram = document.createElement("klyra-histogram");
  #table = document.createElement("klyra-entry-table");
  #details = document.createElement("klyra-entry-details");
  #export = document.createElement("klyra-export-dialog");
  #destinations = document.createElement("klyra-destinations");
  #said = element("p", { role: "status", class: "result-summary" });
  #warnings = element("ul", { class: "warnings", "aria-live": "polite" });
  #message = element("div");
  #liveButton = button("Live", () => this.#setLive(!this.#live.running), {
    "aria-pressed": "false", title: "Look for new entries every few seconds",
  });
  #zoneButton = button("UTC", () => this.#toggleZone(), { title: "Show times in UTC" });

  /**
   * @param {object} parts
   * @param {import("./api.js").Api} parts.api
   * @param {object} parts.session
   * @param {object} parts.plan
   * @param {object[]} parts.eventTypes the catalog
   */
  build({ api, session, plan, eventTypes }) {
    this.#api = api;
    this.#eventTypes = eventTypes;
    this.#list = new EntryList(api);
    this.#filterBar.build(eventTypes);
    this.#histogram.build(api);
    this.#table.build(eventTypes);
    this.#details.build(eventTypes);
    this.#export.build(api, session, plan);
    this.#destinations.build(api, plan);
    this.#listen();
    this.replaceChildren(
      this.#header(session, plan),
      this.#filterBar,
      this.#toolbar(),
      element("main", { class: "results" },
        element("div", { class: "entries" }, this.#histogram, this.#warnings, this.#message, this.#table),
        this.#details),
      this.#export,
      this.#destinations);
  }

  connectedCallback() {
    window.addEventListener("popstate", this.#onPopState);
    this.#start();
  }

  disconnectedCallback() {
    window.removeEventListener("popstate", this.#onPopState);
    this.#live.stop();
    this.#list.stop();
    this.#histogram.stop();
  }

  /** @param {string} text said to the reader, for what concerns the whole page */
  say(text) {
    this.#said.textContent = text;
  }

  #header(session, plan) {
    const since = plan.window_start ? ` Kept since ${formatTime(plan.window_start, "utc").date}.` : "";
    return element("header", { class: "page-header" },
      element("img", { src: "./icon.svg", alt: "Klyra" }),
      element("h1", {}, "Audit logs"),
      element("span", { class: "organization" }, display(plan.organization_id)),
      element("span", { class: "badge", title: `Retention policy ${display(plan.policy)}.${since}` },
        `${display(plan.plan)} · kept ${counted(plan.retention_days, "day", "days")}`),
      witnessBadge(plan.witnessed_at),
      element("span", { class: "signed-in", title: "Signed in as" }, display(session.actor.name ?? session.actor.id)),
      session.scopes.includes("admin") ? button("Destinations…", () => this.#destinations.open(), { class: "quiet" }) : null,
      button("Sign out", () => this.dispatchEvent(new Event("sign-out")), { class: "quiet" }));
  }

  #toolbar() {
    return element("div", { class: "toolbar" }, this.#said,
      this.#zoneButton,
      this.#liveButton,
      button("Refresh", () => this.#search()),
      button("Export…", () => this.#openExport(), { class: "primary" }));
  }

  #openExport() {
    this.#export.open(this.#view.filters, this.#list.query, this.#view.zone);
  }

  #listen() {
    this.#list.addEventListener("change", () => this.#render());
    this.#filterBar.addEventListener("filters-change", (event) => this.#filter(event.detail));
    this.#histogram.addEventListener("narrow", (event) => this.#narrow(event.detail));
    this.#table.addEventListener("entry-open", (event) => this.#open(event.detail));
    this.#table.addEventListener("load-more", () => this.#list.more());
    this.#details.addEventListener("close", () => this.#close());
    this.#details.addEventListener("narrow", (event) => this.#narrow(event.detail));
  }

  async #start() {
    this.#filterBar.show(this.#view.filters, this.#view.zone);
    this.#render();
    await this.#search();
    await this.#showNamedEntry();
  }

  /** Shows what the address says after the reader went back or forward. */
  async #follow() {
    const before = this.#view;
    this.#view = readView(location);
    this.#filterBar.show(this.#view.filters, this.#view.zone);
    if (sameFilters(before.filters, this.#view.filters)) this.#render();
    else await this.#search();
    await this.#showNamedEntry();
  }

  #filter(filters) {
    this.#go({ filters });
    this.#filterBar.show(filters, this.#view.zone);
    return this.#search();
  }

  #narrow(part) {
    if (this.#details.coversPage) this.#close();
    this.#filter({ ...this.#view.filters, ...part });
  }

  /** Both ask for the same, so that together they are one entry in the log they read. */
  async #search() {
    const query = toQuery(this.#view.filters, this.#eventTypes, Date.now());
    await this.#list.load(query);
    if (this.isConnected) await this.#histogram.load(query);
  }

  #go(change, { replace = false } = {}) {
    this.#view = { ...this.#view, ...change };
    const address = viewAddress(this.#view, location);
    if (replace) history.replaceState(null, "", address);
    else history.pushState(null, "", address);
  }

  #open(entry) {
    this.#go({ entryId: entry.id }, { replace: this.#view.entryId !== null });
    this.#showEntry(entry);
    this.#details.focusHeading();
  }

  #close() {
    const id = this.#view.entryId;
    this.#go({ entryId: null });
    this.#hideEntry();
    this.#table.focusRow(id);
  }

  /** Shows the entry the address names, from what is loaded when it is there. */
  async #showNamedEntry() {
    const { entryId } = this.#view;
    if (entryId === null) this.#hideEntry();
    if (entryId === null || !this.isConnected) return;
    const isStillWanted = () => this.#view.entryId === entryId;
    try {
      const loaded = [this.#entry, ...this.#list.entries].find((entry) => entry?.id === entryId);
      const entry = loaded ?? await this.#api.entry(entryId);
      if (isStillWanted()) this.#showEntry(entry);
    } catch (error) {
      if (isStillWanted()) this.#failEntry(error);
    }
  }

  #showEntry(entry) {
    this.#entry = entry;
    this.#details.show(entry, this.#view.zone);
    this.#table.mark(entry.id);
  }

  #failEntry(error) {
    this.#entry = null;
    this.#details.fail(error);
    this.#table.mark(null);
  }

  #hideEntry() {
    this.#entry = null;
    this.#details.hidden = true;
    this.#table.mark(null);
  }

  #toggleZone() {
    this.#go({ zone: this.#view.zone === "utc" ? "local" : "utc" }, { replace: true });
    this.#filterBar.show(this.#view.filters, this.#view.zone);
    if (this.#entry) this.#details.show(this.#entry, this.#view.zone);
    this.#render();
  }

  #setLive(on) {
    if (on) this.#live.start();
    else this.#live.stop();
    this.#liveButton.setAttribute("aria-pressed", String(on));
  }

  async #lookForNewer() {
    try {
      await this.#list.poll();
    } catch (error) {
      this.#setLive(false);
      this.say(`Live stopped. ${error.message}`);
    }
  }

  #render() {
    const { filters, zone } = this.#view;
    this.#histogram.show(zone);
    this.#table.show(this.#list, zone);
    this.#table.mark(this.#view.entryId);
    this.#zoneButton.setAttribute("aria-pressed", String(zone === "utc"));
    this.#zoneButton.title = `Times are in ${zoneName(zone)}`;
    this.#warnings.replaceChildren(...this.#list.warnings.map((warning) => element("li", {}, display(warning))));
    const message = messageFor(this.#list, filters, {
      retry: () => this.#search(),
      change: (part) => this.#filter({ ...filters, ...part }),
    });
    this.#message.replaceChildren(...(message ? [message] : []));
    this.say(resultSummary(this.#list));
  }
}

/** Says whether anyone but the operator vouches for the log, and since when. */
function witnessBadge(witnessedAt) {
  if (!witnessedAt) {
    const title = "No independent witness has cosigned this log: whoever holds its signing key could rewrite it unnoticed.";
    return element("span", { class: "badge", title }, "UNWITNESSED");
  }
  const { date, time } = formatTime(witnessedAt, "utc");
  return element("span", { class: "badge", title: `Independent witnesses had cosigned this log by ${date} ${time} UTC.` }, "witnessed");
}

function resultSummary(list) {
  if (list.phase === "failed") return "";
  if (list.phase === "loading") return "Loading…";
  if (list.entries.length === 0) return "No entries.";
  return counted(list.entries.length, ...(list.hasMore ? ["newest entry", "newest entries"] : ["entry", "entries"]));
}
