"""A large body given out by threads of its own: read and checked by one, sent by the other.

As for an ingest (intake.py), the connection is a thread's alone meanwhile, while the task
waits, and a ring of areas bounds how far reading is ahead of sending.
"""

import queue
import threading
from collections.abc import Callable
from typing import Final, Protocol, runtime_checkable

from .intake import Areas

#: Areas that are checked ahead of the one being sent.
_AHEAD: Final = 2


@runtime_checkable
class BlockingObject(Protocol):
    """An object stream that may also be read by a thread, from where its iterator has got to."""

    def read_into(self, buffer: memoryview) -> memoryview:
        """Read and check the next bytes.

        Args:
            buffer: Where to; at least a block.

        Returns:
            The bytes, within the buffer; none at the end, and where the iterator has to go on
            because something is wrong.
        """
        ...


def give_out(stream: BlockingObject, send: Callable[[memoryview], None], areas: Areas) -> None:
    """Send what a stream gives, until it gives no more. Blocks.

    Args:
        stream: What to send.
        send: Sends a piece; called in this thread.
        areas: Whose memory to use.

    Raises:
        Exception: What `send` or the stream raised. No thread is left.
    """
    reader = _Reader(stream, areas.views[: _AHEAD + 1])
    try:
        while piece := reader.next():
            send(piece)
    finally:
        reader.stop()


class _Reader:
    """The thread that reads and checks."""

    def __init__(self, stream: BlockingObject, areas: list[memoryview]) -> None:
        self._stream = stream
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[tuple[memoryview, memoryview]] = queue.SimpleQueue()
        self._area: memoryview | None = None
        self._error: BaseException | None = None
        for area in areas:
            self._free.put(area)
        self._thread = threading.Thread(target=self._run, name="outlet")
        self._thread.start()

    def next(self) -> memoryview:
        """Give the next piece, good until the next call of this; an empty one at the end."""
        if self._area is not None:
            self._free.put(self._area)
        self._area, piece = self._read.get()
        if self._error is not None and not piece:
            raise self._error
        return piece

    def stop(self) -> None:
        """End the thread."""
        self._free.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (area := self._free.get()) is not None:
            try:
                piece = self._stream.read_into(area)
            except BaseException as exc:  # noqa: BLE001 - raised by whoever waits
                self._error = exc
                piece = area[:0]
            self._read.put((area, piece))
            if not piece:
                return
