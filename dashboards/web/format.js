/**
 * Characters that show nothing or reorder what stands beside them. An attacker could use them to make one id look like
 * another. The joiners of scripts and emoji (U+200C, U+200D) are left alone.
 */
const DECEPTIVE = new RegExp("[" + [
  "\\p{Cc}", // control characters
  "\\u061C\\u200E\\u200F\\u202A-\\u202E\\u2066-\\u2069", // direction
  "\\u00AD\\u180E\\u200B\\u2060-\\u2065\\u206A-\\u206F\\uFEFF", // no width
  "\\u115F\\u1160\\u3164\\uFFA0", // blank letters
  "\\u2028\\u2029", // line ends
  "\\u{E0000}-\\u{E007F}", // tags
].join("") + "]", "gu");

/** @typedef {"local"|"utc"} Zone */

/**
 * @param {string} text
 * @returns {string} the text with every deceptive character spelled out as its code point
 */
export function visible(text) {
  return text.replace(DECEPTIVE, (character) => `\\u{${character.codePointAt(0).toString(16)}}`);
}

/**
 * @param {unknown} value any JSON value
 * @returns {string} one line for people
 */
export function display(value) {
  if (value === null || value === undefined) return "—";
  return visible(typeof value === "string" ? value : JSON.stringify(value));
}

/**
 * @param {string|null} id of an actor or a resource
 * @returns {string} one line for people; only an id that was erased on a person's request is missing
 */
export function displayId(id) {
  return id === null ? "(erased)" : visible(id);
}

/**
 * @param {unknown} value any JSON value
 * @returns {string} indented JSON of the same value, deceptive characters as `\uXXXX` escapes
 */
export function rawJson(value) {
  const escaped = (character) => Array.from({ length: character.length }, (_, position) =>
    `\\u${character.charCodeAt(position).toString(16).padStart(4, "0")}`).join("");
  return JSON.stringify(value, null, 2)
    .replace(DECEPTIVE, (character) => (character === "\n" ? character : escaped(character)));
}

/**
 * @param {string} timestamp RFC 3339
 * @param {Zone} zone
 * @returns {{date: string, time: string}} `2023-06-15` and `14:30:45`; a text that is no time stays as it is in `time`
 */
export function formatTime(timestamp, zone) {
  const clock = zoned(new Date(timestamp), zone);
  if (clock === null) return { date: "", time: display(timestamp) };
  return { date: clock.slice(0, 10), time: clock.slice(11) };
}

/**
 * @param {string} timestamp RFC 3339, or empty
 * @param {Zone} zone
 * @returns {string} the value of a `datetime-local` field, empty when there is no time
 */
export function toField(timestamp, zone) {
  return (timestamp && zoned(new Date(timestamp), zone)) || "";
}

/**
 * @param {string} field the value of a `datetime-local` field
 * @param {Zone} zone
 * @returns {string} RFC 3339 in UTC to the second, empty when the field is
 */
export function fromField(field, zone) {
  if (!field) return "";
  return toSecond(new Date(zone === "utc" ? `${field}Z` : field));
}

/**
 * @param {Date} moment
 * @returns {string} RFC 3339 in UTC to the second
 */
export function toSecond(moment) {
  return moment.toISOString().replace(/\.\d+Z$/, "Z");
}

/**
 * @param {Zone} zone
 * @returns {string} its name for people
 */
export function zoneName(zone) {
  return zone === "utc" ? "UTC" : Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/**
 * @param {number} bytes
 * @returns {string} such as `3.4 MB` (powers of 1,000)
 */
export function formatBytes(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let amount = bytes;
  let unit = 0;
  while (amount >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? amount : amount.toFixed(1)} ${units[unit]}`;
}

/**
 * @param {number} count
 * @param {string} one the noun for one
 * @param {string} many the noun for any other number
 * @returns {string} such as `1,200 entries`
 */
export function counted(count, one, many) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

function zoned(moment, zone) {
  if (Number.isNaN(moment.getTime())) return null;
  const shifted = zone === "utc" ? moment : new Date(moment.getTime() - moment.getTimezoneOffset() * 60_000);
  return shifted.toISOString().slice(0, 19);
}
