// The part of CBOR that control frames use (SPEC.md 3): a deterministic encoder, and a decoder
// that takes nothing but what that encoder writes.

export const MAX_DEPTH = 8;

const TEXT_ENCODER = new TextEncoder();
// Without ignoreBOM a text that begins with U+FEFF would lose it.
const TEXT_DECODER = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** What the peer sent breaks the protocol; nothing after it can be understood. */
export class Violation extends Error {
  name = "Violation";
  code = "protocol";
  retry = false;
}

export const isMap = (value) =>
  typeof value === "object" &&
  value !== null &&
  !Array.isArray(value) &&
  !(value instanceof Uint8Array);

/** Give the one encoding of a value. */
export function encode(value) {
  const pieces = [];
  put(pieces, value, 0);
  return Buffer.concat(pieces);
}

function put(pieces, value, depth) {
  if (depth > MAX_DEPTH) throw new RangeError(`value is nested deeper than ${MAX_DEPTH}`);
  if (value === false) pieces.push(Buffer.of(0xf4));
  else if (value === true) pieces.push(Buffer.of(0xf5));
  else if (value === null) pieces.push(Buffer.of(0xf6));
  else if (typeof value === "number") pieces.push(integer(value));
  else if (typeof value === "string") pieces.push(text(value));
  else if (value instanceof Uint8Array) pieces.push(head(2, value.length), value);
  else if (Array.isArray(value)) putList(pieces, value, depth + 1);
  else if (isMap(value)) putMap(pieces, value, depth + 1);
  else throw new TypeError(`a ${typeof value} cannot be sent`);
}

function putList(pieces, value, depth) {
  pieces.push(head(4, value.length));
  for (const item of value) put(pieces, item, depth);
}

function putMap(pieces, value, depth) {
  // A field that is undefined is a field that is not meant.
  const fields = Object.keys(value).filter((key) => value[key] !== undefined);
  const spelled = fields.map((key) => [text(key), value[key]]);
  spelled.sort(([a], [b]) => Buffer.compare(a, b));
  pieces.push(head(5, spelled.length));
  for (const [key, item] of spelled) {
    pieces.push(key);
    put(pieces, item, depth);
  }
}

function integer(value) {
  if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is no integer of 53 bits`);
  return value < 0 ? head(1, -1 - value) : head(0, value);
}

function text(value) {
  // TextEncoder would put U+FFFD in place of a lone surrogate.
  if (/\p{Surrogate}/u.test(value)) throw new TypeError("text has a lone surrogate");
  const bytes = TEXT_ENCODER.encode(value);
  return Buffer.concat([head(3, bytes.length), bytes]);
}

/** Give the shortest head of an item. */
export function head(major, number) {
  const first = major << 5;
  if (number < 24) return Buffer.of(first | number);
  if (number < 0x100) return Buffer.of(first | 24, number);
  if (number < 0x10000) return Buffer.of(first | 25, number >> 8, number & 0xff);
  const bytes = Buffer.alloc(number < 0x100000000 ? 5 : 9);
  bytes[0] = first | (bytes.length === 5 ? 26 : 27);
  if (bytes.length === 5) bytes.writeUInt32BE(number, 1);
  else bytes.writeBigUInt64BE(BigInt(number), 1);
  return bytes;
}

/** Decode exactly one item. Maps become objects without a prototype. */
export function decode(bytes) {
  const decoder = new Decoder(bytes);
  const value = decoder.item(0);
  if (decoder.at !== bytes.length) throw new Violation("bytes follow the item");
  return value;
}

class Decoder {
  at = 0;

  constructor(bytes) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  item(depth) {
    const first = this.take(1)[0];
    const major = first >> 5;
    const info = first & 31;
    if (major === 7) return this.simple(first);
    if (major === 6) throw new Violation("tag");
    const number = this.number(info);
    if (major === 0) return number;
    if (major === 1) return this.negative(number);
    if (major === 2) return Uint8Array.from(this.take(number));
    if (major === 3) return this.text(number);
    if (depth === MAX_DEPTH) throw new Violation(`nested deeper than ${MAX_DEPTH}`);
    return major === 4 ? this.list(number, depth + 1) : this.map(number, depth + 1);
  }

  take(count) {
    if (count > this.bytes.length - this.at) throw new Violation("the frame ends inside the item");
    this.at += count;
    return this.bytes.subarray(this.at - count, this.at);
  }

  number(info) {
    if (info < 24) return info;
    if (info === 31) throw new Violation("indefinite length");
    if (info > 27) throw new Violation("reserved head");
    const size = 1 << (info - 24);
    const bytes = this.take(size);
    const number = size < 8 ? bytes.readUIntBE(0, size) : Number(bytes.readBigUInt64BE());
    if (number > Number.MAX_SAFE_INTEGER) throw new Violation("integer over 2^53-1");
    if (number < [24, 0x100, 0x10000, 0x100000000][info - 24])
      throw new Violation("head is longer than needed");
    return number;
  }

  negative(number) {
    if (number === Number.MAX_SAFE_INTEGER) throw new Violation("integer below -(2^53-1)");
    return -1 - number;
  }

  simple(first) {
    if (first === 0xf4) return false;
    if (first === 0xf5) return true;
    if (first === 0xf6) return null;
    throw new Violation("neither true nor false nor null");
  }

  text(size) {
    const bytes = this.take(size);
    try {
      return TEXT_DECODER.decode(bytes);
    } catch {
      throw new Violation("text is not UTF-8");
    }
  }

  list(count, depth) {
    const list = [];
    for (let index = 0; index < count; index += 1) list.push(this.item(depth));
    return list;
  }

  map(count, depth) {
    // Keys come from the peer: "__proto__" has to be one like any other.
    const map = Object.create(null);
    let last = null;
    for (let index = 0; index < count; index += 1) {
      const start = this.at;
      if (this.bytes[start] >> 5 !== 3) throw new Violation("a key that is not text");
      const key = this.item(depth);
      const spelled = this.bytes.subarray(start, this.at);
      if (last !== null && Buffer.compare(last, spelled) >= 0)
        throw new Violation("keys out of order or twice");
      last = spelled;
      map[key] = this.item(depth);
    }
    return map;
  }
}
