"""An ingest: the caller's stream, cut into frames and sent, and what may come in between.

A daemon may answer before the body's end, to refuse it; the answer is looked for between
frames. A caller's stream may fail; the body is then called off in place, which leaves the
connection good for the next call (`SPEC.md` 5).
"""

import time
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

from dataplane_protocol import (
    DATA_SIZE,
    Buffer,
    CallCancelledError,
    DataPlaneError,
    Digest,
    End,
    ExpectedDigest,
    Failure,
    IngestResult,
    InvalidRequestError,
    RemoteProtocolError,
    Request,
    State,
    ingest_result_from_wire,
)

from ._connection import DaemonConnection

#: Seconds that bytes are kept back for company once more of them have come. Without a limit
#: a slow stream would look stalled to the daemon.
_LINGER: Final = 0.05

#: Pieces kept back one by one; beyond that they are joined. sendmsg(2) takes 1024 at most.
_MOST_PIECES: Final = 256

_CALLED_OFF: Final = Failure(code=CallCancelledError.default_code)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent at once: the payload of one frame or none, and perhaps the end."""

    payload: list[Buffer]
    size: int
    end: End | None = None


class Outgoing:
    """A caller's stream as batches of at most `DATA_SIZE` bytes.

    Small pieces are put together. At most one batch and the piece being cut are held.

    Args:
        stream: What the caller gave.
        expected_digest: What the caller said the bytes are.

    Raises:
        InvalidRequestError: The stream cannot be iterated, or the digest is none.
    """

    def __init__(
        self, stream: AsyncIterator[bytes], expected_digest: ExpectedDigest | None
    ) -> None:
        if not isinstance(cast("object", stream), AsyncIterable):
            raise InvalidRequestError(f"stream is a {type(stream).__name__}, must be iterable")
        if not callable(expected_digest):
            _check_digest(expected_digest)
        self._pieces = aiter(stream)
        self._expected_digest = expected_digest
        self._rest = memoryview(b"")
        self._is_rest_lasting = True
        self._kept: list[Buffer] = []
        self._kept_size = 0
        self._total = 0
        self._last_time: float | None = None

    async def next(self) -> Batch:
        """Give the next batch; the one with an end is the last.

        The payload is good until the next call of this.

        Raises:
            InvalidRequestError: The stream gave something that is not bytes.
            Exception: Whatever the caller's stream or digest function raised.
        """
        if self._last_time is None:
            self._last_time = time.monotonic()
        while True:
            self._keep(self._rest[: DATA_SIZE - self._kept_size])
            if self._kept_size == DATA_SIZE:
                return self._take()
            if self._kept and time.monotonic() - self._last_time > _LINGER:
                return self._take()
            # The caller may use the memory of its piece again once it is asked for another.
            if self._kept and not self._is_rest_lasting:
                self._kept[-1] = bytes(self._kept[-1])
            try:
                piece: object = await anext(self._pieces)
            except StopAsyncIteration:
                return self._take_last()
            self._rest = _view(piece)
            self._is_rest_lasting = type(piece) is bytes

    def _keep(self, part: memoryview) -> None:
        if not part:
            return
        if len(self._kept) == _MOST_PIECES:
            self._kept = [b"".join(self._kept)]
        self._kept.append(part)
        self._kept_size += len(part)
        self._rest = self._rest[len(part) :]

    def _take(self, end: End | None = None) -> Batch:
        batch = Batch(self._kept, self._kept_size, end)
        self._total += batch.size
        self._kept, self._kept_size = [], 0
        self._last_time = time.monotonic()
        return batch

    def _take_last(self) -> Batch:
        digest = self._expected_digest
        if callable(digest):
            digest = digest()
            _check_digest(digest)
        return self._take(End(size_bytes=self._total + self._kept_size, digest=digest))


class Ingest:
    """One `ingest_stream`.

    Args:
        request: Its request.
        outgoing: Its body.
    """

    def __init__(self, request: Request, outgoing: Outgoing) -> None:
        self._request = request
        self._outgoing = outgoing
        self._first: Batch | None = None

    def is_repeatable(self) -> bool:
        """Whether all that was taken from the stream is still here."""
        return self._first is not None

    async def over(self, connection: DaemonConnection) -> IngestResult:
        """Have the exchange.

        Raises:
            Exception: Whatever the caller's stream raised; the body was called off.
            DataPlaneError: What the daemon answered, or the connection's loss.
        """
        # Before the request, so that a small object goes out with it in one write.
        batch = self._first or await self._outgoing.next()
        self._first = batch
        request = connection.begin(self._request)
        await connection.send(request, *_frames(connection, batch))
        while batch.end is None:
            await _check_refusal(connection)
            batch = await self._following(connection)
            await connection.send(*_frames(connection, batch))
        answer = await connection.receive_answer(None)
        result = ingest_result_from_wire(answer.result)
        if result.size_bytes != connection.protocol.sent_bytes:
            raise RemoteProtocolError(
                f"{result.size_bytes} bytes were stored, {connection.protocol.sent_bytes} were sent"
            )
        return result

    async def _following(self, connection: DaemonConnection) -> Batch:
        self._first = None
        try:
            return await self._outgoing.next()
        except Exception:
            await _call_off(connection)
            raise


async def _check_refusal(connection: DaemonConnection) -> None:
    """Raise the daemon's error if it has answered already, and end the body in step."""
    is_broken = connection.is_write_broken
    early = await connection.receive() if is_broken else connection.poll()
    if isinstance(early, Failure):
        if connection.protocol.our_state is State.BODY and not is_broken:
            await connection.send(connection.protocol.send(_CALLED_OFF))
        raise early.to_error()


async def _call_off(connection: DaemonConnection) -> None:
    """End the body as failed and take the answer, whatever it is: the caller's error counts."""
    try:
        await connection.send(connection.protocol.send(_CALLED_OFF))
        await connection.receive_answer(None)
    except CallCancelledError:
        return
    except DataPlaneError:
        # Refused meanwhile, which is as good, or lost, which the connection knows.
        return
    # The daemon says that it stored what was called off.
    connection.close()


def _frames(connection: DaemonConnection, batch: Batch) -> list[Buffer]:
    frames: list[Buffer] = []
    if batch.size:
        frames += [connection.protocol.send_data(batch.size), *batch.payload]
    if batch.end is not None:
        frames.append(connection.protocol.send(batch.end))
    return frames


def _view(piece: object) -> memoryview:
    try:
        # A memoryview of something that has no buffer raises, which is the check.
        return memoryview(cast("bytes", piece)).cast("B")
    except TypeError:
        raise InvalidRequestError(
            f"stream gave a {type(piece).__name__}, must give bytes"
        ) from None


def _check_digest(digest: object) -> None:
    if digest is not None and not isinstance(digest, Digest):
        raise InvalidRequestError(f"expected digest is a {type(digest).__name__}, must be a Digest")
