"""Large bodies over a socket, taken in and given out by threads, and everything that may happen."""

import os
import random
import socket
import threading
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from dataplane_protocol import (
    DATA_SIZE,
    BodyKind,
    Connection,
    Digest,
    End,
    Failure,
    Hello,
    Ok,
    Request,
    Side,
    data_head,
)
from dataplaned import peer as peer_module
from dataplaned.access import ALL_ROLES, Caller
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.filesystem.staged import StagedFile
from dataplaned.config import DaemonConfig, FilesystemConfig
from dataplaned.digests import BLOCK_SIZE, Digester
from dataplaned.peer import BufferPool, Peer
from dataplaned.plane import LocalDataPlane
from dataplaned.roster import Roster
from dataplaned.server import Session

CALLER = Caller(pid=1, uid=0, socket="test", roles=ALL_ROLES)
MIB = 1024 * 1024
SIZE = 9 * MIB + 12_345
CONTENT = random.Random(5).randbytes(SIZE)
INGEST = Request(op="ingest_stream", body=BodyKind.STREAM)


def blake3_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish().named("blake3")


DIGEST = blake3_of(CONTENT)
SERVE = Request(op="serve_object", args={"content_address": str(DIGEST)})


class Line:
    """A client's end, and the store behind the other one."""

    def __init__(self, ours, session, backend, plane):
        self.socket = trio.socket.from_stdlib_socket(ours)
        self.session = session
        self.backend = backend
        self.plane = plane
        self.connection = Connection(Side.CLIENT)
        self.is_over = trio.Event()

    async def send(self, data):
        view = memoryview(data)
        while view:
            view = view[await self.socket.send(view) :]

    async def receive(self):
        while (event := self.connection.next_event()) is None:
            data = await self.socket.recv(1_000_000)
            if data:
                self.connection.receive(data)
            else:
                self.connection.receive_eof()
        return event

    async def begin(self, size):
        """Send a request and the first bytes of its body: enough to be a large one."""
        await self.send(self.connection.send(INGEST))
        await self.pieces(CONTENT[:size])

    async def pieces(self, content, piece=DATA_SIZE):
        for start in range(0, len(content), piece):
            part = content[start : start + piece]
            await self.send(self.connection.send_data(len(part)))
            await self.send(part)

    async def end(self, size=SIZE, digest=DIGEST):
        await self.send(self.connection.send(End(size_bytes=size, digest=digest)))
        return await self.receive()

    async def count(self):
        return (await self.backend.health()).object_count

    def staged(self):
        return os.listdir(os.path.join(self.backend._store.config.root, "staging"))


def intake_threads():
    return [each for each in threading.enumerate() if each.name in ("intake", "outlet")]


@asynccontextmanager
async def open_line(path, **limits):
    backend = FilesystemBackend("b", FilesystemConfig(root=str(path), min_free_bytes=0))
    await backend.open()
    plane = LocalDataPlane({"b": backend}, **limits)
    ours, theirs = socket.socketpair()
    line = Line(
        ours,
        Session(Peer(theirs, BufferPool()), Roster(DaemonConfig()).admit(CALLER), plane),
        backend,
        plane,
    )
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                line.nursery = nursery

                async def attend():
                    await line.session.run()
                    line.is_over.set()

                nursery.start_soon(attend)
                await line.send(line.connection.send(Hello()))
                assert isinstance(await line.receive(), Hello)
                yield line
                line.socket.close()
                await line.is_over.wait()
        assert intake_threads() == []
        assert plane._areas._left == 6
        assert not [name for name in line.staged() if not name.startswith("reserve")]
    finally:
        with trio.CancelScope(shield=True):
            await backend.aclose()


@pytest.fixture
async def line(tmp_path):
    async with open_line(tmp_path / "store") as line:
        yield line


async def fetch(line, request=SERVE):
    await line.send(line.connection.send(request))
    answer = await line.receive()
    assert isinstance(answer, Ok)
    body = bytearray()
    while isinstance(event := await line.receive(), memoryview):
        body += event
    return bytes(body), event


@pytest.mark.trio
@pytest.mark.parametrize("piece", [DATA_SIZE, MIB, 100_001, 5_000])
async def test_a_large_body_is_stored_and_served_whole(line, piece):
    await line.send(line.connection.send(INGEST))
    await line.pieces(CONTENT, piece)
    answer = await line.end()
    assert answer.result["size_bytes"] == SIZE
    assert await fetch(line) == (CONTENT, End(size_bytes=SIZE, digest=DIGEST))
    assert (await line.backend.verify(DIGEST)).mismatch is None


@pytest.mark.trio
@pytest.mark.parametrize("size", [MIB, MIB + 1, 2 * MIB, 4 * MIB - 4096, 4 * MIB + 4095, 4 * MIB])
async def test_any_size_is_stored_whole(line, size):
    content = CONTENT[:size]
    digest = blake3_of(content)
    await line.begin(size)
    assert (await line.end(size, digest)).result["size_bytes"] == size
    request = Request(op="serve_object", args={"content_address": str(digest)})
    assert (await fetch(line, request))[0] == content


@pytest.mark.trio
async def test_frames_that_are_cut_anywhere_are_put_together(line):
    await line.send(line.connection.send(INGEST))
    frames = b"".join(
        line.connection.send_data(len(part)) + part
        for part in (CONTENT[start : start + 300_000] for start in range(0, SIZE, 300_000))
    )
    cuts = random.Random(1)
    while frames:
        count = cuts.choice([1, 3, 8, 9, 10, 63, 64, 65, 4096, 299_999, 700_000])
        await line.send(frames[:count])
        frames = frames[count:]
    assert isinstance(await line.end(), Ok)
    assert (await fetch(line))[0] == CONTENT


@pytest.mark.trio
@pytest.mark.parametrize("first", [0, 100_000, BLOCK_SIZE])
async def test_a_large_range_is_served(line, first):
    await line.begin(SIZE)
    await line.end()
    where = {"offset": first, "length": 5 * MIB + 17}
    request = Request(op="serve_object", args={"content_address": str(DIGEST), "byte_range": where})
    body, end = await fetch(line, request)
    assert body == CONTENT[first : first + 5 * MIB + 17]
    assert end == End(size_bytes=5 * MIB + 17)


@pytest.mark.trio
async def test_a_second_call_follows_a_large_one(line):
    await line.begin(SIZE)
    await line.end()
    await line.begin(SIZE)
    assert (await line.end()).result["receipt"]["outcome"] == "existed"


@pytest.mark.trio
async def test_a_body_that_is_given_up_is_not_stored_and_the_connection_goes_on(line):
    await line.begin(5 * MIB)
    await line.send(line.connection.send(Failure(code="cancelled")))
    assert (await line.receive()).code == "cancelled"
    assert await line.count() == 0
    await line.begin(SIZE)
    assert isinstance(await line.end(), Ok)


@pytest.mark.trio
async def test_a_digest_that_does_not_match_is_refused(line):
    await line.begin(SIZE)
    failure = await line.end(digest=Digest("blake3", "00" * 32))
    assert failure.code == "mismatch" or "digest" in failure.message
    assert await line.count() == 0


@pytest.mark.trio
async def test_an_end_that_states_another_size_is_refused(line):
    await line.begin(SIZE)
    failure = await line.end(size=SIZE - 1, digest=None)
    assert "its end states" in failure.message
    assert await line.count() == 0


@pytest.mark.trio
async def test_a_violation_in_a_large_body_ends_the_connection(line):
    await line.begin(5 * MIB)
    await line.send(b"\x00\x00\x00\x02\x00\x00")
    failure = await line.receive()
    assert failure.code == "protocol"
    await line.is_over.wait()
    assert await line.count() == 0


@pytest.mark.trio
@pytest.mark.parametrize("rest", [b"", data_head(DATA_SIZE), data_head(DATA_SIZE) + b"x" * 1000])
async def test_an_end_of_the_connection_in_a_large_body_leaves_nothing(line, rest):
    await line.begin(5 * MIB)
    await line.send(rest)
    line.socket.close()
    await line.is_over.wait()
    assert await line.count() == 0


@pytest.mark.trio
async def test_a_peer_that_stalls_in_a_large_body_is_gone(line, monkeypatch):
    line.session._peer.stall_timeout_s = 0.05
    monkeypatch.setattr(peer_module, "_LOOK_UP_S", 0.01)
    await line.begin(5 * MIB)
    await line.is_over.wait()
    assert await line.count() == 0


@pytest.mark.trio
async def test_cancelling_ends_a_large_body_that_waits_for_its_peer(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_module, "_LOOK_UP_S", 0.01)
    async with open_line(tmp_path / "store") as line:
        await line.begin(5 * MIB)
        line.is_over.set()
        line.nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_body_over_the_limit_is_refused_before_its_end(tmp_path):
    async with open_line(tmp_path / "store", max_object_size=4 * MIB) as line:
        await line.begin(6 * MIB)
        failure = await line.receive()
        assert failure.code == "too_large"
        await line.send(line.connection.send(Failure(code="cancelled")))
        await line.begin(2 * MIB)
        assert isinstance(await line.end(2 * MIB, None), Ok)


@pytest.mark.trio
@pytest.mark.parametrize("calls", [0, 2])
async def test_a_disk_that_is_full_is_told_and_leaves_nothing(line, monkeypatch, calls):
    left = [calls]
    write = os.write

    def fail(fd, data):
        if len(data) == MIB:
            if not left[0]:
                raise OSError(28, "No space left on device")
            left[0] -= 1
        return write(fd, data)

    monkeypatch.setattr(os, "write", fail)
    await line.begin(6 * MIB)
    await line.send(line.connection.send(Failure(code="cancelled")))
    failure = await line.receive()
    assert failure.code in ("no_space", "cancelled")
    monkeypatch.undo()
    await line.begin(SIZE)
    assert isinstance(await line.end(), Ok)


@pytest.mark.trio
async def test_more_large_bodies_than_there_is_memory_for_go_the_ordinary_way(line):
    taken = [line.plane._areas.take() for _ in range(6)]
    assert line.plane._areas.take() is None
    await line.begin(SIZE)
    assert isinstance(await line.end(), Ok)
    assert (await fetch(line))[0] == CONTENT
    for areas in taken:
        areas.__exit__()


def file_of(line):
    root = line.backend._store.config.root
    row = line.backend._store.catalog.find(DIGEST)
    return os.path.join(root, "objects", row.file[:2], row.file)


@pytest.mark.trio
@pytest.mark.parametrize("block", [0, 16, 70, SIZE // BLOCK_SIZE])
async def test_a_bad_block_ends_what_is_served_before_it(line, block):
    await line.begin(SIZE)
    await line.end()
    path = file_of(line)
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(block * BLOCK_SIZE + 5)
        file.write(bytes([CONTENT[block * BLOCK_SIZE + 5] ^ 255]))
    body, failure = await fetch(line)
    assert CONTENT.startswith(body)
    assert len(body) <= block * BLOCK_SIZE
    assert failure.code == "corrupt"
    await line.send(line.connection.send(SERVE))
    assert (await line.receive()).code == "corrupt"


@pytest.mark.trio
async def test_a_file_cut_short_while_it_is_served_is_damage(line):
    await line.begin(SIZE)
    await line.end()
    os.truncate(file_of(line), 5 * MIB + 1)
    body, failure = await fetch(line)
    assert CONTENT.startswith(body)
    assert failure.code == "corrupt"


@pytest.mark.trio
async def test_a_client_that_leaves_in_the_middle_costs_nothing(line):
    await line.begin(SIZE)
    await line.end()
    await line.send(line.connection.send(SERVE))
    assert isinstance(await line.receive(), Ok)
    line.socket.close()
    await line.is_over.wait()


@pytest.mark.trio
async def test_a_client_that_reads_nothing_is_gone(line, monkeypatch):
    await line.begin(SIZE)
    await line.end()
    line.session._peer.stall_timeout_s = 0.05
    monkeypatch.setattr(peer_module, "_LOOK_UP_S", 0.01)
    await line.send(line.connection.send(SERVE))
    await line.is_over.wait()


@pytest.mark.trio
async def test_cancelling_ends_what_waits_for_its_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_module, "_LOOK_UP_S", 0.01)
    async with open_line(tmp_path / "store") as line:
        await line.begin(SIZE)
        await line.end()
        await line.send(line.connection.send(SERVE))
        assert isinstance(await line.receive(), Ok)
        line.is_over.set()
        line.nursery.cancel_scope.cancel()


# Writing past the cache.


class Root:
    """What a staged file asks of its root."""

    def discard_staged(self, name):
        os.unlink(name)


@pytest.fixture
def staged(tmp_path):
    path = tmp_path / "staged"
    file = StagedFile(Root(), str(path), os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    yield file
    with suppress(FileNotFoundError):
        file.discard()


@pytest.fixture
def area():
    import mmap

    view = memoryview(mmap.mmap(-1, MIB))
    view[:] = CONTENT[:MIB]
    return view


@pytest.mark.parametrize("tail", [0, 1, 4095, 4096, 5000])
def test_areas_are_written_as_they_are(staged, area, tail):
    staged.write_area(area)
    staged.write_area(area[:tail])
    assert Path(staged._name).read_bytes() == CONTENT[:MIB] + CONTENT[:tail]
    assert staged._size == MIB + tail


@pytest.mark.parametrize("name", ["write", "fcntl"])
def test_a_filesystem_that_has_only_its_cache_is_written_through_it(
    staged, area, monkeypatch, name
):
    from dataplaned.backends.filesystem import staged as staged_module

    write, fcntl = os.write, staged_module.fcntl.fcntl

    def no_direct_write(fd, data):
        if fcntl(fd, staged_module.fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return write(fd, data)

    def no_direct_flag(fd, command, *flags):
        if flags and flags[0] & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return fcntl(fd, command, *flags)

    if name == "write":
        monkeypatch.setattr(os, "write", no_direct_write)
    else:
        monkeypatch.setattr(staged_module.fcntl, "fcntl", no_direct_flag)
    for _ in range(2):
        staged.write_area(area)
    assert Path(staged._name).read_bytes() == 2 * CONTENT[:MIB]


def test_a_short_write_is_finished(staged, area, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: max(4096, len(data) // 2)]))
    staged.write_area(area)
    assert Path(staged._name).read_bytes() == CONTENT[:MIB]
