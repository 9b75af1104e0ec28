// Runs the client against a daemon with an empty store: node run.mjs SOCKET

import assert from "node:assert/strict";

import { Client, DataPlaneError } from "./client.mjs";
import connections from "./connections.mjs";
import { fresh } from "./content.mjs";
import { Report } from "./notation.mjs";
import objects from "./objects.mjs";
import refusals from "./refusals.mjs";

const [path] = process.argv.slice(2);
const report = new Report();
const client = await Client.connect(path);

/** Expect a call to fail with a code, the retry flag that goes with it, and details. */
async function fails(promise, code, details) {
  const error = await promise.then(
    () => assert.fail(`no ${code}`),
    (reason) => reason,
  );
  assert.ok(error instanceof DataPlaneError, String(error));
  assert.equal(error.code, code, error.message);
  assert.equal(error.retry, code === "unavailable");
  for (const [key, value] of Object.entries(details ?? {})) assert.equal(error.details[key], value);
}

const served = async (address, options) => (await client.serve(address, options)).bytes();

/** Run a check that leaves the one connection of the client in use. */
const onOneConnection = (name, run) =>
  report.check(name, async () => {
    await client.health();
    const { opened } = client;
    await run();
    await client.health();
    assert.equal(client.opened, opened, "another connection was opened");
  });

const large = fresh(5_000_011);
const stored = await client.ingest(large);
const context = { path, report, client, fails, served, onOneConnection, large, stored };
for (const run of [objects, refusals, connections]) await run(context);
client.close();
report.finish();
