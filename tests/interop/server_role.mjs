// Plays the server's part of calls.json to the client, and looks at what the client makes of it:
// node server_role.mjs [DIRECTORY OF THE VECTORS]

import assert from "node:assert/strict";

import { Client } from "./client.mjs";
import { bytesOf, readVectors, Report } from "./notation.mjs";
import { Listener } from "./peer.mjs";

// What a case may need: Node can neither pass descriptors nor compute BLAKE3.
const HAVE = new Set(["server-role", "computes:sha256"]);
// The answer is complete before what is wrong comes, so that the call may succeed.
const MAY_SUCCEED = new Set(["second answer behind the first"]);
const ANY = { $any: null };

/** Give what a client has to send, with what it is free to choose left open. */
function expected({ hello, error, ...others }) {
  if (hello) return { hello: { version: hello.version, features: ANY } };
  return error ? { error: { code: error.code, message: ANY } } : others;
}

const STEPS = {
  client: (peer, { client }) => peer.expect(expected(client)),
  client_data: (peer, step) => peer.expectData(step.client_data),
  client_close: (peer) => peer.expectClose(true),
  server: (peer, { server }) => peer.send(server),
  server_data: (peer, step) => peer.sendData(step.server_data),
  server_raw: (peer, step) => peer.sendRaw(step.server_raw),
  server_close: (peer) => peer.close(),
};

/** Accept connections and play their steps, one connection after the other. */
async function playServer(accept, connections) {
  for (const steps of connections) {
    const peer = await accept();
    for (const step of steps) await STEPS[Object.keys(step)[0]](peer, step);
  }
}

/** Give the calls that bring a client to send what the case has it send, each with its steps. */
function callsOf(connections) {
  const calls = [];
  connections.forEach((steps, index) => {
    steps.forEach((step, at) => {
      // A call whose kept connection ends is repeated by the client itself.
      const isLost = "server_close" in (steps[at + 1] ?? {}) && index + 1 < connections.length;
      if ("op" in (step.client ?? {})) {
        if (!isLost) calls.push({ request: step.client, steps: [] });
      } else {
        calls.at(-1)?.steps.push(step);
      }
    });
  });
  return calls.length > 0
    ? calls
    : [{ request: { op: "backend_health", args: {} }, steps: connections.flat() }];
}

/** Give the body that a case has the client send; it stalls where the case has no end for it. */
async function* bodyOf(steps) {
  for (const step of steps) if ("client_data" in step) yield bytesOf(step.client_data);
  if (!steps.some(({ client }) => client && "end" in client)) await new Promise(() => {});
}

/** Read an object; if its body fails, the last piece must not have been handed out (12.4-1). */
async function readServed(client, { content_address: address, byte_range: range }) {
  const body = await client.serve(address, { range });
  let given = 0;
  try {
    for await (const piece of body) given += piece.length;
  } catch (error) {
    assert.ok(given < body.length, "all of a bad body was handed out");
    throw error;
  }
  assert.equal(given, body.length);
}

function make(client, { request: { op, args, body }, steps }) {
  if (op === "serve_object") return readServed(client, args);
  if (op === "ingest_stream") return client.ingest(bodyOf(steps), { hints: args });
  return client.call(op, args, { source: body && bodyOf(steps) });
}

/** Give what must become of a call: the code of its error, or null for success. */
function outcomeOf(steps) {
  const said = steps.map(({ server }) => server).filter((message) => message && !message.hello);
  const error = said.find((message) => "error" in message);
  if (error) return error.error.code;
  const isComplete = said.some((message) => "end" in message || ("ok" in message && !message.body));
  const isBroken = steps.some((step) => "client_close" in step || "server_raw" in step);
  if (isBroken) return steps.some(isOfAnotherVersion) ? "unsupported" : "protocol";
  return isComplete ? null : "unavailable";
}

const isOfAnotherVersion = ({ server }) => (server?.hello?.version ?? 1) !== 1;

async function playClient(path, connections, maySucceed) {
  const client = new Client(path);
  try {
    for (const call of callsOf(connections)) {
      const outcome = outcomeOf(call.steps);
      const error = await make(client, call).then(
        () => null,
        (reason) => reason,
      );
      if (outcome === null || (maySucceed && !error)) assert.ifError(error);
      else assert.equal(error?.code, outcome);
    }
  } finally {
    client.close();
  }
}

async function play(entry) {
  const listener = await Listener.open();
  try {
    await Promise.all([
      playServer(() => listener.accept(), entry.connections),
      playClient(listener.path, entry.connections, MAY_SUCCEED.has(entry.name)),
    ]);
  } finally {
    listener.close();
  }
}

const report = new Report();
for (const entry of readVectors("calls.json", process.argv[2]).cases) {
  if (!entry.needs?.includes("server-role")) continue;
  const missing = entry.needs.filter((need) => !HAVE.has(need));
  if (missing.length > 0) report.skip(entry.name, `needs ${missing}`);
  else await report.check(entry.name, () => play(entry));
}
report.finish();
