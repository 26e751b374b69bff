/**
 * Repeats a task with a pause after each run, only while the page is visible, until stopped. The task handles its own
 * failures.
 */
export class Live {
  #task;
  #pause;
  #timer = null;
  #running = false;
  #busy = false;
  #onVisible = () => this.#wake();

  /**
   * @param {() => Promise<void>} task
   * @param {number} pause milliseconds
   */
  constructor(task, pause) {
    this.#task = task;
    this.#pause = pause;
  }

  /** @returns {boolean} */
  get running() {
    return this.#running;
  }

  start() {
    this.#running = true;
    document.addEventListener("visibilitychange", this.#onVisible);
    this.#wake();
  }

  stop() {
    this.#running = false;
    clearTimeout(this.#timer);
    document.removeEventListener("visibilitychange", this.#onVisible);
  }

  #wake() {
    clearTimeout(this.#timer);
    if (this.#running && !this.#busy && !document.hidden) this.#timer = setTimeout(() => this.#turn(), this.#pause);
  }

  async #turn() {
    this.#busy = true;
    await this.#task();
    this.#busy = false;
    this.#wake();
  }
}
