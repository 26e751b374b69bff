/**
 * Builds an element. Every string child becomes a text node, so no value of an entry can turn into markup.
 *
 * @param {string} tag
 * @param {Object<string, unknown>} [properties] attributes; `onclick` and the like are listeners; null, undefined and
 *   false leave an attribute out, true sets it empty
 * @param {...(Node|string|null|Array<Node|string|null>)} children null is skipped
 * @returns {HTMLElement}
 */
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice("on".length), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null));
  return node;
}

/**
 * A push button that never submits a form.
 *
 * @param {string} label
 * @param {(event: Event) => void} onclick
 * @param {Object<string, unknown>} [properties]
 * @returns {HTMLElement}
 */
export function button(label, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, label);
}

let lastId = 0;

/**
 * @param {string} stem
 * @returns {string} an id no other element of the page has, to tie a label or hint to its field
 */
export function uniqueId(stem) {
  lastId += 1;
  return `${stem}-${lastId}`;
}
