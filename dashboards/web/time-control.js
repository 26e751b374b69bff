import { button, element } from "./dom.js";
import { PRESETS, defaultFilters, exactRange } from "./filters.js";
import { toField, zoneName } from "./format.js";
import { labelled } from "./controls.js";

/**
 * The time range: presets, which apply at once, or an exact start and end in the zone shown.
 *
 * @param {(range: object) => void} choose takes the part of the filters a preset stands for
 * @returns {import("./controls.js").Control & {showZone: (zone: import("./format.js").Zone) => void}}
 */
export function timeControl(choose) {
  const presets = PRESETS.map(({ id, title }) =>
    button(title, () => choose({ range: id, start_time: "", end_time: "" }), { "data-range": id }));
  const start = momentField("start_time");
  const end = momentField("end_time");
  const legend = element("legend", {}, "Exact");
  let shown = defaultFilters();
  let zone = "local";
  let filled = "";

  const written = () => `${start.value} ${end.value}`;
  const fill = () => {
    start.value = toField(shown.start_time, zone);
    end.value = toField(shown.end_time, zone);
    filled = written(); // the browser shortens what it is given
  };
  const check = () => {
    const reversed = start.value && end.value && start.value > end.value;
    end.setCustomValidity(reversed ? "The end lies before the start." : "");
  };
  start.addEventListener("input", check);
  end.addEventListener("input", check);

  return {
    root: element("div", { class: "time-control" },
      element("fieldset", {}, element("legend", {}, "Up to now"), element("div", { class: "presets" }, presets)),
      element("fieldset", {}, legend, labelled("From", start), labelled("To, including that second", end))),
    show(filters) {
      shown = filters;
      fill();
      check();
      for (const preset of presets) preset.setAttribute("aria-pressed", String(preset.dataset.range === filters.range));
    },
    showZone(name) {
      zone = name;
      legend.textContent = `Exact (${zoneName(zone)})`;
      fill();
    },
    // A time from the address may be finer than the field: it stays as written until someone edits it.
    read: () => (written() === filled ? timeOf(shown) : exactRange(start.value, end.value, zone)),
  };
}

function momentField(name) {
  return element("input", { type: "datetime-local", name, step: 1, max: "9999-12-31T23:59:59" });
}

function timeOf({ range, start_time, end_time }) {
  return { range, start_time, end_time };
}
