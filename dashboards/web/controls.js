import { splitLines, splitWords } from "./filters.js";
import { element, uniqueId } from "./dom.js";

/**
 * A control of the filter bar: an element, `show(filters)`, which fills it, and `read()`, which gives the part of the
 * filters it stands for.
 *
 * @typedef {object} Control
 * @property {HTMLElement} root
 * @property {(filters: import("./filters.js").Filters) => void} show
 * @property {() => object} read
 */

/**
 * One checkbox per value.
 *
 * @param {string} name of the filter
 * @param {string} legend
 * @param {Array<{value: string, title: string, note?: string}>} choices
 * @returns {{root: HTMLElement, check: (values: string[]) => void, checked: () => string[]}}
 */
export function checkboxGroup(name, legend, choices) {
  const boxes = choices.map(({ value }) => element("input", { type: "checkbox", name, value }));
  const rows = choices.map(({ title, note }, index) => element("label", { class: "choice" }, boxes[index],
    element("span", {}, title, note ? element("code", {}, note) : null)));
  return {
    root: element("fieldset", {}, element("legend", {}, legend), rows),
    check: (values) => boxes.forEach((box) => { box.checked = values.includes(box.value); }),
    checked: () => boxes.filter((box) => box.checked).map((box) => box.value),
  };
}

/**
 * A filter that is one group of checkboxes. A value from the address that has no box stays until the filter is reset.
 *
 * @param {string} name of the filter
 * @param {string} legend
 * @param {Array<{value: string, title: string}>} choices
 * @returns {Control}
 */
export function checkboxes(name, legend, choices) {
  const group = checkboxGroup(name, legend, choices);
  const listed = new Set(choices.map(({ value }) => value));
  let unlisted = [];
  return {
    root: group.root,
    show(filters) {
      group.check(filters[name]);
      unlisted = filters[name].filter((value) => !listed.has(value));
    },
    read: () => ({ [name]: [...group.checked(), ...unlisted] }),
  };
}

/**
 * Ids, one a line.
 *
 * @param {string} name of the filter
 * @param {string} label
 * @param {string} example
 * @returns {Control}
 */
export function ids(name, label, example) {
  const field = element("textarea", {
    name, rows: 3, placeholder: example, spellcheck: "false", autocapitalize: "off",
  });
  return {
    root: labelled(label, field, "One id a line."),
    show: (filters) => { field.value = filters[name].join("\n"); },
    read: () => ({ [name]: splitLines(field.value) }),
  };
}

/**
 * Fixed words, separated by commas or spaces.
 *
 * @param {string} name of the filter
 * @param {string} label
 * @param {string} example
 * @returns {Control}
 */
export function words(name, label, example) {
  const field = textField(name, example);
  return {
    root: labelled(label, field, "Several types are separated by commas."),
    show: (filters) => { field.value = filters[name].join(", "); },
    read: () => ({ [name]: splitWords(field.value) }),
  };
}

/**
 * One short text.
 *
 * @param {string} name of the filter
 * @param {string} label
 * @param {string} example
 * @param {string} hint
 * @returns {Control}
 */
export function text(name, label, example, hint) {
  const field = textField(name, example);
  return {
    root: labelled(label, field, hint),
    show: (filters) => { field.value = filters[name]; },
    read: () => ({ [name]: field.value.trim() }),
  };
}

/**
 * @param {string} label
 * @param {HTMLElement} field
 * @param {string} [hint]
 * @returns {HTMLElement} the field under its label and above its hint, tied to both
 */
export function labelled(label, field, hint = "") {
  const id = uniqueId("field");
  const hintId = uniqueId("hint");
  field.id = id;
  if (hint) field.setAttribute("aria-describedby", hintId);
  return element("div", { class: "field" },
    element("label", { for: id }, label),
    field,
    hint ? element("p", { class: "hint", id: hintId }, hint) : null);
}

function textField(name, example) {
  return element("input", {
    type: "text", name, placeholder: example, spellcheck: "false", autocapitalize: "off", autocomplete: "off",
  });
}
