// Checks of what happens to objects.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";

import { BLAKE3, fresh, MISSING, oddPieces, pattern, sha256 } from "./content.mjs";

export default async function objects({ client, fails, large, onOneConnection, served, stored }) {
  await onOneConnection("health and backends", async () => {
    const health = await client.health();
    assert.equal(health.state, "ok");
    assert.equal(health.writable, true);
    const { backends, default: chosen } = await client.listBackends();
    assert.equal(backends[0].backend_id, chosen);
    assert.equal((await client.health({ backend_id: chosen })).backend_id, chosen);
  });

  for (const [length, hash] of Object.entries(BLAKE3)) {
    await onOneConnection(
      `ingest and serve ${length} bytes with a known BLAKE3 digest`,
      async () => {
        const bytes = pattern(Number(length));
        const result = await client.ingest(bytes);
        assert.equal(result.primary_digest, `blake3:${hash}`);
        assert.equal(result.sha256_digest, sha256(bytes));
        assert.equal(result.size_bytes, bytes.length);
        assert.equal(result.receipt.outcome, "created");
        assert.ok((await served(result.primary_digest)).equals(bytes));
        assert.ok((await served(result.sha256_digest)).equals(bytes));
      },
    );
  }

  for (const size of [23, 24, 255, 256, 65_535, 65_536, 65_537, 262_144, 262_145]) {
    await onOneConnection(`ingest and serve ${size} bytes`, async () => {
      const bytes = fresh(size);
      const { primary_digest: address, sha256_digest: digest } = await client.ingest(bytes, {
        digest: sha256(bytes),
      });
      assert.equal(digest, sha256(bytes));
      assert.ok((await served(address)).equals(bytes));
    });
  }

  await onOneConnection(
    "ingest 5 MB in odd pieces, with a digest computed while sending",
    async () => {
      const hash = createHash("sha256");
      async function* hashed() {
        for await (const piece of oddPieces(large)) {
          hash.update(piece);
          yield piece;
        }
      }
      const digest = () => `sha256:${hash.digest("hex")}`;
      const result = await client.ingest(hashed(), { hints: { size_hint: large.length }, digest });
      assert.equal(result.sha256_digest, sha256(large));
      assert.equal(result.primary_digest, stored.primary_digest);
      assert.equal(result.receipt.outcome, "existed");
      assert.ok(result.receipt.generation > stored.receipt.generation);
    },
  );

  await onOneConnection("ingest from a source that pauses", async () => {
    const bytes = fresh(100_000);
    async function* pausing() {
      yield bytes.subarray(0, 10);
      await new Promise((resolve) => setTimeout(resolve, 120));
      yield bytes.subarray(10);
    }
    assert.equal((await client.ingest(pausing())).sha256_digest, sha256(bytes));
  });

  await onOneConnection("ingest with sha256 as primary", async () => {
    const bytes = fresh(10);
    const result = await client.ingest(bytes, { hints: { primary_algorithm: "sha256" } });
    assert.equal(result.primary_digest, sha256(bytes));
    assert.equal(result.sha256_digest, sha256(bytes));
  });

  await onOneConnection(
    "serve whole, in pieces that are never held back but the last",
    async () => {
      const body = await client.serve(stored.primary_digest);
      assert.deepEqual([body.size, body.offset, body.length], [large.length, 0, large.length]);
      assert.ok((await body.bytes()).equals(large));
    },
  );

  const RANGES = [
    [0, 1],
    [0, undefined],
    [1, 65_536],
    [65_535, 2],
    [262_144, 1_000_000],
    [5_000_010, 1],
    [5_000_010, undefined],
    [5_000_000, 12],
    [4_999_999, Number.MAX_SAFE_INTEGER],
  ];
  await onOneConnection("serve ranges, cut at the end of the object", async () => {
    for (const [offset, length] of RANGES) {
      const body = await client.serve(stored.sha256_digest, { range: { offset, length } });
      const expected = large.subarray(offset, length === undefined ? undefined : offset + length);
      assert.deepEqual(
        [body.size, body.offset, body.length],
        [large.length, offset, expected.length],
      );
      assert.ok((await body.bytes()).equals(expected), `${offset} ${length}`);
    }
  });

  await onOneConnection("ranges that start at or past the end, or are malformed", async () => {
    const ask = (address, offset, length) => client.serve(address, { range: { offset, length } });
    const size = { size_bytes: large.length };
    await fails(ask(stored.primary_digest, large.length), "out_of_range", size);
    await fails(ask(stored.primary_digest, Number.MAX_SAFE_INTEGER, 1), "out_of_range", size);
    await fails(ask(`blake3:${BLAKE3[0]}`, 0), "out_of_range", { size_bytes: 0 });
    await fails(ask(stored.primary_digest, 0, 0), "bad_request");
    await fails(ask(stored.primary_digest, -1), "bad_request");
  });

  await onOneConnection("verify under both names", async () => {
    for (const address of [stored.primary_digest, stored.sha256_digest]) {
      const result = await client.verify(address);
      assert.deepEqual([result.content_address, result.verified], [address, true]);
      assert.equal(result.actual_primary_digest, address);
      assert.equal(result.actual_sha256_digest, stored.sha256_digest);
      assert.equal(result.actual_size_bytes, large.length);
    }
  });

  await onOneConnection(
    "stat of one object under both names, and of one that is missing",
    async () => {
      const entries = await client.stat([stored.sha256_digest, MISSING, stored.primary_digest]);
      assert.equal(entries.length, 2);
      for (const entry of entries) {
        assert.equal(entry.content_address, stored.primary_digest);
        assert.equal(entry.sha256_digest, stored.sha256_digest);
        assert.equal(entry.size_bytes, large.length);
        assert.equal(entry.state ?? "ok", "ok");
      }
      assert.deepEqual(await client.stat(Array(128).fill(MISSING)), []);
      await fails(client.stat(Array(129).fill(MISSING)), "bad_request");
      await fails(client.stat([]), "bad_request");
    },
  );

  await onOneConnection("list over several pages", async () => {
    const walk = async (options) => {
      const pages = [];
      for await (const page of client.list(options))
        pages.push(page.map((entry) => entry.content_address));
      return pages;
    };
    const all = (await walk()).flat();
    assert.ok(all.length > 10);
    assert.deepEqual(all, [...all].sort());
    const pages = await walk({ limit: 4 });
    assert.ok(pages.length > 2 && pages.every((page) => page.length <= 4));
    assert.deepEqual(pages.flat(), all);
    assert.deepEqual((await walk({ after: all[5], limit: 3 })).flat(), all.slice(6));
    assert.deepEqual(await walk({ after: all.at(-1) }), []);
  });

  await onOneConnection("delete, with and without a generation", async () => {
    const {
      primary_digest: address,
      sha256_digest: other,
      receipt,
    } = await client.ingest(fresh(100));
    const { generation } = receipt;
    await fails(client.del(address, { ifGeneration: generation + 1 }), "conflict", { generation });
    assert.equal((await client.stat([address])).length, 1);
    assert.equal((await client.del(other, { ifGeneration: generation })).deleted, true);
    assert.equal((await client.del(address)).deleted, false);
    assert.equal((await client.del(address, { ifGeneration: generation })).deleted, false);
    await fails(client.serve(other), "not_found");
  });
}
