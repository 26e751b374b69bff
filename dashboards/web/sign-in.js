import { element } from "./dom.js";
import { labelled } from "./controls.js";

/** The way in: an API key, exchanged for a session and not kept. Fires `signed-in` with the session as detail. */
export class SignIn extends HTMLElement {
  #api;
  #key = element("input", {
    type: "password",
    name: "key",
    required: true,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "klyra_sk_…",
    pattern: "\\s*[!-~]+\\s*",
    title: "A key is one word that begins with klyra_sk_",
  });
  #notice = element("p", { class: "notice", role: "status" });
  #failed = element("p", { role: "alert" });
  #submit = element("button", { type: "submit", class: "primary" }, "Sign in");

  /** @param {import("./api.js").Api} api */
  build(api) {
    this.#api = api;
    this.replaceChildren(element("main", { class: "sign-in" },
      element("img", { src: "./icon.svg", alt: "" }),
      element("h1", {}, "Klyra audit logs"),
      this.#notice,
      element("form", { onsubmit: (event) => this.#signIn(event) },
        labelled("API key", this.#key, "A key with the scope read. It is sent once to open a session and is not kept."),
        this.#failed,
        this.#submit)));
  }

  /**
   * @param {string} notice why the reader is here, or empty
   * @param {string} failure what went wrong before, or empty
   */
  show(notice, failure) {
    this.#notice.textContent = notice;
    this.#failed.textContent = failure;
    this.#key.focus();
  }

  async #signIn(event) {
    event.preventDefault();
    this.#submit.disabled = true;
    this.#failed.textContent = "";
    try {
      const session = await this.#api.signInWithKey(this.#key.value.trim());
      this.#key.value = "";
      this.dispatchEvent(new CustomEvent("signed-in", { detail: session }));
    } catch (error) {
      this.#failed.textContent = error.message;
      this.#key.focus();
    }
    this.#submit.disabled = false;
  }
}
