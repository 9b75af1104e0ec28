// A client of the data plane protocol for Node.js, written from SPEC.md and nothing else.
//
//   node client.mjs SOCKET COMMAND [ARGUMENT...]     see `usage` at the end

import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { payloads, ServedObject } from "./bodies.mjs";
import { Violation } from "./cbor.mjs";
import { Connection, ConnectionLost, DataPlaneError } from "./connection.mjs";
import { checkResult, checkServed } from "./results.mjs";

export { Connection, ConnectionLost, DataPlaneError, Violation };

const MAX_IDLE = 4;
const SMALL_BODY = 65_536;

export class Client {
  /** How many connections were opened, for tests of reuse. */
  opened = 0;
  #path;
  #agent;
  #idle = [];
  #open = new Set();

  constructor(path, { agent = "node-interop/1" } = {}) {
    this.#path = path;
    this.#agent = agent;
  }

  /** Make a client, with a first connection. */
  static async connect(path, options) {
    const client = new Client(path, options);
    client.#release(await client.#openConnection());
    return client;
  }

  close() {
    for (const connection of this.#open)
      connection.fail(new ConnectionLost("the client is closed"));
    this.#open.clear();
    this.#idle = [];
  }

  /** Store an object. `digest` is what is expected, or a function that is called at the end. */
  async ingest(source, { hints = {}, digest } = {}) {
    const message = { op: "ingest_stream", args: hints, body: "stream" };
    const { ok } = await this.#exchange(message, { source, digest });
    return ok;
  }

  /** Start to read an object or, with `range` `{offset, length}`, a part of it. */
  async serve(address, { range, backend_id } = {}) {
    const args = { content_address: address, byte_range: range, backend_id };
    return this.#exchange({ op: "serve_object", args }, {}, (connection, answer) => {
      checkServed(answer.ok, range);
      return new ServedObject(connection, answer, () => this.#release(connection));
    });
  }

  verify(address, { backend_id } = {}) {
    return this.call("verify_object", { content_address: address, backend_id });
  }

  del(address, { ifGeneration, backend_id } = {}) {
    return this.call("delete_object", {
      content_address: address,
      if_generation: ifGeneration,
      backend_id,
    });
  }

  health({ backend_id } = {}) {
    return this.call("backend_health", { backend_id });
  }

  async stat(addresses, { backend_id } = {}) {
    return (await this.call("stat_objects", { content_addresses: addresses, backend_id })).objects;
  }

  /** Give the pages of a walk, each a list of objects. */
  async *list({ after, limit, backend_id } = {}) {
    for (let more = true; more;) {
      const page = await this.call("list_objects", { after, limit, backend_id });
      if (page.objects.length > 0) yield page.objects;
      more = page.more;
      if (more && page.objects.length === 0)
        throw new Violation("an empty page says that more follows");
      after = page.objects.at(-1)?.content_address;
    }
  }

  listBackends() {
    return this.call("list_backends", {});
  }

  /** Make any call whose answer has no body, and give its result. */
  async call(op, args, { source, ...more } = {}) {
    const message = { op, args, ...more };
    if (source !== undefined) message.body = "stream";
    return (await this.#exchange(message, { source })).ok;
  }

  /** Make a call, once more on a new connection if a kept one turns out to be closed (12.3). */
  async #exchange(message, body, take) {
    const canRepeat = body.source === undefined || body.source instanceof Uint8Array;
    const kept = await this.#takeIdle();
    if (kept) {
      try {
        return await this.#exchangeOn(kept, message, body, take);
      } catch (error) {
        if (!(error instanceof ConnectionLost) || kept.hasHeard || !canRepeat) throw error;
      }
    }
    return this.#exchangeOn(await this.#openConnection(), message, body, take);
  }

  async #exchangeOn(connection, message, body, take) {
    let isTaken = false;
    try {
      const failure = await this.#send(connection, message, body);
      if (failure) {
        await connection.next().catch(() => {});
        throw failure;
      }
      const answer = await connection.next();
      if (answer.kind === "error") throw new DataPlaneError(answer.message.error);
      checkResult(message.op, answer.message);
      const result = take ? take(connection, answer.message) : answer.message;
      isTaken = take !== undefined;
      return result;
    } catch (error) {
      if (error instanceof Violation) connection.fail(error);
      throw error;
    } finally {
      if (!isTaken) this.#release(connection);
    }
  }

  /** Send a request and its body; gives the failure of the body's source, if it failed. */
  async #send(connection, message, { source, digest }) {
    if (source === undefined) {
      await connection.request(message);
    } else if (
      source instanceof Uint8Array &&
      source.length <= SMALL_BODY &&
      typeof digest !== "function"
    ) {
      await connection.requestWithBody(message, source, { size_bytes: source.length, digest });
    } else {
      connection.request(message);
      return this.#sendBody(connection, source, digest);
    }
    return null;
  }

  async #sendBody(connection, source, digest) {
    const pieces = payloads(source);
    let size = 0;
    try {
      for (;;) {
        const next = await Promise.race([pieces.next(), connection.answered]);
        if (connection.isAnswered) break;
        if (next.done) {
          await connection.end({
            size_bytes: size,
            digest: typeof digest === "function" ? digest() : digest,
          });
          return null;
        }
        size += next.value.length;
        await connection.data(next.value);
      }
    } catch (failure) {
      connection.abort();
      return failure;
    }
    // Refused: the source may never give another piece, so it is not waited for.
    connection.abort();
    pieces.return().catch(() => {});
    return null;
  }

  async #openConnection() {
    const connection = await Connection.open(this.#path, this.#agent);
    this.opened += 1;
    this.#open.add(connection);
    return connection;
  }

  async #takeIdle() {
    if (this.#idle.length === 0) return null;
    // Let the event loop look at the sockets twice, so that what waits on one is found.
    for (let turn = 0; turn < 2; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    while (this.#idle.length > 0) {
      const connection = this.#idle.pop();
      if (connection.isReusable) return connection;
      this.#drop(connection);
    }
    return null;
  }

  #release(connection) {
    if (connection.isReusable && this.#idle.length < MAX_IDLE) this.#idle.push(connection);
    else this.#drop(connection);
  }

  #drop(connection) {
    this.#open.delete(connection);
    connection.fail(new ConnectionLost("the connection cannot be used again"));
  }
}

const COMMANDS = {
  health: (client) => client.health(),
  backends: (client) => client.listBackends(),
  stat: (client, addresses) => client.stat(addresses),
  list: async (client, [limit]) => {
    const pages = [];
    for await (const page of client.list({ limit: limit && Number(limit) })) pages.push(...page);
    return pages;
  },
  ingest: (client, [digest]) => client.ingest(process.stdin, { digest }),
  serve: async (client, [address, offset, length]) => {
    const range = offset && { offset: Number(offset), length: length && Number(length) };
    for await (const piece of await client.serve(address, { range })) {
      await new Promise((resolve) => process.stdout.write(piece, resolve));
    }
  },
  verify: (client, [address]) => client.verify(address),
  delete: (client, [address, generation]) =>
    client.del(address, { ifGeneration: generation && Number(generation) }),
};

async function main() {
  const { positionals } = parseArgs({ allowPositionals: true });
  const [path, command, ...rest] = positionals;
  if (!(command in COMMANDS)) {
    console.error(`usage: client.mjs SOCKET ${Object.keys(COMMANDS).join("|")} [ARGUMENT...]`);
    return 2;
  }
  const client = new Client(path);
  try {
    const result = await COMMANDS[command](client, rest);
    if (result !== undefined) console.log(JSON.stringify(result));
    return 0;
  } catch (error) {
    const { code, message, retry, details } = error;
    console.error(JSON.stringify({ error: { code, message, retry, details } }));
    return 1;
  } finally {
    client.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main();
