// Frames (SPEC.md 2): what goes before a payload, and a reader that is fed bytes as they come.

import { decode, encode, head, isMap, Violation } from "./cbor.mjs";

export const MAX_CONTROL_SIZE = 65_536;
export const MAX_DATA_SIZE = 1_048_576;
export const DATA_SIZE = 262_144;
const MAX_FRAME_SIZE = MAX_DATA_SIZE + 5;

/** Give the bytes of a control frame. */
export function controlFrame(message) {
  const item = encode(message);
  if (item.length > MAX_CONTROL_SIZE)
    throw new RangeError(`control frame has ${item.length} bytes`);
  return Buffer.concat([prefix(item.length), item]);
}

/** Give what goes before so many bytes of payload. */
export function dataHead(size) {
  if (size < 1 || size > MAX_DATA_SIZE) throw new RangeError(`data frame of ${size} bytes`);
  const itemHead = head(2, size);
  return Buffer.concat([prefix(itemHead.length + size), itemHead]);
}

function prefix(size) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(size);
  return bytes;
}

/** Give the only head that a data frame of this length can have, or null if there is none. */
function expectedHead(length) {
  for (const size of [1, 2, 3, 5]) {
    const payload = length - size;
    if (payload > 0 && payload <= MAX_DATA_SIZE && head(2, payload).length === size)
      return head(2, payload);
  }
  return null;
}

/**
 * Cuts a stream of bytes into frames. `push` gives what has become certain, one after the other
 * so that what came before a violation is not lost with it: `{control}` for a whole control
 * frame, `{data}` for each piece of a payload.
 */
export class FrameReader {
  #pieces = [];
  #held = 0;
  #length = 0; // of the item; 0 while the length itself is incomplete
  #payload = 0; // bytes that are due of a data frame whose head is complete

  /** True between two frames. */
  get isBetweenFrames() {
    return this.#held === 0 && this.#length === 0 && this.#payload === 0;
  }

  *push(chunk) {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#payload > 0) {
        const piece = rest.subarray(0, this.#payload);
        rest = rest.subarray(piece.length);
        this.#payload -= piece.length;
        yield { data: piece };
      } else if (this.#length === 0) {
        rest = this.#hold(rest, 4);
        if (this.#held === 4) this.#startItem();
      } else if (this.#isData(rest)) {
        rest = this.#feedDataHead(rest);
      } else {
        rest = this.#hold(rest, this.#length);
        if (this.#held === this.#length) yield { control: decode(this.#takeItem()) };
      }
    }
  }

  #hold(bytes, limit) {
    const taken = bytes.subarray(0, limit - this.#held);
    if (taken.length > 0) this.#pieces.push(taken);
    this.#held += taken.length;
    return bytes.subarray(taken.length);
  }

  #takeHeld() {
    const bytes = this.#pieces.length === 1 ? this.#pieces[0] : Buffer.concat(this.#pieces);
    this.#pieces = [];
    this.#held = 0;
    return bytes;
  }

  #takeItem() {
    this.#length = 0;
    return this.#takeHeld();
  }

  #startItem() {
    const length = this.#takeHeld().readUInt32BE();
    if (length < 1 || length > MAX_FRAME_SIZE) throw new Violation(`frame of ${length} bytes`);
    this.#length = length;
  }

  /** Look at the first byte of the item; false for a control frame within its limit. */
  #isData(rest) {
    const first = this.#held > 0 ? this.#pieces[0][0] : rest[0];
    const major = first >> 5;
    if (major === 2) return true;
    if (major !== 5) throw new Violation(`frame begins with major type ${major}`);
    if (this.#length > MAX_CONTROL_SIZE)
      throw new Violation(`control frame of ${this.#length} bytes`);
    if (first === 0xbf) throw new Violation("indefinite length");
    return false;
  }

  #feedDataHead(rest) {
    const expected = expectedHead(this.#length);
    if (expected === null) throw new Violation(`no data frame has ${this.#length} bytes`);
    const remaining = this.#hold(rest, expected.length);
    const found = Buffer.concat(this.#pieces);
    if (!expected.subarray(0, found.length).equals(found))
      throw new Violation("length and head disagree");
    if (found.length === expected.length) {
      this.#payload = this.#length - expected.length;
      this.#takeItem();
    }
    return remaining;
  }
}

const DIGEST = /^[a-z][a-z0-9_-]{0,31}:([0-9a-f][0-9a-f]){1,64}$/;
const SHORT_ALGORITHMS = /^(blake3|sha256):/;

// What a value has to be, each as [what it is called, test].
export const is = {
  text: ["text", (value) => typeof value === "string"],
  bool: ["true or false", (value) => typeof value === "boolean"],
  map: ["a map", isMap],
  size: ["an integer from 0 to 2^53-1", (value) => Number.isSafeInteger(value) && value >= 0],
  time: [
    "a time in milliseconds",
    (value) => Number.isSafeInteger(value) && value >= 0 && value <= 253402300799999,
  ],
  texts: [
    "a list of texts",
    (value) => Array.isArray(value) && value.every((item) => typeof item === "string"),
  ],
  list: ["a list", Array.isArray],
  stream: ['"stream"', (value) => value === "stream"],
  digest: ["a digest", isDigest],
};

function isDigest(value) {
  if (typeof value !== "string" || !DIGEST.test(value)) return false;
  return !SHORT_ALGORITHMS.test(value) || value.length === value.indexOf(":") + 65;
}

/** Check the fields of a map that came; a `?` after the key marks one that may be absent. */
export function check(map, fields, where) {
  if (!isMap(map)) throw new Violation(`${where} is no map`);
  for (const [name, [description, test]] of Object.entries(fields)) {
    const key = name.replace("?", "");
    if (!(key in map)) {
      if (key === name) throw new Violation(`${where}.${key} is missing`);
    } else if (!test(map[key])) {
      throw new Violation(`${where}.${key} is not ${description}`);
    }
  }
}

const INNER = {
  hello: { version: is.size, features: is.texts, "agent?": is.text },
  error: { code: is.text, message: is.text, "retry?": is.bool, "details?": is.map },
  end: { size_bytes: is.size, "digest?": is.digest },
};
const OUTER = {
  hello: {},
  op: { op: is.text, args: is.map, "body?": is.stream, "accept_fd?": is.bool, "trace?": is.text },
  ok: { ok: is.map, "body?": is.stream },
  error: {},
  end: {},
};

/** Check a control frame that came and give its kind (SPEC.md 2.3). */
export function kindOf(message) {
  const kinds = Object.keys(OUTER).filter((kind) => kind in message);
  if (kinds.length !== 1)
    throw new Violation(`control frame has ${kinds.length} of the keys that name a kind`);
  const [kind] = kinds;
  check(message, OUTER[kind], kind);
  if (kind in INNER) check(message[kind], INNER[kind], kind);
  return kind;
}
