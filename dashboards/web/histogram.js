import { counted, formatTime, toSecond, zoneName } from "./format.js";
import { element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const BUCKETS = 60;
const WIDTH = 10;
const HEIGHT = 60;
/** A bar that stands for anything at all can be seen. */
const LEAST_HEIGHT = 1.5;

/**
 * How many entries match over time, failures apart. Arrow keys walk along the bars, Enter or a click narrows the search
 * to one: fires `narrow` with the part of the filters it stands for.
 */
export class Histogram extends HTMLElement {
  #api;
  #abort = new AbortController();
  #summary = null;
  #zone = "local";
  #current = 0;
  #chart = null;
  #caption = element("figcaption");

  /** @param {import("./api.js").Api} api */
  build(api) {
    this.#api = api;
    this.hidden = true;
  }

  /**
   * Counts what a query would list; what is shown stays until the answer is there. It is of no consequence to the rest
   * of the page when that fails: the list says what happened.
   *
   * @param {object} query as the API takes it
   */
  async load(query) {
    this.#abort.abort();
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    try {
      const summary = await this.#api.summary({ ...query, buckets: BUCKETS, top: 0 }, signal);
      if (signal.aborted) return;
      this.#summary = summary;
      this.#current = Math.max(0, summary.buckets.length - 1);
    } catch {
      if (signal.aborted) return;
      this.#summary = null;
    }
    this.#render();
  }

  /** @param {import("./format.js").Zone} zone of the times shown */
  show(zone) {
    if (zone === this.#zone) return;
    this.#zone = zone;
    this.#render();
  }

  /** Gives up what is under way. */
  stop() {
    this.#abort.abort();
  }

  #render() {
    const hadFocus = this.contains(document.activeElement);
    this.hidden = this.#summary === null || this.#summary.total === 0;
    if (this.hidden) return;
    this.#chart = this.#draw();
    this.#caption.replaceChildren(
      element("span", {}, this.#text(this.#summary.first)),
      element("span", {}, `${counted(this.#summary.total, "entry", "entries")}, a bar for ${spanName(this.#summary.interval_seconds)}`),
      element("span", {}, this.#text(this.#summary.last)));
    this.replaceChildren(element("figure", {}, this.#chart, this.#caption));
    this.#point(this.#current);
    if (hadFocus) this.#chart.focus();
  }

  #draw() {
    const { buckets } = this.#summary;
    const most = Math.max(...buckets.map(sizeOf));
    const chart = svg("svg", {
      viewBox: `0 0 ${buckets.length * WIDTH} ${HEIGHT}`,
      preserveAspectRatio: "none",
      tabindex: "0",
      role: "slider",
      "aria-label": "Entries over time",
      "aria-valuemin": "0",
      "aria-valuemax": String(buckets.length - 1),
    });
    chart.append(...buckets.map((bucket, position) => this.#bar(bucket, position, most)));
    chart.addEventListener("keydown", (event) => this.#key(event));
    return chart;
  }

  #bar(bucket, position, most) {
    const bar = svg("g", { class: "bar", "data-position": String(position) });
    const title = svg("title");
    title.textContent = this.#describe(bucket);
    const failed = heightOf(bucket.failure, most);
    const succeeded = heightOf(bucket.success, most);
    bar.append(title,
      rectangle(position, 0, HEIGHT, "ground"),
      rectangle(position, HEIGHT - failed - succeeded, succeeded, "success"),
      rectangle(position, HEIGHT - failed, failed, "failure"));
    bar.addEventListener("click", () => this.#narrow(position));
    return bar;
  }

  #key(event) {
    const last = this.#summary.buckets.length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -last, End: last };
    if (event.key in steps) {
      event.preventDefault();
      this.#point(Math.min(last, Math.max(0, this.#current + steps[event.key])));
    } else if (event.key === "Enter") {
      this.#narrow(this.#current);
    }
  }

  #point(position) {
    this.#current = position;
    this.#chart.setAttribute("aria-valuenow", String(position));
    this.#chart.setAttribute("aria-valuetext", this.#describe(this.#summary.buckets[position]));
    for (const bar of this.#chart.children) bar.classList.toggle("is-current", Number(bar.dataset.position) === position);
  }

  #narrow(position) {
    const start = new Date(this.#summary.buckets[position].start);
    const end = new Date(start.getTime() + this.#summary.interval_seconds * 1000 - 1000);
    this.dispatchEvent(new CustomEvent("narrow", {
      // The end is inclusive at its written precision: it covers its whole second.
      detail: { range: "exact", start_time: toSecond(start), end_time: toSecond(end) },
    }));
  }

  #describe(bucket) {
    const failures = bucket.failure ? `, ${counted(bucket.failure, "failure", "failures")}` : "";
    return `${this.#text(bucket.start)} ${zoneName(this.#zone)}: ${counted(sizeOf(bucket), "entry", "entries")}${failures}`;
  }

  #text(timestamp) {
    const { date, time } = formatTime(timestamp, this.#zone);
    return `${date} ${time}`;
  }
}

function sizeOf(bucket) {
  return bucket.success + bucket.failure;
}

function heightOf(count, most) {
  return count === 0 ? 0 : Math.max(LEAST_HEIGHT, (count / most) * (HEIGHT - LEAST_HEIGHT));
}

function rectangle(position, y, height, kind) {
  return svg("rect", { x: position * WIDTH + 1, y, width: WIDTH - 2, height, class: kind });
}

function svg(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function spanName(seconds) {
  const units = [[86400, "day", "days"], [3600, "hour", "hours"], [60, "minute", "minutes"], [1, "second", "seconds"]];
  const [length, one, many] = units.find(([unit]) => seconds % unit === 0);
  return counted(seconds / length, one, many);
}
