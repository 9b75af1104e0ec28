// Checks of what a daemon refuses, and of what it leaves in use.

import assert from "node:assert/strict";

import { Connection } from "./client.mjs";
import { controlFrame, MAX_CONTROL_SIZE } from "./frames.mjs";
import { BLAKE3, endless, fresh, MISSING, sha256 } from "./content.mjs";

export default async function refusals({ client, fails, onOneConnection, path, report }) {
  await onOneConnection("early refusal of a body without end", async () => {
    const ingest = (hints) => client.ingest(endless(), { hints });
    await fails(ingest({ backend_id: "no-such-backend" }), "unknown_backend");
    await fails(ingest({ primary_algorithm: "md5" }), "unsupported");
    await fails(ingest({ size_hint: -1 }), "bad_request");
    await fails(ingest({ size_hint: "1" }), "bad_request");
  });

  await onOneConnection("early refusal while the source gives nothing", async () => {
    async function* stalled() {
      yield Buffer.from("a");
      await new Promise(() => {});
    }
    await fails(
      client.ingest(stalled(), { hints: { backend_id: "no-such-backend" } }),
      "unknown_backend",
    );
  });

  await onOneConnection("abort when the source of a body fails", async () => {
    const bytes = fresh(700_000);
    async function* failing() {
      yield bytes;
      throw new Error("the disk failed");
    }
    await assert.rejects(client.ingest(failing()), /the disk failed/);
    assert.deepEqual(await client.stat([sha256(bytes), sha256(bytes.subarray(0, 524_288))]), []);
  });

  await report.check("body that differs from the size in its end", async () => {
    const connection = await Connection.open(path);
    const bytes = fresh(1000);
    await connection.request({ op: "ingest_stream", args: {}, body: "stream" });
    await connection.data(bytes);
    await connection.end({ size_bytes: 1001 });
    const { kind, message } = await connection.next();
    assert.equal(kind, "error");
    assert.equal(message.error.code, "body_mismatch");
    assert.equal(message.error.details.size_bytes, 1000);
    assert.ok(connection.isReusable);
    connection.fail(new Error("over"));
    assert.deepEqual(await client.stat([sha256(bytes)]), []);
  });

  await onOneConnection("body that differs from the digest in its end", async () => {
    const bytes = fresh(1000);
    await fails(client.ingest(bytes, { digest: sha256("other") }), "body_mismatch");
    await fails(client.ingest(bytes, { digest: MISSING }), "body_mismatch");
    await fails(client.ingest(bytes, { digest: `sha512:${"0".repeat(128)}` }), "unsupported");
    assert.deepEqual(await client.stat([sha256(bytes)]), []);
  });

  await onOneConnection(
    "unknown operation, and bodies where none belong or one is missing",
    async () => {
      await fails(client.call("no_such_operation", {}), "unsupported");
      await fails(client.call("no_such_operation", {}, { source: fresh(10) }), "unsupported");
      await fails(client.call("no_such_operation", {}, { source: endless() }), "unsupported");
      await fails(client.call("backend_health", {}, { source: fresh(200_000) }), "bad_request");
      await fails(client.call("ingest_stream", {}), "bad_request");
    },
  );

  await onOneConnection("unknown keys, also ones that mean something to JavaScript", async () => {
    const later = {
      later: [1, null, { deeper: Buffer.from("00ff", "hex") }],
      ["__proto__"]: { backend_id: 1 },
      7: "é",
    };
    const { ok } = {
      ok: await client.call("backend_health", later, {
        ...later,
        accept_fd: true,
        trace: "no trace",
      }),
    };
    assert.equal(ok.state, "ok");
  });

  await onOneConnection("texts are compared byte by byte", async () => {
    const { backend_id: id } = await client.health();
    for (const other of [`\ufeff${id}`, `${id}\0`, id.toUpperCase(), ` ${id}`, "", "\u{1f600}"]) {
      await fails(client.health({ backend_id: other }), "unknown_backend");
    }
  });

  await onOneConnection("the largest control frame", async () => {
    const size = (text) => controlFrame({ op: "backend_health", args: {}, later: text }).length - 4;
    const text = "x".repeat(60_000 + MAX_CONTROL_SIZE - size("x".repeat(60_000)));
    assert.equal(size(text), MAX_CONTROL_SIZE);
    assert.equal((await client.call("backend_health", {}, { later: text })).state, "ok");
  });

  await onOneConnection("addresses that are malformed, unsupported or missing", async () => {
    const malformed = [
      "",
      "blake3",
      `BLAKE3:${"0".repeat(64)}`,
      "blake3:00",
      `sha256:${"g".repeat(64)}`,
      `${MISSING}\n`,
    ];
    for (const address of malformed) await fails(client.serve(address), "bad_request");
    for (const method of ["serve", "verify", "del"]) {
      await fails(client[method]("md5:6f5902ac237024bdd0c176cb93063dc4"), "unsupported");
    }
    await fails(client.serve(MISSING), "not_found");
    await fails(client.verify(MISSING), "not_found");
    await fails(client.serve(MISSING, { backend_id: "no-such-backend" }), "unknown_backend");
    await fails(client.call("list_objects", { after: `sha256:${"0".repeat(64)}` }), "bad_request");
    await fails(client.call("verify_object", { content_address: null }), "bad_request");
  });
}
