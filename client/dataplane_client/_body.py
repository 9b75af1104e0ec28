"""A served object: the body of an answer, as an async iterator that knows its size."""

import hashlib
import warnings
from types import TracebackType
from typing import Self

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

from ._pool import Lease
from ._waiting import Waiting


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


class ServedObject:
    """An open object, or a range of one: an async iterator of `bytes`, used by one task.

    The last piece comes out only after the daemon has confirmed the body and the body was
    checked, so that nobody can take one that breaks off for a whole one. All pieces are
    provisional until then.

    Reaching the end gives the connection back to the pool. `aclose` before that closes the
    connection, which tells the daemon to stop. So do an error and a cancellation while a
    piece is awaited.

    Args:
        lease: The connection, right after the answer that announced the body.
        waiting: How to wait.
        served: That answer.
        address: What was asked for.
    """

    def __init__(
        self, lease: Lease, waiting: Waiting, served: ServeResult, address: ContentAddress
    ) -> None:
        self._is_closed = False
        self._is_ended = False
        self._is_busy = False
        self._lease = lease
        self._waiting = waiting
        self._served = served
        self._check = Check(served, address.to_digest())

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
        if self._is_ended:
            raise StopAsyncIteration
        if self._is_closed:
            raise InvalidRequestError("the served object was closed before its end")
        if self._is_busy:
            raise InvalidRequestError("another task is reading the served object")
        self._is_busy = True
        try:
            piece = await self._next()
        except BaseException:
            self._close()
            raise
        finally:
            self._is_busy = False
        if self._is_ended:
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
        self._lease.release(in_finalizer=True)
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)

    async def _next(self) -> bytes:
        """Give a piece, or nothing at the end; the last piece only with the end."""
        await self._waiting.check_cancelled()
        connection = self._lease.connection
        reads = connection.reads
        event = await connection.receive()
        piece = b""
        if isinstance(event, memoryview):
            # The view dies with the next read, and the caller may keep the piece.
            piece = bytes(event)
            self._check.take(piece)
            if self._check.is_all_here:
                event = await connection.receive()
        if not isinstance(event, memoryview) or self._check.is_all_here:
            self._finish(event)
        if connection.reads == reads:
            await self._waiting.step_aside()
        return piece

    def _finish(self, last: Message | memoryview) -> None:
        try:
            self._check.finish(last)
        except BaseException:
            # A body that the daemon broke off in good order is over; any other is not.
            if not isinstance(last, Failure):
                self._lease.connection.close()
            raise
        self._is_ended = True

    def _close(self) -> None:
        self._is_closed = True
        self._lease.release()
