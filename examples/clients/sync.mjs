// The Sync service's protocol (docs/sync-api.md), mode pace: listens on a UDP port for the datagrams that say when to
// tick, and prints those that count. Node.js 18 or later, no packages:
//   node sync.mjs --port 5601 [--host 127.0.0.1] [--ticks 20] [--token-file FILE | --key-file FILE]
//   rattle sync --participant 127.0.0.1:5601
// With a token or a key it accepts sealed datagrams only, so that nobody else can make it tick.
import { createHmac, randomBytes, timingSafeEqual } from "node:crypto";
import { createSocket } from "node:dgram";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

process.on("uncaughtException", (error) => {
  console.error(`sync.mjs: ${error.message}`);
  process.exit(1);
});

const { values: flags } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "5601" },
    ticks: { type: "string", default: "Infinity" },
    "token-file": { type: "string" },
    "key-file": { type: "string" },
  },
});
const key = readKey();

function readKey() {
  if (flags["key-file"]) return readFileSync(flags["key-file"]);
  if (!flags["token-file"]) return null;
  return createHmac("sha256", readFileSync(flags["token-file"], "utf8").trim()).update("rattle.sync/1").digest();
}

// Without a key a datagram is a tick if it was sent later than the last tick, or has the next sequence. So copies do
// not count, and neither do datagrams that arrive after newer ones.
class Plain {
  last = { sequence: 0, timestamp: "" };

  isTick(datagram) {
    const { sequence, timestamp } = this.last;
    const isLater = datagram.timestamp > timestamp && datagram.sequence !== sequence;
    if (!isLater && datagram.sequence !== sequence + 1) return false;
    this.last = datagram;
    return true;
  }
}

// With a key a datagram must have the right seal, and its life of the service must have repeated our nonce once. What
// somebody recorded before we started has another nonce, and what was recorded since has a sequence that is not new.
class Sealed {
  nonce = randomBytes(8).toString("hex");
  newest = new Map(); // the highest sequence, by lives that have repeated the nonce
  life = "";
  heard = -Infinity;
  period = 0;

  isTick({ sequence, timestamp, life, nonce = "", seal: given }, reply) {
    if (!isSeal(given, seal("tick", life, nonce, sequence, timestamp))) return false;
    if (nonce !== this.nonce && !this.newest.has(life)) {
      reply({ sequence, life, nonce: this.nonce, seal: seal("nonce", life, this.nonce, sequence) });
      return false;
    }
    const newest = this.newest.get(life);
    if (sequence <= newest) return false;
    this.newest.set(life, sequence);
    const now = performance.now();
    const isBack = newest !== undefined && life !== this.life;
    if (isBack && now - this.heard < 1000 + 3 * this.period) return false; // the newer life is still sending
    if (life === this.life) this.period = (now - this.heard) / (sequence - newest);
    Object.assign(this, { life, heard: now });
    return true;
  }
}

function seal(kind, ...parts) {
  const text = [`rattle.pace/1 ${kind}`, ...parts].join("\n");
  return createHmac("sha256", key).update(text).digest("hex").slice(0, 32);
}

function isSeal(given, right) {
  return /^[0-9a-f]{32}$/.test(given) && timingSafeEqual(Buffer.from(given), Buffer.from(right));
}

function parse(data) {
  try {
    const datagram = JSON.parse(data);
    const { sequence, timestamp } = datagram;
    return Number.isSafeInteger(sequence) && sequence > 0 && typeof timestamp === "string" ? datagram : null;
  } catch {
    return null;
  }
}

const listener = key ? new Sealed() : new Plain();
const socket = createSocket("udp4");
let ticks = 0;
socket.on("message", (data, sender) => {
  const datagram = parse(data);
  const reply = (answer) => socket.send(JSON.stringify(answer), sender.port, sender.address);
  if (!datagram || !listener.isTick(datagram, reply)) return;
  const age = Date.now() - Date.parse(datagram.timestamp);
  console.log(`tick ${datagram.sequence}, sent ${age} ms ago`); // replace this line by what your program does in a tick
  ticks += 1;
  if (ticks >= Number(flags.ticks)) socket.close();
});
socket.bind(Number(flags.port), flags.host, () => {
  console.log(JSON.stringify({ address: `${flags.host}:${socket.address().port}` }));
});
