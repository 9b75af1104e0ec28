// Holds frames.json against a CBOR library that knows nothing of this protocol, to see that the
// vectors are CBOR as others understand it: node library.mjs [DIRECTORY OF THE VECTORS]
//
// Of the libraries for JavaScript, cborg can be set to refuse the most of what section 3 of
// SPEC.md refuses: it knows no tag that it was not given and no key of a map that is not text.

import assert from "node:assert/strict";

import { decode, encode } from "cborg";

import { bytesOf, matches, readVectors, Report, valueOf } from "./notation.mjs";

const STRICT = {
  allowBigInt: false,
  allowIndefinite: false,
  allowInfinity: false,
  allowNaN: false,
  allowUndefined: false,
  rejectDuplicateMapKeys: true,
  strict: true,
};
// Reasons of vectors that this library can be held to. It replaces what is not UTF-8, does not
// count containers, and knows nothing of the fields of a message.
const ENFORCED = new Set([
  "a key that is not text",
  "bytes after the item",
  "duplicate key",
  "indefinite length",
  "not well-formed",
  "over 9007199254740991",
  "tag",
  "the frame ends inside the item",
]);

// What this library cannot give back: it takes a U+FEFF at the start for a mark of the encoding.
const LOST = new Set(["text that begins with U+FEFF"]);

const isMapItem = (item) => item.length > 0 && item[0] >> 5 === 5;

function accept(item, entry) {
  const expected = valueOf(entry.control);
  assert.ok(matches(expected, decode(item, STRICT), false), "decoded to another value");
  assert.ok(Buffer.from(encode(expected)).equals(item), "encoded to other bytes");
}

const refuses = (item) => {
  try {
    decode(item, STRICT);
    return false;
  } catch {
    return true;
  }
};

const report = new Report();
const frames = readVectors("frames.json", process.argv[2]);
for (const entry of frames.accept) {
  if (LOST.has(entry.name)) {
    report.note(`changes ${entry.name}`);
  } else if ("control" in entry) {
    await report.check(`accept ${entry.name}`, () =>
      accept(bytesOf(entry.frame).subarray(4), entry),
    );
  }
}
for (const entry of frames.refuse) {
  const item = bytesOf(entry.frame).subarray(4);
  if (!isMapItem(item)) continue;
  const isRefused = refuses(item);
  if (ENFORCED.has(entry.why)) {
    await report.check(`refuse ${entry.name}`, () => assert.ok(isRefused, "accepted"));
  } else {
    report.note(`${isRefused ? "refuses" : "accepts"} ${entry.name}: ${entry.why}`);
  }
}
for (const entry of frames.either) {
  const item = bytesOf(entry.frame).subarray(4);
  report.note(`either: ${refuses(item) ? "refuses" : "accepts"} ${entry.name}`);
}
report.finish();
