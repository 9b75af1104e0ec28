"""A served object: the body of an answer, as an async iterator that knows its size."""

import hashlib
import os
import warnings
from types import TracebackType
from typing import Final, Protocol, Self

from dataplane_protocol import (
    SHA256,
    BodyMismatchError,
    ContentAddress,
    Digest,
    End,
    Failure,
    InvalidRequestError,
    Message,
    ObjectCorruptError,
    ServeResult,
)

from ._calls import Opened
from ._descriptors import close
from ._pool import Lease
from ._waiting import Waiting

#: Bytes read from a file in one go: few enough to be flat, many enough for a thread's price.
_READ_SIZE: Final = 1_048_576


class Check:
    """What a body has to be, held against what came and what its `end` says.

    A whole object asked for by SHA-256 is hashed here. BLAKE3 takes a library that a client
    need not have: its digest is only compared with the one that the daemon computed.

    Args:
        served: The answer that announced the body.
        asked: The digest that the object was asked for by.
    """

    def __init__(self, served: ServeResult, asked: Digest) -> None:
        self._length = served.length
        self._asked = asked if served.length == served.size_bytes else None
        is_computable = self._asked is not None and asked.algorithm == SHA256
        self._hash = hashlib.sha256(usedforsecurity=False) if is_computable else None
        self._received = 0

    @property
    def is_all_here(self) -> bool:
        """Whether no further piece may come."""
        return self._received >= self._length

    @property
    def is_too_long(self) -> bool:
        """Whether more came than was announced."""
        return self._received > self._length

    def take(self, piece: bytes) -> None:
        """Note a piece."""
        self._received += len(piece)
        if self._hash is not None:
            self._hash.update(piece)

    def finish(self, last: Message | memoryview) -> None:
        """Judge the body by what came after its pieces.

        Raises:
            DataPlaneError: The daemon broke the body off for this reason.
            BodyMismatchError: The body is not what was announced, or not what was sent.
            ObjectCorruptError: It was sent well but is not the object asked for.
        """
        if isinstance(last, Failure):
            raise last.to_error()
        if not isinstance(last, End):
            raise BodyMismatchError(f"body has more than the {self._length} bytes announced")
        last.check_size(self._received)
        if self._received != self._length:
            raise BodyMismatchError(
                f"body has {self._received} bytes, {self._length} were announced",
                details={"size_bytes": self._received},
            )
        self._check_digest(last.digest)

    def _check_digest(self, stated: Digest | None) -> None:
        actual = stated
        if self._hash is not None:
            actual = Digest(SHA256, self._hash.hexdigest())
            if stated is not None and stated.algorithm == SHA256 and stated != actual:
                raise BodyMismatchError(f"body is {actual}, its end states {stated}")
        if self._asked is None or actual is None or actual.algorithm != self._asked.algorithm:
            return
        if actual != self._asked:
            raise ObjectCorruptError(
                f"the daemon served {actual}, {self._asked} was asked for",
                details={"actual_primary_digest": str(actual)},
            )


class Body(Protocol):
    """Where the pieces of a served object come from."""

    @property
    def served(self) -> ServeResult:
        """What is served."""
        ...

    @property
    def is_ended(self) -> bool:
        """Whether the last piece was given, and all of it was checked."""
        ...

    async def next(self) -> bytes:
        """Give a piece, or nothing at the end of an empty body."""
        ...

    def close(self, *, in_finalizer: bool = False) -> None:
        """Let go of whatever is held. Idempotent; never waits."""
        ...


class StreamedBody:
    """The frames that follow the answer.

    Args:
        lease: The connection, right after the answer.
        waiting: How to wait.
        served: That answer.
        check: What the body has to be.
    """

    def __init__(self, lease: Lease, waiting: Waiting, served: ServeResult, check: Check) -> None:
        self.served = served
        self.is_ended = False
        self._lease = lease
        self._waiting = waiting
        self._check = check

    async def next(self) -> bytes:
        """Give a piece; the last one only with the end, or nothing with it."""
        await self._waiting.check_cancelled()
        connection = self._lease.connection
        reads = connection.reads
        event = await connection.receive()
        piece = b""
        if isinstance(event, memoryview):
            # The view dies with the next read, and the caller may keep the piece.
            piece = bytes(event)
            self._check.take(piece)
            # Of a body that is too long already nothing else needs to come.
            if self._check.is_all_here and not self._check.is_too_long:
                event = await connection.receive()
        if not isinstance(event, memoryview) or self._check.is_all_here:
            self._finish(event)
        if connection.reads == reads:
            await self._waiting.step_aside()
        return piece

    def close(self, *, in_finalizer: bool = False) -> None:
        """Give the connection back after the end, and close it before that."""
        self._lease.release(in_finalizer=in_finalizer)

    def _finish(self, last: Message | memoryview) -> None:
        try:
            self._check.finish(last)
        except BaseException:
            # A body that the daemon broke off in good order is over; any other is not.
            if not isinstance(last, Failure):
                self._lease.connection.close()
            raise
        self.is_ended = True


class FileBody:
    """A file with the whole object, read here. The daemon has nothing to do with it any more.

    Args:
        fd: The file; closed with this.
        waiting: How to wait.
        served: The answer that the file came with.
        end: The end that came after it.
        check: What the body has to be.
    """

    def __init__(
        self, fd: int, waiting: Waiting, served: ServeResult, end: End, check: Check
    ) -> None:
        self.served = served
        self.is_ended = False
        self._fd = fd
        self._waiting = waiting
        self._end = end
        self._check = check
        self._offset = served.offset
        self._left = served.length
        self._is_reading = False
        self._is_closed = False

    async def next(self) -> bytes:
        """Give a piece; the last one only after the check of all."""
        self._is_reading = True
        try:
            piece = await self._waiting.in_thread(self._read)
        finally:
            self._is_reading = False
            if self._is_closed:
                self.close()
        self._offset += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._check.finish(self._end)
            self.is_ended = True
        return piece

    def close(self, *, in_finalizer: bool = False) -> None:  # noqa: ARG002
        """Close the file, once no thread reads it: its number may be another file's then."""
        self._is_closed = True
        if not self._is_reading and self._fd >= 0:
            fd, self._fd = self._fd, -1
            close(fd)

    def _read(self) -> bytes:
        try:
            # Not read(2): the file's position is shared with whoever else has it.
            piece = os.pread(self._fd, min(self._left, _READ_SIZE), self._offset)
        except OSError as exc:
            raise ObjectCorruptError(f"the object's file cannot be read: {exc.strerror}") from exc
        if self._left and not piece:
            raise ObjectCorruptError(f"the object's file ends at byte {self._offset}")
        self._check.take(piece)
        return piece


def open_body(lease: Lease, waiting: Waiting, opened: Opened, address: ContentAddress) -> Body:
    """Give the body of an answer. A lease that it has no need of is released."""
    check = Check(opened.served, address.to_digest())
    if opened.fd is None or opened.end is None:
        return StreamedBody(lease, waiting, opened.served, check)
    lease.release()
    return FileBody(opened.fd, waiting, opened.served, opened.end, check)


class ServedObject:
    """An open object, or a range of one: an async iterator of `bytes`, used by one task.

    The last piece comes out only after the daemon has confirmed the body and the body was
    checked, so that nobody can take one that breaks off for a whole one. All pieces are
    provisional until then.

    Reaching the end gives the connection back to the pool. `aclose` before that closes the
    connection, which tells the daemon to stop. So do an error and a cancellation while a
    piece is awaited. A large object may come as a file instead, which is read here while the
    connection serves other calls; nothing but the speed tells.

    Args:
        body: Where its pieces come from.
    """

    def __init__(self, body: Body) -> None:
        self._is_closed = False
        self._is_busy = False
        self._body = body
        self._served = body.served

    @property
    def size(self) -> int:
        """Bytes of the whole object."""
        return self._served.size_bytes

    @property
    def offset(self) -> int:
        """Where in the object the first byte of this stream is."""
        return self._served.offset

    @property
    def length(self) -> int:
        """Bytes that this stream gives in all."""
        return self._served.length

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Give the next piece, never empty; the caller may keep it.

        Raises:
            ObjectCorruptError: The stored bytes are bad.
            BodyMismatchError: The body is not what its answer and its end say.
            UnavailableError: The connection was lost before the end.
            InvalidRequestError: The object was closed before its end, or another task is
                waiting for a piece of it.
        """
        if self._body.is_ended:
            raise StopAsyncIteration
        if self._is_closed:
            raise InvalidRequestError("the served object was closed before its end")
        if self._is_busy:
            raise InvalidRequestError("another task is reading the served object")
        self._is_busy = True
        try:
            piece = await self._body.next()
        except BaseException:
            self._close()
            raise
        finally:
            self._is_busy = False
        if self._body.is_ended:
            self._close()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Let go of the object. Idempotent; never waits."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def __repr__(self) -> str:
        return f"<ServedObject: {self.length} bytes from {self.offset} of {self.size}>"

    def __del__(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._body.close(in_finalizer=True)
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    def _close(self) -> None:
        self._is_closed = True
        self._body.close()
