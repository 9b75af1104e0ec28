"""A server of the data plane protocol, version 1, in one file: an example for authors of daemons.

It was written from `protocol/SPEC.md`, `protocol/dataplane.cddl` and the vectors alone, whose
sections and rules the comments cite. It needs Python 3.11 and blake3, reads from blocking sockets
with a thread per connection, and keeps its objects in memory. So it lacks what makes a daemon of
it: nothing that it stores survives a power cut or even its own end (7.1-6, 7.4-3).

    python minimal_server.py [--max-object-bytes N] SOCKET

SOCKET belongs into a directory that only the server's user may write to (11.1-1). One line is
printed when it listens there, and SIGTERM ends it.
"""

import argparse
import bisect
import contextlib
import fcntl
import functools
import hashlib
import os
import re
import select
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blake3

# ------------------------------------------------------------------ limits (section 9)

PROTOCOL_VERSION = 1
MAX_CONTROL_SIZE = 65_536
MAX_DATA_SIZE = 1_048_576
DATA_SIZE = 262_144
MAX_DEPTH = 8
MAX_BATCH = 128
MAX_INTEGER = 2**53 - 1
MAX_DISCARD = 67_108_864
DISCARD_TIMEOUT = 5.0
STALL_TIMEOUT = 60.0

# These are this server's own (9-2, 11.2-2).
MAX_CONNECTIONS = 48
SHUTDOWN_TIMEOUT = 10.0
RECEIVE_SIZE = 65_536

AGENT = "minimal-server/1"
BACKEND = "default"
FEATURES = ("serve_fd",) if hasattr(os, "memfd_create") else ()

Map = dict[str, Any]


class Violation(Exception):  # noqa: N818
    """The peer broke framing or order: `error` `protocol`, and the connection closes (5.9)."""


class Gone(Exception):  # noqa: N818
    """The connection has ended, or may be closed without a word."""


class Fault(Exception):  # noqa: N818
    """A field is missing or wrong: a violation in a frame, `bad_request` in `args` (2.3-7)."""


class Refusal(Exception):  # noqa: N818
    """A call fails with this code (8.1)."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.frame: Map = {"code": code, "message": message}
        if code == "unavailable":
            self.frame["retry"] = True
        if details:
            self.frame["details"] = details


def quote(text: str) -> str:
    """What a peer sent, cut and escaped, for a message or a log (8-2, 11.3-2)."""
    return ascii(text[:64])


# ------------------------------------------------------------ CBOR profile (section 3)


def encode_head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | info]) + value.to_bytes(size)
    raise ValueError("integer has more than 64 bits")


def encode(value: Any) -> bytes:
    """Encode deterministically: there is one spelling for each value (3-2)."""
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return encode_head(0, value) if value >= 0 else encode_head(1, -1 - value)
        case bytes():
            return encode_head(2, len(value)) + value
        case str():
            text = value.encode()
            return encode_head(3, len(text)) + text
        case list():
            return encode_head(4, len(value)) + b"".join(map(encode, value))
        case dict():
            pairs = sorted((encode(key), encode(item)) for key, item in value.items())
            return encode_head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    raise TypeError(f"{type(value).__name__} is not of the profile")


class Decoder:
    """Reads one item. What 3-4 lets a receiver accept is accepted: it becomes `ODD`."""

    ODD = object()  # a float, undefined or another simple value: of the wrong type everywhere

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def whole(self) -> Any:
        value = self.item(0)
        if self.position != len(self.data):
            raise Violation("control frame has bytes behind its item")
        return value

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise Violation("control frame ends inside its item")
        self.position += count
        return self.data[self.position - count : self.position]

    def item(self, depth: int) -> Any:
        major, info = divmod(self.take(1)[0], 32)
        if major == 6:
            raise Violation("control frame has a tag")
        if info > 27:
            raise Violation("control frame has an indefinite length or a reserved head")
        if major == 7:
            return self.simple(info)
        value = info if info < 24 else int.from_bytes(self.take(1 << info - 24))
        if major == 0:
            return value
        if major == 1:
            return -1 - value
        if major == 2:
            return self.take(value)
        if major == 3:
            try:
                return self.take(value).decode()
            except UnicodeDecodeError:
                raise Violation("control frame has text that is not UTF-8") from None
        if depth == MAX_DEPTH:
            raise Violation(f"control frame nests more than {MAX_DEPTH} containers")
        if major == 4:
            return [self.item(depth + 1) for _ in range(value)]  # ends where the frame does
        return self.map(value, depth + 1)

    def map(self, count: int, depth: int) -> Map:
        result: Map = {}
        for _ in range(count):
            key = self.item(depth)
            if not isinstance(key, str) or key in result:
                raise Violation("control frame has a key that is not text, or one twice")
            result[key] = self.item(depth)
        return result

    def simple(self, info: int) -> Any:
        if info in (20, 21):
            return info == 21
        if info == 22:
            return None
        if info == 24 and self.take(1)[0] < 32:
            raise Violation("control frame has a simple value in a form that there is not")
        if info > 24:
            self.take(1 << info - 24)  # a float
        return self.ODD


# ------------------------------------------------------ fields (2.3, section 6, the CDDL)

Check = Callable[[Any], Any]
DIGEST = re.compile("[a-z][a-z0-9_-]{0,31}:([0-9a-f][0-9a-f]){1,64}")


def is_a(what: str, test: Callable[[Any], bool]) -> Check:
    def check(value: Any) -> Any:
        if not test(value):
            raise Fault(f"must be {what}")
        return value

    return check


def integer(low: int, high: int) -> Check:
    what = f"an integer from {low} to {high}"
    return is_a(what, lambda value: type(value) is int and low <= value <= high)


def digest(value: Any) -> Any:
    """Rules 6.1-1 to 6.1-3. Whether the algorithm is supported is another question."""
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        raise Fault("must be a digest")
    algorithm, _, digits = value.partition(":")
    if algorithm in ("blake3", "sha256") and len(digits) != 64:
        raise Fault("must be a digest with 64 digits")
    return value


def items(check: Check, low: int = 0, high: int = MAX_CONTROL_SIZE) -> Check:
    def check_list(value: Any) -> Any:
        if not isinstance(value, list) or not low <= len(value) <= high:
            raise Fault(f"must be a list of {low} to {high} items")
        return [check(item) for item in value]

    return check_list


def fields(**checks: Check) -> Check:
    """Check a map and keep what is known of it (10-1). An `_` behind a name: may be absent."""

    def check_map(value: Any) -> Any:
        mapping(value)
        result = {}
        for name, check in checks.items():
            key = name.removesuffix("_")
            if key in value:
                try:
                    result[key] = check(value[key])
                except Fault as fault:
                    raise Fault(f"{key} {fault}") from None
            elif key == name:
                raise Fault(f"{key} is missing")
        return result

    return check_map


text = is_a("text", lambda value: isinstance(value, str))
boolean = is_a("true or false", lambda value: isinstance(value, bool))
mapping = is_a("a map", lambda value: isinstance(value, dict))
body_kind = is_a("stream or fd", lambda value: value in ("stream", "fd"))  # 5.8-1
size = integer(0, MAX_INTEGER)

FRAMES = {
    "hello": fields(hello=fields(version=size, features=items(text), agent_=text)),
    "op": fields(op=text, args=mapping, body_=body_kind, accept_fd_=boolean, trace_=text),
    "ok": fields(ok=mapping, body_=body_kind),
    "error": fields(error=fields(code=text, message=text, retry_=boolean, details_=mapping)),
    "end": fields(end=fields(size_bytes=size, digest_=digest)),
}

byte_range = fields(offset=size, length_=integer(1, MAX_INTEGER))
in_backend = functools.partial(fields, backend_id_=text)
ARGS = {
    "ingest_stream": in_backend(size_hint_=size, primary_algorithm_=text),
    "serve_object": in_backend(content_address=digest, byte_range_=byte_range),
    "verify_object": in_backend(content_address=digest),
    "delete_object": in_backend(content_address=digest, if_generation_=size),
    "backend_health": in_backend(),
    "stat_objects": in_backend(content_addresses=items(digest, 1, MAX_BATCH)),
    "list_objects": in_backend(after_=digest, limit_=integer(1, MAX_BATCH)),
    "list_backends": fields(),
}


def algorithm_of(value: str) -> str:
    """The algorithm of a well-formed digest, one of the two that this version has (6.1-4)."""
    algorithm = value.partition(":")[0]
    if algorithm not in ("blake3", "sha256"):
        raise Refusal("unsupported", f"algorithm is {algorithm}, must be blake3 or sha256")
    return algorithm


def digests_of(content: bytes | memoryview) -> dict[str, str]:
    return {
        "blake3": "blake3:" + blake3.blake3(content).hexdigest(),
        "sha256": "sha256:" + hashlib.sha256(content).hexdigest(),
    }


# ----------------------------------------------------------------- the store (section 7)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Object:
    content: bytes
    digests: dict[str, str]
    generation: int
    stored_at_ms: int
    verified_at_ms: int
    quarantined: bool = False

    def entry(self) -> Map:
        """Describe it as `stat_objects` and `list_objects` do (7.6-2)."""
        entry = {
            "content_address": self.digests["blake3"],
            "size_bytes": len(self.content),
            "sha256_digest": self.digests["sha256"],
            "generation": self.generation,
            "stored_at_ms": self.stored_at_ms,
            "verified_at_ms": self.verified_at_ms,
        }
        return entry | ({"state": "quarantined"} if self.quarantined else {})


class Store:
    """The one backend. Fields of objects change under its lock only, their content never."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_blake3: dict[str, Object] = {}
        self.by_sha256: dict[str, Object] = {}
        # Begins at the clock, so that generations also grow from one run to the next (7-4).
        self.generation = now_ms()

    def find(self, address: str) -> Object | None:
        with self.lock:
            return self.by_blake3.get(address) or self.by_sha256.get(address)

    def put(self, content: bytes, digests: dict[str, str]) -> Map:
        with self.lock:
            self.generation += 1
            now = now_ms()
            known = self.by_blake3.get(digests["blake3"])
            if known and not known.quarantined and known.content == content:  # 7.1-5
                outcome = "existed"
                known.generation = self.generation
                known.stored_at_ms = known.verified_at_ms = now
            else:
                outcome = "healed" if known else "created"
                new = Object(content, digests, self.generation, now, now)
                self.by_blake3[digests["blake3"]] = self.by_sha256[digests["sha256"]] = new
            return {
                "backend_id": BACKEND,
                "outcome": outcome,
                "generation": self.generation,
                "stored_at_ms": now,
            }

    def delete(self, address: str, if_generation: int | None) -> bool:
        with self.lock:
            known = self.by_blake3.get(address) or self.by_sha256.get(address)
            if known is None:
                return False
            if if_generation not in (None, known.generation):
                message = f"generation is {known.generation}, must be {if_generation}"
                raise Refusal("conflict", message, generation=known.generation)
            del self.by_blake3[known.digests["blake3"]], self.by_sha256[known.digests["sha256"]]
            return True

    def check(self, known: Object) -> dict[str, str]:
        """Digests of what is stored now. A bad object is marked, a good one no more (7.3-2)."""
        actual = digests_of(known.content)
        with self.lock:
            known.quarantined = actual != known.digests
            if not known.quarantined:
                known.verified_at_ms = now_ms()
        return actual

    def stat(self, addresses: list[str]) -> list[Map]:
        with self.lock:
            found = (self.by_blake3.get(each) or self.by_sha256.get(each) for each in addresses)
            return [known.entry() for known in found if known]

    def page(self, after: str, limit: int) -> tuple[list[Map], bool]:
        with self.lock:
            names = sorted(self.by_blake3)
            start = bisect.bisect_right(names, after)
            page = [self.by_blake3[name].entry() for name in names[start : start + limit]]
            return page, start + limit < len(names)


# ---------------------------------------------------------- frames and half-machines

# The table of 5.1-1: what each half sends in which state, and the state after it. The states
# `descriptor` of the client half are missing, since `ingest_fd` is never agreed (5.2-4).
BODY = {"data": "body", "end": "done", "error": "done"}
CLIENT = {
    "hello": {"hello": "ready"},
    "ready": {"request": "done", "request with body": "body"},
    "body": BODY,
    "done": {},
}
SERVER = {
    "hello": {"hello": "ready", "error": "closed"},
    "ready": {"ok": "done", "ok with body": "body", "ok with fd": "descriptor", "error": "done"},
    "body": BODY,
    "descriptor": {"end": "done", "error": "done"},
    "done": {},
}


def name_of(kind: str, frame: Map) -> str:
    """The name of a control frame in the table."""
    name = "request" if kind == "op" else kind
    return name + {None: "", "stream": " with body", "fd": " with fd"}[frame.get("body")]


def control_frame(frame: Map) -> bytes:
    item = encode(frame)
    if len(item) > MAX_CONTROL_SIZE:
        raise ValueError("control frame is over the limit")
    return len(item).to_bytes(4) + item


def data_head_of(length: int) -> bytes:
    """Give the one head that a data frame of this length may have, or none (2.2-1)."""
    for count in (1, 2, 3, 5):
        if length > count and len(head := encode_head(2, length - count)) == count:
            return head
    return b""


class Wire:
    """Frames over a socket, and both half-machines."""

    def __init__(self, sock: socket.socket, stop: int) -> None:
        self.sock = sock
        self.stop = stop  # a descriptor that hangs up when the server is to end
        self.buffer = bytearray()
        self.deadline: float | None = None
        self.client = self.server = "hello"

    # reading

    def wait(self, timeout: float | None = None) -> None:
        """Wait while no call is open, when the server may also close (5.10-3, 5.10-5)."""
        if not self.buffer:
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            poll.register(self.stop, 0)
            events = poll.poll(timeout and timeout * 1000)
            if not events or any(descriptor == self.stop for descriptor, _ in events):
                raise Gone

    def read(self, count: int) -> bytes:
        """Read so many bytes. Memory grows with what has come, not with `count` (2.1-2).

        Plain `recv` closes descriptors that nobody asked for (5.11-7).
        """
        while len(self.buffer) < count:
            timeout = STALL_TIMEOUT  # one byte is progress, and this is for each (5.10-1)
            if self.deadline is not None:
                timeout = min(timeout, self.deadline - time.monotonic())
                if timeout <= 0:
                    raise Gone
            self.sock.settimeout(timeout)
            piece = self.sock.recv(RECEIVE_SIZE)
            if not piece:
                raise Gone
            self.buffer += piece
        result = bytes(self.buffer[:count])
        del self.buffer[:count]
        return result

    def receive(self) -> tuple[str, Any]:
        """Read a frame that the client may send now: its name in the table, and itself."""
        length = int.from_bytes(self.read(4))
        if not 1 <= length <= MAX_DATA_SIZE + 5:
            raise Violation(f"frame is {length} bytes, must be 1 to {MAX_DATA_SIZE + 5}")
        first = self.read(1)
        major = first[0] >> 5
        frame: bytes | Map
        if major == 2:
            name, frame = "data", self.payload(length, first)
        elif major == 5:
            name, frame = self.control(length, first)
        else:
            raise Violation("frame is neither a byte string nor a map")
        if name not in CLIENT[self.client]:
            raise Violation(f"client may not send {name} while its half is {self.client}")
        self.client = CLIENT[self.client][name]
        self.settle()
        return name, frame

    def payload(self, length: int, first: bytes) -> bytes:
        head = data_head_of(length)
        if first != head[:1] or self.read(len(head) - 1) != head[1:]:
            raise Violation("data frame has a head that its length does not allow")
        if self.client != "body":
            raise Violation(f"client may not send data while its half is {self.client}")
        return self.read(length - len(head))

    def control(self, length: int, first: bytes) -> tuple[str, Map]:
        if length > MAX_CONTROL_SIZE:
            raise Violation(f"control frame is {length} bytes, limit is {MAX_CONTROL_SIZE}")
        item = Decoder(first + self.read(length - 1)).whole()
        kinds = [kind for kind in FRAMES if kind in item]
        if len(kinds) != 1:
            raise Violation(f"control frame has {len(kinds)} of the keys {', '.join(FRAMES)}")
        try:
            frame = FRAMES[kinds[0]](item)
        except Fault as fault:
            raise Violation(f"{kinds[0]} frame: {fault}") from None
        if kinds[0] == "error" and frame["error"]["code"] == "protocol":
            raise Gone  # 5.9-4
        return name_of(kinds[0], frame), frame

    # writing

    def send(self, *frames: Map, descriptor: int | None = None) -> None:
        data = b"".join(map(control_frame, frames))
        for frame in frames:
            kind = next(kind for kind in FRAMES if kind in frame)
            self.answer(name_of(kind, frame))
        self.write(data, descriptor)

    def send_data(self, payload: memoryview) -> None:
        self.answer("data")
        head = encode_head(2, len(payload))
        self.write((len(head) + len(payload)).to_bytes(4) + head + payload)

    def answer(self, name: str) -> None:
        if name.startswith("ok") and self.client != "done":  # 5.2-2
            raise AssertionError("ok before the client half is done")
        self.server = SERVER[self.server][name]
        self.settle()

    def settle(self) -> None:
        if self.client == self.server == "done":  # 5.2-3
            self.client = self.server = "ready"

    def write(self, data: bytes, descriptor: int | None = None) -> None:
        # Not `sendall`, whose timeout is for all of the data: every byte is progress (5.10-1).
        self.sock.settimeout(STALL_TIMEOUT)
        left = memoryview(data)
        if descriptor is not None:  # with the first byte of its frame (5.11-4)
            left = left[socket.send_fds(self.sock, [left], [descriptor]) :]
        while left:
            left = left[self.sock.send(left) :]

    def break_off(self, message: str) -> None:
        """Say what was violated, as far as the socket takes it (5.9-2)."""
        frame = control_frame({"error": {"code": "protocol", "message": message}})
        with contextlib.suppress(OSError):
            self.sock.setblocking(False)
            self.sock.send(frame)


# -------------------------------------------------------------- calls (sections 4, 5, 7)


class Connection:
    """Serves one client, in a thread of its own."""

    def __init__(self, sock: socket.socket, stop: int, store: Store, limit: int) -> None:
        self.sock = sock
        self.wire = Wire(sock, stop)
        self.store = store
        self.limit = limit
        self.features: set[str] = set()

    def run(self) -> None:
        with self.sock:
            try:
                self.greet()
                while True:
                    self.wire.wait()
                    self.call()
            except Violation as violation:
                self.wire.break_off(str(violation))
            except (Gone, OSError):  # among the latter: reset, broken pipe, and stalled for 60 s
                pass
            except Exception:
                traceback.print_exc()

    def greet(self) -> None:
        self.wire.wait(STALL_TIMEOUT)
        hello = self.wire.receive()[1]["hello"]
        if hello["version"] != PROTOCOL_VERSION:
            message = f"protocol version is {hello['version']}, must be {PROTOCOL_VERSION}"
            refusal = Refusal("unsupported", message, versions=[PROTOCOL_VERSION])
            self.wire.send({"error": refusal.frame})
            raise Gone  # 4-2
        self.features = {each for each in FEATURES if each in hello["features"]}  # 4.1-1
        agreed = {"version": PROTOCOL_VERSION, "features": sorted(self.features), "agent": AGENT}
        self.wire.send({"hello": agreed})

    def call(self) -> None:
        request = self.wire.receive()[1]
        try:
            self.dispatch(request)
        except Refusal as refusal:
            self.wire.send({"error": refusal.frame})
        except (Violation, Gone, OSError):
            raise
        except Exception:
            traceback.print_exc()
            self.wire.send({"error": Refusal("internal", "the server's log says more").frame})
        if self.wire.client == "body":
            self.discard()

    def discard(self) -> None:
        """Read the rest of a body that was refused, within bounds (5.3-2, 5.3-3)."""
        left = MAX_DISCARD
        self.wire.deadline = time.monotonic() + DISCARD_TIMEOUT
        while self.wire.client == "body":
            name, payload = self.wire.receive()
            if name == "data":
                left -= len(payload)
                if left < 0:
                    raise Gone
        self.wire.deadline = None

    def dispatch(self, request: Map) -> None:
        name = request["op"]
        if name not in ARGS:
            raise Refusal("unsupported", f"operation {quote(name)} is not known")  # 10-3
        if ("body" in request) != (name == "ingest_stream"):
            wants = "needs a" if name == "ingest_stream" else "takes no"
            raise Refusal("bad_request", f"{name} {wants} body")  # 7-2
        try:
            args = ARGS[name](request["args"])
        except Fault as fault:
            raise Refusal("bad_request", f"args: {fault}") from None
        backend = args.get("backend_id", BACKEND)
        if backend != BACKEND:
            raise Refusal("unknown_backend", f"no backend {quote(backend)}")
        if name == "serve_object":
            self.serve_object(args, accept_fd=request.get("accept_fd", False))
        else:
            self.wire.send({"ok": getattr(self, name)(args)})

    def present(self, address: str) -> Object:
        algorithm_of(address)
        known = self.store.find(address)
        if known is None:
            raise Refusal("not_found", f"no object {address}")
        return known

    # one method for each operation

    def ingest_stream(self, args: Map) -> Map:
        primary = args.get("primary_algorithm", "blake3")
        if primary not in ("blake3", "sha256"):
            message = f"primary_algorithm is {quote(primary)}, must be blake3 or sha256"
            raise Refusal("unsupported", message)
        self.bound(args.get("size_hint", 0))
        body = bytearray()
        while True:
            name, frame = self.wire.receive()
            if name == "error":
                raise Refusal("cancelled", "the client gave up the body")  # 5.4-2
            if name == "end":
                break
            self.bound(len(body) + len(frame))
            body += frame
        content = bytes(body)
        digests = digests_of(content)
        end = frame["end"]
        if end["size_bytes"] != len(content):
            message = f"body has {len(content)} bytes, its end says {end['size_bytes']}"
            raise Refusal("body_mismatch", message, size_bytes=len(content))
        if "digest" in end and digests[algorithm_of(end["digest"])] != end["digest"]:
            raise Refusal("body_mismatch", f"digest of the body is not {end['digest']}")
        receipt = self.store.put(content, digests)
        return {
            "primary_digest": digests[primary],
            "sha256_digest": digests["sha256"],
            "size_bytes": len(content),
            "receipt": receipt,
        }

    def bound(self, count: int) -> None:
        if count > self.limit:
            message = f"object has at least {count} bytes, limit is {self.limit}"
            raise Refusal("too_large", message, limit_bytes=self.limit)

    def serve_object(self, args: Map, *, accept_fd: bool) -> None:
        known = self.present(args["content_address"])
        total = len(known.content)
        offset, length = 0, total
        if "byte_range" in args:
            offset = args["byte_range"]["offset"]
            if offset >= total:
                message = f"offset is {offset}, size is {total}"
                raise Refusal("out_of_range", message, size_bytes=total)
            length = min(args["byte_range"].get("length", total), total - offset)
        if known.quarantined:
            raise Refusal("corrupt", "object is quarantined")
        actual = self.store.check(known)["blake3"]  # 7.2-3
        if known.quarantined:
            message = "object does not match its digest"
            raise Refusal("corrupt", message, actual_primary_digest=actual)
        result = {"size_bytes": total, "offset": offset, "length": length}
        end = {"end": {"size_bytes": length}}
        descriptor = None
        if accept_fd and "serve_fd" in self.features:
            with contextlib.suppress(OSError):  # none to be had: a stream is as good (5.11-2)
                descriptor = read_only_file(known.content)
        if descriptor is not None:
            try:
                return self.wire.send({"ok": result, "body": "fd"}, end, descriptor=descriptor)
            finally:
                os.close(descriptor)
        self.wire.send({"ok": result, "body": "stream"})
        body = memoryview(known.content)[offset : offset + length]
        for start in range(0, length, DATA_SIZE):
            self.wire.send_data(body[start : start + DATA_SIZE])
        return self.wire.send(end)

    def verify_object(self, args: Map) -> Map:
        address = args["content_address"]
        known = self.present(address)
        actual = self.store.check(known)
        verified = actual == known.digests
        result = {
            "content_address": address,
            "verified": verified,
            "actual_primary_digest": actual[algorithm_of(address)],
            "actual_sha256_digest": actual["sha256"],
            "actual_size_bytes": len(known.content),
        }
        return result | ({} if verified else {"mismatch": "digests differ"})

    def delete_object(self, args: Map) -> Map:
        address = args["content_address"]
        algorithm_of(address)
        deleted = self.store.delete(address, args.get("if_generation"))
        return {"content_address": address, "backend_id": BACKEND, "deleted": deleted}

    def backend_health(self, _args: Map) -> Map:
        count = len(self.store.by_blake3)
        return {"backend_id": BACKEND, "state": "ok", "writable": True, "object_count": count}

    def list_backends(self, args: Map) -> Map:
        return {"backends": [self.backend_health(args)], "default": BACKEND}

    def stat_objects(self, args: Map) -> Map:
        for address in args["content_addresses"]:
            algorithm_of(address)
        return {"objects": self.store.stat(args["content_addresses"])}

    def list_objects(self, args: Map) -> Map:
        after = args.get("after", "")
        if after and algorithm_of(after) != "blake3":
            raise Refusal("bad_request", "after is a sha256 address, must be blake3")
        objects, more = self.store.page(after, args.get("limit", MAX_BATCH))
        return {"objects": objects, "more": more}


def read_only_file(content: bytes) -> int:
    """Open a file of memory for reading only, which nobody can change any more (5.11-11, 11.5-2).

    Each call makes one, so that no two share a position. The copy costs what a real daemon saves,
    which opens the file that it keeps the object in.
    """
    writable = os.memfd_create("object", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(writable, left) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, seals)
        os.fchmod(writable, 0o400)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


# -------------------------------------------------------------------------- the server


def listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(path)  # with mode 0600, before it listens (11.1-1)
    finally:
        os.umask(umask)
    listener.listen(128)
    return listener


def accept(listener: socket.socket, stop: int, limit: int) -> list[threading.Thread]:
    """Serve until the descriptor `stop` hangs up, and return the threads at work then."""
    store = Store()
    threads: list[threading.Thread] = []
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(stop, 0)
    while all(descriptor != stop for descriptor, _ in poll.poll()):
        try:
            sock = listener.accept()[0]
        except OSError:  # out of descriptors, most likely
            time.sleep(0.1)
            continue
        threads = [thread for thread in threads if thread.is_alive()]
        if len(threads) < MAX_CONNECTIONS:
            connection = Connection(sock, stop, store, limit)
            threads.append(threading.Thread(target=connection.run, daemon=True))
            threads[-1].start()
            continue
        refusal = Refusal("unavailable", f"server has {MAX_CONNECTIONS} connections")
        with sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.send(control_frame({"error": refusal.frame}))  # in place of the hello (4-5)
    return threads


def main() -> None:
    parser = argparse.ArgumentParser(description="A server of the data plane protocol.")
    parser.add_argument("socket")
    parser.add_argument("--max-object-bytes", type=int, default=2**30)
    options = parser.parse_args()

    stop, hang_up = os.pipe()

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.close(hang_up)

    signal.signal(signal.SIGTERM, end)
    with listen(options.socket) as listener:
        print(f"listening on {options.socket}", flush=True)
        threads = accept(listener, stop, options.max_object_bytes)
        os.unlink(options.socket)
    # Idle connections close at once; calls that are open get some time to end (5.10-5).
    deadline = time.monotonic() + SHUTDOWN_TIMEOUT
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    main()
