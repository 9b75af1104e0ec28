"""One connection as either side of it has it, with everything that the peer sends judged.

Whatever arrives is held against framing, encoding, schema, the half-machines and the size and
digest of its `end`, whether or not the case at hand asks for it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping
from typing import Final, NoReturn, cast

from .frames import Control, Frame, FrameError, FrameReader, control_frame, data_frame, kind_of
from .halves import Halves, Side, other
from .schema import ARGUMENTS, RESULTS, check_frame
from .verdicts import Ending, FailedError, shown

#: Bytes received at once.
_CHUNK: Final = 262_144

#: Room for one descriptor. Alignment leaves room for two, which shows a second one.
_ANCILLARY: Final = socket.CMSG_SPACE(struct.calcsize("i"))

_BROKEN: Final = (errno.EPIPE, errno.ECONNRESET)


class Tally:
    """What has gone through a body so far."""

    def __init__(self) -> None:
        self.size = 0
        self._sha256 = hashlib.sha256()

    def add(self, payload: bytes) -> None:
        """Count a piece."""
        self.size += len(payload)
        self._sha256.update(payload)

    @property
    def sha256(self) -> str:
        """The digest so far."""
        return f"sha256:{self._sha256.hexdigest()}"


class Wire:
    """A connected socket. Used by one thread.

    Args:
        sock: Taken over, and closed by `close`.
        side: Whose part this end plays.
        timeout: Seconds without progress after which the peer has failed.
        listener: Told of every control frame that arrives and is well-formed.

    Attributes:
        halves: Where both sides are.
        offered: The features of the client's hello.
        features: Those of the server's.
        peer_body: The body that the peer sends or sent last.
        own_body: The body that was sent to it last.
        takes_descriptors: Whether to look for descriptors; the kernel drops them otherwise.
        op: The operation of the last request.
    """

    def __init__(
        self,
        sock: socket.socket,
        side: Side,
        timeout: float,
        listener: Callable[[Control], None] = lambda _: None,
    ) -> None:
        self.halves = Halves()
        self.offered: list[str] = []
        self.features: list[str] = []
        self.peer_body = Tally()
        self.own_body = Tally()
        self._own_bodies: list[Tally] = []
        self.takes_descriptors = False
        self.op = ""
        self._sock = sock
        self._side: Side = side
        self._timeout = timeout
        self._listener = listener
        self._reader = FrameReader()
        self._accepts_fd = False
        self._body_length: int | None = None
        self._is_streamed = True
        self._descriptors: list[int] = []
        self._announced: list[int] = []
        self._is_eof = self._is_reset = self._is_closed = self._was_refused = False
        self._is_deaf = False
        sock.setblocking(False)

    def fileno(self) -> int:
        """Give the socket's descriptor, for `select`."""
        return self._sock.fileno()

    @property
    def is_over(self) -> bool:
        """Whether the end was received, or this side has closed it."""
        return self._is_eof or self._is_closed

    @property
    def has_pending(self) -> bool:
        """Whether bytes are here that belong to no frame that was taken."""
        return self._reader.pending > 0

    @property
    def sent_names(self) -> set[str]:
        """SHA-256 addresses of all bodies sent, ended or not."""
        return {body.sha256 for body in self._own_bodies}

    @property
    def ending(self) -> Ending:
        """How the connection has ended, if it has."""
        if not (self._is_eof or self._is_closed or self._is_deaf):
            with contextlib.suppress(OSError):
                while self._read():
                    pass
        if self._is_eof:
            closed = Ending.RESET if self._is_reset else Ending.CLOSED
            return Ending.ERROR if self._was_refused else closed
        return Ending.OURS if self._is_closed else Ending.OPEN

    def close(self) -> None:
        """Close the socket and all descriptors that came over it. Idempotent."""
        if self._is_closed:
            return
        _ = self.ending
        self._is_closed = True
        self._sock.close()
        for descriptor in [*self._descriptors, *self._announced]:
            os.close(descriptor)
        self._descriptors, self._announced = [], []

    def shut_down_reading(self) -> None:
        """Have all that the peer sends from now on fail, and go on writing."""
        self._is_deaf = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def shut_down_writing(self) -> None:
        """Send the end of the connection and go on reading."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def send(self, control: Mapping[str, object]) -> None:
        """Send a control frame."""
        self.send_bytes(self.made(control))

    def send_data(self, payload: bytes) -> None:
        """Send one data frame."""
        self.send_bytes(self.made_data(payload))

    def made(self, control: Mapping[str, object]) -> bytes:
        """Give a control frame that the caller will send."""
        frame = dict(control)
        kind = kind_of(frame)
        if kind in ("op", "ok") and "body" in frame:
            self.own_body = Tally()
            self._own_bodies.append(self.own_body)
        self._note(frame, kind, self._side)
        self.halves.step(self._side, _step(frame, kind), breaks_off=_breaks_off(frame))
        return control_frame(frame)

    def made_data(self, payload: bytes) -> bytes:
        """Give a data frame that the caller will send."""
        self.halves.step(self._side, "data")
        self.own_body.add(payload)
        return data_frame(payload)

    def send_raw(self, data: bytes) -> None:
        """Send bytes after which the peer need not find any order."""
        self.halves.is_broken = True
        self.send_bytes(data)

    def send_bytes(self, data: bytes, *, descriptors: tuple[int, ...] = ()) -> None:
        """Send bytes as they are, and take in what comes meanwhile.

        A peer that has closed is no failure here: what it said before can still be read.
        """
        rest = memoryview(data)
        while rest:
            reads = [] if self._is_eof else [self._sock]
            readable, writable, _ = select.select(reads, [self._sock], [], self._timeout)
            if readable:
                self._read()
            if writable:
                try:
                    rest = rest[self._write(rest, descriptors) :]
                except BlockingIOError:
                    continue
                except OSError as exc:
                    if exc.errno not in _BROKEN:
                        raise
                    return
                descriptors = ()
            if not (readable or writable):
                self._fail("the bytes sent to be taken", f"no progress for {self._timeout:g} s")

    def send_apart(self, data: bytes, size: int = 1) -> None:
        """Send bytes in pieces that a peer that reads at once sees one by one.

        Each follows when the one before was read, or the timeout is over.
        """
        for start in range(0, len(data), size):
            self.send_bytes(data[start : start + size])
            deadline = time.monotonic() + self._timeout
            while self._unread() and time.monotonic() < deadline:
                time.sleep(0)

    def _unread(self) -> int:
        """How much memory holds what the peer has not read; 0 where the kernel does not tell."""
        try:
            answer = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(answer, sys.byteorder)

    def receive(self) -> Frame | None:
        """Give the next frame, judged, or `None` at the end of the connection.

        Raises:
            FailedError: It is against the contract, or nothing came in time.
        """
        deadline = time.monotonic() + self._timeout
        while (frame := self._next()) is None and not self._is_eof:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._sock], [], [], left)[0]:
                self._fail("an answer", f"nothing for {self._timeout:g} s")
            if self._read():
                deadline = time.monotonic() + self._timeout
        if frame is None:
            if self._reader.pending and not self.halves.is_broken:
                self._fail("whole frames", f"the end inside a frame, {self._reader.pending} bytes")
            return None
        self._judge(frame)
        return frame

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing at all comes for so long."""
        deadline = time.monotonic() + seconds
        while not (self._reader.pending or self._is_eof):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._sock], [], [], left)[0]:
                return True
            self._read()
        return False

    def take_descriptor(self) -> int:
        """Give the descriptor of the answer that was received last; the caller closes it."""
        return self._announced.pop()

    def _write(self, data: memoryview, descriptors: tuple[int, ...]) -> int:
        if not descriptors:
            return self._sock.send(data, socket.MSG_NOSIGNAL)
        return socket.send_fds(self._sock, [data], list(descriptors), socket.MSG_NOSIGNAL)

    def _read(self) -> bool:
        """Take in what is there; give false at the end and when nothing is."""
        try:
            data = self._receive_message()
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It takes the place of the end when the peer left something of ours unread.
            data, self._is_reset = b"", True
        self._is_eof = not data
        self._reader.receive(data)
        return bool(data)

    def _receive_message(self) -> bytes:
        if not self.takes_descriptors:
            return self._sock.recv(_CHUNK)
        data, ancillary, flags, _ = self._sock.recvmsg(_CHUNK, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = content[: len(content) // 4 * 4]
                self._descriptors += struct.unpack(f"{len(whole) // 4}i", whole)
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > 1:
            self._fail("at most one descriptor at a time", f"{len(self._descriptors)} or more")
        return data

    def _next(self) -> Frame | None:
        try:
            return self._reader.next()
        except FrameError as exc:
            self._fail("a frame as section 2 and 3 have it", str(exc))

    def _judge(self, frame: Frame) -> None:
        peer = other(self._side)
        if isinstance(frame, bytes):
            self._check_order(peer, "data", frame)
            self.peer_body.add(frame)
            return
        if complaint := check_frame(frame):
            self._fail("a frame that fits its schema", f"{shown(frame)}: {complaint}")
        self._listener(frame)
        kind = kind_of(frame)
        is_hello = self.halves.states[peer] == "hello"
        self._check_order(peer, _step(frame, kind), frame)
        self._was_refused |= kind == "error" and (is_hello or _breaks_off(frame))
        if "body" in frame:
            self.peer_body = Tally()
        self._note(frame, kind, peer)
        self._check_content(frame, kind)
        if self.halves.are_ready and self._descriptors:
            self._fail("no descriptor without its frame", "one more than was announced")

    def _check_order(self, peer: Side, step: str, frame: Frame) -> None:
        if self.halves.is_broken:
            return
        breaks_off = not isinstance(frame, bytes) and _breaks_off(frame)
        if complaint := self.halves.step(peer, step, breaks_off=breaks_off):
            self._fail("frames in the order of section 5", f"{complaint}: {shown(frame)}")

    def _note(self, frame: Control, kind: str, sender: Side) -> None:
        """Remember what later frames are judged by."""
        if kind == "hello":
            features = cast("list[str]", cast("Control", frame["hello"])["features"])
            if sender == "client":
                self.offered = features
            else:
                self.features = features
        elif kind == "op":
            self.op = str(frame["op"])
            self._accepts_fd = frame.get("accept_fd") is True
        elif kind == "ok":
            length = cast("Control", frame["ok"]).get("length")
            self._body_length = length if isinstance(length, int) else None
            self._is_streamed = frame.get("body") != "fd"

    def _check_content(self, frame: Control, kind: str) -> None:
        if kind == "hello" and self._side == "client":
            if extra := set(self.features) - set(self.offered):
                self._fail("features that were offered", shown(sorted(extra)))
        elif kind == "op":
            self._check_map(ARGUMENTS, frame["args"], "args")
        elif kind == "ok":
            self._check_map(RESULTS, frame["ok"], "result")
            if frame.get("body") == "fd":
                self._match_descriptor()
        elif kind == "end":
            self._check_end(cast("Control", frame["end"]))
        if kind == "op":
            self._check_features(frame)

    def _check_features(self, request: Control) -> None:
        if request.get("body") == "fd" and "ingest_fd" not in self.features:
            self._fail("no descriptor without the feature", shown(request))
        if request.get("accept_fd") and "serve_fd" not in self.features:
            self._fail("no accept_fd without the feature", shown(request))

    def _check_map(
        self, checks: Mapping[str, Callable[[object], str | None]], value: object, name: str
    ) -> None:
        check = checks.get(self.op)
        if check and (complaint := check(value)):
            self._fail(f"{name} of {self.op} as its schema has it", f"{name}{complaint}")

    def _match_descriptor(self) -> None:
        if "serve_fd" not in self.features or not self._accepts_fd:
            self._fail("no descriptor where none was agreed", "an answer with body fd")
        if not self._descriptors:
            self._fail("a descriptor with the frame that announces it", "none")
        self._announced.append(self._descriptors.pop(0))
        # Its bytes do not come through the socket.
        self.peer_body.size = self._body_length or 0

    def _check_end(self, end: Control) -> None:
        size, digest = end["size_bytes"], str(end.get("digest", ""))
        if size != self.peer_body.size:
            self._fail(f"end of {self.peer_body.size} bytes", f"size_bytes {size}")
        # A client may state what it expects instead of what it has sent.
        is_computed = self._side == "client" and self._is_streamed
        if is_computed and digest.startswith("sha256:") and digest != self.peer_body.sha256:
            self._fail(f"end with digest {self.peer_body.sha256}", digest)
        if self._side == "client" and self._body_length not in (None, size):
            self._fail(f"end that repeats the length {self._body_length}", f"size_bytes {size}")

    def _fail(self, expected: str, got: str) -> NoReturn:
        raise FailedError(expected, got)


def _step(control: Control, kind: str) -> str:
    is_announcing = kind in ("op", "ok") and "body" in control
    return f"{kind}+{control['body']}" if is_announcing else kind


def _breaks_off(control: Control) -> bool:
    error = control.get("error")
    return isinstance(error, dict) and cast("Control", error).get("code") == "protocol"
