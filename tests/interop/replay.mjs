// Plays the client's part of calls.json against a daemon: node replay.mjs SOCKET [DIRECTORY]

import { once } from "node:events";
import { connect } from "node:net";

import { Client } from "./client.mjs";
import { readVectors, Report } from "./notation.mjs";
import { Peer } from "./peer.mjs";

const [path, directory] = process.argv.slice(2);

const STEPS = {
  client: (peer, { client }) => peer.send(client),
  client_data: (peer, step) => peer.sendData(step.client_data),
  client_raw: (peer, step) => peer.sendRaw(step.client_raw),
  client_close: (peer) => peer.close(),
  server: (peer, { server, optional }) => peer.expect(server, optional),
  server_data: (peer, step) => peer.expectData(step.server_data),
  server_close: (peer) => peer.expectClose(),
};

async function play(steps) {
  const socket = connect(path);
  await once(socket, "connect");
  const peer = new Peer(socket);
  try {
    for (const step of steps) {
      const key = Object.keys(step).find((name) => name in STEPS);
      await STEPS[key](peer, step);
    }
  } finally {
    peer.close();
  }
}

/** Every case starts with an empty store. */
async function empty() {
  const client = new Client(path);
  for await (const page of client.list()) {
    for (const { content_address: address } of page) await client.del(address);
  }
  client.close();
}

const report = new Report();
for (const entry of readVectors("calls.json", directory).cases) {
  // Node can neither pass descriptors nor damage a store.
  if (entry.needs) {
    report.skip(entry.name, `needs ${entry.needs}`);
    continue;
  }
  await report.check(entry.name, async () => {
    await empty();
    for (const steps of entry.connections) await play(steps);
  });
}
report.finish();
