// The page: polls the world, shows it, and lets a person play in it.

import { Colours, drawBoard, drawSight } from "./board.js";
import { follow, post } from "./link.js";
import { Player } from "./play.js";
import { nameProblem, readWorld, seedIn } from "./world.js";

const find = (id) => document.getElementById(id);
const colours = new Colours();
const view = { selected: null, light: "selected", names: true };
const rows = new Map();
const MOST_ROWS = 200;
const HOW_TO_STEER = matchMedia("(pointer: coarse)").matches
  ? "Steer with the buttons below the board."
  : "Steer with the arrow keys or W, A, S, D.";
let world = null;
let link = "waiting";
let trouble = "";
let finished = null;
let nextSeed = "";
let drawing = false;

const player = new Player({ changed: playerChanged, ticked: () => askNow() });
const askNow = follow({ seen, refused: (message) => troubled("refused", message), lost: (message) => troubled("lost", message) });

// --- What comes from the server

function seen(text) {
  const bodies = new Map([...(world?.snakes ?? [])].filter(([, snake]) => snake.alive).map(([id, snake]) => [id, snake.body]));
  try {
    world = readWorld(text, bodies);
  } catch (error) {
    troubled("refused", `The server's state is not what this page understands (${error.message}).`);
    return;
  }
  link = "live";
  trouble = "";
  if (!world.over) nextSeed = "";
  colours.assign(world.snakes);
  player.see(world);
  const own = world.snakes.get(player.name);
  if (finished && own && !own.alive) finished.score = own.score;
  select();
  showAll();
}

function troubled(kind, message) {
  link = kind;
  trouble = message;
  showAll();
}

/** Keep a snake selected that is alive, where there is one: the person's own first. */
function select() {
  if (player.phase === "playing" && view.selected === player.name) return; // the state may not have it yet
  const chosen = world.snakes.get(view.selected);
  if (chosen?.alive) return;
  const living = [...world.snakes.values()].filter((snake) => snake.alive);
  view.selected = (living.find((snake) => snake.id === player.name) ?? living[0])?.id ?? chosen?.id ?? null;
}

// --- What the page shows

function showAll() {
  showLink();
  showNotice();
  if (!world) return;
  const fact = { tick: world.tick, episode: world.episode, seed: world.seed, clock: world.clock, game: world.over ? "over" : "running" };
  for (const [id, value] of Object.entries(fact)) setText(find(id), String(value));
  showSnakes();
  if (!drawing) {
    drawing = true;
    requestAnimationFrame(draw);
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showLink() {
  const words = { waiting: "connecting", live: "live", lost: "connection lost, trying again", refused: "no game to watch" };
  document.body.dataset.link = link;
  setText(find("link-text"), words[link]);
}

function showNotice() {
  const [title, text] = noticeWords();
  setText(find("notice-title"), title);
  setText(find("notice-text"), text);
  find("notice").hidden = !title;
  find("again").hidden = !(player.phase === "over" && link === "live");
}

function noticeWords() {
  if (link === "lost") return ["Connection lost", `${trouble} Trying again.`];
  if (link === "refused") return ["Nothing to watch here", trouble];
  if (link === "waiting") return ["Connecting…", ""];
  if (player.phase === "over") return [`${player.name} died`, finishedWords()];
  if (world?.over && player.phase === "idle") return ["No game in progress", `The next snake to join starts one${nextSeed && ` of seed ${nextSeed}`}.`];
  return ["", ""];
}

function finishedWords() {
  const score = finished?.score === undefined ? "" : `Score ${finished.score}, `;
  return `${score}${score ? "length" : "Length"} ${finished?.length ?? "unknown"}.`;
}

function showSnakes() {
  const all = [...world.snakes.values()];
  const living = all.filter((snake) => snake.alive);
  const shown = new Map((all.length > MOST_ROWS ? living.slice(0, MOST_ROWS) : all).map((snake) => [snake.id, snake]));
  for (const [id, row] of rows) {
    if (!shown.has(id)) {
      row.remove();
      rows.delete(id);
    }
  }
  for (const snake of shown.values()) showSnake(snake);
  const more = shown.size < living.length ? `, the first ${shown.size} are listed` : "";
  setText(find("count"), all.length ? `${living.length} of ${all.length} alive${more}` : "");
  find("nobody").hidden = world.snakes.size > 0;
}

function showSnake(snake) {
  const row = rows.get(snake.id) ?? newRow(snake.id);
  const [name, ...cells] = row.children;
  row.dataset.alive = String(snake.alive);
  name.firstChild.setAttribute("aria-pressed", String(snake.id === view.selected));
  const [mark, text, you] = name.firstChild.children;
  mark.style.backgroundColor = colours.of(snake.id);
  setText(text, snake.id);
  you.hidden = snake.id !== player.name || player.phase === "idle";
  const values = [snake.score, snake.length, Number(snake.reward).toLocaleString("en", { maximumFractionDigits: 2 }), snake.alive ? "alive" : "dead"];
  values.forEach((value, number) => setText(cells[number], String(value)));
}

function newRow(id) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  const button = document.createElement("button");
  button.type = "button";
  button.title = `Show what ${id} sees`;
  const you = document.createElement("b");
  you.textContent = "you";
  button.append(document.createElement("i"), document.createElement("span"), you);
  button.addEventListener("click", () => {
    view.selected = id;
    showAll();
  });
  name.append(button);
  row.append(name, ...Array.from({ length: 4 }, () => document.createElement("td")));
  find("snakes").append(row);
  rows.set(id, row);
  return row;
}

function draw() {
  drawing = false;
  if (!world) return;
  const stage = find("stage").getBoundingClientRect();
  const narrow = matchMedia("(max-width: 900px)").matches;
  const height = narrow ? window.innerHeight * 0.72 : window.innerHeight - stage.top - window.scrollY - 32;
  drawBoard(find("board"), world, colours, view, { width: stage.width - 2, height: Math.max(height, 240) });
  const snake = world.snakes.get(view.selected);
  drawSight(find("sight"), world, snake, colours, { width: 200, height: 200 });
  describe(snake);
}

function describe(snake) {
  const living = [...world.snakes.values()].filter((one) => one.alive);
  const board = `A board of ${world.width} by ${world.height} cells with ${living.length} living snakes and ${world.food.length} food`;
  setText(find("seer"), snake?.alive ? snake.id : "nobody");
  setLabel(find("board"), board);
  setLabel(find("sight"), snake?.alive ? `What ${snake.id} sees, turned so that it looks up` : "No snake is selected");
}

function setLabel(element, text) {
  if (element.getAttribute("aria-label") !== text) element.setAttribute("aria-label", text);
}

// --- Playing

function playerChanged() {
  const playing = player.phase === "playing";
  if (player.phase === "over" && !finished) {
    finished = { length: player.lastLine.length, score: world?.snakes.get(player.name)?.score };
    setText(find("announce"), `${player.name} died. ${finishedWords()}`);
  } else if (player.phase !== "over") finished = null;
  document.body.dataset.phase = player.phase;
  find("pad").hidden = !playing;
  find("leave").hidden = player.phase === "idle" || player.phase === "over";
  find("join-button").disabled = player.phase === "playing" || player.phase === "joining";
  find("name").disabled = find("join-button").disabled;
  setText(find("play-text"), player.message || (playing ? HOW_TO_STEER : ""));
  find("play-text").classList.toggle("error", player.phase === "idle" && player.message !== "");
  if (playing) view.selected = player.name;
  showAll();
  if (player.phase === "over") find("again").focus();
}

function join() {
  const name = find("name").value.trim();
  const problem = nameProblem(name);
  find("name").setAttribute("aria-invalid", String(problem !== ""));
  if (problem) {
    setText(find("play-text"), problem);
    find("play-text").classList.add("error");
    find("name").focus();
    return;
  }
  player.join(name);
  find("frame").focus();
}

const KEYS = {
  ArrowUp: "north", ArrowRight: "east", ArrowDown: "south", ArrowLeft: "west",
  KeyW: "north", KeyD: "east", KeyS: "south", KeyA: "west",
};

function pressed(event) {
  const direction = KEYS[event.key] ?? KEYS[event.code];
  const busy = event.target.closest("input, dialog") !== null;
  if (!direction || player.phase !== "playing" || busy || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (!event.repeat) player.press(direction);
}

find("join").addEventListener("submit", (event) => {
  event.preventDefault();
  join();
});
find("again").addEventListener("click", join);
find("leave").addEventListener("click", () => player.leave());
document.addEventListener("keydown", pressed);
for (const button of find("pad").children) {
  button.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    player.press(button.dataset.direction);
  });
  button.addEventListener("click", (event) => event.detail === 0 && player.press(button.dataset.direction));
}
find("name").value = `player-${100 + Math.floor(Math.random() * 900)}`;

// --- Settings and the reset

document.addEventListener("change", (event) => {
  if (event.target.name === "light") view.light = event.target.value;
  if (event.target.id === "names") view.names = event.target.checked;
  showAll();
});

const dialog = find("reset-dialog");

function resetFailed(message) {
  setText(find("reset-error"), message);
  find("reset-error").hidden = message === "";
}

find("reset").addEventListener("click", () => {
  resetFailed("");
  dialog.showModal();
});
find("reset-cancel").addEventListener("click", () => dialog.close());
find("reset-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const seed = find("reset-seed").value.trim();
  try {
    // Digits go as they are: a JavaScript number would round a large seed.
    nextSeed = seedIn(await post("reset", seed ? `{"seed": ${BigInt(seed)}}` : "{}"));
    dialog.close();
    askNow();
  } catch (error) {
    resetFailed(error.message);
  }
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  colours.readTheme();
  showAll();
});
new ResizeObserver(showAll).observe(find("stage"));
window.addEventListener("resize", showAll);
