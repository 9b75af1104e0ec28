import os
import random
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio

from dataplane_protocol import ObjectCorruptError, ObjectStatus, UnavailableError
from dataplaned.backends.filesystem.reading import (
    FilesystemObject,
    SmallObject,
    _digest_step,
    digest_file,
    read_fully,
)
from dataplaned.digests import BLOCK_SIZE, DIGEST_SIZE, Digester, touched_blocks

SIZE = 9 * BLOCK_SIZE + 1234
CONTENT = random.Random(1).randbytes(SIZE)


class Damage:
    """Keeps what was said of damage."""

    def __init__(self):
        self.reasons = []

    async def __call__(self, reason):
        self.reasons.append(reason)

    @property
    def count(self):
        return len(self.reasons)


@pytest.fixture
def damage():
    return Damage()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "object"
    path.write_bytes(CONTENT)
    return path


@asynccontextmanager
async def opened(file, damage, *, byte_range=None, content=CONTENT, is_fresh=True, on_read=None):
    digests = digests_of(content)
    first, last = byte_range or (0, len(content) - 1)
    stored = FilesystemObject(
        status_of(digests),
        byte_range,
        os.open(file, os.O_RDONLY),
        digests=digests.block_digests(*touched_blocks(first, last - first + 1)),
        is_fresh=is_fresh,
        on_read=on_read or (lambda: None),
        on_damage=damage,
        limiter=trio.CapacityLimiter(1),
    )
    async with stored:
        yield stored


def status_of(digests):
    return ObjectStatus(
        content_address=digests.address,
        size_bytes=digests.size,
        sha256_digest=digests.named("sha256"),
        generation=1,
        stored_at=datetime(2025, 1, 1, tzinfo=UTC),
    )


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


def flip(path, position):
    with open(path, "r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


# Checked blocks.


@pytest.mark.trio
async def test_whole_blocks_are_read_up_to_the_last(file, damage):
    async with opened(file, damage) as stored:
        for first, count in ((0, 1), (3, 4), (8, 1), (8, 4), (9, 1), (0, 10), (0, 99)):
            end = (first + count) * BLOCK_SIZE
            assert await stored.read(first, count) == CONTENT[first * BLOCK_SIZE : end]
    assert damage.count == 0


@pytest.mark.trio
@pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE])
async def test_an_object_of_one_block_is_checked_against_its_own_digest(tmp_path, damage, size):
    path = tmp_path / "small"
    path.write_bytes(CONTENT[:size])
    async with opened(path, damage, content=CONTENT[:size]) as stored:
        assert await stored.read(0, 4) == CONTENT[:size]
    if size:
        flip(path, size - 1)
        async with opened(path, damage, content=CONTENT[:size]) as stored:
            with pytest.raises(ObjectCorruptError):
                await stored.read(0, 1)


@pytest.mark.trio
@pytest.mark.parametrize("bad", range(10))
async def test_one_flipped_bit_is_found_when_and_only_when_its_block_is_read(file, damage, bad):
    flip(file, min(bad * BLOCK_SIZE + 777 * bad, SIZE - 1))
    found = 0
    async with opened(file, damage) as stored:
        for first in range(10):
            if first <= bad < first + 4:
                found += 1
                with pytest.raises(ObjectCorruptError, match=f"from {bad * BLOCK_SIZE} on"):
                    await stored.read(first, 4)
            else:
                await stored.read(first, 4)
            assert damage.count == found


@pytest.mark.trio
async def test_a_range_is_checked_with_the_digests_of_its_own_blocks(file, damage):
    byte_range = (3 * BLOCK_SIZE + 5, 5 * BLOCK_SIZE)
    async with opened(file, damage, byte_range=byte_range) as stored:
        assert (stored.offset, stored.length) == (byte_range[0], 2 * BLOCK_SIZE - 4)
        assert await stored.read(3, 3) == CONTENT[3 * BLOCK_SIZE : 6 * BLOCK_SIZE]
        flip(file, 4 * BLOCK_SIZE)
        assert await stored.read(3, 1) == CONTENT[3 * BLOCK_SIZE : 4 * BLOCK_SIZE]
        with pytest.raises(ObjectCorruptError):
            await stored.read(4, 2)


@pytest.mark.trio
@pytest.mark.parametrize("size", [0, 5 * BLOCK_SIZE, 5 * BLOCK_SIZE + 1, SIZE - 1])
async def test_what_is_cut_off_is_refused_and_what_is_left_is_served(file, damage, size):
    os.truncate(file, size)
    last_whole = size // BLOCK_SIZE
    async with opened(file, damage) as stored:
        for block in range(last_whole):
            await stored.read(block, 1)
        for block in range(last_whole, 10):
            with pytest.raises(ObjectCorruptError):
                await stored.read(block, 1)
    assert damage.count == 10 - last_whole


@pytest.mark.trio
async def test_what_was_put_behind_an_object_is_never_served(file, damage):
    with open(file, "ab") as grown:
        grown.write(bytes(3 * BLOCK_SIZE))
    async with opened(file, damage) as stored:
        assert await stored.read(8, 4) == CONTENT[8 * BLOCK_SIZE :]
        assert await stored.read(0, 99) == CONTENT


@pytest.mark.trio
async def test_digests_that_are_missing_refuse_their_blocks(file, damage):
    async with opened(file, damage) as stored:
        stored._digests = stored._digests[: 5 * DIGEST_SIZE]
        await stored.read(0, 5)
        with pytest.raises(ObjectCorruptError):
            await stored.read(4, 2)


@pytest.mark.trio
async def test_a_disk_that_cannot_read_is_rot(file, damage):
    # The memory of a process is not readable where nothing is mapped: EIO, as of a bad sector.
    async with opened("/proc/self/mem", damage) as stored:
        with pytest.raises(ObjectCorruptError, match="cannot be read: Input/output error"):
            await stored.read(0, 1)
    assert damage.count == 1


@pytest.mark.trio
async def test_an_error_that_is_not_the_disks_says_nothing_about_the_object(file, damage):
    async with opened(file, damage) as stored:
        await stored.aclose()
        with pytest.raises(UnavailableError, match="Bad file descriptor"):
            await stored.read(0, 1)
    assert damage.count == 0


@pytest.mark.trio
async def test_a_descriptor_is_given_away_once_and_stays_open(file, damage):
    async with opened(file, damage) as stored:
        fd = stored.take_descriptor()
        assert stored.take_descriptor() is None
    assert os.pread(fd, SIZE, 0) == CONTENT
    os.close(fd)


@pytest.mark.trio
async def test_no_descriptor_is_given_of_what_was_not_seen_to_be_right_lately(file, damage):
    async with opened(file, damage, is_fresh=False) as stored:
        assert stored.take_descriptor() is None
        assert await stored.read(0, 1) == CONTENT[:BLOCK_SIZE]


@pytest.mark.trio
async def test_closing_twice_closes_one_descriptor(file, damage):
    async with opened(file, damage) as stored:
        await stored.aclose()
        other = os.open(file, os.O_RDONLY)
        await stored.aclose()
    os.fstat(other)
    os.close(other)


def test_reading_fully_ends_with_the_file(file):
    with open(file, "rb") as opened_file:
        assert read_fully(opened_file.fileno(), SIZE - 5, 5) == CONTENT[-5:]
        assert read_fully(opened_file.fileno(), SIZE - 5, 100) == CONTENT[-5:]
        assert read_fully(opened_file.fileno(), SIZE + 5, 100) == b""


@pytest.mark.trio
async def test_damage_is_told_with_its_reason(file, damage):
    flip(file, 2 * BLOCK_SIZE)
    async with opened(file, damage) as stored:
        with pytest.raises(ObjectCorruptError):
            await stored.read(1, 4)
    assert damage.reasons == [f"is damaged in the {BLOCK_SIZE} bytes from {2 * BLOCK_SIZE} on"]


@pytest.mark.trio
async def test_every_read_is_a_sign_of_life(file, damage):
    calls = []
    async with opened(file, damage, on_read=lambda: calls.append(1)) as stored:
        for block in range(3):
            await stored.read(block, 1)
    assert len(calls) == 3


# Bytes from the catalog.


def small(content, damage, *, byte_range=None, digest=None):
    digests = digests_of(content)
    return SmallObject(
        status_of(digests),
        byte_range,
        content,
        digest=digests.block_digests(0, 1) if digest is None else digest,
        on_damage=damage,
    )


@pytest.mark.trio
@pytest.mark.parametrize("size", [0, 1, 32 * 1024, BLOCK_SIZE])
async def test_small_bytes_are_given_as_they_are_and_have_no_descriptor(damage, size):
    async with small(CONTENT[:size], damage) as stored:
        assert stored.take_descriptor() is None
        assert (stored.offset, stored.length) == (0, size)
        assert await stored.read(0, 1) == await stored.read(0, 4) == CONTENT[:size]
    assert damage.reasons == []


@pytest.mark.trio
@pytest.mark.parametrize(
    ("content", "right"), [(b"bytes", b"byteZ"), (b"bytes", b"byte"), (b"", b"b"), (b"b", b"")]
)
async def test_small_bytes_that_are_not_right_are_never_given(damage, content, right):
    digest = digests_of(right).block_digests(0, 1)
    async with small(content, damage, digest=digest) as stored:
        with pytest.raises(ObjectCorruptError):
            await stored.read(0, 1)
    assert damage.reasons == ["bytes in the catalog differ"]


@pytest.mark.trio
async def test_a_range_of_small_bytes_is_checked_as_a_whole(damage):
    async with small(b"0123456789", damage, byte_range=(3, 5)) as stored:
        assert (stored.offset, stored.length) == (3, 3)
        assert await stored.read(0, 1) == b"0123456789"


# Everything, for a verify.


@pytest.mark.trio
@pytest.mark.parametrize("size", [0, 1, SIZE, 8 * 1024 * 1024, 8 * 1024 * 1024 + 1])
async def test_a_whole_file_is_digested(tmp_path, size):
    content = (CONTENT * (size // SIZE + 1))[:size]
    path = tmp_path / "object"
    path.write_bytes(content)
    with open(path, "rb") as file:
        actual, trouble = await digest_file(file.fileno(), trio.CapacityLimiter(1))
    assert trouble is None
    assert actual == digests_of(content)


def test_what_the_disk_cannot_read_ends_a_verify_with_the_reason():
    with open("/proc/self/mem", "rb") as file:
        done, trouble = _digest_step(file.fileno(), 0, Digester())
    assert done == 0
    assert trouble == "cannot be read at byte 0: Input/output error"


@pytest.mark.trio
async def test_a_pace_is_asked_before_each_step_and_may_be_cancelled(tmp_path):
    path = tmp_path / "object"
    path.write_bytes(bytes(8 * 1024 * 1024 + 1))
    sizes = []

    async def pace(size):
        sizes.append(size)
        if len(sizes) == 2:
            scope.cancel()

    with open(path, "rb") as file, trio.CancelScope() as scope:
        await digest_file(file.fileno(), trio.CapacityLimiter(1), pace)
    assert scope.cancelled_caught
    assert sizes == [8 * 1024 * 1024, 1]
