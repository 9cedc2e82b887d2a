// @ts-check
/**
 * What the tabs of one browser tell each other. The channel is closed when its page is frozen or put
 * away, lest it keep that out of the back/forward cache.
 */

/** @typedef {{type: string, [field: string]: any}} Message of another tab */

export class Tabs {
  #env;
  #hear;
  /** @type {BroadcastChannel | null} */
  #channel = null;

  /**
   * @param {string} name the same in all tabs that belong together
   * @param {typeof globalThis} env
   * @param {(message: Message) => void} hear
   */
  constructor(name, env, hear) {
    this.name = name;
    this.#env = env;
    this.#hear = hear;
  }

  /** Take part as fits a state of the connection.
   * @param {import("./machine.js").State} state */
  take(state) {
    if (state === "idle" || state === "frozen") {
      this.#channel?.close();
      this.#channel = null;
    } else if (!this.#channel && this.#env.BroadcastChannel) {
      const channel = (this.#channel = new this.#env.BroadcastChannel(this.name));
      channel.onmessage = ({ data }) => this.#hear(data);
    }
  }

  /** Tell all other tabs.
   * @param {Message} message */
  say(message) {
    this.#channel?.postMessage(message);
  }
}
