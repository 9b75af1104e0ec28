// Rules for clients that calls.json cannot show: node unshown.mjs

import assert from "node:assert/strict";

import { Client } from "./client.mjs";
import { Report } from "./notation.mjs";
import { Listener } from "./peer.mjs";

const HEALTH = { ok: { backend_id: "default", state: "ok", writable: true } };
const STORED = {
  ok: {
    primary_digest: `blake3:${"0".repeat(64)}`,
    sha256_digest: `sha256:${"0".repeat(64)}`,
    size_bytes: 1,
    receipt: { backend_id: "default", outcome: "created", generation: 1, stored_at_ms: 0 },
  },
};
const report = new Report();

/** Run a check with a listener and a client of it. */
const check = (name, run) =>
  report.check(name, async () => {
    const listener = await Listener.open();
    const client = new Client(listener.path);
    try {
      await run(client, listener);
    } finally {
      client.close();
      listener.close();
    }
  });

async function answerHealth(peer) {
  await peer.expect({ op: "backend_health" });
  await peer.send(HEALTH);
}

async function failure(promise) {
  return promise.then(
    () => assert.fail("it succeeded"),
    (error) => error,
  );
}

await check("5.3-6 an error is read although a write failed first", async (client, listener) => {
  let closed;
  const isClosed = new Promise((resolve) => (closed = resolve));
  async function* body() {
    yield Buffer.alloc(262_144);
    await isClosed; // what follows is written before the client can read
    yield Buffer.alloc(262_144);
  }
  const call = failure(client.ingest(body()));
  const peer = await listener.greet();
  await peer.expect({ op: "ingest_stream" });
  await peer.expectData({ repeat: "00", count: 262_144 });
  peer.send({ error: { code: "too_large", message: "limit is 1" } });
  peer.close();
  closed();
  assert.equal((await call).code, "too_large");
});

/** Let a client keep a connection, and end it when the next request has come. */
async function endKept(client, listener, call) {
  const first = client.health();
  const peer = await listener.greet();
  await answerHealth(peer);
  await first;
  const second = call();
  await peer.expect({ op: "ingest_stream" });
  peer.close();
  return second;
}

await check(
  "12.3-1 a body at hand is sent once more, on a new connection",
  async (client, listener) => {
    const accepting = endKept(client, listener, () => ({ call: client.ingest(Buffer.from("a")) }));
    const { call } = await accepting;
    const peer = await listener.greet();
    await peer.expect({ op: "ingest_stream" });
    await peer.expectData("61");
    await peer.expect({ end: { size_bytes: 1 } });
    await peer.send(STORED);
    assert.equal((await call).size_bytes, 1);
  },
);

await check("12.3-2 a body that cannot be sent again is not", async (client, listener) => {
  async function* once() {
    yield Buffer.from("a");
  }
  const { call } = await endKept(client, listener, () => ({
    call: failure(client.ingest(once())),
  }));
  const error = await call;
  assert.deepEqual([error.code, error.retry], ["unavailable", true]);
  assert.equal(client.opened, 1);
});

await check("a reader that is slow holds the sender up", async (client, listener) => {
  const size = 20_000_000;
  const served = client.serve(STORED.ok.primary_digest);
  const peer = await listener.greet();
  await peer.expect({ op: "serve_object" });
  peer.send({ ok: { size_bytes: size, offset: 0, length: size }, body: "stream" });
  await served;
  let sent = 0;
  let quiet = 0;
  const send = async () => {
    for (; sent < 20; sent += 1) await peer.sendData({ repeat: "00", count: 1_000_000 });
  };
  const sending = send();
  for (let last = sent; quiet < 1000; last = sent) {
    await new Promise((resolve) => setImmediate(resolve));
    quiet = sent === last ? quiet + 1 : 0;
  }
  assert.ok(sent < 5, `${sent} MB were sent to a client that took nothing`);
  const reading = (await served).bytes();
  await sending;
  peer.send({ end: { size_bytes: size } });
  assert.equal((await reading).length, size);
});

report.finish();
