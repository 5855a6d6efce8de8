// A person's snake: joins, follows its stream and turns directions of the board into moves.

import { Lost, Refused, post, send } from "./link.js";
import { moveTowards } from "./world.js";

const MOST_PLANNED = 3;
const TICKS_TO_TURN = 3;
const REJOINS = 30;
const REJOIN_MS = 500;
const OPPOSITE = { north: "south", south: "north", east: "west", west: "east" };

/**
 * The directions that a person pressed and the snake has not taken yet: one a tick, so that two quick presses make two
 * turns. No clock and no network: `press` and `see` return the move to send, or null.
 */
export class Steering {
  constructor() {
    this.planned = [];
    this.sent = null;
    this.heading = null;
    this.tick = 0;
  }

  /** A direction was pressed. */
  press(direction) {
    if (this.heading === null) return null;
    const last = this.planned.at(-1) ?? this.sent?.direction ?? this.heading;
    if (direction === OPPOSITE[last]) return this.#correct(direction);
    const waiting = this.sent !== null;
    if (waiting && direction === last) return null;
    if (this.planned.length < MOST_PLANNED) this.planned.push(direction);
    return waiting ? null : this.#next();
  }

  /** The snake's heading at a tick is known. */
  see(tick, heading) {
    this.heading = heading;
    this.tick = tick;
    if (this.sent) {
      const taken = tick > this.sent.tick && heading === this.sent.direction;
      const missed = tick < this.sent.tick || tick > this.sent.tick + TICKS_TO_TURN;
      if (!taken && !missed) return null;
      this.sent = null;
    }
    return this.#next();
  }

  /** The opposite of the last plan takes its place; the opposite of the heading is no plan. */
  #correct(direction) {
    if (this.planned.length > 0) this.planned.splice(-1, 1, direction);
    else if (this.sent) return this.#send(direction);
    return null;
  }

  #next() {
    while (this.planned.length > 0) {
      const move = this.#send(this.planned.shift());
      if (move) return move;
    }
    return null;
  }

  #send(direction) {
    const move = moveTowards(this.heading, direction);
    if (move) this.sent = { direction, tick: this.tick };
    return move;
  }
}

/** One person's game. `phase` is idle, joining, playing or over; `changed(player)` is called when something changes. */
export class Player {
  constructor({ changed, ticked }) {
    this.changed = changed;
    this.ticked = ticked;
    this.phase = "idle";
    this.name = "";
    this.message = "";
    this.lastLine = null;
    this.posting = Promise.resolve();
  }

  /** Join as `name` and stay until the snake dies, the server refuses or `leave` is called. */
  async join(name) {
    this.leave();
    const leaving = new AbortController();
    this.leaving = leaving;
    this.name = name;
    this.steering = new Steering();
    this.lastLine = null;
    this.#become("joining", "Joining…");
    for (let failures = 0; ; failures += 1) {
      try {
        const response = await send(`snake/${encodeURIComponent(name)}`, { signal: leaving.signal });
        failures = 0;
        if (await this.#follow(response)) return;
      } catch (error) {
        if (leaving.signal.aborted) return;
        if (error instanceof Refused) return this.#become("idle", error.message);
        if (!(error instanceof Lost)) throw error;
      }
      if (leaving.signal.aborted) return;
      if (failures >= REJOINS) return this.#become("idle", "The connection was lost. Join again when the server is back.");
      this.#become("joining", "The connection was lost. Joining again…");
      await new Promise((resume) => setTimeout(resume, REJOIN_MS));
      if (leaving.signal.aborted) return;
    }
  }

  /** Stop reading; the server lets the snake go on for some seconds. */
  leave() {
    this.leaving?.abort();
    this.leaving = null;
    if (this.phase !== "idle") this.#become("idle", "");
  }

  /** Steer towards a direction of the board. */
  press(direction) {
    if (this.phase === "playing") this.#post(this.steering.press(direction));
  }

  /** The world was seen. */
  see(world) {
    const snake = world.snakes.get(this.name);
    if (this.phase === "playing" && snake?.alive) this.#post(this.steering.see(world.tick, snake.heading));
  }

  /** Read the stream's lines; true when the snake's life ended in it, false when it broke off. */
  async #follow(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return false;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines.filter(Boolean)) if (this.#take(JSON.parse(line))) return true;
      }
    } catch (error) {
      if (error instanceof SyntaxError || this.leaving?.signal.aborted) throw error;
      return false;
    }
  }

  #take(line) {
    this.lastLine = line;
    if (line.game_over) this.#become("over", "");
    else if (this.phase !== "playing") this.#become("playing", "");
    this.ticked();
    return line.game_over;
  }

  /** Send moves one after the other, so that none overtakes another. */
  #post(move) {
    if (!move) return;
    const path = `snake/${encodeURIComponent(this.name)}/move`;
    this.posting = this.posting.then(() => post(path, JSON.stringify({ move }))).catch((error) => {
      if (error instanceof Refused) this.#become(this.phase, error.message);
      else if (!(error instanceof Lost)) throw error;
    });
  }

  #become(phase, message) {
    this.phase = phase;
    this.message = message;
    this.changed(this);
  }
}
