// @ts-check
/** Registers `<session-guard>`, and nothing else. */

import { SessionGuard } from "./session-guard.js";

customElements.define("session-guard", SessionGuard);
