// The world as GET /state tells it, and its geometry. Nothing here touches the page or the network.

export const HEADINGS = ["north", "east", "south", "west"];
const STEPS = [[0, -1], [1, 0], [0, 1], [-1, 0]];
const TURNS = ["forward", "right", null, "left"];

/** Turn an offset that a snake sees with its heading up into an offset on the board. */
export function toWorld(heading, dx, dy) {
  for (let turn = HEADINGS.indexOf(heading); turn > 0; turn -= 1) [dx, dy] = [-dy, dx];
  return [dx, dy];
}

/** The move that turns a snake of this heading towards a direction of the board; null for the opposite one. */
export function moveTowards(heading, direction) {
  return TURNS[(HEADINGS.indexOf(direction) - HEADINGS.indexOf(heading) + 4) % 4];
}

/** What is wrong with a snake's name, or "" when it may join. */
export function nameProblem(name) {
  if (!/^[A-Za-z0-9._-]{1,64}$/.test(name)) return "A name has 1 to 64 letters, digits, dots, dashes and underscores.";
  return /^\.\.?$/.test(name) ? "A name needs more than dots." : "";
}

/**
 * The text of GET /state as a world; cells are numbered y * width + x. `bodies` are the paths of the world before.
 * Ids are strangers' text, so they are keys of maps and never of objects.
 */
export function readWorld(text, bodies = new Map()) {
  const state = JSON.parse(text);
  const { width, height } = state;
  const torus = { width, height };
  const cells = new Map();
  const food = [];
  for (const [place, things] of Object.entries(state.grid)) {
    const [x, y] = place.split(",").map(Number);
    for (const { type, snake_id: id } of things) {
      if (type === "FOOD") food.push(y * width + x);
      else cells.set(id, (cells.get(id) ?? new Set()).add(y * width + x));
    }
  }
  const visions = new Map(Object.entries(state.visions));
  const snakes = new Map();
  for (const [id, status] of Object.entries(state.status)) {
    const head = status.head && status.head[1] * width + status.head[0];
    const snake = { ...status, id, alive: !status.game_over && status.head !== null, head, body: [], joined: false, sight: [] };
    if (snake.alive) {
      const occupied = (cells.get(id) ?? new Set()).add(head);
      const path = traceBody(torus, occupied, head, status.heading, bodies.get(id));
      snake.body = path ?? [head, ...[...occupied].filter((cell) => cell !== head)];
      snake.joined = path !== null;
      snake.sight = readSight(visions.get(id) ?? {}, state.vision_radius);
    }
    snakes.set(id, snake);
  }
  return { ...torus, food, snakes, seed: seedIn(text), tick: state.tick, episode: state.episode, clock: state.clock,
    radius: state.vision_radius, over: state.global_game_over };
}

/** The digits of the seed in an answer's text: it may be larger than a JavaScript number is exact. */
export function seedIn(text) {
  return /"seed":\s*(\d+)/.exec(text)?.[1] ?? "";
}

/** The entries of a vision, with offsets from the head as the snake sees them. */
function readSight(vision, radius) {
  return Object.entries(vision).map(([place, type]) => {
    const [x, y] = place.split(",").map(Number);
    return { dx: x - radius, dy: y - radius, type };
  });
}

/** The cells of the board that a snake sees, round the edges. */
export function litCells(world, snake) {
  const x = snake.head % world.width;
  const y = Math.floor(snake.head / world.width);
  return snake.sight.map((seen) => {
    const [dx, dy] = toWorld(snake.heading, seen.dx, seen.dy);
    return modulo(y + dy, world.height) * world.width + modulo(x + dx, world.width);
  });
}

/** The heading of the step from a cell to a neighbour, or -1; on a narrow board several may fit. */
export function stepBetween(torus, from, to) {
  return STEPS.findIndex((_, heading) => neighbour(torus, from, heading) === to);
}

/** The cell next to a cell, round the edges. */
export function neighbour({ width, height }, cell, heading) {
  const [dx, dy] = STEPS[heading];
  return modulo(Math.floor(cell / width) + dy, height) * width + modulo((cell % width) + dx, width);
}

/**
 * The cells of a body in order from the head, or null where no order is found soon.
 * The state has no order. A body that moved one cell since `before` keeps its order; else one is searched.
 */
export function traceBody(torus, cells, head, heading, before) {
  for (const kept of before ? [before, [head, ...before]] : []) {
    const path = kept.slice(0, cells.size);
    const fits = path[0] === head && path.length === cells.size && path.every((cell) => cells.has(cell));
    if (fits && new Set(path).size === cells.size && (cells.size < 2 || stepBetween(torus, head, path[1]) >= 0)) return path;
  }
  return searchPath(torus, cells, head, heading);
}

const SEARCH_STEPS = 20_000;

/** Search a path from the head through all cells; its second cell lies behind the head. */
function searchPath(torus, cells, head, heading) {
  const free = new Set(cells);
  const freeBeside = (cell) => {
    const found = STEPS.map((_, way) => neighbour(torus, cell, way)).filter((next) => free.has(next));
    return [...new Set(found)];
  };
  free.delete(head);
  const path = [head];
  const choices = [[neighbour(torus, head, (HEADINGS.indexOf(heading) + 2) % 4)].filter((cell) => free.has(cell))];
  for (let steps = 0; free.size > 0; steps += 1) {
    if (steps > SEARCH_STEPS || choices.length === 0) return null;
    const next = choices.at(-1).pop();
    if (next === undefined) {
      choices.pop();
      free.add(path.pop());
      continue;
    }
    free.delete(next);
    path.push(next);
    // The cell with the fewest ways on comes first (from the end): it would be cut off otherwise.
    choices.push(freeBeside(next).map((cell) => [freeBeside(cell).length, cell]).sort((a, b) => b[0] - a[0])
      .map(([, cell]) => cell));
  }
  return path;
}

function modulo(value, length) {
  return ((value % length) + length) % length;
}
