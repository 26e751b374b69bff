import { button, element } from "./dom.js";
import { counted, display, formatTime } from "./format.js";
import { DestinationForm } from "./destination-form.js";
import { Live } from "./live.js";

/** Time between two looks at how it goes, in milliseconds. */
const LOOK_PAUSE = 3000;
const STATES = {
  starting: "Starting",
  delivering: "Delivering",
  retrying: "Trying again",
  paused: "Paused",
  halted: "Halted",
  stopped: "Stopped",
};
const OUTCOMES = {
  delivered: "It took the test event.",
  retry: "It cannot take entries now.",
  refused: "It refuses the test event.",
  not_let_in: "It does not let us in.",
};
const NOT_IN_PLAN = "Copies of entries to a SIEM are part of the Enterprise plan.";

/** Where the organization's entries are copied to: a dialog with how each is doing, and a form for another. */
export class Destinations extends HTMLElement {
  #api;
  #plan;
  #kinds = null;
  #trials = new Map();
  #asked = null;
  #form = null;
  #live = new Live(() => this.#lookAgain(), LOOK_PAUSE);
  #list = element("ul", { class: "destinations" });
  #said = element("p", { role: "status" });
  #failed = element("p", { role: "alert" });
  #body = element("div", { class: "destination-body" });
  #add = button("Add destination", () => this.#openForm(), { class: "primary" });
  #dialog = element("dialog", { class: "wide", "aria-labelledby": "destinations-heading", onclose: () => this.#live.stop() },
    element("h2", { id: "destinations-heading" }, "Destinations"),
    this.#said, this.#failed, this.#body,
    element("footer", {}, button("Close", () => this.#dialog.close()), this.#add));

  /**
   * @param {import("./api.js").Api} api
   * @param {{siem: boolean, plan: string}} plan
   */
  build(api, plan) {
    this.#api = api;
    this.#plan = plan;
    this.replaceChildren(this.#dialog);
  }

  disconnectedCallback() {
    this.#live.stop();
  }

  /** Shows what there is, and keeps it so until it is closed. */
  open() {
    this.#say("");
    this.#failed.textContent = "";
    this.#dialog.showModal();
    this.#add.hidden = !this.#plan.siem;
    if (!this.#plan.siem) {
      this.#body.replaceChildren(element("p", {}, NOT_IN_PLAN));
      return;
    }
    this.#showList();
    this.#say("Loading…");
    this.#attempt(() => this.#look());
    this.#live.start();
  }

  #showList() {
    this.#form = null;
    this.#add.hidden = false;
    this.#body.replaceChildren(this.#list);
  }

  async #look() {
    if (this.#form) return;
    const found = await this.#api.destinations();
    if (this.#form) return;
    this.#render(found);
  }

  /** What failed before stays to be read until the reader does something. */
  async #lookAgain() {
    try {
      await this.#look();
    } catch (error) {
      this.#failed.textContent = error.message;
    }
  }

  #render(found) {
    const active = document.activeElement?.dataset?.act;
    this.#say(found.length ? counted(found.length, "destination", "destinations") : "");
    this.#list.replaceChildren(...(found.length ? found.map((one) => this.#item(one)) : [nothing()]));
    if (active) this.#list.querySelector(`[data-act="${CSS.escape(active)}"]`)?.focus();
  }

  #item(one) {
    const trial = this.#trials.get(one.id);
    const act = (name, label, run, properties = {}) => button(label, run, { "data-act": `${name} ${one.id}`, ...properties });
    return element("li", { class: "destination", "data-state": one.state },
      element("header", {},
        element("h3", {}, display(one.name)),
        element("span", { class: "badge state" }, STATES[one.state] ?? display(one.state)),
        element("span", { class: "hint" }, `${display(one.kind)} · ${display(one.endpoint)} · ${display(one.format)}`)),
      element("p", {}, figures(one)),
      one.last_error ? element("p", { class: "failure" }, `${timeText(one.last_error.at)}: ${display(one.last_error.reason)}`) : null,
      trial ? element("p", { class: "trial", role: "status" }, trial) : null,
      this.#asked === one.id ? this.#question(one) : element("div", { class: "offers" },
        act("test", "Send test event", () => this.#try(one)),
        act("pause", one.paused ? "Resume" : "Pause", () => this.#pause(one)),
        act("delete", "Delete…", () => this.#ask(one))));
  }

  #question(one) {
    return element("div", { class: "offers", role: "alert" },
      element("span", {}, `Nothing more is sent to ${display(one.name)}, and its secrets are forgotten.`),
      button("Keep it", () => this.#ask(null), { "data-act": `keep ${one.id}` }),
      button("Delete", () => this.#delete(one), { class: "danger", "data-act": `really ${one.id}` }));
  }

  #ask(one) {
    this.#asked = one?.id ?? null;
    this.#attempt(() => this.#look());
  }

  async #try(one) {
    this.#trials.set(one.id, "Sending a test event…");
    await this.#attempt(() => this.#look());
    try {
      const { outcome, status, answer, event_id: id } = await this.#api.tryDestination(one.id);
      const words = [OUTCOMES[outcome] ?? outcome, display(`${status} ${answer}`.trim()), outcome === "delivered" ? `(${display(id)})` : ""];
      this.#trials.set(one.id, words.filter(Boolean).join(" "));
    } catch (error) {
      this.#trials.set(one.id, error.message);
    }
    await this.#attempt(() => this.#look());
  }

  #pause(one) {
    return this.#attempt(async () => {
      await this.#api.changeDestination(one.id, { paused: !one.paused });
      await this.#look();
    });
  }

  #delete(one) {
    return this.#attempt(async () => {
      await this.#api.deleteDestination(one.id);
      this.#asked = null;
      await this.#look();
    });
  }

  #openForm() {
    return this.#attempt(async () => {
      this.#kinds ??= await this.#api.destinationKinds();
      this.#form = new DestinationForm(this.#kinds);
      this.#form.addEventListener("cancel", () => this.#backToList());
      this.#form.addEventListener("wish", (event) => this.#create(event.detail));
      this.#add.hidden = true;
      this.#say("");
      this.#body.replaceChildren(this.#form.root);
      this.#form.focus();
    });
  }

  #create(wish) {
    return this.#attempt(async () => {
      const made = await this.#api.createDestination(wish);
      this.#backToList();
      await this.#try(made);
    });
  }

  #backToList() {
    this.#showList();
    this.#attempt(() => this.#look());
  }

  async #attempt(act) {
    try {
      this.#failed.textContent = "";
      await act();
    } catch (error) {
      this.#say("");
      this.#failed.textContent = error.message;
    }
  }

  #say(text) {
    if (this.#said.textContent !== text) this.#said.textContent = text;
  }
}

function figures(one) {
  const parts = [
    `${counted(one.delivered, "entry", "entries")} delivered`,
    one.lag_entries ? `${counted(one.lag_entries, "record", "records")} behind` : null,
    one.dead_letters ? `${counted(one.dead_letters, "entry", "entries")} refused for good` : null,
    one.last_success ? `last taken ${timeText(one.last_success)}` : "nothing taken yet",
  ];
  return parts.filter(Boolean).join(" · ");
}

function timeText(text) {
  const { date, time } = formatTime(text, "utc");
  return `${date} ${time} UTC`;
}

function nothing() {
  return element("li", { class: "hint" }, "Entries are copied nowhere yet. Add your SIEM, and they are within seconds.");
}
