// Requests to the server that this page came from.

import { authorization } from "./token.js";

const SERVER = new URL("../", import.meta.url);
const TIMEOUT_MS = 5000;

/** The server answered with a problem; the message says what it is. */
export class Refused extends Error {}

/** The server did not answer. */
export class Lost extends Error {}

/** Send a request and return the response; throws Refused or Lost. */
export async function send(path, options = {}) {
  let response;
  try {
    const headers = { ...authorization(), ...options.headers };
    response = await fetch(new URL(path, SERVER), { cache: "no-store", ...options, headers });
  } catch (error) {
    if (options.signal?.aborted && options.signal.reason?.name !== "TimeoutError") throw error;
    throw new Lost("The server does not answer.");
  }
  if (!response.ok) throw new Refused(await problemText(response));
  return response;
}

/** Send a request and return the text of its answer; throws Refused or Lost. */
export async function ask(path, options = {}) {
  const response = await send(path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  try {
    return await response.text();
  } catch {
    throw new Lost("The server's answer broke off.");
  }
}

/** Send JSON text with POST; throws Refused or Lost. */
export function post(path, json) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: json });
}

async function problemText(response) {
  if (response.status === 401) return "The server asks for its token: open this page as /watch#token=TOKEN.";
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // Not a problem of ours: a proxy's page, for example. The status has to do.
  }
  return `The server answered ${response.status} ${response.statusText}.`;
}

const FAST_MS = 60;
const IDLE_MS = 300;
const HIDDEN_MS = 2000;
const REFUSED_MS = 3000;
const LOST_MS = [300, 600, 1200, 2500];
const IDLE_AFTER = 40;

/**
 * Ask for GET /state again and again, one request at a time: fast while the page shows and the world moves, slower
 * otherwise. Calls seen(text), refused(message) and lost(message); returns a function that asks at once.
 */
export function follow({ seen, refused, lost }) {
  let timer = 0;
  let asking = false;
  let again = false;
  let last = "";
  let unchanged = 0;
  let failures = 0;

  async function once() {
    try {
      const text = await ask("state");
      failures = 0;
      unchanged = text === last ? unchanged + 1 : 0;
      last = text;
      seen(text);
      if (document.hidden) return HIDDEN_MS;
      return unchanged > IDLE_AFTER ? IDLE_MS : FAST_MS;
    } catch (error) {
      last = "";
      if (error instanceof Refused) {
        refused(error.message);
        return REFUSED_MS;
      }
      if (!(error instanceof Lost)) throw error;
      lost(error.message);
      failures += 1;
      return LOST_MS[Math.min(failures, LOST_MS.length) - 1];
    }
  }

  async function turn() {
    clearTimeout(timer);
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    again = false;
    let wait = REFUSED_MS;
    const began = performance.now();
    try {
      wait = await once();
    } finally {
      asking = false;
      // A large world takes long to tell and to draw: never spend more than half of the time on it.
      timer = setTimeout(turn, again ? 0 : Math.max(wait, performance.now() - began));
    }
  }

  document.addEventListener("visibilitychange", () => document.hidden || turn());
  turn();
  return turn;
}
