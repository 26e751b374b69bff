import { filtersFromAddress, filtersToAddress } from "./filters.js";

/**
 * What the page's address says is shown, so that a link, a reload and the back button bring it back.
 *
 * @typedef {object} View
 * @property {import("./filters.js").Filters} filters
 * @property {import("./format.js").Zone} zone
 * @property {string|null} entryId of the entry whose details are open
 */

/**
 * @param {Location} location
 * @returns {View}
 */
export function readView(location) {
  const parameters = new URLSearchParams(location.search);
  return {
    filters: filtersFromAddress(parameters),
    zone: parameters.get("zone") === "utc" ? "utc" : "local",
    entryId: parameters.get("entry"),
  };
}

/**
 * @param {View} view
 * @param {Location} location
 * @returns {string} the address, without a fragment, from which `readView` makes the same view
 */
export function viewAddress(view, location) {
  const parameters = filtersToAddress(view.filters);
  if (view.zone === "utc") parameters.set("zone", "utc");
  if (view.entryId) parameters.set("entry", view.entryId);
  const search = parameters.toString();
  return search ? `${location.pathname}?${search}` : location.pathname;
}

/**
 * Takes the token of a one-time sign-in link out of the address, before anything else can see it there.
 *
 * @returns {string|null}
 */
export function takeSignInToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("sign-in");
  if (token !== null) history.replaceState(null, "", location.pathname + location.search);
  return token;
}
