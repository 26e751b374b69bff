import { button, element } from "./dom.js";
import { labelled } from "./controls.js";

const NAME_HINT = "Up to 63 of a-z, 0-9 and -.";

/**
 * What a new destination is to be. Fires `wish` with what the API takes, and `cancel`.
 * A secret is written into a field that no browser keeps, and is gone with the form.
 */
export class DestinationForm extends EventTarget {
  #kinds;
  #fields = element("div", { class: "destination-fields" });
  #kind = element("select", { name: "kind", onchange: () => this.#showKind() });
  #name = element("input", { type: "text", name: "name", required: true, pattern: "[a-z0-9][a-z0-9\\-]{0,62}", autocomplete: "off" });

  /** @param {object[]} kinds as the API describes them */
  constructor(kinds) {
    super();
    this.#kinds = kinds;
    this.#kind.append(...kinds.map(({ kind, title }) => element("option", { value: kind }, title)));
    this.root = element("form", { class: "destination-form", autocomplete: "off", onsubmit: (event) => this.#submit(event) },
      labelled("Kind", this.#kind),
      labelled("Name", this.#name, NAME_HINT),
      this.#fields,
      element("footer", {},
        button("Cancel", () => this.dispatchEvent(new Event("cancel"))),
        element("button", { type: "submit", class: "primary" }, "Add and send test event")));
    this.#showKind();
  }

  focus() {
    this.#kind.focus();
  }

  get #chosen() {
    return this.#kinds.find(({ kind }) => kind === this.#kind.value);
  }

  #showKind() {
    const { endpoint, fields, formats, kind } = this.#chosen;
    if (!this.#name.value || this.#kinds.some((one) => one.kind === this.#name.value)) this.#name.value = kind;
    this.#fields.replaceChildren(
      labelled(endpoint.label, input("endpoint", endpoint.is_secret ? "secret" : "text", true), endpoint.help),
      ...fields.map((field) => control(field)),
      formats.length > 1 ? labelled("Format", select("format", formats)) : "");
  }

  #submit(event) {
    event.preventDefault();
    const given = new FormData(this.root);
    const wish = { name: given.get("name"), kind: given.get("kind"), endpoint: given.get("endpoint"), options: {}, secrets: {} };
    if (given.has("format")) wish.format = given.get("format");
    for (const { name, type } of this.#chosen.fields) {
      const value = valueOf(type, given.get(`field:${name}`));
      if (value !== null) wish[type === "secret" ? "secrets" : "options"][name] = value;
    }
    this.dispatchEvent(new CustomEvent("wish", { detail: wish }));
  }
}

function control({ name, label, type, required, help }) {
  if (type === "boolean") return labelled(label, select(`field:${name}`, ["", "true", "false"], ["As usual", "Yes", "No"]), help);
  return labelled(required ? label : `${label} (optional)`, input(`field:${name}`, type, required), help);
}

function input(name, type, required) {
  const types = { secret: "password", number: "number", text: "text" };
  return element("input", {
    type: types[type], name, required, spellcheck: "false", autocapitalize: "off",
    autocomplete: type === "secret" ? "new-password" : "off",
  });
}

function select(name, values, titles = values) {
  return element("select", { name }, values.map((value, index) => element("option", { value }, titles[index])));
}

/** @returns {string|number|boolean|null} null for what was left out */
function valueOf(type, text) {
  if (text === null || text === "") return null;
  if (type === "boolean") return text === "true";
  return type === "number" ? Number(text) : text;
}
