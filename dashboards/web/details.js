import { button, element } from "./dom.js";
import { display, displayId, formatTime, rawJson, zoneName } from "./format.js";
import { statusMark } from "./table.js";

/**
 * One entry, in words and as JSON. Fires `close`, and `narrow` with the part of the filters that shows only entries
 * like this one as detail.
 */
export class EntryDetails extends HTMLElement {
  #types;
  #heading = element("h2", { tabindex: -1, id: "details-heading" });
  #content = element("div", { class: "details-content" });

  /** @param {Array<{name: string, title: string, description: string}>} eventTypes the catalog */
  build(eventTypes) {
    this.#types = new Map(eventTypes.map((type) => [type.name, type]));
    this.hidden = true;
    this.setAttribute("role", "region");
    this.setAttribute("aria-labelledby", this.#heading.id);
    this.addEventListener("keydown", (event) => this.#key(event));
    this.replaceChildren(
      element("header", {}, this.#heading,
        button("×", () => this.#close(), { class: "quiet icon", "aria-label": "Close details" })),
      this.#content);
  }

  /**
   * @param {object} entry
   * @param {import("./format.js").Zone} zone
   */
  show(entry, zone) {
    const type = this.#types.get(entry.event_type);
    this.#open(type?.title ?? display(entry.event_type),
      type ? element("p", { class: "description" }, type.description) : null,
      element("dl", {}, fieldsOf(entry, zone)),
      element("h3", {}, "Metadata"),
      metadataOf(entry.metadata),
      element("h3", {}, "Show only"),
      element("div", { class: "narrow" }, this.#narrowing(entry)),
      rawOf(entry));
  }

  /** @param {import("./api.js").ApiError} error why the entry cannot be shown */
  fail(error) {
    this.#open("Entry not shown", element("p", { role: "alert" }, error.message));
  }

  /** @returns {boolean} whether the list lies hidden behind it, as on a narrow screen */
  get coversPage() {
    return getComputedStyle(this).position === "fixed";
  }

  /** Puts the focus where reading begins. */
  focusHeading() {
    this.#heading.focus();
  }

  #open(heading, ...content) {
    this.#heading.textContent = heading;
    this.#content.replaceChildren(...content.filter((part) => part !== null));
    this.#content.scrollTop = 0;
    this.hidden = false;
  }

  #narrowing({ event_type, actor, resource, metadata }) {
    const offer = (label, filters) => button(label, () =>
      this.dispatchEvent(new CustomEvent("narrow", { detail: filters })));
    return [
      offer("This event type", { event_types: [event_type] }),
      actor.id ? offer("This actor", { actor_types: [actor.type], actor_ids: [actor.id] }) : null,
      resource.id ? offer("This resource", { resource_types: [resource.type], resource_ids: [resource.id] }) : null,
      typeof metadata.client_ip === "string" ? offer("This client IP", { client_ip: metadata.client_ip }) : null,
    ];
  }

  #key(event) {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    this.#close();
  }

  #close() {
    this.dispatchEvent(new Event("close"));
  }
}

function fieldsOf(entry, zone) {
  const { date, time } = formatTime(entry.timestamp, zone);
  return [
    field("id", code(entry.id)),
    field("timestamp", element("span", {}, `${date} ${time} ${zoneName(zone)}`), code(entry.timestamp)),
    field("event_type", code(entry.event_type)),
    field("actor", ...party(entry.actor)),
    field("resource", ...party(entry.resource)),
    field("action", element("span", {}, display(entry.action))),
    field("status", statusMark(entry.status)),
  ];
}

function field(name, ...values) {
  return element("div", {}, element("dt", {}, name), element("dd", {}, values));
}

function party({ type, id, name }) {
  return [
    name ? element("bdi", {}, display(name)) : null,
    element("span", {}, display(type), " ", element("code", {}, displayId(id))),
  ];
}

function metadataOf(metadata) {
  const members = Object.entries(metadata);
  if (members.length === 0) return element("p", { class: "hint" }, "None.");
  return element("dl", {}, members.map(([name, value]) => field(display(name), ...valueOf(value))));
}

function valueOf(value) {
  if (Array.isArray(value)) return value.length ? value.map((item) => code(item)) : [code(value)];
  if (value !== null && typeof value === "object") {
    return [element("dl", {}, Object.entries(value).map(([name, member]) => field(display(name), ...valueOf(member))))];
  }
  return [code(value)];
}

function code(value) {
  return element("code", {}, display(value));
}

function rawOf(entry) {
  const raw = rawJson(entry);
  const text = element("pre", { tabindex: 0, "aria-label": "Raw JSON of the entry" }, raw);
  const said = element("span", { role: "status" });
  const copy = async () => {
    const done = await copied(raw);
    if (!done) getSelection().selectAllChildren(text);
    said.textContent = done ? "Copied" : "The browser refused: press Ctrl+C to copy the selected text";
  };
  return element("section", { class: "raw" },
    element("header", {}, element("h3", {}, "Raw JSON"), said, button("Copy JSON", copy)),
    text);
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // refused, or an address without TLS, where there is no clipboard
  }
}
