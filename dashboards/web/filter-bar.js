import { ACTIONS, ACTOR_TYPES, STATUSES, defaultFilters, sameFilters } from "./filters.js";
import { Menu } from "./menu.js";
import { button, element } from "./dom.js";
import { checkboxes, ids, text, words } from "./controls.js";
import { eventControl } from "./event-control.js";
import { summarize } from "./summary.js";
import { timeControl } from "./time-control.js";

const BLOCK_HINT = "A block is written like 198.51.100.0/24 or 2001:db8::/32.";

/** The filters as a row of menus. Fires `filters-change` with the new filters as detail. */
export class FilterBar extends HTMLElement {
  #menus;
  #time;
  #clear = button("Clear filters", () => this.#announce(defaultFilters()), { class: "quiet" });
  #filters = defaultFilters();
  #zone = "local";
  #onPointer = (event) => this.#closeOutside(event.target);

  /** @param {object[]} eventTypes the catalog */
  build(eventTypes) {
    this.#time = timeControl((range) => this.#chooseRange(range));
    this.#menus = menusOf(this.#time, eventTypes);
    for (const menu of this.#menus) {
      menu.addEventListener("apply", () => this.#announce({ ...this.#filters, ...menu.read() }));
    }
    this.replaceChildren(element("search", { "aria-label": "Filter entries" },
      this.#menus.map((menu) => menu.root), this.#clear));
  }

  connectedCallback() {
    document.addEventListener("pointerdown", this.#onPointer);
  }

  disconnectedCallback() {
    document.removeEventListener("pointerdown", this.#onPointer);
  }

  /**
   * @param {import("./filters.js").Filters} filters
   * @param {import("./format.js").Zone} zone of the times shown
   */
  show(filters, zone) {
    this.#filters = filters;
    this.#zone = zone;
    this.#time.showZone(zone);
    const summary = summarize(filters, zone);
    for (const menu of this.#menus) menu.show(filters, summary[menu.name]);
    this.#clear.hidden = sameFilters(filters, defaultFilters());
  }

  #announce(filters) {
    if (sameFilters(filters, this.#filters)) return;
    this.show(filters, this.#zone);
    this.dispatchEvent(new CustomEvent("filters-change", { detail: filters }));
  }

  #chooseRange(range) {
    const time = this.#menus.find((menu) => menu.name === "time");
    time.discard();
    this.#announce({ ...this.#filters, ...range });
    time.close();
  }

  #closeOutside(target) {
    for (const menu of this.#menus) if (!menu.root.contains(target)) menu.close();
  }
}

function menusOf(time, eventTypes) {
  const plain = (values) => values.map((value) => ({ value, title: value }));
  return [
    new Menu({ name: "time", title: "Time", controls: [time], filters: ["range", "start_time", "end_time"] }),
    new Menu({
      name: "events", title: "Events", controls: [eventControl(eventTypes)], filters: ["event_types", "system"],
    }),
    new Menu({
      name: "actor",
      title: "Actor",
      controls: [checkboxes("actor_types", "Type", plain(ACTOR_TYPES)), ids("actor_ids", "Ids", "usr_… or key_…")],
      filters: ["actor_types", "actor_ids"],
    }),
    new Menu({
      name: "resource",
      title: "Resource",
      controls: [words("resource_types", "Types", "moderation, webhook"), ids("resource_ids", "Ids", "mod_…")],
      filters: ["resource_types", "resource_ids"],
    }),
    new Menu({
      name: "action",
      title: "Action",
      controls: [checkboxes("actions", "Action", plain(ACTIONS))],
      filters: ["actions"],
    }),
    new Menu({
      name: "status",
      title: "Status",
      controls: [checkboxes("status", "Status", plain(STATUSES))],
      filters: ["status"],
    }),
    new Menu({
      name: "address",
      title: "Client IP",
      controls: [text("client_ip", "Address or block", "198.51.100.7", BLOCK_HINT)],
      filters: ["client_ip"],
    }),
  ];
}
