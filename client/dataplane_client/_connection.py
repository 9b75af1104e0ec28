"""One connection to the daemon: a raw socket and both half-machines.

It keeps the order of the wire and nothing else: which frames a call sends is decided by the
calls, and whether a connection may be used again by the pool, from `is_reusable`.
"""

import errno
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from dataplane_protocol import (
    PROTOCOL_VERSION,
    SERVE_FD,
    AccessDeniedError,
    BodyKind,
    Buffer,
    Connection,
    ConnectionClosed,
    Failure,
    Hello,
    InvalidRequestError,
    Message,
    Ok,
    RemoteProtocolError,
    Request,
    Side,
    State,
    UnavailableError,
    UnsupportedError,
    unsent,
)

from ._descriptors import ANCILLARY_SIZE, Descriptors
from ._version import __version__
from ._waiting import Waiting

_HELLO: Final = Hello(features=(SERVE_FD,), agent=f"dataplane-client/{__version__}")

#: The fastest size to receive with: that of the daemon's data frames.
_BUFFER_SIZE: Final = 262_144

#: Bytes that may be on their way: some frames, so that neither side waits for each of them.
_SEND_BUFFER: Final = 1024 * 1024

#: unix(7): `sun_path` has 108 bytes, the last one a NUL.
_MAX_PATH: Final = 107

#: Seconds between attempts while the daemon's backlog is full, first and most.
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class ConnectionLostError(UnavailableError):
    """The daemon closed the connection, or it broke. The pool may try once more."""


def check_path(path: str | os.PathLike[str]) -> str:
    """Give the path as text.

    Raises:
        InvalidRequestError: No socket can have it.
    """
    text = os.fspath(path)
    size = len(os.fsencode(text))
    if not 1 <= size <= _MAX_PATH:
        raise InvalidRequestError(f"socket path has {size} bytes, must have 1 to {_MAX_PATH}")
    return text


class DaemonConnection:
    """A connection, from its socket to its end. One task uses it at a time.

    After an exception, ask `is_reusable` and close it if it is not. `abort` and `close` may
    come from anywhere at any time.

    Args:
        path: Where the daemon listens.
        waiting: How to wait.

    Attributes:
        protocol: The half-machines, for what they know and for making frames.
        is_reused: Whether the pool has given it out before.
        is_lost: Whether the daemon closed it or it broke.
        is_write_broken: Whether the daemon takes no more bytes. It may still have said why.
        has_answer: Whether a byte has come since `begin`.
        reads: How often bytes came.
    """

    def __init__(self, path: str, waiting: Waiting) -> None:
        self.protocol = Connection(Side.CLIENT)
        self.is_reused = False
        self.is_lost = False
        self.is_write_broken = False
        self.has_answer = False
        self.reads = 0
        self._path = path
        self._waiting = waiting
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._is_writing = False
        self._is_waiting = False
        self._is_aborted = False
        # Closing and shutting down must not meet, or the latter may hit another socket that
        # was given the same descriptor. A finalizer may do either within the other.
        self._lock = threading.RLock()
        self._descriptors = Descriptors()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        # What the kernel does not allow it cuts down.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    @property
    def is_reusable(self) -> bool:
        """Whether a call may start: none is open, and no frame is cut off either way."""
        is_broken = self._is_writing or self.is_write_broken or self._is_aborted
        return self.protocol.is_reusable and not (is_broken or self._descriptors.are_waiting)

    @property
    def is_stale(self) -> bool:
        """Whether the daemon has closed it, or said something unasked, since its last call."""
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def open(self) -> None:
        """Connect and exchange hellos.

        Raises:
            UnavailableError: Nobody listens there, or the daemon takes no more clients.
            AccessDeniedError: The socket's mode or the daemon refuses this user.
            UnsupportedError: The daemon speaks another version.
            RemoteProtocolError: Whoever listens there is no daemon.
        """
        await self._connect()
        await self.send(self.protocol.send(_HELLO))
        answer = await self.receive()
        if isinstance(answer, Failure):
            raise answer.to_error()
        if isinstance(answer, Hello) and answer.version != PROTOCOL_VERSION:
            raise UnsupportedError(
                f"the daemon speaks version {answer.version}, this client {PROTOCOL_VERSION}",
                details={"versions": [answer.version]},
            )

    def begin(self, request: Request) -> bytes:
        """Open a call: give the frame of its request, to be sent with what goes with it."""
        self.has_answer = False
        return self.protocol.send(request)

    async def send(self, *frames: Buffer) -> None:
        """Send bytes in as few writes as the socket allows.

        Returns early when the connection broke, and notes that in `is_write_broken`: the
        daemon may have said why before it closed, and that can still be read.

        Raises:
            UnavailableError: The bytes could not be sent for another reason.
        """
        self._is_writing = True
        rest: Sequence[Buffer] = frames
        while rest:
            self._check_aborted()
            try:
                sent = self._socket.sendmsg(rest, (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await self._wait(is_writing=True)
                continue
            except OSError as exc:
                if exc.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise UnavailableError(f"cannot send to the daemon: {exc.strerror}") from exc
                self.is_write_broken = True
                return
            rest = unsent(rest, sent)
        self._is_writing = False

    async def receive(self) -> Message | memoryview:
        """Wait for the next message or piece; a piece is good until the next call of this.

        Raises:
            ConnectionLostError: The connection ended.
            RemoteProtocolError: The daemon violated framing or order.
        """
        while (event := self._next_event()) is None:
            await self._waiting.check_cancelled()
            if self._read():
                await self._waiting.step_aside()
            else:
                await self._wait(is_writing=False)
                self._read()
        return event

    async def receive_answer(self, *bodies: BodyKind | None) -> Ok:
        """Wait for the answer of the open call.

        Args:
            bodies: What may follow the answer.

        Raises:
            DataPlaneError: The error that the daemon answers, or as `receive`.
        """
        answer = await self.receive()
        if isinstance(answer, Failure):
            raise answer.to_error()
        if not isinstance(answer, Ok) or answer.body not in bodies:
            raise RemoteProtocolError("the answer has a body, or lacks one, against the contract")
        return answer

    def take_descriptor(self) -> int:
        """Give the descriptor that an answer has just announced, for the caller to close.

        Raises:
            RemoteProtocolError: None came with it.
        """
        return self._descriptors.take()

    def poll(self) -> Message | memoryview | None:
        """Give what `receive` would without waiting, or `None`. Raises as it does."""
        event = self._next_event()
        if event is None and self._read():
            event = self._next_event()
        return event

    def abort(self) -> None:
        """Break it off for whoever uses it, who is woken and then raises."""
        with self._lock:
            self._is_aborted = True
            # Only a shutdown wakes every kind of waiter, and frees no descriptor under it.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket; an open call ends by that. Idempotent; never waits."""
        with self._lock:
            if self._is_waiting:
                self.abort()
                return
            self._is_aborted = True
            self._descriptors.close()
            self._socket.close()

    async def _connect(self) -> None:
        waited, pause = 0.0, _FIRST_PAUSE
        while True:
            self._check_aborted()
            try:
                self._socket.connect(self._path)
            except BlockingIOError:
                # connect(2): the backlog is full, and nothing tells when it no longer is.
                if waited >= self._waiting.stall_timeout:
                    raise UnavailableError(
                        f"the backlog of {self._path} was full for {waited:.3g} s"
                    ) from None
            except PermissionError as exc:
                raise AccessDeniedError(f"cannot connect to {self._path}: {exc.strerror}") from exc
            except OSError as exc:
                raise UnavailableError(f"cannot connect to {self._path}: {exc.strerror}") from exc
            else:
                return
            await self._waiting.pause(pause)
            waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)

    async def _wait(self, *, is_writing: bool) -> None:
        self._is_waiting = True
        try:
            if is_writing:
                await self._waiting.writable(self._socket)
            else:
                await self._waiting.readable(self._socket, is_patient=self._is_answer_due)
        finally:
            self._is_waiting = False
            if self._is_aborted:
                self.close()

    @property
    def _is_answer_due(self) -> bool:
        # A verify reads the whole object first and an ingest syncs it: no limit is right.
        return self.protocol.our_state is State.DONE and not self.has_answer

    def _read(self) -> bool:
        """Receive what is there; give false when nothing is."""
        self._check_aborted()
        try:
            size = self._receive_into_buffer()
        except BlockingIOError:
            return False
        except OSError:
            # A reset takes the place of the end when the daemon left bytes of ours unread.
            size = 0
        if size:
            self.has_answer = True
            self.reads += 1
            self.protocol.receive(self._buffer[:size])
        else:
            self.protocol.receive_eof()
        return True

    def _receive_into_buffer(self) -> int:
        # recv(2) would drop a descriptor unseen. The space is for one, and for a second, which
        # alignment gives anyway and which is a violation.
        size, ancillary, flags, _ = self._socket.recvmsg_into(
            (self._buffer,), ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
        )
        self._descriptors.receive(ancillary, is_cut=bool(flags & socket.MSG_CTRUNC))
        return size

    def _next_event(self) -> Message | memoryview | None:
        event = self.protocol.next_event()
        if isinstance(event, ConnectionClosed):
            self.is_lost = True
            raise ConnectionLostError("the daemon closed the connection")
        return event

    def _check_aborted(self) -> None:
        if self._is_aborted:
            raise UnavailableError("the connection was closed on this side", retry=False)
