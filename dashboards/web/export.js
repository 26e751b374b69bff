import { button, element } from "./dom.js";
import { fileName, receive, save } from "./download.js";
import { formatBytes, formatTime, zoneName } from "./format.js";
import { summarize } from "./summary.js";

const FORMATS = [
  { id: "csv", title: "CSV", note: "For spreadsheets: one row an entry, metadata as JSON in the last column" },
  { id: "json", title: "JSON", note: "One array of entries" },
  { id: "ndjson", title: "NDJSON", note: "One entry a line, for other programs" },
];
const NOT_ALLOWED = "You may read but not export. Sign in with a key that has the scope export.";
const SUMMARY_TITLES = {
  time: "Time",
  events: "Events",
  actor: "Actor",
  resource: "Resource",
  action: "Action",
  status: "Status",
  address: "Client IP",
};

/** The export of the entries shown. A file is offered only once the whole answer has arrived. */
export class ExportDialog extends HTMLElement {
  #api;
  #allowed;
  #query = {};
  #zone = "local";
  #abort = null;
  #filters = element("dl", { class: "export-filters" });
  #formats = element("fieldset", { class: "formats" });
  #progress = element("progress", { "aria-label": "Export under way" });
  #received = element("p", { class: "received" });
  #said = element("p", { role: "status" });
  #failed = element("p", { role: "alert" });
  #start = element("button", { type: "submit", class: "primary" }, "Export");
  #leave = button("Cancel", () => this.#dialog.close());
  #dialog = element("dialog", { "aria-labelledby": "export-heading", onclose: () => this.#abort?.abort() },
    element("form", { onsubmit: (event) => this.#submit(event) },
      element("h2", { id: "export-heading" }, "Export entries"),
      this.#filters,
      this.#formats,
      element("div", { class: "export-progress" }, this.#progress, this.#received, this.#said),
      this.#failed,
      element("footer", {}, this.#leave, this.#start)));

  /**
   * @param {import("./api.js").Api} api
   * @param {{scopes: string[]}} session
   * @param {{export_formats: string[]}} plan
   */
  build(api, session, plan) {
    this.#api = api;
    this.#allowed = session.scopes.includes("export");
    const offered = FORMATS.filter(({ id }) => plan.export_formats.includes(id));
    this.#formats.replaceChildren(element("legend", {}, "Format"), ...offered.map(formatChoice));
    this.replaceChildren(this.#dialog);
  }

  disconnectedCallback() {
    this.#abort?.abort();
  }

  /**
   * @param {import("./filters.js").Filters} filters
   * @param {object} query the same as the API takes it
   * @param {import("./format.js").Zone} zone
   */
  open(filters, query, zone) {
    this.#query = query;
    this.#zone = zone;
    const set = Object.entries(summarize(filters, zone)).filter(([, value]) => value !== null);
    this.#filters.replaceChildren(...set.map(([name, value]) =>
      element("div", {}, element("dt", {}, SUMMARY_TITLES[name]), element("dd", {}, element("bdi", {}, value)))));
    this.#phase(this.#allowed ? "ready" : "refused");
    if (!this.#allowed) this.#failed.textContent = NOT_ALLOWED;
    this.#dialog.showModal();
  }

  async #submit(event) {
    event.preventDefault();
    const format = new FormData(event.target).get("format");
    this.#phase("running");
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      await this.#export(format, signal);
      this.#phase("done");
    } catch (error) {
      if (signal.aborted) return;
      this.#phase("ready");
      this.#failed.textContent = error.message;
    }
  }

  async #export(format, signal) {
    const response = await this.#api.export({ ...this.#query, format }, signal);
    const blob = await receive(response, (bytes) => { this.#received.textContent = `${formatBytes(bytes)} received`; });
    const name = fileName(response, `audit-logs.${format}`);
    save(blob, name);
    this.#said.textContent = `Saved ${name}, ${formatBytes(blob.size)}. ${this.#windowNote(response)}`;
  }

  /** Says so when retention has already taken a part of the time asked for. */
  #windowNote(response) {
    const start = response.headers.get("Klyra-Window-Start");
    if (!start || !this.#query.start_time || Date.parse(this.#query.start_time) >= Date.parse(start)) return "";
    const { date, time } = formatTime(start, this.#zone);
    return `Entries sealed before ${date} ${time} ${zoneName(this.#zone)} are no longer kept.`;
  }

  #phase(phase) {
    this.#dialog.dataset.phase = phase;
    this.#formats.disabled = phase !== "ready";
    this.#start.hidden = phase !== "ready";
    this.#leave.textContent = phase === "ready" || phase === "running" ? "Cancel" : "Close";
    this.#progress.hidden = phase !== "running";
    this.#received.hidden = phase !== "running";
    this.#failed.textContent = "";
    if (phase !== "done") this.#said.textContent = "";
    if (phase === "running") this.#received.textContent = "Waiting for the first entries";
    if (phase === "running" || phase === "done") this.#leave.focus();
  }
}

function formatChoice({ id, title, note }, position) {
  return element("label", { class: "choice" },
    element("input", { type: "radio", name: "format", value: id, checked: position === 0 }),
    element("span", {}, title, element("small", {}, note)));
}
