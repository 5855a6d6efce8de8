// The game: a frog on a line sees how far away the lily is, jumps left, stays or jumps right, and is paid on the lily.
import { createHash } from "node:crypto";

export const size = 10; // the lily is at most so far away at first
export const ticks = 20; // of an episode
export const settings = { size, ticks };
export const observationSize = 1;
export const numActions = 3;
export const metrics = ["caught"];

// The same seed, world and episode must give the same game, whatever was played before.
function draw(seed, world, episode) {
  return createHash("sha256").update(`${seed}/${world}/${episode}`).digest().readUInt32LE(0) / 2 ** 32;
}

export class Pond {
  constructor(seed, world, episode) {
    this.distance = Math.round((2 * draw(seed, world, episode) - 1) * size);
    this.tick = 0;
    this.metrics = { caught: 0 };
  }

  // What the agent sees: `observationSize` numbers.
  observe() {
    return [this.distance / size];
  }

  // Plays a tick, and says what came of it. `terminated`: it is over by the rules; `truncated`: its time is over.
  step(action) {
    this.distance -= action - 1;
    this.tick += 1;
    const caught = this.distance === 0;
    this.metrics.caught += caught;
    return { reward: Number(caught), terminated: false, truncated: this.tick === ticks };
  }
}
