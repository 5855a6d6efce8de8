// The Open Inference Protocol in JSON (docs/serving.md): asks a served policy for actions, tick after tick. A policy
// with memory plays twice: this program keeps the memory, then the service does. Node.js 18 or later, no packages:
//   rattle inference --policy latest
//   node inference.mjs http://127.0.0.1:8000 [--model snake] [--rows '[[0, 1, …]]'] [--token-file FILE]
// Without --rows it sends one observation of zeros: for Snake, an agent that sees empty cells only.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

process.on("uncaughtException", (error) => {
  console.error(`inference.mjs: ${error.message}`);
  process.exit(1);
});

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    model: { type: "string" },
    rows: { type: "string" },
    "token-file": { type: "string" },
  },
});
const [url = "http://127.0.0.1:8000"] = positionals;
const TICKS = 3;
const token = flags["token-file"] && readFileSync(flags["token-file"], "utf8").trim();

async function ask(path, body) {
  const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
  const how = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const answer = await fetch(url + path, how).catch((error) => {
    throw new Error(`cannot reach ${url}: ${error.cause?.message ?? error.message}`);
  });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(`${url}${path} answers ${answer.status}: ${said.error ?? "it serves no policies"}`);
  return said;
}

async function describe(name) {
  if (name !== undefined) return ask(`/v2/models/${encodeURIComponent(name)}`);
  const { models = [] } = await ask("/v1/models");
  if (!models.length) throw new Error(`${url} serves no policy yet`);
  if (models.length > 1) throw new Error(`choose one with --model: ${models.map((one) => one.name).join(", ")}`);
  return models[0];
}

function parse(text) {
  try {
    const rows = JSON.parse(text);
    if (rows.length && rows.every((row) => row.length === rows[0].length)) return rows;
  } catch {} // it is none
  throw new Error("--rows takes rows of equal length in JSON, such as '[[0, 1], [2, 0]]'");
}

// A tensor in JSON is its numbers in one flat list, with its shape.
function tensor(name, datatype, rows) {
  return { name, datatype, shape: [rows.length, rows[0].length], data: rows.flat() };
}

async function infer(model, inputs, outputs, parameters) {
  const body = { inputs, outputs: outputs.map((name) => ({ name })), parameters };
  const answer = await ask(`/v2/models/${encodeURIComponent(model.name)}/infer`, body);
  return {
    version: answer.model_version,
    ...Object.fromEntries(answer.outputs.map(({ name, shape, data }) => [name, { shape, data }])),
  };
}

function show(tick, answer) {
  const [action, likelihood] = [answer.action.data, answer.log_prob.data.map((one) => Math.exp(one).toFixed(3))];
  console.log(`  tick ${tick}: action ${action.join(", ")}; probability ${likelihood.join(", ")}`);
}

const model = await describe(flags.model);
const { datatype, shape } = model.inputs.find((one) => one.name === "observation");
const rows = flags.rows ? parse(flags.rows) : [new Array(shape[1]).fill(0)];
const observation = tensor("observation", datatype, rows);
const hasMemory = model.inputs.some((one) => one.name === "state");
console.log(`${model.name}, version ${model.versions.at(-1)}: ${rows.length} row(s) of ${rows[0].length} ${datatype}`);

console.log(hasMemory ? "this program remembers:" : "no memory:");
let state;
for (let tick = 0; tick < TICKS; tick += 1) {
  const outputs = ["action", "log_prob", ...(hasMemory ? ["next_state"] : [])];
  const answer = await infer(model, state ? [observation, state] : [observation], outputs, { seed: tick });
  show(tick, answer);
  if (hasMemory) state = { name: "state", datatype: "FP32", ...answer.next_state }; // left out where an episode begins
}

if (hasMemory) {
  console.log("the service remembers:");
  const sequence_id = randomUUID(); // nobody else may know it
  const row = tensor("observation", datatype, rows.slice(0, 1)); // a sequence is one agent
  for (let tick = 0; tick < TICKS; tick += 1) {
    const sequence = { sequence_id, sequence_start: tick === 0, sequence_end: tick === TICKS - 1 };
    show(tick, await infer(model, [row], ["action", "log_prob"], { seed: tick, ...sequence }));
  }
}
