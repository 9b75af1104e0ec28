import os

import pytest

from dataplaned.backends.filesystem import hot as hot_module
from dataplaned.backends.filesystem.hot import HotFile, HotObject, HotObjects
from dataplaned.backends.filesystem.rows import Row


class Version:
    """A catalog's version, as a test sets it."""

    def __init__(self):
        self.now = b"1"

    def __call__(self):
        return self.now


@pytest.fixture
def version():
    return Version()


@pytest.fixture
def hot(version):
    return HotObjects(version)


def row(number, generation=1):
    return Row(
        blake3=bytes([number]) * 32,
        sha256=bytes([255 - number]) * 32,
        size=number,
        file=None,
        content=number,
        generation=generation,
        stored_at_ms=0,
        verified_at_ms=0,
        stamp="",
        is_rotten=0,
    )


def names(number):
    return ["blake3:" + bytes([number]).hex() * 32, "sha256:" + bytes([255 - number]).hex() * 32]


def test_an_object_is_found_by_either_name(hot):
    kept = HotObject(row(1))
    hot.keep(kept, b"1")
    assert [hot.get(name) for name in names(1)] == [kept, kept]
    assert hot.get(names(2)[0]) is None


def test_a_row_of_another_version_is_not_kept(hot):
    hot.keep(HotObject(row(1)), b"0")
    assert hot.get(names(1)[0]) is None


def test_a_row_that_was_overtaken_by_a_transaction_is_not_kept(hot, version):
    read_at = hot.read_version()
    version.now = b"2"
    hot.commit([((row(1).blake3,), None)])
    hot.keep(HotObject(row(1)), read_at)
    assert hot.get(names(1)[0]) is None


def test_nothing_is_given_while_the_catalog_has_another_version(hot, version):
    hot.keep(HotObject(row(1)), b"1")
    hot.keep_block_digests(b"name", 0, b"digests", b"1")
    version.now = b"2"
    assert hot.get(names(1)[0]) is None
    assert hot.block_digests(b"name", 0) is None
    hot.keep(HotObject(row(2)), b"2")
    assert hot.get(names(2)[0]) is None


def test_a_transaction_forgets_what_it_touched_and_keeps_what_it_left(hot, version):
    for number in (1, 2, 3):
        hot.keep(HotObject(row(number)), b"1")
        hot.keep_block_digests(row(number).blake3, 0, b"digests", b"1")
    version.now = b"2"
    fresh = HotObject(row(2, generation=9))
    hot.commit([((row(1).blake3,), None), ((row(2).blake3,), fresh)])
    assert hot.get(names(1)[0]) is None
    assert hot.get(names(1)[1]) is None
    assert hot.get(names(2)[1]) is fresh
    assert hot.get(names(3)[0]) is not None
    found = [hot.block_digests(row(number).blake3, 0) for number in (1, 2, 3)]
    assert found == [None, None, b"digests"]


def test_within_a_transaction_the_later_change_counts(hot):
    kept = HotObject(row(1))
    hot.commit([((), kept), ((row(1).blake3,), None)])
    assert hot.get(names(1)[0]) is None
    hot.commit([((row(1).blake3,), None), ((), kept)])
    assert hot.get(names(1)[0]) is kept


def test_those_not_asked_for_are_dropped_first(hot, monkeypatch):
    monkeypatch.setattr(hot_module, "_MOST_OBJECTS", 3)
    for number in (1, 2, 3):
        hot.keep(HotObject(row(number)), b"1")
    hot.get(names(1)[1])
    hot.keep(HotObject(row(4)), b"1")
    assert [hot.get(names(number)[0]) is not None for number in (1, 2, 3, 4)] == [
        True,
        False,
        True,
        True,
    ]
    assert hot.get(names(2)[1]) is None


def test_few_rows_of_block_digests_are_kept(hot, monkeypatch):
    monkeypatch.setattr(hot_module, "_MOST_BLOCK_ROWS", 2)
    for first in (0, 4096):
        hot.keep_block_digests(b"name", first, b"%d" % first, b"1")
    assert hot.block_digests(b"name", 0) == b"0"
    hot.keep_block_digests(b"name", 8192, b"8192", b"1")
    found = [hot.block_digests(b"name", first) for first in (0, 4096, 8192)]
    assert found == [b"0", None, b"8192"]


def open_file(path):
    fd = os.open(path, os.O_RDONLY)
    return HotFile(fd, os.fstat(fd))


def is_open(fd, path):
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(path))
    except FileNotFoundError:
        return False


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def test_a_file_is_closed_when_its_object_is_dropped(hot, path):
    file = open_file(path)
    fd = file.fd
    hot.keep(HotObject(row(1), file), b"1")
    del file
    assert is_open(fd, path)
    hot.commit([((row(1).blake3,), None)])
    assert not is_open(fd, path)


def test_few_files_are_open_and_their_objects_stay(hot, path, monkeypatch):
    monkeypatch.setattr(hot_module, "_MOST_FILES", 1)
    fds = []
    for number in (1, 2):
        file = open_file(path)
        fds.append(file.fd)
        hot.keep(HotObject(row(number), file), b"1")
        del file
    assert [is_open(fd, path) for fd in fds] == [False, True]
    assert hot.get(names(1)[0]).file is None


def test_clearing_closes_and_forgets_all(hot, path):
    file = open_file(path)
    fd = file.fd
    hot.keep(HotObject(row(1), file), b"1")
    del file
    hot.clear()
    assert not is_open(fd, path)
    assert hot.get(names(1)[0]) is None


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: os.truncate(path, 3),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b"CONTENT"),
        lambda path: os.utime(path, (1, 1)),
        lambda path: path.chmod(0o640),
        lambda path: path.rename(path.with_name("other")),
    ],
    ids=["truncated", "unlinked", "overwritten", "times", "mode", "renamed"],
)
def test_a_file_that_was_touched_is_not_the_one_it_was(path, touch):
    file = open_file(path)
    assert file.is_unchanged
    touch(path)
    assert not file.is_unchanged
