// One end of a connection that sends and awaits exactly what a test case says, right or wrong.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { controlFrame, dataHead, FrameReader } from "./frames.mjs";
import { bytesOf, matches, valueOf } from "./notation.mjs";
import { Wire } from "./wire.mjs";

const PATIENCE = 10_000;

export class Peer {
  #wire;
  #reader = new FrameReader();
  #events = [];
  #wake = () => {};

  constructor(socket) {
    this.#wire = new Wire(
      socket,
      (bytes) => {
        for (const event of this.#reader.push(bytes)) this.#put(event);
      },
      (error) => this.#put({ closed: error }),
    );
  }

  #put(event) {
    this.#events.push(event);
    this.#wake();
  }

  close() {
    this.#wire.close();
  }

  send(control) {
    return this.#wire.write([controlFrame(valueOf(control))]);
  }

  sendData(notation) {
    const payload = bytesOf(notation);
    return this.#wire.write([dataHead(payload.length), payload]);
  }

  sendRaw(notation) {
    return this.#wire.write([bytesOf(notation)]);
  }

  /** Wait for what comes next, without taking it. */
  async #look() {
    if (this.#events.length === 0) {
      await new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error("nothing came")), PATIENCE);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return this.#events[0];
  }

  /** Expect a control frame; with `isOptional` it may be missing. */
  async expect(pattern, isOptional = false) {
    const { control } = await this.#look();
    const isThere = control !== undefined && matches(pattern, control);
    if (isThere) this.#events.shift();
    else if (!isOptional)
      assert.fail(`expected ${JSON.stringify(pattern)}, came ${this.#describe()}`);
  }

  /** Expect data frames that are together this payload. */
  async expectData(notation) {
    const expected = bytesOf(notation);
    let received = Buffer.alloc(0);
    while (received.length < expected.length) {
      const { data } = await this.#look();
      if (!data) assert.fail(`expected data, came ${this.#describe()}`);
      received = Buffer.concat([received, data]);
      this.#events.shift();
    }
    assert.ok(received.equals(expected), "other bytes came");
  }

  /** Expect the end; before it may come an `error` with code protocol if `mayExplain`. */
  async expectClose(mayExplain = false) {
    if (mayExplain) await this.expect({ error: { code: "protocol" } }, true);
    const { closed } = await this.#look();
    if (!closed) assert.fail(`expected the end, came ${this.#describe()}`);
  }

  #describe() {
    const [{ control, data, closed }] = this.#events;
    return closed
      ? closed.message
      : data
        ? `${data.length} bytes of data`
        : JSON.stringify(control);
  }
}

/** A listening socket of its own, that gives a peer for each connection. */
export class Listener {
  #directory = mkdtempSync(join(tmpdir(), "dp-node-"));
  #server = createServer((socket) => this.#put(socket));
  #sockets = [];
  #waiting = [];
  path = join(this.#directory, "dp.sock");

  static async open() {
    const listener = new Listener();
    await new Promise((resolve) => listener.#server.listen(listener.path, resolve));
    return listener;
  }

  async accept() {
    const wait = () => new Promise((resolve) => this.#waiting.push(resolve));
    return new Peer(this.#sockets.shift() ?? (await wait()));
  }

  /** Accept, and exchange hellos. */
  async greet() {
    const peer = await this.accept();
    await peer.expect({ hello: { version: 1 } });
    await peer.send({ hello: { version: 1, features: [] } });
    return peer;
  }

  close() {
    this.#server.close();
    rmSync(this.#directory, { recursive: true });
  }

  #put(socket) {
    const next = this.#waiting.shift();
    if (next) next(socket);
    else this.#sockets.push(socket);
  }
}
