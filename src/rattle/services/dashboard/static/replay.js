// Plays a recorded episode: the board under the fog, what the policy made of it, and where in the charts that is.

import { Colours, drawBoard, drawSight } from "./board.js";
import { HEADINGS } from "./world.js";

const find = (id) => document.getElementById(id);
const replay = JSON.parse(find("replay").textContent);
const { board, ticks, rows, likelihoods, actions } = replay;
const rowOf = new Map(rows.tick.map((tick, row) => [tick, row]));
const colours = new Colours();
const scrub = find("scrub");
let playing = null;

/** The world before a tick, as the board is drawn from it; after the last tick it is shown once more. */
function worldAt(tick) {
  const frame = board.frames[Math.min(tick, board.frames.length - 1)];
  const snakes = new Map(frame.bodies.map((body, number) => {
    const snake = { id: String(number), alive: body.length > 0, head: body[0], body, joined: true, heading: HEADINGS[frame.headings[number]], sight: [] };
    if (number === board.agent) snake.sight = sightOf(frame.seen);
    return [snake.id, snake];
  }));
  return { width: board.width, height: board.height, radius: board.radius, food: frame.food, snakes };
}

function sightOf(seen) {
  const cells = board.offsets.map(([dx, dy], place) => ({ dx, dy, type: board.codes[Number(seen[place])] ?? "EMPTY" }));
  return [...cells, { dx: 0, dy: 0, type: "HEAD" }];
}

function show() {
  const tick = Number(scrub.value);
  find("tick").textContent = `${tick} / ${ticks}`;
  if (board) showBoard(tick);
  showChoice(tick);
  moveCursors(tick);
}

function showBoard(tick) {
  const world = worldAt(tick);
  colours.assign(world.snakes);
  const stage = find("board").parentElement;
  const room = { width: stage.clientWidth - 34, height: Math.max(260, Math.min(innerHeight - 260, 720)) };
  const own = String(board.agent);
  drawBoard(find("board"), world, colours, { selected: own, light: "selected", names: false }, room);
  const beside = find("sight").parentElement.clientWidth - 34;
  drawSight(find("sight"), world, world.snakes.get(own), colours, { width: Math.min(beside, 260), height: 260 });
}

function showChoice(tick) {
  const row = rowOf.get(tick);
  const text = (id, value) => { find(id).textContent = value; };
  const number = (value, digits = 3) => (value === null || value === undefined ? "–" : Number(value.toFixed(digits)).toString());
  const last = rows.tick.length - 1;
  const before = rows.tick.findLastIndex((one) => one <= tick);
  const earned = row === undefined ? rows.return[Math.max(before, 0)] + (before === last ? rows.reward[last] : 0) : rows.return[row];
  text("action", row === undefined ? "–" : actions[rows.action[row]] ?? [rows.action[row]].flat().join(", "));
  text("chosen", row === undefined || rows.chosen[row] === null ? "–" : `${number(100 * rows.chosen[row], 1)} %`);
  text("value", row === undefined ? "–" : number(rows.value[row]));
  text("reward", row === undefined ? "–" : number(rows.reward[row]));
  text("return", number(earned));
  text("version", row === undefined ? "–" : `v${rows.version[row]}`);
  showBars(row);
}

/** A bar for each value of each number of an action: by the policy where it is at hand, else for the action that was recorded. */
function showBars(row) {
  const list = find("actions");
  if (list.children.length !== actions.length) list.replaceChildren(...actions.map(makeBar));
  actions.forEach((_, action) => {
    const bar = list.children[action];
    const chosen = row !== undefined && rows.taken[row].includes(action);
    let share = null;
    if (row !== undefined) share = likelihoods ? likelihoods[row][action] : chosen ? rows.chosen[row] : null;
    bar.classList.toggle("chosen", chosen);
    bar.querySelector(".fill").style.width = `${100 * (share ?? 0)}%`;
    bar.lastElementChild.textContent = share === null ? "–" : `${(100 * share).toFixed(1)} %`;
  });
}

function makeBar(name) {
  const [bar, title, rail, fill, share] = ["li", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
  title.textContent = name;
  rail.className = "rail";
  fill.className = "fill";
  rail.append(fill);
  bar.append(title, rail, share);
  return bar;
}

let cursorDue = false;

/** Mark the tick in the charts, at most once a frame of the screen. */
function moveCursors() {
  if (cursorDue) return;
  cursorDue = true;
  requestAnimationFrame(() => {
    cursorDue = false;
    const x = Number(scrub.value);
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
    const line = { type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: colour, width: 1, dash: "dot" } };
    for (const place of document.querySelectorAll("[data-chart]")) if (place.layout?.meta?.cursor) window.Plotly.relayout(place, { shapes: [line] });
  });
}

function go(tick) {
  scrub.value = String(Math.max(0, Math.min(ticks, tick)));
  show();
}

function pause() {
  clearInterval(playing);
  playing = null;
  find("play").textContent = "▶";
  find("play").setAttribute("aria-label", "Play");
  keepInAddress();
}

function play() {
  if (Number(scrub.value) >= ticks) go(0);
  find("play").textContent = "❚❚";
  find("play").setAttribute("aria-label", "Pause");
  playing = setInterval(() => {
    go(Number(scrub.value) + 1);
    if (Number(scrub.value) >= ticks) pause();
  }, 1000 / Number(find("speed").value));
}

/** A link to this page shows this tick. */
function keepInAddress() {
  const address = new URL(location.href);
  if (Number(scrub.value)) address.searchParams.set("tick", scrub.value);
  else address.searchParams.delete("tick");
  history.replaceState(null, "", address);
}

function step(by) {
  if (playing) pause();
  go(Number(scrub.value) + by);
  keepInAddress();
}

find("play").addEventListener("click", () => (playing ? pause() : play()));
find("speed").addEventListener("change", () => { if (playing) { pause(); play(); } });
for (const button of document.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(Number(button.dataset.step)));
scrub.addEventListener("input", () => { if (playing) pause(); show(); });
scrub.addEventListener("change", keepInAddress);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, textarea, dialog *")) return;
  const keys = { ArrowLeft: event.shiftKey ? -10 : -1, ArrowRight: event.shiftKey ? 10 : 1, Home: -ticks - 1, End: ticks + 1 };
  if (event.key in keys) step(keys[event.key]);
  else if (event.key === " " && !event.target.matches("button, a, summary")) find("play").click();
  else return;
  event.preventDefault();
});
document.addEventListener("drawn", moveCursors);
addEventListener("resize", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours.readTheme(); show(); });
show();
