// The notation of the test vectors (vectors/README.md), and the report of a run.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { isMap } from "./cbor.mjs";

const VECTORS = new URL("../../protocol/vectors/", import.meta.url);

/** Read a file of vectors, from another directory if one is given. */
export function readVectors(name, directory = fileURLToPath(VECTORS)) {
  const vectors = JSON.parse(readFileSync(`${directory}/${name}`, "utf8"));
  if (vectors.format !== 2 || vectors.protocol !== 1) throw new Error(`${name} has another format`);
  return vectors;
}

export function bytesOf(notation) {
  if (typeof notation === "string") return Buffer.from(notation, "hex");
  if (Array.isArray(notation)) return Buffer.concat(notation.map(bytesOf));
  const piece = Buffer.from(notation.repeat, "hex");
  return Buffer.alloc(piece.length * notation.count, piece);
}

/** Give the value that a control frame in the notation stands for; examples take their places. */
export function valueOf(notation) {
  if (Array.isArray(notation)) return notation.map(valueOf);
  if (!isMap(notation)) return notation;
  if ("$bytes" in notation) return bytesOf(notation.$bytes);
  if ("$repeat" in notation) return notation.$repeat.repeat(notation.count);
  if ("$any" in notation) return valueOf(notation.$any);
  return Object.fromEntries(Object.entries(notation).map(([key, item]) => [key, valueOf(item)]));
}

/** Whether a value has what a pattern asks for; further keys are allowed if `isOpen`. */
export function matches(pattern, value, isOpen = true) {
  if (Array.isArray(pattern)) {
    const isList = Array.isArray(value) && value.length === pattern.length;
    return isList && pattern.every((item, index) => matches(item, value[index], isOpen));
  }
  if (pattern instanceof Uint8Array)
    return value instanceof Uint8Array && Buffer.compare(pattern, value) === 0;
  if (!isMap(pattern)) return Object.is(pattern, value);
  if (isOpen && "$any" in pattern) return value !== undefined;
  if (!isMap(value)) return false;
  if (!isOpen && Object.keys(value).length !== Object.keys(pattern).length) return false;
  return Object.entries(pattern).every(
    ([key, item]) => key in value && matches(item, value[key], isOpen),
  );
}

/** Counts checks, prints a line for each, and a last one with the sums. */
export class Report {
  #passed = 0;
  #failed = 0;
  #skipped = 0;

  async check(name, run) {
    try {
      await run();
      this.#passed += 1;
      console.log(`ok      ${name}`);
    } catch (error) {
      this.#failed += 1;
      console.log(`FAILED  ${name}: ${error.stack}`);
    }
  }

  skip(name, reason) {
    this.#skipped += 1;
    console.log(`skipped ${name}: ${reason}`);
  }

  note(text) {
    console.log(`note    ${text}`);
  }

  /** Print the sums and set the exit code of the process. */
  finish() {
    const skipped = this.#skipped > 0 ? `, ${this.#skipped} skipped` : "";
    console.log(`${this.#passed} passed, ${this.#failed} failed${skipped}`);
    if (this.#failed > 0) process.exitCode = 1;
  }
}
