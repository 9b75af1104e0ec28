// Checks of many calls, many connections, and ones that are closed half-way.

import assert from "node:assert/strict";

import { Client } from "./client.mjs";
import { fresh, MISSING, oddPieces, sha256 } from "./content.mjs";

export default async function connections({
  client,
  large,
  onOneConnection,
  path,
  report,
  served,
  stored,
}) {
  await onOneConnection("two hundred calls on one connection", async () => {
    for (let turn = 0; turn < 100; turn += 1) {
      await client.stat([MISSING]);
      assert.equal(
        (await served(stored.primary_digest, { range: { offset: turn, length: 1 } }))[0],
        large[turn],
      );
    }
  });

  await report.check("several connections at once", async () => {
    const same = fresh(300_000);
    const many = new Client(path);
    const results = await Promise.all(
      Array.from({ length: 8 }, () => many.ingest(oddPieces(same))),
    );
    assert.equal(new Set(results.map((result) => result.receipt.generation)).size, 8);
    assert.equal(new Set(results.map((result) => result.primary_digest)).size, 1);
    const bodies = await Promise.all(
      results.map(() => many.serve(sha256(same)).then((body) => body.bytes())),
    );
    assert.ok(bodies.every((body) => body.equals(same)));
    assert.ok(many.opened >= 8);
    many.close();
  });

  await report.check("a serve left half-way costs its connection only", async () => {
    const other = new Client(path);
    for await (const piece of await other.serve(stored.primary_digest)) {
      assert.ok(piece.length > 0);
      break;
    }
    assert.ok((await (await other.serve(stored.primary_digest)).bytes()).equals(large));
    assert.equal(other.opened, 2);
    other.close();
  });

  await report.check(
    "an object that is deleted while it is served is served to its end",
    async () => {
      const bytes = fresh(4_000_000);
      const { primary_digest: address } = await client.ingest(bytes);
      const body = await client.serve(address);
      const first = (await body.next()).value;
      const other = new Client(path);
      assert.equal((await other.del(address)).deleted, true);
      other.close();
      assert.ok(Buffer.concat([first, await body.bytes()]).equals(bytes));
    },
  );

  await report.check(
    "a client that is closed in the middle of an ingest stores nothing",
    async () => {
      const bytes = fresh(1_000_000);
      const other = new Client(path);
      async function* closing() {
        yield bytes;
        other.close();
        yield fresh(1);
      }
      await assert.rejects(other.ingest(closing()), { code: "unavailable", retry: true });
      assert.deepEqual(await client.stat([sha256(bytes)]), []);
    },
  );
}
