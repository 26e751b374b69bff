import { PRESETS } from "./filters.js";
import { formatTime, visible } from "./format.js";

/**
 * Each filter in words, as the filter bar and the export dialog show it; null where a filter is not set.
 *
 * @param {import("./filters.js").Filters} filters
 * @param {import("./format.js").Zone} zone
 * @returns {Record<"time"|"events"|"actor"|"resource"|"action"|"status"|"address", string|null>}
 */
export function summarize(filters, zone) {
  return {
    time: timeSummary(filters, zone),
    events: listed(filters.event_types) ?? (filters.system ? "All, with System" : "All but System"),
    actor: listed([...filters.actor_types, ...filters.actor_ids]),
    resource: listed([...filters.resource_types, ...filters.resource_ids]),
    action: listed(filters.actions),
    status: listed(filters.status),
    address: filters.client_ip ? visible(filters.client_ip) : null,
  };
}

function timeSummary(filters, zone) {
  if (filters.range !== "exact") return PRESETS.find((preset) => preset.id === filters.range).title;
  const words = (timestamp) => Object.values(formatTime(timestamp, zone)).join(" ").trim();
  if (!filters.end_time) return `From ${words(filters.start_time)}`;
  if (!filters.start_time) return `Until ${words(filters.end_time)}`;
  return `${words(filters.start_time)} – ${words(filters.end_time)}`;
}

function listed(values) {
  if (values.length === 0) return null;
  const first = visible(values[0]);
  return values.length === 1 ? first : `${first} +${values.length - 1}`;
}
