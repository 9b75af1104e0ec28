import os
import resource

import pytest
import trio

from dataplane_protocol import NoSpaceError
from dataplaned.backends.base import BackendError
from dataplaned.backends.objectstore.spool import IN_MEMORY, Spool, SpooledBody

pytestmark = pytest.mark.trio

PIECE = os.urandom(300_000)


@pytest.fixture
def spool(tmp_path):
    spool = Spool(str(tmp_path / "spool"), 10 * IN_MEMORY)
    spool.open()
    return spool


def body_in(spool):
    return SpooledBody(spool, trio.CapacityLimiter(1))


def open_files(spool):
    """Give what the process has open in the spool, by way of the names of its descriptors."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return [name for name in names if spool._path in name]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 12])
async def test_bytes_are_read_as_they_were_written(spool, count):
    body = body_in(spool)
    for _ in range(count):
        await body.write([PIECE[:1], PIECE[1:]])
    data = PIECE * count
    assert body.size == len(data)
    assert await body.read(0, len(data)) == data
    assert await body.read(1000, 5) == data[1000:1005]
    assert len(open_files(spool)) == (len(data) > IN_MEMORY)
    body.close()
    body.close()
    assert open_files(spool) == []
    assert os.listdir(spool._path) == []


async def test_a_thread_may_write_too(spool):
    body = body_in(spool)
    await body.write([PIECE])
    for _ in range(5):
        await trio.to_thread.run_sync(body.append, [memoryview(PIECE)])
    assert await body.read(0, body.size) == PIECE * 6
    body.close()


async def test_the_room_is_shared_and_given_back(spool):
    bodies = [body_in(spool) for _ in range(3)]
    for body in bodies[:2]:
        await body.write([bytes(4 * IN_MEMORY)])
    with pytest.raises(NoSpaceError) as caught:
        await bodies[2].write([bytes(4 * IN_MEMORY)])
    assert caught.value.details == {"free_bytes": 2 * IN_MEMORY}
    with pytest.raises(NoSpaceError):
        spool.require_room(2 * IN_MEMORY + 1)
    bodies[2].close()
    bodies[0].close()
    spool.require_room(6 * IN_MEMORY)
    body = body_in(spool)
    await body.write([bytes(6 * IN_MEMORY)])
    for other in (body, bodies[1]):
        other.close()
    spool.require_room(10 * IN_MEMORY)


async def test_a_full_disk_is_no_space(spool):
    body = body_in(spool)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * IN_MEMORY, limits[1]))
    try:
        with pytest.raises(NoSpaceError, match="disk of the spool is full"):
            await body.write([bytes(3 * IN_MEMORY)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    body.close()
    spool.require_room(10 * IN_MEMORY)
    assert open_files(spool) == []


async def test_a_spool_that_cannot_be_used_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="file/spool cannot be used: Not a directory"):
        Spool(str(tmp_path / "file" / "spool"), 100).open()
