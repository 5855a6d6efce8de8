// JSON and MessagePack, which carry the same objects. Only arrays differ: nested lists, or a map with the raw bytes.

const TYPES = {
  bool: Uint8Array, uint8: Uint8Array, int32: Int32Array, int64: BigInt64Array,
  uint32: Uint32Array, uint64: BigUint64Array, float32: Float32Array,
};

export class NDArray {
  constructor(dtype, shape, values) {
    Object.assign(this, { dtype, shape, values: TYPES[dtype].from(values) });
  }

  // As nested lists; numbers that are not finite are null.
  toJSON() {
    const one = { bool: Boolean, float32: (x) => (Number.isFinite(x) ? x : null) }[this.dtype] ?? Number;
    const nest = (from, [length, ...below]) => {
      const width = below.reduce((a, b) => a * b, 1);
      return Array.from({ length }, (_, i) =>
        below.length ? nest(from + i * width, below) : one(this.values[from + i]));
    };
    return nest(0, this.shape);
  }

  // Of a map with dtype, shape and data, as it travels in MessagePack; null where they do not fit together.
  static of({ dtype, shape, data, ...more }) {
    const type = Object.hasOwn(TYPES, dtype) && TYPES[dtype];
    if (!type || !Array.isArray(shape) || !Buffer.isBuffer(data) || Object.keys(more).length) return null;
    const count = shape.reduce((a, b) => a * b, 1);
    if (data.length !== count * type.BYTES_PER_ELEMENT) return null;
    return new NDArray(dtype, shape, new type(new Uint8Array(data).buffer));
  }
}

// Integers that a double does not hold exactly, such as seeds, are BigInt: JSON.parse alone would round them.
export const json = {
  decode: (bytes) => JSON.parse(
    new TextDecoder("utf-8", { fatal: true }).decode(bytes).replace(/("seed"\s*:\s*)(\d{16,20})(?=\s*[,}])/, '$1"$2n"'),
    (key, value) => (key === "seed" && /^\d+n$/.test(value) ? BigInt(value.slice(0, -1)) : value),
  ),
  encode: (value) => Buffer.from(
    JSON.stringify(value, (_, part) => (typeof part === "bigint" ? `${part}n` : part)).replace(/"(\d+)n"/g, "$1"),
  ),
};

export const messagePack = {
  encode: (value) => Buffer.concat([...pack(value)]),
  decode(bytes) {
    const reader = new Reader(bytes);
    const value = reader.value();
    if (reader.at !== bytes.length) throw new Error("something follows the message");
    return value;
  },
};

function head(code, write, width, number) {
  const bytes = Buffer.alloc(1 + width);
  bytes[0] = code;
  bytes[write](number, 1);
  return bytes;
}

function* pack(value) {
  if (value === null || value === undefined) yield Buffer.from([0xc0]);
  else if (typeof value === "boolean") yield Buffer.from([value ? 0xc3 : 0xc2]);
  else if (typeof value === "bigint") yield head(0xcf, "writeBigUInt64BE", 8, value);
  else if (typeof value === "number") {
    if (!Number.isInteger(value)) yield head(0xcb, "writeDoubleBE", 8, value);
    else if (value < 0 || value > 0xffffffff) yield head(0xd3, "writeBigInt64BE", 8, BigInt(value));
    else yield value < 128 ? Buffer.from([value]) : head(0xce, "writeUInt32BE", 4, value);
  } else if (typeof value === "string") {
    const text = Buffer.from(value);
    yield head(0xdb, "writeUInt32BE", 4, text.length);
    yield text;
  } else if (Buffer.isBuffer(value)) {
    yield head(0xc6, "writeUInt32BE", 4, value.length);
    yield value;
  } else if (Array.isArray(value)) {
    yield head(0xdd, "writeUInt32BE", 4, value.length);
    for (const one of value) yield* pack(one);
  } else if (value instanceof NDArray) {
    const { dtype, shape, values } = value;
    yield* pack({ dtype, shape, data: Buffer.from(values.buffer) });
  } else {
    const entries = Object.entries(value);
    yield head(0xdf, "writeUInt32BE", 4, entries.length);
    for (const [key, one] of entries) {
      yield* pack(key);
      yield* pack(one);
    }
  }
}

class Reader {
  constructor(bytes) {
    Object.assign(this, { bytes, at: 0 });
  }

  take(count) {
    if (this.at + count > this.bytes.length) throw new Error("the message is cut");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  // `width` bytes as a number; one that a double does not hold stays a BigInt.
  number(kind, width) {
    const found = this.take(width)[`read${kind}${width > 1 ? "BE" : ""}`]();
    return typeof found === "bigint" && Number.isSafeInteger(Number(found)) ? Number(found) : found;
  }

  length(width) {
    return this.take(width).readUIntBE(0, width);
  }

  list(length) {
    return Array.from({ length: Math.min(length, this.bytes.length) }, () => this.value());
  }

  map(length) {
    const pairs = Array.from({ length: Math.min(length, this.bytes.length) }, () => [this.value(), this.value()]);
    if (pairs.some(([key]) => typeof key !== "string")) throw new Error("keys of maps are texts");
    return Object.fromEntries(pairs);
  }

  text(length) {
    return new TextDecoder("utf-8", { fatal: true }).decode(this.take(length));
  }

  value() {
    const code = this.take(1)[0];
    if (code < 0x80) return code;
    if (code < 0x90) return this.map(code & 0x0f);
    if (code < 0xa0) return this.list(code & 0x0f);
    if (code < 0xc0) return this.text(code & 0x1f);
    if (code >= 0xe0) return code - 0x100;
    switch (code) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return this.take(this.length(1 << (code - 0xc4)));
      case 0xca: return this.number("Float", 4);
      case 0xcb: return this.number("Double", 8);
      case 0xcc: return this.number("UInt8", 1);
      case 0xcd: return this.number("UInt16", 2);
      case 0xce: return this.number("UInt32", 4);
      case 0xcf: return this.number("BigUInt64", 8);
      case 0xd0: return this.number("Int8", 1);
      case 0xd1: return this.number("Int16", 2);
      case 0xd2: return this.number("Int32", 4);
      case 0xd3: return this.number("BigInt64", 8);
      case 0xd9: case 0xda: case 0xdb: return this.text(this.length(1 << (code - 0xd9)));
      case 0xdc: case 0xdd: return this.list(this.length(2 << (code - 0xdc)));
      case 0xde: case 0xdf: return this.map(this.length(2 << (code - 0xde)));
      default: throw new Error(`MessagePack has no value that begins with 0x${code.toString(16)}`);
    }
  }
}
