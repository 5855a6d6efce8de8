// The agent API (docs/env-api.md): joins a world of Snake, reads a line of JSON a tick, answers each with a move, and
// ends when its snake has died. Node.js 18 or later, no packages:
//   rattle env --set env_service.clock=turns
//   node agent.mjs http://127.0.0.1:5000 --snake anna [--token-file FILE]
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

process.on("uncaughtException", (error) => {
  console.error(`agent.mjs: ${error.message}`);
  process.exit(1);
});

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: { snake: { type: "string", default: `node-${process.pid}` }, "token-file": { type: "string" } },
});
const [url = "http://127.0.0.1:5000"] = positionals;
const token = flags["token-file"] && readFileSync(flags["token-file"], "utf8").trim();

async function ask(path, body) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const how = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(url + path, how).catch((error) => {
    throw new Error(`cannot reach ${url}: ${error.cause?.message ?? error.message}`);
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Error(`${url}${path} answers ${answer.status}: ${problem.detail ?? "it is no Env service"}`);
}

// A line may come in several parts, and several lines in one.
async function* linesOf(answer) {
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for await (const part of answer.body) {
      const lines = (rest + decoder.decode(part, { stream: true })).split("\n");
      rest = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  } catch (error) {
    throw new Error(`the stream from ${url} broke: ${error.cause?.message ?? error.message}`);
  }
}

// The snake looks up from the middle of what it sees: "5,4" is the cell ahead, where it sees 5 cells far.
function choose(cells) {
  const at = ([x, y]) => cells[`${x},${y}`];
  const [r] = Object.entries(cells).find(([, what]) => what === "HEAD")[0].split(",").map(Number);
  const moves = { forward: [r, r - 1], left: [r - 1, r], right: [r + 1, r] };
  const free = Object.keys(moves).filter((move) => ["EMPTY", "FOOD"].includes(at(moves[move])));
  const food = Object.keys(cells).filter((cell) => cells[cell] === "FOOD").map((cell) => cell.split(",").map(Number));
  if (!food.length || !free.length) return free[Math.random() < 0.1 ? free.length - 1 : 0] ?? "forward";
  const distance = ([x, y]) => Math.min(...food.map(([fx, fy]) => Math.abs(x - fx) + Math.abs(y - fy)));
  return free.reduce((best, move) => (distance(moves[move]) < distance(moves[best]) ? move : best));
}

let total = 0;
let first;
let last;
for await (const line of linesOf(await ask(`/snake/${flags.snake}`))) {
  first ??= line.tick;
  last = line;
  total += line.reward;
  if (line.reward > 0) console.log(`tick ${line.tick}: ${line.snake_id} eats and is ${line.length} cells long`);
  if (line.game_over) break;
  await (await ask(`/snake/${flags.snake}/move`, { move: choose(line.visible_cells) })).json();
}
if (!last?.game_over) throw new Error(`the stream of ${flags.snake} ended before its life`);
console.log(`${flags.snake} lived for ${last.tick - first} ticks: return ${total}, ${last.length} cells long`);
