/**
 * A call that did not give its answer. `happened` and `remedy` are for the reader, `message` is both.
 * `status` is the HTTP status, 0 when there was no answer at all.
 */
export class ApiError extends Error {
  constructor({ status, happened, remedy = "" }) {
    super(`${happened} ${remedy}`.trim());
    this.name = "ApiError";
    this.status = status;
    this.happened = happened;
    this.remedy = remedy;
  }
}

/**
 * The query API as the page uses it. Fires `session-ended` when a call finds the session gone.
 * Every call throws ApiError; a call given a signal throws the signal's AbortError once aborted.
 */
export class Api extends EventTarget {
  /** @param {URL|string} base the address below which `v1/` lies */
  constructor(base) {
    super();
    this.base = base;
  }

  /** @param {string} key an API key, sent once and not kept */
  signInWithKey(key) {
    return this.#signIn({ headers: { Authorization: `Bearer ${key}` } });
  }

  /** @param {string} token the token of a one-time link */
  signInWithToken(token) {
    return this.#signIn(jsonBody({ sign_in: token }));
  }

  /** @returns {Promise<object|null>} the session of this browser, null when there is none */
  async currentSession() {
    try {
      return await this.#json("sessions/current", {}, { signingIn: true });
    } catch (error) {
      if (error.status === 401) return null;
      throw error;
    }
  }

  /** Ends the session of this browser; one that is already gone is no error. */
  async signOut() {
    try {
      await this.#request("sessions/current", { method: "DELETE" }, { signingIn: true });
    } catch (error) {
      if (error.status !== 401) throw error;
    }
  }

  /** @returns {Promise<object>} the organization's plan, window and export formats */
  plan() {
    return this.#json("plan");
  }

  /** @returns {Promise<Array<{name: string, title: string, description: string, group: string}>>} */
  async eventTypes() {
    return (await this.#json("catalog")).event_types;
  }

  /**
   * @param {object} query filters as the API names them, with `limit` and `cursor`
   * @param {AbortSignal} signal
   * @returns {Promise<{data: object[], has_more: boolean, next_cursor: string|null, warnings?: string[]}>}
   */
  search(query, signal) {
    return this.#json("audit-logs/search", { method: "POST", signal, ...jsonBody(query) });
  }

  /**
   * @param {object} query filters as the API names them, with `buckets` and `top`
   * @param {AbortSignal} signal
   * @returns {Promise<{total: number, first: string|null, last: string|null, interval_seconds: number, buckets: object[]}>}
   */
  summary(query, signal) {
    return this.#json("audit-logs/summary", { method: "POST", signal, ...jsonBody(query) });
  }

  /**
   * @param {string} id
   * @returns {Promise<object>} one entry
   */
  entry(id) {
    return this.#json(`audit-logs/${encodeURIComponent(id)}`);
  }

  /**
   * @param {object} query filters as the API names them, with `format`
   * @param {AbortSignal} signal
   * @returns {Promise<Response>} whose body is still to be read
   */
  export(query, signal) {
    return this.#request("audit-logs/export", { method: "POST", signal, ...jsonBody(query) });
  }

  /** @returns {Promise<object[]>} the organization's destinations, and how they are doing */
  async destinations() {
    return (await this.#json("destinations")).data;
  }

  /** @returns {Promise<object[]>} the kinds of destinations that are offered, and what each asks for */
  async destinationKinds() {
    return (await this.#json("destination-kinds")).data;
  }

  /** @param {object} wish name, kind, endpoint, options, secrets … */
  createDestination(wish) {
    return this.#json("destinations", { method: "POST", ...jsonBody(wish) });
  }

  /**
   * @param {string} id
   * @param {object} change what is to be another than it is
   */
  changeDestination(id, change) {
    return this.#json(`destinations/${encodeURIComponent(id)}`, { method: "PATCH", ...jsonBody(change) });
  }

  /** @param {string} id */
  async deleteDestination(id) {
    await this.#request(`destinations/${encodeURIComponent(id)}`, { method: "DELETE" });
  }

  /**
   * @param {string} id
   * @returns {Promise<{outcome: string, status: string, answer: string, event_id: string}>} what the vendor said
   */
  tryDestination(id) {
    return this.#json(`destinations/${encodeURIComponent(id)}/test`, { method: "POST" });
  }

  async #signIn(init) {
    return this.#json("sessions", { method: "POST", ...init }, { signingIn: true });
  }

  async #json(path, init, options) {
    const response = await this.#request(path, init, options);
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError({ status: response.status, happened: "The answer could not be read.", remedy: "Try again." });
    }
  }

  async #request(path, init = {}, { signingIn = false } = {}) {
    const response = await this.#fetch(path, init);
    if (response.ok) return response;
    const error = await problem(response);
    if (error.status === 401 && !signingIn) this.dispatchEvent(new Event("session-ended"));
    throw error;
  }

  async #fetch(path, { headers = {}, ...init }) {
    try {
      return await fetch(new URL(`v1/${path}`, this.base), {
        credentials: "same-origin",
        cache: "no-store",
        redirect: "error",
        headers: { Accept: "application/json", "X-Klyra-Request": "1", ...headers },
        ...init,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError({
        status: 0,
        happened: "The server could not be reached.",
        remedy: "Check your connection, then try again.",
      });
    }
  }
}

function jsonBody(value) {
  return { headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) };
}

/** Reads the problem document (RFC 9457) that a refusal carries; a proxy's refusal carries none. */
async function problem(response) {
  const { status } = response;
  const otherwise = { detail: `The server answered ${status}.`, remedy: status >= 500 ? "Try again in a moment." : "" };
  const { detail, remedy } = { ...otherwise, ...(await response.json().catch(() => ({}))) };
  // A detail may end with the remedy, for programs that show nothing else.
  const happened = detail.endsWith(remedy) ? detail.slice(0, detail.length - remedy.length).trim() : detail;
  return new ApiError({ status, happened, remedy });
}
