"""A large body taken in by threads of its own: received, digested and written at once.

    receive + BLAKE3  ->  SHA-256   ->  the area is free again
                      ->  write     ->

The event loop would have to be woken for every piece, and would copy it. So once a body shows
to be large, a thread has the connection to itself until the body's end, while the task waits
for it. SHA-256 takes as long as all the rest, and a disk more than any of it, so each has a
thread. What bounds the whole is the ring of areas: nothing is received while none is free.
"""

import mmap
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final, Protocol, Self, runtime_checkable

from .digests import Digester

#: Bytes of an area: what is hashed and written in one go. With twice as many an ingest had 0.8
#: of the rate, with half as many 0.94.
AREA_SIZE: Final = 1024 * 1024

#: Areas of one body: one in each thread's hands, and as many waiting.
_AREAS: Final = 6


@runtime_checkable
class BlockingSource(Protocol):
    """A stream that may also be read by a thread, from where its iterator has got to."""

    def read_into(self, buffer: memoryview) -> int:
        """Put the next bytes into a buffer. Called in a thread that trio started.

        Returns:
            How many; 0 at the end.

        Raises:
            trio.Cancelled: The task that waits for the thread was cancelled.
            Exception: What the stream's iterator would raise.
        """
        ...


class AreaPool:
    """The memory of all large bodies at a time, which bounds how many there may be.

    Args:
        bodies: How many there may be. Others have to do without.
    """

    def __init__(self, bodies: int) -> None:
        self._left = bodies
        self._free: list[list[mmap.mmap]] = []

    def take(self) -> "Areas | None":
        """Give areas, or `None` when all are in use. Called on the event loop, as `give` is."""
        if not self._left:
            return None
        self._left -= 1
        # Mappings begin at a page's start, as direct writes ask for, and are kept, since fresh
        # memory costs more than what is done with it.
        maps = self._free.pop() if self._free else [mmap.mmap(-1, AREA_SIZE) for _ in range(_AREAS)]
        return Areas(self, maps)

    def give(self, maps: list[mmap.mmap]) -> None:
        """Take areas back."""
        self._left += 1
        self._free.append(maps)


class Areas:
    """The ring of one body. A context that gives the areas back.

    Args:
        pool: Where they go.
        maps: The memory.
    """

    def __init__(self, pool: AreaPool, maps: list[mmap.mmap]) -> None:
        self._pool = pool
        self._maps = maps

    @property
    def views(self) -> list[memoryview]:
        """The areas."""
        return [memoryview(each) for each in self._maps]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.give(self._maps)


def take_in(
    first: Iterable[bytes],
    source: BlockingSource,
    areas: Areas,
    *,
    digester: Digester,
    write: Callable[[memoryview], None],
    check_size: Callable[[int], None],
) -> None:
    """Digest and write a whole body. Blocks; called in a thread that trio started.

    Args:
        first: What was read of it already.
        source: The rest.
        areas: Whose memory to use.
        digester: Fed with all of it.
        write: Appends an area to where the bytes go; called in another thread.
        check_size: Raises if a body may not have so many bytes.

    Raises:
        Exception: What any of the functions raised. No thread is left, and none calls any more.
    """
    with ExitStack() as stack:
        ring = _Ring(areas.views)
        sha256 = stack.enter_context(_Stage(lambda area: digester.update_sha256((area,)), ring))
        writing = stack.enter_context(_Stage(write, ring))
        total = 0
        for area in _filled(first, source, ring):
            total += len(area)
            check_size(total)
            writing.put(area)
            sha256.put(area)
            digester.update_blake3((area,))
            ring.let_go(area)


class _Ring:
    """Areas that are free, and how many still work on those that are not."""

    def __init__(self, areas: list[memoryview]) -> None:
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for area in areas:
            self._free.put(area)
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}
        self.error: BaseException | None = None

    def take(self) -> memoryview:
        """Wait for a free area, for three users.

        Raises:
            BaseException: What a stage has failed with.
        """
        area = self._free.get()
        if self.error is not None:
            raise self.error
        self._users[id(area.obj)] = 3
        return area

    def let_go(self, area: memoryview) -> None:
        """Note that one of the users needs an area no more."""
        with self._lock:
            self._users[id(area.obj)] -= 1
            is_free = not self._users[id(area.obj)]
        if is_free:
            self._free.put(memoryview(area.obj))


class _Stage:
    """A thread that does one thing with every area. A context that waits for its end."""

    def __init__(self, work: Callable[[memoryview], None], ring: _Ring) -> None:
        self._work = work
        self._ring = ring
        self._areas: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="intake")

    def put(self, area: memoryview) -> None:
        """Have an area worked on."""
        self._areas.put(area)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._areas.put(None)
        self._thread.join()
        if kind is None and self._ring.error is not None:
            raise self._ring.error

    def _run(self) -> None:
        while (area := self._areas.get()) is not None:
            try:
                if self._ring.error is None:
                    self._work(area)
            except BaseException as exc:  # noqa: BLE001 - raised by whoever waits
                self._ring.error = exc
            self._ring.let_go(area)


def _filled(first: Iterable[bytes], source: BlockingSource, ring: _Ring) -> Iterable[memoryview]:
    """Give one area after the other, each full but the last."""
    filling = _Filling(ring)
    for piece in first:
        yield from filling.add(piece)
    while True:
        count = source.read_into(filling.room)
        if not count:
            break
        yield from filling.advance(count)
    yield from filling.rest()


class _Filling:
    """The area that is being filled."""

    def __init__(self, ring: _Ring) -> None:
        self._ring = ring
        self._area = ring.take()
        self._fill = 0

    @property
    def room(self) -> memoryview:
        """What is free of it; never empty."""
        return self._area[self._fill :]

    def advance(self, count: int) -> Iterable[memoryview]:
        """Note that so many bytes of the room were used; give the area if it is full."""
        self._fill += count
        if self._fill == len(self._area):
            full, self._fill = self._area, 0
            yield full
            self._area = self._ring.take()

    def add(self, piece: bytes) -> Iterable[memoryview]:
        """Copy a piece in; give the areas that it filled."""
        rest = memoryview(piece)
        while rest:
            part = rest[: len(self._area) - self._fill]
            self.room[: len(part)] = part
            rest = rest[len(part) :]
            yield from self.advance(len(part))

    def rest(self) -> Iterable[memoryview]:
        """Give the last area, if there is anything in it."""
        if self._fill:
            yield self._area[: self._fill]
