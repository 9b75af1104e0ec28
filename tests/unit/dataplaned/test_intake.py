import os
import threading

import pytest

from dataplaned.digests import BLOCK_SIZE, Digester
from dataplaned.intake import AREA_SIZE, AreaPool, _Ring, take_in
from dataplaned.outlet import give_out

SIZES = [1, 4095, 4096, BLOCK_SIZE, AREA_SIZE - 1, AREA_SIZE, AREA_SIZE + 1, 9 * AREA_SIZE + 77]


class Source:
    """A body that gives pieces of some size."""

    def __init__(self, content, most=10**9, error=None):
        self.content = memoryview(content)
        self.most = most
        self.error = error

    def read_into(self, buffer):
        count = min(len(buffer), len(self.content), self.most)
        if not count and self.error is not None:
            raise self.error
        buffer[:count] = self.content[:count]
        self.content = self.content[count:]
        return count


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


def run(first, source, write, check_size=lambda _: None):
    pool = AreaPool(1)
    digester = Digester()
    before = threading.active_count()
    try:
        with pool.take() as areas:
            take_in(first, source, areas, digester=digester, write=write, check_size=check_size)
    finally:
        assert threading.active_count() == before
        assert pool.take() is not None
    return digester.finish()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [10**9, 262_144, 100_003])
def test_a_body_is_digested_and_written_whole(size, most):
    content = os.urandom(size)
    written = bytearray()
    lengths = []

    def write(area):
        lengths.append(len(area))
        written.extend(area)

    cut = min(size, 300_000)
    first = [content[:100], content[100:cut]]
    assert run(first, Source(content[cut:], most), write) == digests_of(content)
    assert written == content
    # What direct writes need: all but the last are as long as can be.
    assert all(length == AREA_SIZE for length in lengths[:-1])


def test_an_area_is_free_again_when_all_three_are_done_with_it():
    ring = _Ring([memoryview(bytearray(10))])
    for _ in range(2):
        area = ring.take()
        for user in (area, area[:5], area[2:]):
            assert ring._free.empty()
            ring.let_go(user)
        assert not ring._free.empty()


def test_what_is_received_is_written_however_slow_that_is():
    content = os.urandom(20 * AREA_SIZE)
    written = bytearray()
    has_received = threading.Event()

    class Signalling(Source):
        def read_into(self, buffer):
            if len(self.content) == len(content) - 5 * AREA_SIZE:
                has_received.set()
            return super().read_into(buffer)

    def write(area):
        assert has_received.wait(10)
        written.extend(area)

    assert run([], Signalling(content), write) == digests_of(content)
    assert written == content


@pytest.mark.parametrize("place", [0, 3])
def test_a_write_that_fails_ends_it_and_leaves_no_thread(place):
    calls = []

    def write(area):
        calls.append(len(area))
        if len(calls) > place:
            raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        run([], Source(bytes(30 * AREA_SIZE)), write)
    assert len(calls) == place + 1


def test_a_source_that_fails_ends_it_and_leaves_no_thread():
    with pytest.raises(ZeroDivisionError):
        run([b"x"], Source(bytes(3 * AREA_SIZE), error=ZeroDivisionError()), lambda _: None)


def test_a_body_that_is_too_large_is_not_read_to_its_end():
    source = Source(bytes(30 * AREA_SIZE))

    def check_size(total):
        if total > 2 * AREA_SIZE:
            raise ValueError(total)

    with pytest.raises(ValueError, match=str(3 * AREA_SIZE)):
        run([], source, lambda _: None, check_size)
    assert len(source.content) > 20 * AREA_SIZE


def test_a_pool_has_memory_for_so_many():
    pool = AreaPool(2)
    taken = [pool.take(), pool.take()]
    assert None not in taken
    assert pool.take() is None
    with taken[0]:
        pass
    again = pool.take()
    assert again._maps is taken[0]._maps
    assert all(len(view) == AREA_SIZE for view in again.views)


# Giving out.


class Stored:
    """A stream that is read by a thread, and stops where it is told to."""

    def __init__(self, content, stop=None, error=None):
        self.content = memoryview(content)
        self.stop = len(content) if stop is None else stop
        self.error = error
        self.position = 0

    def read_into(self, buffer):
        if self.error is not None and self.position >= self.stop:
            raise self.error
        count = min(len(buffer), self.stop - self.position)
        buffer[:count] = self.content[self.position : self.position + count]
        self.position += count
        return buffer[:count]


def send_all(stream, send):
    pool = AreaPool(1)
    before = threading.active_count()
    try:
        with pool.take() as areas:
            give_out(stream, send, areas)
    finally:
        assert threading.active_count() == before


@pytest.mark.parametrize("size", [0, *SIZES])
def test_a_body_is_sent_whole(size):
    content = os.urandom(size)
    sent = bytearray()
    send_all(Stored(content), sent.extend)
    assert sent == content


def test_what_comes_before_something_bad_is_sent():
    content = os.urandom(5 * AREA_SIZE)
    sent = bytearray()
    send_all(Stored(content, stop=2 * AREA_SIZE + BLOCK_SIZE), sent.extend)
    assert sent == content[: 2 * AREA_SIZE + BLOCK_SIZE]


def test_a_reader_that_fails_is_told_after_what_it_has_read():
    sent = bytearray()
    with pytest.raises(ZeroDivisionError):
        send_all(Stored(bytes(AREA_SIZE), error=ZeroDivisionError()), sent.extend)
    assert len(sent) == AREA_SIZE


def test_a_sender_that_fails_leaves_no_thread():
    def send(_):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        send_all(Stored(bytes(20 * AREA_SIZE)), send)
