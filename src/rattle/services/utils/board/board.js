// Draws the world and what a snake sees on canvases.

import { HEADINGS, litCells, neighbour } from "./world.js";

const SHARED_COLOURS = 8;
const MOST_NAMES = 12;

/** A colour of its own for every snake, kept as long as the snake is known. */
export class Colours {
  constructor() {
    this.numbers = new Map();
    this.palette = [];
    this.theme = {};
    this.readTheme();
  }

  /** Read the colours of the style sheet; they differ between light and dark. */
  readTheme() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(`--${name}`).trim();
    this.palette = Array.from({ length: SHARED_COLOURS }, (_, number) => read(`snake-${number}`));
    for (const name of ["fog", "lit", "line", "ink", "panel", "food", "other", "rim"]) this.theme[name] = read(name);
  }

  /** Give new snakes the first free numbers, and free those of snakes that are gone. */
  assign(ids) {
    for (const id of this.numbers.keys()) if (!ids.has(id)) this.numbers.delete(id);
    const taken = new Set(this.numbers.values());
    let free = 0;
    for (const id of ids.keys()) {
      if (this.numbers.has(id)) continue;
      while (taken.has(free)) free += 1;
      taken.add(free);
      this.numbers.set(id, free);
    }
  }

  of(id) {
    return this.palette[(this.numbers.get(id) ?? 0) % SHARED_COLOURS];
  }
}

/** Part of one colour and part of another, both #rrggbb: 0 is the first, 1 the second. */
function mix(one, other, share) {
  const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const second = parts(other);
  return `rgb(${parts(one).map((part, at) => Math.round(part + (second[at] - part) * share)).join(" ")})`;
}

/** Make a canvas columns x rows cells large that fits into the given CSS pixels, every cell whole device pixels. */
function fit(canvas, columns, rows, room) {
  const ratio = window.devicePixelRatio || 1;
  const cell = Math.max(1, Math.floor(Math.min(room.width / columns, room.height / rows) * ratio));
  if (canvas.width !== columns * cell || canvas.height !== rows * cell) {
    canvas.width = columns * cell;
    canvas.height = rows * cell;
  }
  canvas.style.width = `${(columns * cell) / ratio}px`;
  canvas.style.height = `${(rows * cell) / ratio}px`;
  return cell;
}

/** Draw the world. `view` has `selected` (an id or null), `light` and `names`; `room` is in CSS pixels. */
export function drawBoard(canvas, world, colours, view, room) {
  const size = fit(canvas, world.width, world.height, room);
  const context = canvas.getContext("2d");
  const { theme } = colours;
  const board = { context, world, size, theme, lit: lightUp(world, view) };
  context.fillStyle = theme.fog;
  context.fillRect(0, 0, canvas.width, canvas.height);
  const tint = world.snakes.get(view.selected);
  const lit = view.light === "selected" && tint?.alive ? mix(theme.lit, colours.of(tint.id), 0.14) : theme.lit;
  context.fillStyle = lit;
  for (const cell of board.lit) context.fillRect((cell % world.width) * size, Math.floor(cell / world.width) * size, size, size);
  if (size >= 9) drawLines(board);
  for (const cell of world.food) drawFood(board, cell);
  const living = [...world.snakes.values()].filter((snake) => snake.alive);
  for (const snake of living) drawBody(board, snake, colours.of(snake.id));
  for (const snake of living) drawHead(board, snake, colours.of(snake.id), snake.id === view.selected);
  if (!view.names) return;
  const chosen = living.filter((snake) => snake.id === view.selected); // last, so that no other name covers it
  const others = living.length > MOST_NAMES ? [] : living.filter((snake) => snake.id !== view.selected);
  for (const snake of [...others, ...chosen]) drawName(board, snake, colours.of(snake.id));
}

function lightUp(world, view) {
  if (view.light === "everywhere") return new Set(Array.from({ length: world.width * world.height }, (_, cell) => cell));
  const eyes = [...world.snakes.values()].filter((snake) => snake.alive && (view.light === "all" || snake.id === view.selected));
  return new Set(eyes.flatMap((snake) => litCells(world, snake)));
}

function drawLines({ context, world, size, theme }) {
  const wide = world.width * size;
  const high = world.height * size;
  context.fillStyle = theme.line;
  for (let x = 1; x < world.width; x += 1) context.fillRect(x * size, 0, 1, high);
  for (let y = 1; y < world.height; y += 1) context.fillRect(0, y * size, wide, 1);
}

function shade(board, cell, colour) {
  return board.lit.has(cell) ? colour : mix(board.theme.fog, colour, 0.42);
}

function middle({ world, size }, cell) {
  return [((cell % world.width) + 0.5) * size, (Math.floor(cell / world.width) + 0.5) * size];
}

function drawFood(board, cell) {
  const { context, size, theme } = board;
  const [x, y] = middle(board, cell);
  context.fillStyle = shade(board, cell, theme.food);
  disc(context, x, y, Math.max(size * 0.32, 1));
  if (size < 8) return;
  context.fillStyle = shade(board, cell, theme.rim);
  disc(context, x - size * 0.1, y - size * 0.1, size * 0.08);
}

function disc(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** Draw a body as a band from cell to cell, paler towards the tail; across an edge both halves are drawn. */
function drawBody(board, snake, colour) {
  const { context, size, world, theme } = board;
  const thick = Math.max(size * 0.7, 1);
  snake.body.forEach((cell, number) => {
    if (number === 0) return;
    const [x, y] = middle(board, cell);
    const faded = mix(colour, theme.fog, 0.12 + (0.38 * number) / Math.max(snake.body.length, 8));
    context.fillStyle = board.lit.has(cell) ? faded : mix(theme.fog, colour, 0.36);
    context.beginPath();
    const last = number === snake.body.length - 1;
    context.roundRect(x - thick / 2, y - thick / 2, thick, thick, thick * (last ? 0.42 : 0.28));
    context.fill();
    if (!snake.joined) return;
    for (const other of [snake.body[number - 1], snake.body[number + 1]]) {
      if (other !== undefined) bridge(board, x, y, thick, wayTo(world, cell, other));
    }
  });
}

/** The heading of the shortest step; on boards so narrow that two steps lead there, the one inside the board. */
function wayTo(world, from, to) {
  const ways = [0, 1, 2, 3].filter((way) => neighbour(world, from, way) === to);
  const inside = ways.find((way) => (way === 1 || way === 2 ? to > from : to < from));
  return inside ?? ways[0];
}

function bridge({ context, size }, x, y, thick, way) {
  const half = Math.ceil(size / 2);
  if (way === 0) context.fillRect(x - thick / 2, y - half, thick, half);
  if (way === 1) context.fillRect(x, y - thick / 2, half, thick);
  if (way === 2) context.fillRect(x - thick / 2, y, thick, half);
  if (way === 3) context.fillRect(x - half, y - thick / 2, half, thick);
}

/** Draw a head that looks where it goes. */
function drawHead(board, snake, colour, selected) {
  const { context, size, theme, world } = board;
  const [x, y] = middle(board, snake.head);
  const half = Math.max(size * 0.46, 1);
  context.save();
  context.translate(x, y);
  if (selected && size >= 4) drawRing(context, size, theme.ink);
  context.fillStyle = shade(board, snake.head, colour);
  if (snake.joined && snake.body.length > 1) {
    bridge(board, 0, 0, size * 0.7, wayTo(world, snake.head, snake.body[1]));
  }
  context.rotate((HEADINGS.indexOf(snake.heading) * Math.PI) / 2);
  context.beginPath();
  context.roundRect(-half, -half, 2 * half, 2 * half, [half * 0.9, half * 0.9, half * 0.35, half * 0.35]);
  context.fill();
  drawEyes(context, size, shade(board, snake.head, theme.rim), shade(board, snake.head, "#10141a"));
  context.restore();
}

function drawRing(context, size, colour) {
  context.strokeStyle = colour;
  context.lineWidth = Math.min(Math.max(size * 0.08, 1.5), 2.5 * (window.devicePixelRatio || 1));
  context.beginPath();
  context.arc(0, 0, size * 0.78, 0, 2 * Math.PI);
  context.stroke();
}

/** Two eyes in front where a cell is large enough, else a bright front. */
function drawEyes(context, size, white, black) {
  if (size < 9) {
    context.fillStyle = white;
    const wide = Math.max(1, size * 0.4);
    context.fillRect(-wide / 2, -size * 0.46, wide, Math.max(1, size * 0.3));
    return;
  }
  for (const side of [-1, 1]) {
    context.fillStyle = white;
    disc(context, side * size * 0.19, -size * 0.14, size * 0.125);
    context.fillStyle = black;
    disc(context, side * size * 0.19, -size * 0.18, size * 0.065);
  }
}

const NAME_LETTERS = 16;

function drawName(board, snake, colour) {
  const { context, size, theme, world } = board;
  const unit = window.devicePixelRatio || 1;
  const name = snake.id.length > NAME_LETTERS ? `${snake.id.slice(0, NAME_LETTERS - 1)}…` : snake.id;
  context.font = `600 ${11 * unit}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const high = 16 * unit;
  const wide = context.measureText(name).width + 14 * unit;
  const [x, y] = middle(board, snake.head);
  const left = Math.min(Math.max(x - wide / 2, 0), world.width * size - wide);
  const above = y - size * 0.8 - high;
  const top = above >= 0 && snake.heading !== "south" ? above : Math.min(y + size * 0.8, world.height * size - high);
  context.globalAlpha = 0.88;
  context.fillStyle = theme.panel;
  context.beginPath();
  context.roundRect(left, top, wide, high, 4 * unit);
  context.fill();
  context.globalAlpha = 1;
  context.fillStyle = colour;
  context.fillRect(left + 3 * unit, top + 3 * unit, 3 * unit, high - 6 * unit);
  context.fillStyle = theme.ink;
  context.fillText(name, left + 9 * unit, top + high / 2 + unit * 0.5);
}

/** Draw what a snake sees, its head in the middle and looking up; nothing for null. */
export function drawSight(canvas, world, snake, colours, room) {
  const span = 2 * (world?.radius ?? 5) + 1;
  const size = fit(canvas, span, span, room);
  const context = canvas.getContext("2d");
  const { theme } = colours;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!snake?.alive) return;
  const own = colours.of(snake.id);
  const inset = size >= 6 ? Math.max(1, Math.round(size * 0.06)) : 0;
  for (const { dx, dy, type } of snake.sight) {
    const x = (dx + world.radius) * size;
    const y = (dy + world.radius) * size;
    context.fillStyle = theme.lit;
    context.fillRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
    context.save();
    context.translate(x + size / 2, y + size / 2);
    drawThing(context, type, size, { own, theme });
    context.restore();
  }
}

function drawThing(context, type, size, { own, theme }) {
  const block = (colour, share) => {
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect((-size * share) / 2, (-size * share) / 2, size * share, size * share, size * 0.2);
    context.fill();
  };
  if (type === "FOOD") {
    context.fillStyle = theme.food;
    disc(context, 0, 0, Math.max(size * 0.32, 1));
  } else if (type === "HEAD") {
    block(own, 0.92);
    drawEyes(context, size, theme.rim, "#10141a");
  } else if (type === "BODY") block(mix(own, theme.fog, 0.25), 0.78);
  else if (type === "OTHER_BODY") block(theme.other, 0.78);
  else if (type === "OTHER_HEAD") {
    block(theme.other, 0.92);
    context.fillStyle = theme.fog;
    disc(context, 0, 0, size * 0.18);
  }
}
