// Bodies: one that is served, and the pieces of one that is sent.

import { createHash } from "node:crypto";

import { Violation } from "./cbor.mjs";
import { ConnectionLost, DataPlaneError } from "./connection.mjs";
import { DATA_SIZE } from "./frames.mjs";

// How long a source may take for its next piece before what it gave is sent.
const FLUSH_MS = 50;

/** A body being served: an async iterator of pieces, the last of which comes after a checked end. */
export class ServedObject {
  #connection;
  #release;
  #pieces;
  #isOver = false;

  constructor(connection, { ok }, release) {
    this.size = ok.size_bytes;
    this.offset = ok.offset;
    this.length = ok.length;
    this.#connection = connection;
    this.#release = release;
    this.#pieces = this.#read();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  next() {
    return this.#pieces.next();
  }

  async return(value) {
    this.close();
    return this.#pieces.return(value);
  }

  /** Give up what has not been read: the only way to cancel is to close the connection. */
  close() {
    if (!this.#isOver) this.#connection.fail(new ConnectionLost("the body was closed"));
    this.#isOver = true;
  }

  /** Read all of it into one buffer. */
  async bytes() {
    const pieces = [];
    for await (const piece of this) pieces.push(piece);
    return Buffer.concat(pieces);
  }

  async *#read() {
    const sha256 = createHash("sha256");
    let received = 0;
    let last = null;
    try {
      for (;;) {
        const { data, kind, message } = await this.#connection.next();
        if (!data) {
          if (kind === "end") this.#checkEnd(message.end, received, sha256);
          this.#isOver = true;
          this.#release();
          if (kind === "error") throw new DataPlaneError(message.error);
          if (last) yield last;
          return;
        }
        received += data.length;
        if (received > this.length) throw new Violation(`more than ${this.length} bytes came`);
        sha256.update(data);
        const piece = last;
        last = data;
        if (piece) yield piece;
      }
    } catch (error) {
      if (error instanceof Violation) this.#connection.fail(error);
      throw error;
    } finally {
      this.close();
    }
  }

  #checkEnd({ size_bytes: size, digest }, received, sha256) {
    if (size !== received || received !== this.length) {
      throw new Violation(`end of ${size} bytes after ${received}, announced were ${this.length}`);
    }
    if (digest?.startsWith("sha256:") && digest !== `sha256:${sha256.digest("hex")}`) {
      throw new Violation("the digest in the end is of other bytes");
    }
  }
}

/**
 * Join and cut what a source gives to payloads of the size recommended; one that keeps it waiting
 * is sent as far as it has come.
 */
export async function* payloads(source) {
  const iterator = piecesOf(source);
  let pieces = [];
  let size = 0;
  try {
    for (let pending = iterator.next(); ;) {
      const next = size > 0 ? await within(FLUSH_MS, pending) : await pending;
      if (next?.done === false) {
        pieces.push(next.value);
        size += next.value.length;
        pending = iterator.next();
        pending.catch(() => {}); // it is looked at when its turn comes
        if (size < DATA_SIZE) continue;
      }
      const bytes = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
      const ready = next?.done === false ? size - (size % DATA_SIZE) : size;
      for (let at = 0; at < ready; at += DATA_SIZE)
        yield bytes.subarray(at, Math.min(at + DATA_SIZE, ready));
      if (next?.done) return;
      size -= ready;
      pieces = size > 0 ? [bytes.subarray(ready)] : [];
    }
  } finally {
    iterator.return().catch(() => {});
  }
}

async function* piecesOf(source) {
  if (source instanceof Uint8Array) yield source;
  else yield* source;
}

/** Give what a promise becomes, or undefined if that takes longer. */
function within(milliseconds, promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
