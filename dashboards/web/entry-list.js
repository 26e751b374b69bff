const PAGE_SIZE = 100;
/** A live list longer than this falls back to its newest page, so that a busy night cannot exhaust the browser. */
const MOST_LIVE_ENTRIES = 2000;

/**
 * The entries that match one query, newest first, grown page by page. Fires `change` when there is something else to show.
 * `phase` is of the first page, loading, ready or failed; `error` is of the last page asked for, an ApiError or null.
 */
export class EntryList extends EventTarget {
  #api;
  #query = {};
  #cursor = null;
  #abort = new AbortController();

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.#api = api;
    this.phase = "loading";
    this.entries = [];
    this.warnings = [];
    this.error = null;
    this.loadingMore = false;
  }

  /** @returns {object} the query shown, as the API takes it */
  get query() {
    return this.#query;
  }

  /** @returns {boolean} whether older entries match that are not loaded */
  get hasMore() {
    return this.#cursor !== null;
  }

  /**
   * Starts over with a query; what is shown stays until the answer is there.
   *
   * @param {object} query
   */
  async load(query) {
    this.stop();
    this.#query = query;
    this.phase = "loading";
    this.loadingMore = false;
    this.#changed();
    await this.#attempt((page) => {
      this.entries = page.data;
      this.#keep(page);
    });
  }

  /** Adds the next older page. */
  async more() {
    if (this.loadingMore || !this.hasMore) return;
    this.loadingMore = true;
    this.error = null;
    this.#changed();
    await this.#attempt((page) => {
      const known = new Set(this.entries.map((entry) => entry.id));
      this.entries = [...this.entries, ...page.data.filter((entry) => !known.has(entry.id))];
      this.#keep(page);
    }, this.#cursor);
  }

  /**
   * Looks for newer entries.
   *
   * @returns {Promise<number>} how many were added
   */
  async poll() {
    if (this.phase !== "ready" || this.loadingMore) return 0;
    const page = await this.#page(null);
    if (page === null || this.phase !== "ready" || this.loadingMore) return 0;
    const known = new Set(this.entries.map((entry) => entry.id));
    const merged = page.has_more ? mergeNewest(this.entries, page.data) : null;
    if (merged === null || merged.length > MOST_LIVE_ENTRIES) {
      this.entries = page.data;
      this.#keep(page);
    } else {
      this.entries = merged;
    }
    this.#changed();
    return page.data.filter((entry) => !known.has(entry.id)).length;
  }

  /** Gives up what is under way. */
  stop() {
    this.#abort.abort();
    this.#abort = new AbortController();
  }

  async #attempt(accept, cursor = null) {
    try {
      const page = await this.#page(cursor);
      if (page === null) return;
      accept(page);
      this.phase = "ready";
      this.error = null;
    } catch (error) {
      this.error = error;
      if (cursor === null) this.phase = "failed";
    }
    this.loadingMore = false;
    this.#changed();
  }

  /** One page, or null when a later call has taken over. */
  async #page(cursor) {
    const { signal } = this.#abort;
    try {
      const page = await this.#api.search({ ...this.#query, limit: PAGE_SIZE, ...(cursor && { cursor }) }, signal);
      return signal.aborted ? null : page;
    } catch (error) {
      if (signal.aborted) return null;
      throw error;
    }
  }

  #keep(page) {
    this.#cursor = page.has_more ? page.next_cursor : null;
    this.warnings = page.warnings ?? [];
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * Puts the newest page before what is already shown. Both are in the same order, so what follows the last entry they
 * share is still in place, and what came before it and is not in the page has expired.
 *
 * @param {object[]} shown
 * @param {object[]} newest the present first page
 * @returns {object[]|null} null when they do not meet: entries between them are unknown
 */
export function mergeNewest(shown, newest) {
  if (shown.length === 0) return null;
  const position = new Map(shown.map((entry, index) => [entry.id, index]));
  const meeting = newest.findLast((entry) => position.has(entry.id));
  if (meeting === undefined) return null;
  return [...newest, ...shown.slice(position.get(meeting.id) + 1)];
}
