import hashlib
import random
from itertools import pairwise

import pytest
from blake3 import blake3
from hypothesis import given, strategies as st

from dataplaned.digests import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    Digester,
    ObjectDigests,
    count_blocks,
    find_bad_block,
    touched_blocks,
)

CONTENT = random.Random(1).randbytes(4 * BLOCK_SIZE + 100)
SIZES = [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 2 * BLOCK_SIZE, len(CONTENT)]


def digests_of(*pieces):
    digester = Digester()
    digester.update(pieces)
    return digester.finish()


def blocks_of(content):
    return [content[at : at + BLOCK_SIZE] for at in range(0, len(content), BLOCK_SIZE)]


@pytest.mark.parametrize("size", SIZES)
def test_one_pass_gives_both_digests_the_size_and_the_blocks(size):
    content = CONTENT[:size]
    digests = digests_of(content)
    assert digests.blake3 == blake3(content).digest()
    assert digests.sha256 == hashlib.sha256(content).digest()
    assert digests.size == size
    blocks = b"".join(blake3(block).digest() for block in blocks_of(content))
    assert digests.blocks == (blocks if size > BLOCK_SIZE else b"")


@given(cuts=st.lists(st.integers(0, len(CONTENT)), max_size=8))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts):
    ends = [0, *sorted(cuts), len(CONTENT)]
    pieces = [CONTENT[start:end] for start, end in pairwise(ends)]
    assert digests_of(*pieces) == digests_of(CONTENT)


def test_the_two_digests_may_be_fed_apart():
    digester = Digester()
    digester.update_blake3([CONTENT[:10], CONTENT[10:]])
    digester.update_sha256(iter([CONTENT]))
    assert digester.finish() == digests_of(CONTENT)


def test_pieces_may_come_from_an_iterator():
    digester = Digester()
    digester.update(iter([CONTENT[:10], CONTENT[10:]]))
    assert digester.finish() == digests_of(CONTENT)


def test_digests_are_named_by_their_algorithm():
    digests = digests_of(CONTENT)
    assert str(digests.named("blake3")) == f"blake3:{blake3(CONTENT).hexdigest()}"
    assert str(digests.named("sha256")) == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert str(digests.address) == str(digests.named("blake3"))


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_checked_with_the_digests_of_the_same_blocks(size):
    content = CONTENT[:size]
    digests = digests_of(content)
    blocks = blocks_of(content)
    for first in range(len(blocks) + 1):
        for count in range(1, 4):
            data = b"".join(blocks[first : first + count])
            part = digests.block_digests(first, count)
            assert len(part) == len(blocks[first : first + count]) * DIGEST_SIZE
            assert find_bad_block(data, part) is None


@given(at=st.integers(0, len(CONTENT) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_in_its_block(at, bit):
    digests = digests_of(CONTENT)
    data = bytearray(CONTENT)
    data[at] ^= 1 << bit
    assert find_bad_block(bytes(data), digests.blocks) == at // BLOCK_SIZE


@pytest.mark.parametrize(
    ("size", "bad"),
    [
        (0, 0),
        (BLOCK_SIZE - 1, 0),
        (BLOCK_SIZE, 1),
        (2 * BLOCK_SIZE, 2),
        (4 * BLOCK_SIZE, 4),
        (len(CONTENT) - 1, 4),
        (len(CONTENT) + 1, 4),
        (5 * BLOCK_SIZE + 1, 4),
    ],
)
def test_too_little_and_too_much_are_bad_blocks(size, bad):
    data = (CONTENT + bytes(BLOCK_SIZE))[:size]
    assert find_bad_block(data, digests_of(CONTENT).blocks) == bad


def test_a_block_too_many_is_bad():
    data = CONTENT[: 2 * BLOCK_SIZE]
    assert find_bad_block(data, digests_of(data).blocks[:DIGEST_SIZE]) == 1


def test_nothing_matches_nothing():
    assert find_bad_block(b"", b"") is None


def test_an_empty_object_has_no_blocks():
    assert digests_of().block_digests(0, 1) == b""


@given(offset=st.integers(0, 10 * BLOCK_SIZE), length=st.integers(0, 10 * BLOCK_SIZE))
def test_a_range_touches_the_blocks_of_its_bytes(offset, length):
    touched = {at // BLOCK_SIZE for at in (offset, offset + length - 1)} if length else set()
    first, count = touched_blocks(offset, length)
    assert count == (max(touched) - min(touched) + 1 if touched else 0)
    assert first == offset // BLOCK_SIZE


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (1, 1), (BLOCK_SIZE, 1), (BLOCK_SIZE + 1, 2), (10**15, 15258789063)]
)
def test_every_begun_block_counts(size, count):
    assert count_blocks(size) == count


def test_digests_are_values():
    values = {"blake3": bytes(32), "sha256": bytes(32), "size": 0, "blocks": b""}
    assert ObjectDigests(**values) == ObjectDigests(**values)
