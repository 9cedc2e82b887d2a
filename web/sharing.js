// @ts-check
/**
 * One socket for all tabs of a browser: which of them leads and has it, and what it passes on to those
 * who follow. Loaded only where a page shares.
 *
 * The leader is whoever holds a Web Lock. It lets go of that when its page is frozen or put away: the
 * browser itself would leave the lock with a page that cannot run.
 */

/** @typedef {import("./tabs.js").Message} Message */

export class Sharing {
  #keepalive;
  #tabs;
  #env;
  #hear;
  /** Stands for the place in the queue, and for the lock once it is ours.
   * @type {AbortController | null} */
  #place = null;
  #leads = false;
  /** What followers are greeted with.
   * @type {Message | null} */
  #hello = null;
  /** The state that they were told last. */
  #told = "";

  /**
   * @param {import("./keepalive.js").Keepalive} keepalive
   * @param {import("./tabs.js").Tabs} tabs
   * @param {typeof globalThis} env
   * @param {(message: Message) => void} hear what a leader passes on, and `lead` and `follow` of the lock
   */
  constructor(keepalive, tabs, env, hear) {
    this.#keepalive = keepalive;
    this.#tabs = tabs;
    this.#env = env;
    this.#hear = hear;
  }

  /** Take part as fits the connection, after any event.
   * @param {import("./machine.js").Context} context @param {Message} [event] */
  take({ state, share }, event) {
    if (!share || state === "idle" || state === "frozen" || state === "ended") this.#leave();
    else if (!this.#place) this.#queue();
    if (event?.type === "hello") this.#hello = event;
    if (this.#keepalive.state !== this.#told) this.#tell();
  }

  /** Lead in place of a tab that has fallen silent. */
  steal() {
    this.#leave();
    this.#queue(true);
  }

  /** Ask the tab that leads to ping. */
  request() {
    this.#appear();
    this.#tabs.say({ type: "request" });
  }

  /** Pass on to those who follow.
   * @param {Message} message */
  relay(message) {
    if (this.#leads) this.#tabs.say({ type: "relay", message });
  }

  /** @param {Message} heard of another tab: `relay` or `request` */
  answer({ type, message }) {
    const { state, warning, expiresIn, endsIn } = this.#keepalive;
    if (type === "relay") {
      if (!this.#place || this.#leads) return;
      if (message.type === "warning" && message.why === warning?.why) return; // it was for one that has just come
      if (message.type === "beat") this.#appear();
      this.#hear({ ...message, relayed: true });
    } else if (this.#leads) {
      if (state === "open")
        this.relay({ .../** @type {Message} */ (this.#hello), expires_in: expiresIn, ends_in: endsIn });
      if (warning) this.relay({ ...warning, type: "warning", expires_in: expiresIn });
      this.#hear({ type: "nudge" });
      this.#tell();
    }
  }

  #tell() {
    this.#told = this.#keepalive.state;
    this.relay({ type: "led", state: this.#told });
  }

  /** Whoever leads pings for those who show. */
  #appear() {
    if (this.#env.document.visibilityState === "visible") this.#tabs.say({ type: "shows" });
  }

  #leave() {
    this.#place?.abort();
    this.#place = null;
    this.#leads = false;
  }

  async #queue(steal = false) {
    const place = (this.#place = new AbortController());
    const { signal } = place;
    const lead = () =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve(null);
        signal.addEventListener("abort", resolve);
        this.#leads = true;
        this.#hear({ type: "lead" });
      });
    try {
      await this.#env.navigator.locks.request(this.#tabs.name, steal ? { steal } : { signal }, lead);
    } catch (error) {
      if (this.#place !== place) return; // given up
      this.#leave();
      // An insecure page has no locks, and a sandbox has locks that nobody gets: there, each page is on its own.
      const stolen = /** @type {Error} */ (error).name === "AbortError";
      this.#hear({ type: stolen ? "follow" : "lead", share: false });
    }
  }
}
