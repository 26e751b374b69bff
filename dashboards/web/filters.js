import { fromField, toSecond } from "./format.js";

/**
 * What the page's reader asked for. Names are the API's; `range` is a preset, `exact` or `all`, and `start_time` and
 * `end_time` count only when it is `exact`. `system` shows the System group when no event type is chosen.
 *
 * @typedef {object} Filters
 * @property {string} range
 * @property {string} start_time RFC 3339 or empty
 * @property {string} end_time RFC 3339 or empty, inclusive at its written precision
 * @property {string[]} event_types
 * @property {string[]} actor_types
 * @property {string[]} actor_ids
 * @property {string[]} resource_types
 * @property {string[]} resource_ids
 * @property {string[]} actions
 * @property {string[]} status
 * @property {string} client_ip an address, a CIDR block, or empty
 * @property {boolean} system
 */

/** The ranges that end now; `seconds` is their length. */
export const PRESETS = [
  { id: "1h", title: "Last hour", seconds: 3600 },
  { id: "24h", title: "Last 24 hours", seconds: 24 * 3600 },
  { id: "7d", title: "Last 7 days", seconds: 7 * 24 * 3600 },
  { id: "30d", title: "Last 30 days", seconds: 30 * 24 * 3600 },
  { id: "all", title: "All kept", seconds: null },
];

export const ACTOR_TYPES = ["user", "api_key", "system"];
export const ACTIONS = ["create", "read", "update", "delete"];
export const STATUSES = ["success", "failure"];

const DEFAULT_RANGE = "7d";
/** Lists of fixed words, which the address joins by commas; ids may hold a comma and are repeated. */
const WORD_LISTS = ["event_types", "actor_types", "resource_types", "actions", "status"];
const ID_LISTS = ["actor_ids", "resource_ids"];
/** Searches alike within this time are one entry in the log, so a preset's start moves in steps of it. */
const START_STEP_SECONDS = 300;

/** @returns {Filters} */
export function defaultFilters() {
  const lists = Object.fromEntries([...WORD_LISTS, ...ID_LISTS].map((name) => [name, []]));
  return { range: DEFAULT_RANGE, start_time: "", end_time: "", ...lists, client_ip: "", system: false };
}

/**
 * @param {URLSearchParams} parameters of the page's address
 * @returns {Filters}
 */
export function filtersFromAddress(parameters) {
  const filters = defaultFilters();
  for (const name of WORD_LISTS) filters[name] = parameters.getAll(name).flatMap(splitWords);
  for (const name of ID_LISTS) filters[name] = parameters.getAll(name).filter(Boolean);
  filters.start_time = parameters.get("start_time") ?? "";
  filters.end_time = parameters.get("end_time") ?? "";
  filters.range = filters.start_time || filters.end_time ? "exact" : knownRange(parameters.get("range"));
  filters.client_ip = parameters.get("client_ip") ?? "";
  filters.system = parameters.get("system") === "1";
  return filters;
}

/**
 * @param {Filters} filters
 * @returns {URLSearchParams} from which `filtersFromAddress` makes the same filters; the default leaves nothing
 */
export function filtersToAddress(filters) {
  const parameters = new URLSearchParams();
  if (filters.range === "exact") {
    if (filters.start_time) parameters.set("start_time", filters.start_time);
    if (filters.end_time) parameters.set("end_time", filters.end_time);
  } else if (filters.range !== DEFAULT_RANGE) {
    parameters.set("range", filters.range);
  }
  for (const name of WORD_LISTS) if (filters[name].length) parameters.set(name, filters[name].join(","));
  for (const name of ID_LISTS) for (const id of filters[name]) parameters.append(name, id);
  if (filters.client_ip) parameters.set("client_ip", filters.client_ip);
  if (filters.system) parameters.set("system", "1");
  return parameters;
}

/**
 * @param {Filters} filters
 * @param {Array<{name: string, group: string}>} eventTypes the catalog
 * @param {number} now milliseconds since 1970
 * @returns {object} the same as the API takes it: absent instead of empty, a preset as its start
 */
export function toQuery(filters, eventTypes, now) {
  const query = { ...timesOf(filters, now) };
  for (const name of [...WORD_LISTS, ...ID_LISTS]) if (filters[name].length) query[name] = filters[name];
  if (filters.client_ip) query.client_ip = filters.client_ip;
  if (!query.event_types && !filters.system) query.event_types = namesOutsideSystem(eventTypes);
  return query;
}

/**
 * @param {Filters} left
 * @param {Filters} right
 * @returns {boolean} whether both ask for the same
 */
export function sameFilters(left, right) {
  return filtersToAddress(left).toString() === filtersToAddress(right).toString();
}

/**
 * @param {string} text
 * @returns {string[]} its words, without repetitions
 */
export function splitWords(text) {
  return unique(text.split(/[\s,]+/));
}

/**
 * @param {string} text
 * @returns {string[]} its lines, trimmed, without empty ones and repetitions
 */
export function splitLines(text) {
  return unique(text.split("\n").map((line) => line.trim()));
}

/**
 * @param {string} start value of a `datetime-local` field
 * @param {string} end the same
 * @param {import("./format.js").Zone} zone
 * @returns {{range: string, start_time: string, end_time: string}} the part of the filters they stand for
 */
export function exactRange(start, end, zone) {
  const range = { start_time: fromField(start, zone), end_time: fromField(end, zone) };
  return { range: range.start_time || range.end_time ? "exact" : "all", ...range };
}

function timesOf(filters, now) {
  if (filters.range === "exact") {
    return {
      ...(filters.start_time && { start_time: filters.start_time }),
      ...(filters.end_time && { end_time: filters.end_time }),
    };
  }
  const { seconds } = PRESETS.find((preset) => preset.id === filters.range);
  if (seconds === null) return {};
  const start = Math.floor((now / 1000 - seconds) / START_STEP_SECONDS) * START_STEP_SECONDS;
  return { start_time: toSecond(new Date(start * 1000)) };
}

function namesOutsideSystem(eventTypes) {
  return eventTypes.filter((type) => type.group !== "system").map((type) => type.name);
}

function knownRange(range) {
  return PRESETS.some((preset) => preset.id === range) ? range : DEFAULT_RANGE;
}

function unique(texts) {
  return [...new Set(texts.filter(Boolean))];
}
