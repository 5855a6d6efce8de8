// An environment server for Rattle in plain Node.js (18 or later): the vector API of docs/env-api.md.
// `node server.mjs --port 5000` serves pond.mjs; another game needs another file like that one.
import http from "node:http";
import { randomBytes } from "node:crypto";
import { isDeepStrictEqual, parseArgs } from "node:util";
import { NDArray, json, messagePack } from "./encodings.mjs";
import * as game from "./pond.mjs";

const LIMITS = { sessions: 16, worlds: 65536, body_bytes: 1 << 20, session_seconds: 300 };
const WHAT = {
  environment: "pond",
  settings: game.settings,
  observation_space: { kind: "floats", size: game.observationSize },
  num_actions: game.numActions,
  agents_per_world: 1,
  metrics: game.metrics,
};
const SPEC = {
  protocol: "rattle.vector/1", service: "pond.mjs", version: "1.0", ...WHAT, features: [], limits: LIMITS,
};
const STATUS = {
  bad_request: 400, bad_value: 400, unknown_path: 404, unknown_session: 404, wrong_method: 405, not_acceptable: 406,
  wrong_step: 409, too_large: 413, unsupported_type: 415, internal: 500, full: 503,
};
const ENCODINGS = { "application/json": json, "application/msgpack": messagePack };

class Problem extends Error {
  constructor(code, detail, more = {}) {
    super(detail);
    Object.assign(this, { code, more });
  }
}

// --- what a session does ---

const sessions = new Map();

class Session {
  constructor(worlds, seed, firstWorld) {
    Object.assign(this, { id: randomBytes(12).toString("hex"), step: 0, seed, firstWorld });
    this.episode = new Array(worlds).fill(0);
    this.worlds = this.episode.map((_, w) => this.begin(w));
    this.touch();
  }

  touch() {
    this.expires = Date.now() + 1000 * LIMITS.session_seconds;
  }

  begin(w) {
    return new game.Pond(this.seed, this.firstWorld + w, this.episode[w]);
  }

  now() {
    const { length } = this.worlds;
    return {
      step: this.step,
      observation: observations(this.worlds),
      active: new NDArray("bool", [length], new Array(length).fill(1)),
      episode: new NDArray("uint32", [length], this.episode),
    };
  }

  counted(worlds) {
    return Object.fromEntries(
      game.metrics.map((name) => [name, new NDArray("int32", [worlds.length], worlds.map((one) => one.metrics[name]))]),
    );
  }

  // A lost answer is asked for again: the very same request with the last number plays nothing.
  once(kind, request, play) {
    wholeFrom0(request, "step");
    if (request.step === this.step && this.last && isDeepStrictEqual(this.last.request, [kind, request])) {
      return this.last.answer;
    }
    if (request.step !== this.step + 1) {
      throw new Problem("wrong_step", `the next step is ${this.step + 1}`, { expected: this.step + 1, field: "step" });
    }
    const answer = play();
    this.last = { request: [kind, request], answer };
    return answer;
  }

  reset(request) {
    known(request, ["step", "seed"]);
    if ("seed" in request) wholeFrom0(request, "seed");
    return this.once("reset", request, () => {
      this.step += 1;
      if ("seed" in request) this.seed = request.seed;
      this.episode = this.episode.map((e) => ("seed" in request ? 0 : e + 1));
      this.worlds = this.worlds.map((_, w) => this.begin(w));
      return this.now();
    });
  }

  // Worlds that end begin their next episode in the same step; what they showed last is in `ended`.
  play(request) {
    known(request, ["step", "action"]);
    return this.once("step", request, () => {
      const action = actionsOf(request.action, this.worlds.length);
      const outcomes = this.worlds.map((world, w) => world.step(action[w]));
      const slots = outcomes.flatMap((one, w) => (one.terminated || one.truncated ? [w] : []));
      const over = slots.map((w) => this.worlds[w]);
      for (const w of slots) {
        this.episode[w] += 1;
        this.worlds[w] = this.begin(w);
      }
      this.step += 1;
      const column = (dtype, name) => new NDArray(dtype, [outcomes.length], outcomes.map((one) => one[name]));
      return {
        ...this.now(),
        reward: column("float32", "reward"),
        terminated: column("bool", "terminated"),
        truncated: column("bool", "truncated"),
        ended: {
          slots: new NDArray("int32", [slots.length], slots),
          observation: observations(over),
          metrics: this.counted(over),
        },
      };
    });
  }
}

function observations(worlds) {
  return new NDArray("float32", [worlds.length, game.observationSize], worlds.flatMap((world) => world.observe()));
}

function actionsOf(given, count) {
  const wrong = (why) => new Problem("bad_value", `action must be ${count} whole numbers, ${why}`, { field: "action" });
  let values = given;
  if (given !== null && typeof given === "object" && !Array.isArray(given)) {
    const array = NDArray.of(given);
    if (!array || array.dtype === "bool" || array.dtype === "float32") throw wrong("in an integer dtype");
    if (array.shape.length !== 1) throw wrong("in one dimension");
    values = Array.from(array.values, Number);
  }
  if (!Array.isArray(values) || values.length !== count) throw wrong("one for each slot");
  if (!values.every((one) => Number.isInteger(one) && one >= 0 && one < game.numActions)) {
    throw wrong(`each from 0 to ${game.numActions - 1}`);
  }
  return values;
}

// --- what may stand in requests ---

function isWhole(value) {
  return Number.isSafeInteger(value) || typeof value === "bigint";
}

function wholeFrom0(request, field, most = 2n ** 64n - 1n, least = 0) {
  const value = request[field];
  if (!isWhole(value) || value < least || value > most) {
    throw new Problem("bad_value", `${field} must be a whole number from ${least} to ${most}`, { field });
  }
}

function known(request, fields) {
  const field = Object.keys(request).find((name) => !fields.includes(name));
  if (field !== undefined) throw new Problem("bad_value", `there is no field ${field}`, { field });
}

// --- routes ---

function create(request) {
  const asked = { seed: randomBytes(8).readBigUInt64LE(), first_world: 0, options: {}, ...request };
  known(asked, ["worlds", "seed", "first_world", "options"]);
  wholeFrom0(asked, "worlds", LIMITS.worlds, 1);
  wholeFrom0(asked, "seed");
  wholeFrom0(asked, "first_world", 2 ** 32);
  if (!isDeepStrictEqual(asked.options, {})) {
    throw new Problem("bad_value", "this environment has no options", { field: "options" });
  }
  for (const [id, one] of sessions) if (one.expires < Date.now()) sessions.delete(id);
  if (sessions.size >= LIMITS.sessions) throw new Problem("full", "there is no room for another session");
  const session = new Session(asked.worlds, asked.seed, asked.first_world);
  sessions.set(session.id, session);
  const { id, seed, firstWorld: first_world } = session;
  return { session: id, seed, first_world, expires_seconds: LIMITS.session_seconds, ...WHAT, ...session.now() };
}

function show(session) {
  const { id, step, seed, firstWorld, worlds } = session;
  return { session: id, step, seed, first_world: firstWorld, worlds: worlds.length, metrics: session.counted(worlds) };
}

const ROUTES = [
  [/^\/v1\/spec$/, { GET: () => [200, SPEC] }],
  [/^\/v1\/sessions$/, { POST: (request) => [201, create(request)] }],
  [/^\/v1\/sessions\/([^/]+)$/, {
    GET: (_, session) => [200, show(session)],
    DELETE: (_, session) => (sessions.delete(session.id), [204, null]),
  }],
  [/^\/v1\/sessions\/([^/]+)\/step$/, { POST: (request, session) => [200, session.play(request)] }],
  [/^\/v1\/sessions\/([^/]+)\/reset$/, { POST: (request, session) => [200, session.reset(request)] }],
];

function sessionOf(id) {
  const session = sessions.get(id);
  if (!session || session.expires < Date.now()) throw new Problem("unknown_session", `there is no session ${id}`);
  session.touch();
  return session;
}

async function answer(request) {
  const [path] = request.url.split("?");
  const found = ROUTES.map(([pattern, methods]) => [pattern.exec(path), methods]).find(([match]) => match);
  if (!found) throw new Problem("unknown_path", `there is no ${request.url}`);
  const [[, id], methods] = found;
  if (!Object.hasOwn(methods, request.method)) throw new Problem("wrong_method", `not with ${request.method}`);
  const [encode, body] = request.method === "POST" ? await read(request) : [chosen(request, "application/json"), null];
  const [status, content] = methods[request.method](body, id === undefined ? undefined : sessionOf(id));
  return [status, encode, content === null ? "" : ENCODINGS[encode].encode(content)];
}

async function read(request) {
  if (Number(request.headers["content-length"] ?? 0) > LIMITS.body_bytes) throw new Problem("too_large", "too large");
  const type = (request.headers["content-type"] ?? "").split(";")[0].trim().toLowerCase();
  if (!Object.hasOwn(ENCODINGS, type)) throw new Problem("unsupported_type", "send JSON or MessagePack");
  const encode = chosen(request, type);
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > LIMITS.body_bytes) throw new Problem("too_large", `more than ${LIMITS.body_bytes} bytes`);
    parts.push(part);
  }
  let body;
  try {
    body = ENCODINGS[type].decode(Buffer.concat(parts));
  } catch (error) {
    throw new Problem("bad_request", `the body is not valid ${type}: ${error.message}`);
  }
  const isObject = body !== null && typeof body === "object" && !Array.isArray(body) && !Buffer.isBuffer(body);
  if (!isObject) throw new Problem("bad_request", "the body is not an object");
  return [encode, body];
}

function chosen(request, own) {
  const wanted = (request.headers.accept ?? "*/*").split(",").map((one) => one.split(";")[0].trim().toLowerCase());
  const found = [own, ...Object.keys(ENCODINGS)].find((type) => wanted.includes(type))
    ?? (wanted.some((type) => type === "*/*" || type === "application/*") && own);
  if (!found) throw new Problem("not_acceptable", "answers are application/json or application/msgpack");
  return found;
}

// --- HTTP ---

const server = http.createServer(async (request, response) => {
  try {
    const [status, type, body] = await answer(request);
    response.writeHead(status, status === 204 ? {} : { "Content-Type": type, "Content-Length": body.length }).end(body);
  } catch (error) {
    if (request.destroyed && !request.complete) return; // who asked has gone
    if (!(error instanceof Problem)) console.error(error);
    const { code, message, more } = error instanceof Problem ? error : new Problem("internal", "the game failed");
    const status = STATUS[code];
    const problem = {
      type: "about:blank", title: http.STATUS_CODES[status], status, detail: message, error: message, code, ...more,
    };
    const wait = code === "full" ? { "Retry-After": "1" } : {};
    response.writeHead(status, { "Content-Type": "application/problem+json", ...wait }).end(JSON.stringify(problem));
    request.resume(); // reads what still comes, so that the answer is not lost
  }
});
server.keepAliveTimeout = 60_000;
const { values: flags } = parseArgs({ options: { port: { type: "string", default: "5000" } } });
server.listen(Number(flags.port), "127.0.0.1", () => {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` }));
});
process.on("SIGTERM", () => process.exit(0));
