import { button, element } from "./dom.js";
import { defaultFilters } from "./filters.js";

/**
 * One filter, folded: its name and present value, and behind them its controls. Fires `apply` whenever it closes;
 * Escape puts the controls back first.
 */
export class Menu extends EventTarget {
  #controls;
  #names;
  #shown = defaultFilters();
  #edited = false;
  #value = element("span", { class: "menu-value" });
  #summary;
  #form;

  /**
   * @param {object} parts
   * @param {string} parts.name of the summary that belongs to it
   * @param {string} parts.title
   * @param {import("./controls.js").Control[]} parts.controls
   * @param {string[]} parts.filters that the controls set
   */
  constructor({ name, title, controls, filters }) {
    super();
    this.name = name;
    this.#controls = controls;
    this.#names = filters;
    this.#summary = element("summary", {}, element("span", { class: "menu-name" }, title), " ", this.#value);
    this.#form = element("form", { class: "menu-panel", onsubmit: (event) => this.#submit(event), oninput: () => { this.#edited = true; } },
      controls.map((control) => control.root),
      element("footer", {},
        button("Reset", () => this.#reset(), { class: "quiet" }),
        element("button", { type: "submit", class: "primary" }, "Apply")));
    this.root = element("details", {
      class: "menu", name: "filter", "data-filter": name,
      onkeydown: (event) => this.#key(event),
      ontoggle: () => this.#toggled(),
    }, this.#summary, this.#form);
  }

  /**
   * @param {import("./filters.js").Filters} filters
   * @param {string|null} value their summary, null when not set
   */
  show(filters, value) {
    this.#shown = filters;
    this.#value.textContent = value ?? "Any";
    const initial = defaultFilters();
    this.root.classList.toggle("is-set", this.#names.some((name) => String(filters[name]) !== String(initial[name])));
    // Another menu's values are applied a moment after this one was opened, maybe after it was closed: what was written
    // here and is not applied yet stays.
    if (!this.#edited) this.#fill(filters);
  }

  /** Forgets what was written, so that the next `show` fills the controls. */
  discard() {
    this.#edited = false;
  }

  /** @returns {object} the part of the filters its controls stand for */
  read() {
    return Object.assign({}, ...this.#controls.map((control) => control.read()));
  }

  /** Folds it; where the focus was inside, it goes to the menu's button. */
  close() {
    if (this.#form.contains(document.activeElement)) this.#summary.focus();
    this.root.open = false;
  }

  #fill(filters) {
    this.#edited = false;
    for (const control of this.#controls) control.show(filters);
  }

  #toggled() {
    if (this.root.open) return;
    if (!this.#form.checkValidity()) this.#fill(this.#shown);
    this.#edited = false;
    this.dispatchEvent(new Event("apply"));
  }

  #submit(event) {
    event.preventDefault();
    this.close();
  }

  #reset() {
    const initial = defaultFilters();
    this.#fill({ ...this.#shown, ...Object.fromEntries(this.#names.map((name) => [name, initial[name]])) });
    this.close();
  }

  #key(event) {
    if (event.key !== "Escape" || !this.root.open) return;
    event.stopPropagation();
    this.#fill(this.#shown);
    this.close();
  }
}
