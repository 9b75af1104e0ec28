import mmap
import os
import threading

import pytest

from dataplaned.backends.filesystem import residency as residency_module
from dataplaned.backends.filesystem.residency import (
    Residency,
    _cached_pages_by_mincore,
    cached_pages,
    count_hole_pages,
)

PAGES = 50


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(PAGES * mmap.PAGESIZE - 5))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    yield fd
    os.close(fd)


def drop(fd):
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(fd, os.fstat(fd).st_size):
        pytest.skip("this filesystem is memory, of which nothing can be dropped")


@pytest.mark.parametrize("count", [cached_pages, _cached_pages_by_mincore])
def test_pages_in_the_cache_are_counted(file, count):
    size = os.fstat(file).st_size
    assert count(file, size) == PAGES
    drop(file)
    assert count(file, size) == 0
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    os.pread(file, 1, 3 * mmap.PAGESIZE)
    assert 1 <= count(file, size) < PAGES


def test_what_the_kernel_does_not_tell_is_an_error(file):
    with pytest.raises(OSError, match=r"Bad file descriptor|Invalid argument"):
        cached_pages(1_000_000, 4096)


def test_holes_are_counted(tmp_path):
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, 10 * mmap.PAGESIZE)
        assert count_hole_pages(fd, 10 * mmap.PAGESIZE) == 10
        os.pwrite(fd, b"x" * mmap.PAGESIZE, 3 * mmap.PAGESIZE)
        assert count_hole_pages(fd, 10 * mmap.PAGESIZE) == 9
        os.pwrite(fd, b"x" * mmap.PAGESIZE, 9 * mmap.PAGESIZE)
        assert count_hole_pages(fd, 10 * mmap.PAGESIZE) == 8
    finally:
        os.close(fd)


class Watch:
    """A residency of one file, whose pages and clock a test sets."""

    def __init__(self, fd, monkeypatch):
        self.now = 100.0
        self.pages = PAGES
        self.is_counting, self.may_count = threading.Event(), threading.Event()
        self.may_count.set()
        monkeypatch.setattr(residency_module.time, "monotonic", lambda: self.now)
        self.residency = Residency((fd,), self.count)

    def count(self, _fd, _size):
        self.is_counting.set()
        assert self.may_count.wait(10)
        if self.pages is None:
            raise OSError("no such call")
        return self.pages


@pytest.fixture
def watch(file, monkeypatch):
    watch = Watch(file, monkeypatch)
    yield watch
    watch.residency.close()
    assert not watch.residency._thread.is_alive()


def test_nothing_is_certain_before_a_look_and_asking_has_one_taken(watch):
    assert not watch.residency.is_certain
    assert watch.is_counting.wait(10)


def test_it_is_certain_for_a_while_after_a_look(watch):
    watch.residency.look()
    assert watch.residency.is_certain
    watch.now += 2.4
    assert watch.residency.is_certain
    watch.pages = PAGES - 1  # what the looks see that the questions have asked for
    watch.now += 1.0
    watch.residency.look()
    assert not watch.residency.is_certain


def test_it_is_not_certain_for_ever(watch):
    watch.residency.look()
    watch.may_count.clear()  # no further look ends
    watch.now += 60
    assert not watch.residency.is_certain
    watch.may_count.set()


@pytest.mark.parametrize("pages", [0, PAGES - 1, None])
def test_a_page_that_is_missing_makes_all_uncertain(watch, pages):
    watch.pages = pages
    watch.residency.look()
    assert not watch.residency.is_certain


def test_an_empty_file_is_all_there(watch, file):
    os.ftruncate(file, 0)
    watch.pages = None
    watch.residency.look()
    assert watch.residency.is_certain


def test_pages_about_to_be_dropped_are_not_certain(watch):
    watch.residency.look()
    watch.residency.note_dropping()
    assert not watch.residency.is_certain


def test_a_look_that_was_overtaken_by_a_drop_says_nothing(watch):
    watch.may_count.clear()
    look = threading.Thread(target=watch.residency.look)
    look.start()
    assert watch.is_counting.wait(10)
    watch.residency.note_dropping()
    watch.may_count.set()
    look.join(10)
    assert not watch.residency.is_certain


@pytest.fixture
def residency(file):
    residency = Residency([file])
    yield residency
    residency.close()


def test_what_is_missing_of_a_small_file_is_fetched(residency, file):
    drop(file)
    residency.look()
    assert not residency.is_certain
    while cached_pages(file, PAGES * mmap.PAGESIZE) < PAGES:
        pass  # nobody reads: the disk takes its time
    residency.look()
    assert residency.is_certain


def test_the_memory_that_is_to_be_had_is_less_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    assert 0 < residency_module.available_memory() < total


def test_a_large_file_is_left_as_it_is(residency, file, monkeypatch):
    monkeypatch.setattr(residency_module, "available_memory", lambda: 2 * PAGES * mmap.PAGESIZE)
    drop(file)
    for _ in range(100):
        residency.look()
    assert cached_pages(file, PAGES * mmap.PAGESIZE) == 0
