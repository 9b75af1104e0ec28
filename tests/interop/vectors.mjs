// Holds the client's codec against frames.json: node vectors.mjs [DIRECTORY OF THE VECTORS]

import assert from "node:assert/strict";

import { Violation } from "./cbor.mjs";
import { controlFrame, dataHead, FrameReader, kindOf } from "./frames.mjs";
import { bytesOf, matches, readVectors, Report, valueOf } from "./notation.mjs";

const EVERY_SPLIT = 600; // bytes up to which a frame is split at every place

/** Read what pieces hold, as one control frame or a payload. */
function read(pieces) {
  const reader = new FrameReader();
  const payload = [];
  let message;
  for (const piece of pieces) {
    for (const { data, control } of reader.push(piece)) {
      if (data) payload.push(data);
      else kindOf((message = control));
    }
  }
  return { message, payload: Buffer.concat(payload), isWhole: reader.isBetweenFrames };
}

/** Give the ways to feed a frame: whole, in two, and byte by byte. */
function* feedings(frame) {
  yield [frame];
  const step = frame.length <= EVERY_SPLIT ? 1 : Math.ceil(frame.length / 40);
  for (let at = 1; at < frame.length; at += step) yield [frame.subarray(0, at), frame.subarray(at)];
  if (frame.length <= 70_000) yield Array.from(frame, (byte) => Buffer.of(byte));
}

function accept(entry) {
  const frame = bytesOf(entry.frame);
  const expected = "data" in entry ? bytesOf(entry.data) : valueOf(entry.control);
  for (const pieces of feedings(frame)) {
    const { message, payload, isWhole } = read(pieces);
    assert.ok(isWhole, "the frame is not at its end");
    assert.ok(matches(expected, message ?? payload, false), "other content");
  }
  const written =
    "data" in entry ? Buffer.concat([dataHead(expected.length), expected]) : controlFrame(expected);
  assert.ok(written.equals(frame), `written as ${written.toString("hex", 0, 200)}`);
}

function refuse(entry) {
  for (const pieces of feedings(bytesOf(entry.frame))) assert.throws(() => read(pieces), Violation);
}

/** Give "accepted" or "refused"; anything else fails. */
function either(entry) {
  const outcomes = new Set();
  for (const pieces of feedings(bytesOf(entry.frame))) {
    try {
      assert.ok(read(pieces).isWhole, "it waits for more");
      outcomes.add("accepted");
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      outcomes.add("refused");
    }
  }
  assert.equal(outcomes.size, 1, "the outcome depends on where the bytes are split");
}

const report = new Report();
const frames = readVectors("frames.json", process.argv[2]);
for (const [kind, test] of Object.entries({ accept, refuse, either })) {
  for (const entry of frames[kind]) {
    const name = `${kind} ${entry.name}`;
    if (entry.needs) report.skip(name, `needs ${entry.needs}`);
    else await report.check(name, () => test(entry));
  }
}
report.finish();
