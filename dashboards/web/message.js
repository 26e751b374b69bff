import { button, element } from "./dom.js";
import { defaultFilters, sameFilters } from "./filters.js";

/**
 * What stands in place of the table when it has nothing to show.
 *
 * @param {import("./entry-list.js").EntryList} list
 * @param {import("./filters.js").Filters} filters
 * @param {object} actions
 * @param {() => void} actions.retry
 * @param {(part: object) => void} actions.change takes the part of the filters to change
 * @returns {HTMLElement|null} null while the table speaks for itself
 */
export function messageFor(list, filters, actions) {
  if (list.phase === "failed") {
    const { happened, remedy } = list.error;
    const failure = message(happened, remedy, button("Try again", actions.retry, { class: "primary" }));
    failure.setAttribute("role", "alert");
    return failure;
  }
  if (list.entries.length > 0) return null;
  if (list.phase === "loading") return message("Loading entries…", "");
  return emptyMessage(filters, actions);
}

function emptyMessage(filters, { change }) {
  const everything = { ...defaultFilters(), range: "all" };
  if (sameFilters(filters, everything)) {
    return message("No entries yet", "Entries appear here as soon as an emitter has sent events and they are sealed.");
  }
  const allKept = { range: "all", start_time: "", end_time: "" };
  const narrowed = !sameFilters({ ...filters, ...allKept }, everything);
  return message("No entry matches", "Widen the time range, or take filters away.",
    filters.range === "all" ? null : button("Search all kept", () => change(allKept)),
    narrowed ? button("Clear filters", () => change(defaultFilters())) : null);
}

function message(heading, remedy, ...offers) {
  return element("div", { class: "message" }, element("h2", {}, heading), element("p", {}, remedy),
    element("div", { class: "offers" }, offers));
}
