// Lets the conformance kit drive the client for Node.js of ../../interop.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";

import { Client } from "../../interop/client.mjs";

class SourceError extends Error {
  code = "source";
  retry = false;
}

async function* pieces({ body, fail_after }) {
  let left = fail_after ?? Infinity;
  for await (const piece of createReadStream(body)) {
    if (left < piece.length) throw new SourceError("as the kit wants it");
    yield piece;
    left -= piece.length;
  }
}

async function serve(client, call, told) {
  const { content_address, byte_range, ...options } = call.args;
  const served = await client.serve(content_address, { range: byte_range, ...options });
  const hash = createHash("sha256");
  for await (const piece of served) {
    hash.update(piece);
    told.received_bytes += piece.length;
    if (told.received_bytes >= (call.read ?? Infinity)) break;
  }
  const { size_bytes, offset, length } = served;
  return { size_bytes, offset, length, body_digest: `sha256:${hash.digest("hex")}` };
}

async function make(client, call, told) {
  const { op, args } = call;
  if (op === "ingest_stream")
    return client.ingest(pieces(call), { hints: args, digest: call.digest });
  if (op === "serve_object") return serve(client, call, told);
  return client.call(op, args);
}

const { socket, calls } = JSON.parse(process.argv.at(-1));
const client = new Client(socket);
for (const call of calls) {
  const told = { received_bytes: 0 };
  try {
    told.ok = await make(client, call, told);
  } catch (error) {
    if (error.code === undefined) throw error;
    told.error = { code: error.code, retry: error.retry ?? false };
  }
  process.stdout.write(`${JSON.stringify(told)}\n`);
}
client.close();
