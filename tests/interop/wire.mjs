// A socket: bytes come by a callback, and whole frames are written.

import { readSync } from "node:fs";

export class Wire {
  #socket;
  #onBytes;
  #onEnd;
  #isOver = false;

  /** `onBytes` gets what comes, and `onEnd` once, last, an error that says how it ended. */
  constructor(socket, onBytes, onEnd) {
    this.#socket = socket;
    this.#onBytes = onBytes;
    this.#onEnd = onEnd;
    socket.on("data", onBytes);
    socket.on("end", () => this.#end(new Error("the peer closed the connection")));
    socket.on("error", (error) => this.#end(error));
  }

  pause() {
    this.#socket.pause();
  }

  resume() {
    this.#socket.resume();
  }

  /** Close; what the kernel still holds of what the peer sent is dropped. */
  close() {
    this.#isOver = true;
    this.#socket.destroy();
  }

  /** Write in one go; resolves when the kernel has all of it, or never will. */
  write(buffers) {
    if (this.#isOver || buffers.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#socket.cork();
      for (const buffer of buffers.slice(0, -1)) this.#socket.write(buffer);
      this.#socket.write(buffers.at(-1), (error) => {
        if (error) {
          this.#readRest();
          this.#end(error);
        }
        resolve();
      });
      this.#socket.uncork();
    });
  }

  /**
   * Read what the peer said before it closed. After a failed write Node destroys the socket and
   * drops what is unread, so that this is the last moment (SPEC.md 5.3-6).
   */
  #readRest() {
    const descriptor = this.#socket._handle?.fd ?? -1;
    try {
      for (let size = 1; size > 0 && descriptor >= 0 && !this.#isOver;) {
        const chunk = Buffer.alloc(65_536);
        size = readSync(descriptor, chunk);
        if (size > 0) this.#onBytes(chunk.subarray(0, size));
      }
    } catch {
      // Nothing more is there: EAGAIN, or the reset itself.
    }
  }

  #end(error) {
    if (this.#isOver) return;
    this.close();
    this.#onEnd(error);
  }
}
