// What the results of the operations have to be (SPEC.md 7, dataplane.cddl).

import { Violation } from "./cbor.mjs";
import { check, is } from "./frames.mjs";

const MAX_BATCH = 128;
const MAX_BACKENDS = 128;

const RECEIPT = {
  backend_id: is.text,
  outcome: is.text,
  generation: is.size,
  stored_at_ms: is.time,
};
const OBJECT = {
  content_address: is.digest,
  size_bytes: is.size,
  sha256_digest: is.digest,
  generation: is.size,
  stored_at_ms: is.time,
  "verified_at_ms?": is.time,
  "state?": is.text,
};
const HEALTH = {
  backend_id: is.text,
  state: is.text,
  writable: is.bool,
  "free_bytes?": is.size,
  "total_bytes?": is.size,
  "object_count?": is.size,
  "message?": is.text,
};
const RESULTS = {
  ingest_stream: {
    primary_digest: is.digest,
    sha256_digest: is.digest,
    size_bytes: is.size,
    receipt: is.map,
  },
  serve_object: { size_bytes: is.size, offset: is.size, length: is.size },
  verify_object: {
    content_address: is.digest,
    verified: is.bool,
    actual_primary_digest: is.digest,
    actual_sha256_digest: is.digest,
    actual_size_bytes: is.size,
    "mismatch?": is.text,
  },
  delete_object: { content_address: is.digest, backend_id: is.text, deleted: is.bool },
  backend_health: HEALTH,
  stat_objects: { objects: is.list },
  list_objects: { objects: is.list, more: is.bool },
  list_backends: { backends: is.list, default: is.text },
};

/** Check the result of an operation; one that is not known may have any. */
export function checkResult(op, { ok, body }) {
  if (!(op in RESULTS)) return;
  check(ok, RESULTS[op], op);
  if ((body === "stream") !== (op === "serve_object"))
    throw new Violation(`${op} with body ${body}`);
  if (op === "ingest_stream") check(ok.receipt, RECEIPT, "receipt");
  checkList(ok.objects, OBJECT, MAX_BATCH, "object");
  checkList(ok.backends, HEALTH, MAX_BACKENDS, "backend");
}

function checkList(list = [], fields, limit, where) {
  if (list.length > limit) throw new Violation(`${list.length} entries, limit is ${limit}`);
  for (const entry of list) check(entry, fields, where);
}

/** Check that the part of an object that is served is the one asked for. */
export function checkServed({ size_bytes: size, offset, length }, range) {
  const start = range?.offset ?? 0;
  const rest = size - start;
  const expected = range?.length === undefined ? rest : Math.min(range.length, rest);
  if (offset !== start || length !== expected) {
    throw new Violation(`bytes ${offset}+${length} of ${size} are not what was asked for`);
  }
}
