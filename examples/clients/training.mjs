// The Training service's gRPC (docs/training-api.md) without packages: prints what each policy has reached (GetStatus)
// and stores the newest one in a file (GetPolicy). Node.js 18 or later:
//   rattle training
//   node training.mjs 127.0.0.1:50051 [--policy main] [--to policy.safetensors] [--token-file FILE]
// gRPC is HTTP/2 with messages of protocol buffers; the numbers below are those of training.proto.
import { readFileSync, writeFileSync } from "node:fs";
import http2 from "node:http2";
import { parseArgs } from "node:util";

process.on("uncaughtException", (error) => {
  console.error(`training.mjs: ${error.message}`);
  process.exit(1);
});

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    policy: { type: "string", default: "" },
    to: { type: "string" },
    "token-file": { type: "string" },
  },
});
const [address = "127.0.0.1:50051"] = positionals;
const url = address.includes("://") ? address : `http://${address}`;
const token = flags["token-file"] && readFileSync(flags["token-file"], "utf8").trim();

// A message has a name, and a name the value of its field: fields with other numbers are passed over.
const MESSAGES = {
  Policy: { 1: ["id", "text"], 2: ["version", "whole"], 4: ["file", "bytes"] },
  Status: { 2: ["mode", "text"], 3: ["policies", "PolicyStatus"] },
  PolicyStatus: {
    1: ["id", "text"], 2: ["run", "text"], 4: ["status", "text"], 5: ["error", "text"], 6: ["version", "whole"],
    7: ["steps", "whole"], 10: ["speed", "double"], 11: ["meanReturn", "double"],
  },
};

function decode(bytes, kind) {
  const message = {};
  let at = 0;
  const varint = () => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return Number(value);
    }
  };
  const skipped = (size) => bytes.subarray(at, (at += size));
  const readers = { 0: varint, 1: () => skipped(8).readDoubleLE(), 2: () => skipped(varint()), 5: () => skipped(4) };
  while (at < bytes.length) {
    const tag = varint();
    const value = readers[tag & 7]();
    const [name, type] = MESSAGES[kind][tag >>> 3] ?? [];
    if (type === "text") message[name] = value.toString();
    else if (type in MESSAGES) (message[name] ??= []).push(decode(value, type));
    else if (name) message[name] = value;
  }
  return message;
}

// A text as field 1 of a request; a request without fields is empty.
function text1(value) {
  const bytes = Buffer.from(value);
  if (bytes.length > 127) throw new Error("--policy is too long"); // longer ones need a varint of two bytes
  return bytes.length ? Buffer.concat([Buffer.from([10, bytes.length]), bytes]) : bytes;
}

function call(session, method, request) {
  return new Promise((resolve, reject) => {
    const headers = {
      ":method": "POST", ":path": `/rattle.v1.Training/${method}`, "content-type": "application/grpc", te: "trailers",
      ...(token && { authorization: `Bearer ${token}` }),
    };
    const stream = session.request(headers);
    const parts = [];
    let said = {};
    const hear = (more) => (said = { ...said, ...more });
    stream.on("response", hear).on("trailers", hear).on("error", reject).on("data", (part) => parts.push(part));
    stream.on("end", () => {
      // Before the message are a byte for its compression, and four for its length.
      if (said["grpc-status"] === "0") return resolve(Buffer.concat(parts).subarray(5));
      if (!("grpc-status" in said)) return reject(new Error(`${address} speaks no gRPC, or wants https://`));
      const why = decodeURIComponent(said["grpc-message"] ?? "no message");
      reject(new Error(`${method} of ${address}: ${why} (gRPC status ${said["grpc-status"]})`));
    });
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(request.length, 1);
    stream.end(Buffer.concat([prefix, request]));
  });
}

const session = http2.connect(url);
session.on("error", (error) => {
  console.error(`training.mjs: cannot reach ${address}: ${error.message}`);
  process.exit(1);
});
const status = decode(await call(session, "GetStatus", Buffer.alloc(0)), "Status");
for (const one of status.policies ?? []) {
  const { id, run, version = 0, steps = 0, speed = 0, meanReturn } = one;
  console.log(`${id} (run ${run}, ${status.mode}): ${one.status}${one.error ? `, ${one.error}` : ""}`);
  const reached = meanReturn === undefined ? "no episode has ended" : `mean return ${meanReturn.toFixed(2)}`;
  console.log(`  version ${version} after ${steps} steps, ${Math.round(speed)} steps a second; ${reached}`);
}
if (flags.to) {
  const policy = decode(await call(session, "GetPolicy", text1(flags.policy)), "Policy");
  writeFileSync(flags.to, policy.file);
  console.log(`${flags.to}: version ${policy.version ?? 0} of ${policy.id}, ${policy.file.length} bytes`);
}
session.close();
