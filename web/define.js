// @ts-check
/** Registers `<session-heart>`; the only module here with a side effect. */

import { SessionHeart } from "./session-heart.js";

customElements.define("session-heart", SessionHeart);
