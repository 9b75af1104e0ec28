// One connection: both half-machines (SPEC.md 5), reading with back-pressure, writing whole frames.

import { connect } from "node:net";

import { Violation } from "./cbor.mjs";
import { controlFrame, dataHead, FrameReader, kindOf } from "./frames.mjs";
import { Wire } from "./wire.mjs";

const READ_AHEAD = 1_048_576;

/** An error that the server answered with. */
export class DataPlaneError extends Error {
  name = "DataPlaneError";

  constructor({ code, message, retry = false, details = {} }) {
    super(message);
    this.code = code;
    this.retry = retry;
    this.details = details;
  }
}

/** The connection ended where it must not. */
export class ConnectionLost extends DataPlaneError {
  name = "ConnectionLost";

  constructor(message) {
    super({ code: "unavailable", message, retry: true });
  }
}

const opened = (socket) =>
  new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", (error) => reject(new ConnectionLost(error.message)));
  });

export class Connection {
  /** Whether anything was received since the last request began (SPEC.md 12.3). */
  hasHeard = false;
  #wire;
  #reader = new FrameReader();
  #client = "hello";
  #server = "hello";
  #events = [];
  #queued = 0;
  #wake = () => {};
  #failure = null;
  #answered = null;
  #resolveAnswered = () => {};

  static async open(path, agent) {
    const socket = connect(path);
    await opened(socket);
    const connection = new Connection(socket);
    connection.#client = "ready";
    connection.#wire.write([controlFrame({ hello: { version: 1, features: [], agent } })]);
    const { message } = await connection.next();
    if (message.hello.version !== 1) {
      const reason = `protocol version is ${message.hello.version}, must be 1`;
      throw connection.fail(new DataPlaneError({ code: "unsupported", message: reason }));
    }
    return connection;
  }

  constructor(socket) {
    const onEnd = (error) => this.fail(new ConnectionLost(error.message));
    this.#wire = new Wire(socket, (chunk) => this.#receive(chunk), onEnd);
  }

  /** True when another call may begin (SPEC.md 12.1-1). */
  get isReusable() {
    const isReady = this.#client === "ready" && this.#server === "ready";
    return !this.#failure && isReady && this.#events.length === 0 && this.#reader.isBetweenFrames;
  }

  /** True when the server has said something in answer to the request, or never will. */
  get isAnswered() {
    return this.#failure !== null || this.#server !== "ready";
  }

  /** Resolves when `isAnswered` becomes true. */
  get answered() {
    return this.#answered;
  }

  /** End the connection; what was received before can still be read. */
  fail(error) {
    if (this.#failure === null) {
      this.#failure = error;
      this.#client = this.#server = "closed";
      this.#wire.close();
      this.#resolveAnswered();
      this.#wake();
    }
    return error;
  }

  /** Send a request, with the first frames of its body if they are at hand. */
  request(message, ...bodyFrames) {
    this.#leave("client", ["ready"], "body" in message ? "body" : "done");
    if (this.#server !== "ready") throw new Error("the last call is not over");
    this.hasHeard = false;
    this.#answered = new Promise((resolve) => (this.#resolveAnswered = resolve));
    return this.#wire.write([controlFrame(message), ...bodyFrames]);
  }

  /** Send a whole small object and its end with the request, in one write. */
  requestWithBody(message, payload, end) {
    const data = payload.length > 0 ? [dataHead(payload.length), payload] : [];
    const written = this.request(message, ...data, controlFrame({ end }));
    this.#leave("client", ["body"], "done");
    return written;
  }

  data(payload) {
    this.#leave("client", ["body"], "body");
    return this.#wire.write([dataHead(payload.length), payload]);
  }

  end(end) {
    this.#leave("client", ["body"], "done");
    return this.#wire.write([controlFrame({ end })]);
  }

  abort() {
    this.#leave("client", ["body"], "done");
    return this.#wire.write([controlFrame({ error: { code: "cancelled", message: "" } })]);
  }

  /** Give the next event: `{data}`, or `{kind, message}`. */
  async next() {
    while (this.#events.length === 0) {
      if (this.#failure) throw this.#failure;
      await new Promise((resolve) => (this.#wake = resolve));
    }
    const event = this.#events.shift();
    this.#queued -= event.data?.length ?? 0;
    if (this.#queued < READ_AHEAD) this.#wire.resume();
    return event;
  }

  #leave(half, states, next) {
    if (this.#failure) return;
    const state = half === "client" ? this.#client : this.#server;
    if (!states.includes(state)) throw new Error(`${half} half is ${state}, must be ${states}`);
    if (half === "client") this.#client = next;
    else this.#server = next;
    if (this.#client === "done" && this.#server === "done") this.#client = this.#server = "ready";
  }

  #receive(chunk) {
    if (this.#failure) return;
    this.hasHeard = true;
    try {
      for (const event of this.#reader.push(chunk)) this.#take(event);
    } catch (error) {
      this.fail(error);
    }
    if (this.#queued >= READ_AHEAD) this.#wire.pause();
    this.#wake();
  }

  #take({ data, control }) {
    if (data) {
      this.#serverSends("data", ["body"], "body");
      this.#queued += data.length;
      this.#events.push({ data });
      return;
    }
    const kind = kindOf(control);
    this.#follow(kind, control);
    this.#events.push({ kind, message: control });
  }

  #follow(kind, message) {
    if (kind === "error" && (message.error.code === "protocol" || this.#server === "hello")) {
      throw new DataPlaneError(message.error);
    }
    const isAnswer = this.#server === "ready";
    if (kind === "hello") this.#serverSends(kind, ["hello"], "ready");
    else if (kind === "ok")
      this.#serverSends(
        kind,
        this.#client === "done" ? ["ready"] : [],
        "body" in message ? "body" : "done",
      );
    else if (kind === "end") this.#serverSends(kind, ["body"], "done");
    else if (kind === "error")
      this.#serverSends(kind, this.#client === "ready" ? ["body"] : ["ready", "body"], "done");
    else throw new Violation("the server sent a request");
    if (isAnswer) this.#resolveAnswered();
  }

  #serverSends(kind, states, next) {
    if (!states.includes(this.#server)) {
      throw new Violation(
        `server may not send ${kind} while it is ${this.#server} and the client ${this.#client}`,
      );
    }
    this.#leave("server", states, next);
  }
}
