import { checkboxGroup } from "./controls.js";
import { element } from "./dom.js";

const GROUP_TITLES = { moderation: "Moderation", administrative: "Administrative", system: "System" };

/**
 * The event types by group. The System group, with which the product audits itself, appears when it is asked for.
 *
 * @param {Array<{name: string, title: string, group: string}>} eventTypes the catalog
 * @returns {import("./controls.js").Control}
 */
export function eventControl(eventTypes) {
  const groups = Object.entries(GROUP_TITLES).map(([group, title]) => [group, groupOf(eventTypes, group, title)]);
  const [, systemGroup] = groups.find(([group]) => group === "system");
  const system = element("input", { type: "checkbox", name: "system", onchange: () => ask() });
  const listed = new Set(eventTypes.map((type) => type.name));
  let unlisted = [];
  let asked = false;
  const reveal = () => {
    systemGroup.root.hidden = !system.checked;
  };
  const ask = () => {
    asked = system.checked;
    if (!asked) systemGroup.check([]);
    reveal();
  };

  return {
    root: element("div", { class: "event-control" },
      groups.filter(([name]) => name !== "system").map(([, group]) => group.root),
      element("label", { class: "choice switch" }, system,
        element("span", {}, "Show System events",
          element("small", {}, "Reads, exports and changes of this audit log itself"))),
      systemGroup.root),
    show(filters) {
      for (const [, group] of groups) group.check(filters.event_types);
      unlisted = filters.event_types.filter((name) => !listed.has(name));
      asked = filters.system;
      system.checked = asked || systemGroup.checked().length > 0;
      reveal();
    },
    read: () => ({
      event_types: [...groups.flatMap(([, group]) => group.checked()), ...unlisted],
      system: asked,
    }),
  };
}

function groupOf(eventTypes, group, title) {
  const choices = eventTypes.filter((type) => type.group === group)
    .map((type) => ({ value: type.name, title: type.title, note: type.name }));
  return checkboxGroup("event_types", title, choices);
}
