"""The other end of one accepted connection: events in, frames out.

The socket is read and written directly, and trio only asked to wait when the kernel has
nothing: its own sockets, and a deadline for each read and write, take longer than a small call.
"""

import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Final, TypeVar

import trio

from dataplane_protocol import (
    DATA_SIZE,
    STALL_TIMEOUT,
    Buffer,
    Connection,
    ConnectionClosed,
    Event,
    Failure,
    Message,
    RemoteProtocolError,
    Side,
    State,
    unsent,
)

T = TypeVar("T")

#: Bytes read from a socket in one go; a data frame of the usual size fits.
_BUFFER_SIZE: Final = 262_144 + 9

#: Bytes that may be on their way: some frames, so that neither side waits for each of them.
_SEND_BUFFER: Final = 1024 * 1024

#: Buffers that sendmsg(2) takes at a time.
_MAX_BUFFERS: Final = 1024

#: Queued bytes that are sent without waiting for more.
_FLUSH_SIZE: Final = 65_536

#: Bytes of the head of a data frame of the usual size.
_HEAD_SIZE: Final = 9

#: Seconds after which a thread that waits for a peer looks whether it still should.
_LOOK_UP_S: Final = 0.2

#: Reads and writes in a row that did not have to wait, after which other tasks have a turn.
_MOST_AT_ONCE: Final = 8


class PeerGoneError(Exception):
    """The peer closed or broke off, or made no progress. Nobody is left to answer."""


class PeerViolationError(Exception):
    """The peer broke the contract; the cause says how."""


class BufferPool:
    """Receive buffers that are free, so that an idle connection holds none.

    A fresh buffer costs more than a small call: the kernel hands it out page by page.
    """

    def __init__(self, keep: int = 32) -> None:
        self._free: list[bytearray] = []
        self._keep = keep

    def take(self) -> bytearray:
        """Give a buffer of unspecified content."""
        return self._free.pop() if self._free else bytearray(_BUFFER_SIZE)

    def give(self, buffer: bytearray) -> None:
        """Take a buffer back that nobody looks at any more."""
        if len(self._free) < self._keep:
            self._free.append(buffer)


class Peer:
    """One connection. One task uses it at a time.

    Args:
        socket: The accepted socket; closed by `close`.
        buffers: Where receive buffers come from.
        stall_timeout_s: Seconds that the other end may make no progress within a call.
    """

    def __init__(
        self,
        socket: socket.socket,
        buffers: BufferPool,
        stall_timeout_s: float = STALL_TIMEOUT,
    ) -> None:
        self.stall_timeout_s = stall_timeout_s
        self.connection = Connection(Side.SERVER)
        socket.setblocking(False)
        # What the kernel does not allow it cuts down.
        socket.setsockopt(SOL_SOCKET, SO_SNDBUF, _SEND_BUFFER)
        self._socket = socket
        self._buffers = buffers
        self._buffer: bytearray | None = None
        self._outgoing: list[Buffer] = []
        self._outgoing_size = 0
        self._descriptor = -1
        self._at_once = 0
        self._head = memoryview(bytearray(64))
        self._rest = memoryview(b"")

    def fileno(self) -> int:
        """Give the socket's number; -1 once it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket. What was sent is still delivered."""
        self._drop_descriptor()
        self._drop_buffer()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def wait(self) -> None:
        """Wait, without a buffer and for as long as it takes, until something arrives."""
        self.rest()
        await trio.lowlevel.wait_readable(self._socket)

    def rest(self) -> None:
        """Hold no buffer until something arrives."""
        self._drop_buffer()

    def receive_now(self, buffer: bytearray) -> int:
        """Read what is there into a buffer, for whoever takes the bytes to `connection`.

        Raises:
            OSError: As recv(2), `BlockingIOError` included.
        """
        return self._socket.recv_into(buffer)

    def send_now(self, frames: Sequence[Buffer]) -> bool:
        """Send frames, and put what the kernel does not take at once before the next `flush`.

        Returns:
            Whether all of it is gone; otherwise `flush` has to be called.
        """
        # For so few bytes, to join them costs less than to hand over a list of buffers.
        data = b"".join(frames)
        try:
            sent = self._socket.send(data, socket.MSG_NOSIGNAL)
        except OSError:
            sent = 0  # the socket is full, or `flush` will find it broken
        if sent < len(data):
            self._queue(data[sent:])
        return not self._outgoing

    async def receive(self) -> Event:
        """Give the next event. A piece of payload is good until the next call.

        Raises:
            PeerGoneError: The connection broke off, or nothing came for the stall timeout.
            PeerViolationError: What came is against the contract.
        """
        while (event := self._next_event()) is None:
            await self._fill()
        return event

    def receive_payload(self, buffer: memoryview) -> int | Event:
        """Do what `receive` does in a thread that trio started, while the task waits for it.

        Args:
            buffer: Where payload goes, as far as it has room.

        Returns:
            How many bytes of payload came, or an event that is none.

        Raises:
            trio.Cancelled: The task was cancelled.
            PeerGoneError, PeerViolationError: As `receive`.
        """
        trio.from_thread.check_cancelled()
        while True:
            if self._rest:
                part = self._rest[: len(buffer)]
                buffer[: len(part)] = part
                self._rest = self._rest[len(part) :]
                return len(part)
            event = self._next_event()
            if isinstance(event, memoryview):
                self._rest = event
            elif event is not None:
                return event
            elif count := self._receive_directly(buffer):
                return count

    def _next_event(self) -> Event | None:
        try:
            event = self.connection.next_event()
        except RemoteProtocolError as exc:
            raise PeerViolationError(str(exc)) from exc
        if isinstance(event, ConnectionClosed) and not event.is_clean:
            raise PeerGoneError("connection was closed in the middle of a call")
        if isinstance(event, Failure) and self.connection.their_state is State.CLOSED:
            raise PeerGoneError("peer broke off the connection")
        return event

    def _receive_directly(self, buffer: memoryview) -> int:
        """Receive payload that is due where it is wanted, and the head of the next frame.

        Returns:
            The bytes of payload; 0 when something else came.
        """
        payload = buffer[: self.connection.due_payload]
        # More than a head is only received when no payload can be in it.
        head = self._head[: _HEAD_SIZE if payload else len(self._head)]
        received = self._blocking(lambda: self._socket.recvmsg_into((payload, head)), select.POLLIN)
        count = received[0]
        if not count:
            self.connection.receive_eof()
            return 0
        taken = min(count, len(payload))
        if taken:
            self.connection.receive(payload[:taken])
            self._next_event()  # the very bytes
        if count > taken:
            self.connection.receive(head[: count - taken])
        return taken

    def _blocking(self, operation: Callable[[], T], event: int) -> T:
        """Do what `_attempt` does, in a thread that trio started."""
        waited_s = 0.0
        while True:
            try:
                return operation()
            except BlockingIOError:
                pass
            except OSError as exc:
                raise PeerGoneError(f"connection was lost: {exc.strerror}") from exc
            poll = select.poll()
            poll.register(self._socket, event)
            while not poll.poll(_LOOK_UP_S * 1000):
                trio.from_thread.check_cancelled()
                waited_s += _LOOK_UP_S
                if waited_s >= self.stall_timeout_s:
                    raise PeerGoneError(f"peer made no progress for {self.stall_timeout_s:g} s")

    def queue(self, message: Message) -> None:
        """Put a control frame behind what is already to be sent."""
        self._queue(self.connection.send(message))

    def queue_descriptor(self, message: Message, fd: int) -> None:
        """Put a control frame that announces a descriptor first; `fd` is closed once sent.

        Nothing else may be queued before it: the descriptor travels with the first byte.
        """
        assert not self._outgoing
        self._descriptor = fd
        self.queue(message)

    async def send(self, message: Message) -> None:
        """Send a control frame, and what was queued before it.

        Raises:
            PeerGoneError: As `flush`.
        """
        self.queue(message)
        await self.flush()

    async def send_data(self, piece: bytes | memoryview) -> None:
        """Send a piece of a body; a small one waits for more or for `flush`.

        Raises:
            PeerGoneError: As `flush`.
        """
        view = memoryview(piece)
        for start in range(0, len(view), DATA_SIZE):
            for part in self._data_frame(view[start : start + DATA_SIZE]):
                self._queue(part)
            if self._outgoing_size >= _FLUSH_SIZE:
                await self.flush()

    def send_payload(self, piece: memoryview) -> None:
        """Do what `send_data` does in a thread that trio started, after a `flush`.

        Raises:
            trio.Cancelled: The task that waits for the thread was cancelled.
            PeerGoneError: As `flush`.
        """
        trio.from_thread.check_cancelled()
        buffers: Sequence[Buffer] = [
            part
            for start in range(0, len(piece), DATA_SIZE)
            for part in self._data_frame(piece[start : start + DATA_SIZE])
        ]
        while buffers:
            sent = self._blocking(
                partial(self._socket.sendmsg, buffers, (), socket.MSG_NOSIGNAL), select.POLLOUT
            )
            buffers = unsent(buffers, sent)

    async def flush(self) -> None:
        """Send all that is queued.

        Raises:
            PeerGoneError: The peer has closed, or took nothing for the stall timeout.
        """
        buffers: Sequence[Buffer] = self._outgoing
        self._outgoing = []
        self._outgoing_size = 0
        while buffers:
            # sendmsg(2) may take a part; the descriptor has then gone with its first byte.
            sent = await self._send_some(buffers[:_MAX_BUFFERS])
            self._drop_descriptor()
            buffers = unsent(buffers, sent)

    async def raise_when_gone(self) -> None:
        """Watch an idle half: raise `PeerGoneError` on EOF, return when bytes arrive."""
        await trio.lowlevel.wait_readable(self._socket)
        if not await self._attempt(
            lambda: self._socket.recv(1, socket.MSG_PEEK), trio.lowlevel.wait_readable
        ):
            raise PeerGoneError("connection was closed while the call was worked on")

    def _data_frame(self, payload: memoryview) -> tuple[bytes, memoryview]:
        return self.connection.send_data(len(payload)), payload

    def _queue(self, buffer: bytes | memoryview) -> None:
        self._outgoing.append(buffer)
        self._outgoing_size += len(buffer)

    def _drop_buffer(self) -> None:
        buffer, self._buffer = self._buffer, None
        if buffer is not None:
            self._buffers.give(buffer)

    def _ancillary(self) -> list[tuple[int, int, bytes]]:
        if self._descriptor < 0:
            return []
        rights = struct.pack("i", self._descriptor)
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]

    def _drop_descriptor(self) -> None:
        fd, self._descriptor = self._descriptor, -1
        if fd >= 0:
            os.close(fd)

    async def _fill(self) -> None:
        data = await self._attempt(self._receive_some, self._wait_without_buffer)
        if data:
            self.connection.receive(data)
        else:
            self.connection.receive_eof()

    def _receive_some(self) -> memoryview:
        if self._buffer is None:
            self._buffer = self._buffers.take()
        count = self._socket.recv_into(self._buffer)
        return memoryview(self._buffer)[:count]

    async def _wait_without_buffer(self, peer: socket.socket) -> None:
        # Whoever stops within a frame must not keep a buffer from all others until it stalls.
        self._drop_buffer()
        await trio.lowlevel.wait_readable(peer)

    async def _send_some(self, buffers: Sequence[Buffer]) -> int:
        ancillary = self._ancillary()
        return await self._attempt(
            lambda: self._socket.sendmsg(buffers, ancillary, socket.MSG_NOSIGNAL),
            trio.lowlevel.wait_writable,
        )

    async def _attempt(
        self, operation: Callable[[], T], wait: Callable[[socket.socket], Awaitable[None]]
    ) -> T:
        """Do it at once if the kernel can, and wait for that otherwise, but not for ever."""
        self._at_once += 1
        if self._at_once > _MOST_AT_ONCE:
            self._at_once = 0
            await trio.lowlevel.checkpoint()
        try:
            while True:
                try:
                    return operation()
                except BlockingIOError:
                    self._at_once = 0
                    with trio.fail_after(self.stall_timeout_s):
                        await wait(self._socket)
        except trio.TooSlowError:
            raise PeerGoneError(f"peer made no progress for {self.stall_timeout_s:g} s") from None
        except OSError as exc:
            raise PeerGoneError(f"connection was lost: {exc.strerror}") from exc
