// @ts-check
/**
 * What the tabs of one browser tell each other, and which of them leads: holds the socket for all.
 *
 * The leader is whoever holds a Web Lock. It lets go of that when its page is frozen or put away: the
 * browser itself would leave the lock with a page that cannot run. The channel is closed with it, lest
 * it keep the page out of the back/forward cache.
 */

/** @typedef {{type: string, [field: string]: any}} Message of another tab; `lead` and `follow` are of the lock */

export class Tabs {
  #name;
  #env;
  #hear;
  /** @type {BroadcastChannel | null} */
  #channel = null;
  /** @type {AbortController | null} stands for the place in the queue, and for the lock once it is ours */
  #place = null;

  /**
   * @param {string} name the same in all tabs that belong together
   * @param {typeof globalThis} env
   * @param {(message: Message) => void} hear
   */
  constructor(name, env, hear) {
    this.#name = name;
    this.#env = env;
    this.#hear = hear;
  }

  /** Whether one tab can lead: an insecure page has no locks. */
  get canShare() {
    return Boolean(this.#env.navigator.locks && this.#env.BroadcastChannel);
  }

  /** Take part as fits a state of the connection.
   * @param {import("./machine.js").State} state @param {boolean} share */
  take(state, share) {
    const here = state !== "idle" && state !== "frozen";
    if (!here) {
      this.#channel?.close();
      this.#channel = null;
    } else if (!this.#channel && this.#env.BroadcastChannel) {
      this.#channel = new this.#env.BroadcastChannel(this.#name);
      this.#channel.onmessage = ({ data }) => this.#hear(data);
    }
    if (!share || !here || state === "ended") this.#leave();
    else if (!this.#place) this.#queue({});
  }

  /** Tell all other tabs.
   * @param {Message} message */
  say(message) {
    this.#channel?.postMessage(message);
  }

  /** Lead in place of a tab that has fallen silent. */
  steal() {
    this.#leave();
    this.#queue({ steal: true });
  }

  #leave() {
    this.#place?.abort();
    this.#place = null;
  }

  /** @param {{steal?: boolean}} how */
  async #queue({ steal = false }) {
    const place = (this.#place = new AbortController());
    const { signal } = place;
    const lead = () =>
      new Promise((resolve) => {
        if (signal.aborted) return resolve(null);
        signal.addEventListener("abort", resolve);
        this.#hear({ type: "lead" });
      });
    try {
      await this.#env.navigator.locks.request(this.#name, steal ? { steal } : { signal }, lead);
    } catch (error) {
      if (this.#place !== place) return; // given up
      const stolen = /** @type {Error} */ (error).name === "AbortError";
      if (stolen) this.#place = null;
      // A sandbox has locks that nobody gets: there, each page is on its own.
      this.#hear({ type: stolen ? "follow" : "lead" });
    }
  }
}
