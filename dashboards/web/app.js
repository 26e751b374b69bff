import { Api } from "./api.js";
import { Destinations } from "./destinations.js";
import { EntryDetails } from "./details.js";
import { EntryTable } from "./table.js";
import { ExportDialog } from "./export.js";
import { FilterBar } from "./filter-bar.js";
import { Histogram } from "./histogram.js";
import { SignIn } from "./sign-in.js";
import { Viewer } from "./viewer.js";
import { button, element } from "./dom.js";
import { takeSignInToken } from "./address.js";

/** A session that its end has not yet reached is looked at again after this time at the earliest, in milliseconds. */
const SOONEST_CHECK = 30_000;
/** The longest time a timer can wait, in milliseconds. */
const LONGEST_TIMER = 2 ** 31 - 1;
const SESSION_ENDED = "Your session has ended. Sign in again to go on where you were.";

/** The page: the sign-in, or the audit log of the organization signed in to. */
class AuditLog extends HTMLElement {
  #api = new Api(document.baseURI);
  #otherTabs = new BroadcastChannel("klyra-session");
  #timer = null;
  #onHashChange = () => this.#enterByLink();
  #onPageShow = (event) => event.persisted && this.#checkSession();

  connectedCallback() {
    this.#api.addEventListener("session-ended", () => this.#end());
    this.#otherTabs.onmessage = () => this.#start();
    window.addEventListener("hashchange", this.#onHashChange);
    window.addEventListener("pageshow", this.#onPageShow);
    this.#start();
  }

  disconnectedCallback() {
    clearTimeout(this.#timer);
    this.#otherTabs.close();
    window.removeEventListener("hashchange", this.#onHashChange);
    window.removeEventListener("pageshow", this.#onPageShow);
  }

  async #start() {
    if (await this.#enterByLink()) return;
    try {
      const session = await this.#api.currentSession();
      if (session) await this.#enter(session);
      else this.#leave("");
    } catch (error) {
      this.#fail(error, () => this.#start());
    }
  }

  /** Redeems a one-time link, if the address is one. A used link is no obstacle to someone already signed in. */
  async #enterByLink() {
    const token = takeSignInToken();
    if (token === null) return false;
    try {
      await this.#enterAnew(await this.#api.signInWithToken(token));
    } catch (error) {
      const session = await this.#api.currentSession().catch(() => null);
      if (session) await this.#enter(session);
      else this.#leave("", error.message);
    }
    return true;
  }

  /** The cookie is every tab's: the others must not go on showing the organization they were signed in to. */
  #enterAnew(session) {
    this.#otherTabs.postMessage("changed");
    return this.#enter(session);
  }

  async #enter(session) {
    try {
      const [plan, eventTypes] = await Promise.all([this.#api.plan(), this.#api.eventTypes()]);
      const viewer = document.createElement("klyra-viewer");
      viewer.build({ api: this.#api, session, plan, eventTypes });
      viewer.addEventListener("sign-out", () => this.#signOut((text) => viewer.say(text)));
      this.replaceChildren(viewer);
      this.#expectEnd(session);
    } catch (error) {
      if (error.status !== 401) this.#fail(error, () => this.#enter(session));
    }
  }

  #end() {
    if (!this.querySelector("klyra-sign-in")) this.#leave(SESSION_ENDED);
  }

  #leave(notice, failure = "") {
    clearTimeout(this.#timer);
    const signIn = document.createElement("klyra-sign-in");
    signIn.build(this.#api);
    signIn.addEventListener("signed-in", (event) => this.#enterAnew(event.detail));
    this.replaceChildren(signIn);
    signIn.show(notice, failure);
  }

  async #signOut(say) {
    try {
      await this.#api.signOut();
      this.#otherTabs.postMessage("changed");
      this.#leave("You are signed out.");
    } catch (error) {
      say(`You are still signed in. ${error.message}`);
    }
  }

  #expectEnd(session) {
    clearTimeout(this.#timer);
    const left = Date.parse(session.expires_at) - Date.now();
    this.#timer = setTimeout(() => this.#checkSession(), Math.min(Math.max(left, SOONEST_CHECK), LONGEST_TIMER));
  }

  /** Takes the entries off the screen once the session is over. */
  async #checkSession() {
    const session = await this.#api.currentSession().catch(() => null);
    if (session) this.#expectEnd(session);
    else this.#end();
  }

  #fail(error, retry) {
    const remedy = element("p", {}, error.remedy);
    const signOut = () => this.#signOut((text) => { remedy.textContent = text; });
    this.replaceChildren(element("main", { class: "message", role: "alert" },
      element("h1", {}, error.happened),
      remedy,
      element("div", { class: "offers" },
        button("Try again", retry, { class: "primary" }),
        button("Sign out", signOut))));
  }
}

customElements.define("klyra-sign-in", SignIn);
customElements.define("klyra-filter-bar", FilterBar);
customElements.define("klyra-histogram", Histogram);
customElements.define("klyra-entry-table", EntryTable);
customElements.define("klyra-entry-details", EntryDetails);
customElements.define("klyra-export-dialog", ExportDialog);
customElements.define("klyra-destinations", Destinations);
customElements.define("klyra-viewer", Viewer);
customElements.define("klyra-audit-log", AuditLog);
