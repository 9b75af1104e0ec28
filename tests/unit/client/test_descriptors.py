"""Objects that come as a descriptor: read like any other, and refused when they are odd."""

import array
import gc
import os
import socket
import threading
from contextlib import contextmanager

import pytest

from dataplane_client import blocking, connect
from dataplane_protocol import (
    BodyKind,
    BodyMismatchError,
    ContentAddress,
    DataPlaneError,
    End,
    Failure,
    Hello,
    ObjectCorruptError,
    Ok,
    RemoteProtocolError,
    ServeResult,
    encode_frame,
)

CONTENT = os.urandom(3_000_000)


def send_with(peer, fds, *messages, before=b""):
    """Send frames in one write with descriptors, as a daemon does."""
    data = before + b"".join(peer.protocol.send(message) for message in messages)
    rights = array.array("i", fds)
    peer.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def greet(peer):
    peer.receive()
    peer.send(Hello(features=("serve_fd",)))


def answer(offset=0, length=None):
    size = len(CONTENT)
    result = ServeResult(size_bytes=size, offset=offset, length=length or size)
    return Ok(result=result.to_wire(), body=BodyKind.FD)


@pytest.fixture
def object_fd(tmp_path):
    path = tmp_path / "object"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def no_descriptor_is_lost():
    """Check that the test leaves as many descriptors open as it found."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(set(os.listdir("/proc/self/fd")) - before) == 0


def serving(fds, *messages, then=(), before=b""):
    def script(peer):
        greet(peer)
        request = peer.request()
        assert request.accept_fd
        send_with(peer, fds, *messages, before=before)
        for item in then:
            peer.request()
            peer.send(item)
        peer.expect_closed()

    return script


@pytest.mark.anyio
async def test_a_whole_object_is_read_while_the_connection_serves_others(daemon, sample, object_fd):
    script = serving([object_fd], answer(), End(size_bytes=len(CONTENT)), then=[sample.health])
    daemon.run(script, greets=False)
    async with connect(daemon.path, pool_size=1) as client:
        async with await client.serve_object(sample.address) as served:
            assert (served.size, served.offset, served.length) == (len(CONTENT), 0, len(CONTENT))
            first = await anext(served)
            await client.backend_health()  # over the one connection there is
            assert first + b"".join([piece async for piece in served]) == CONTENT
            with pytest.raises(StopAsyncIteration):
                await anext(served)


@pytest.mark.anyio
async def test_a_range_is_read_from_where_the_answer_says(daemon, sample, object_fd):
    ranged = answer(offset=1_000_000, length=1_500_000)
    daemon.run(serving([object_fd], ranged, End(size_bytes=1_500_000)), greets=False)
    async with connect(daemon.path) as client:
        served = await client.serve_object(sample.address, byte_range=(1_000_000, 2_499_999))
        assert b"".join([piece async for piece in served]) == CONTENT[1_000_000:2_500_000]


def test_the_position_of_the_file_does_not_matter_and_is_not_moved(daemon, sample, object_fd):
    os.lseek(object_fd, 77, os.SEEK_SET)
    daemon.run(serving([object_fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client:
        assert b"".join(client.serve_object(sample.address)) == CONTENT
    assert os.lseek(object_fd, 0, os.SEEK_CUR) == 77


def test_a_descriptor_is_closed_on_exec(daemon, sample, object_fd):
    daemon.run(serving([object_fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client, client.serve_object(sample.address) as served:
        next(served)
        assert not os.get_inheritable(served._served._body._fd)


@pytest.mark.usefixtures("no_descriptor_is_lost")
def test_an_object_closed_half_way_closes_its_file(daemon, sample, object_fd):
    daemon.run(serving([object_fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client, client.serve_object(sample.address) as served:
        next(served)


def test_an_object_that_is_dropped_closes_its_file_and_warns(daemon, sample, object_fd):
    daemon.run(serving([object_fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client:
        served = client.serve_object(sample.address)
        fd = served._served._body._fd
        with pytest.warns(ResourceWarning, match="unclosed <ServedObject"):
            del served
            gc.collect()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_the_last_piece_of_a_file_with_the_wrong_bytes_is_withheld(daemon, sample, object_fd):
    address = ContentAddress("sha256:" + "ab" * 32)
    daemon.run(serving([object_fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client, client.serve_object(address) as served:
        received = b""
        with pytest.raises(ObjectCorruptError):
            for piece in served:
                received += piece
        assert len(received) < len(CONTENT)


def test_an_end_with_another_size_is_a_mismatch(daemon, sample, object_fd):
    daemon.run(serving([object_fd], answer(), End(size_bytes=5)), greets=False)
    with (
        blocking.connect(daemon.path) as client,
        client.serve_object(sample.address) as served,
        pytest.raises(BodyMismatchError),
    ):
        list(served)


def test_an_error_in_place_of_the_end_is_raised_and_the_file_closed(daemon, sample, object_fd):
    script = serving([object_fd], answer(), Failure(code="corrupt"), then=[sample.health])
    daemon.run(script, greets=False)
    with blocking.connect(daemon.path) as client:
        with pytest.raises(ObjectCorruptError):
            client.serve_object(sample.address)
        client.backend_health()


def test_a_descriptor_may_come_with_bytes_before_its_frame(daemon, sample, object_fd):
    # The kernel glues earlier bytes to a read that has a descriptor.
    def script(peer):
        greet(peer)
        peer.request()
        ok = peer.protocol.send(answer())
        end = peer.protocol.send(End(size_bytes=len(CONTENT)))
        rights = array.array("i", [object_fd])
        peer.sock.sendmsg([ok[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        peer.sock.sendall(ok[1:] + end)
        peer.expect_closed()

    daemon.run(script, greets=False)
    with blocking.connect(daemon.path) as client:
        assert b"".join(client.serve_object(sample.address)) == CONTENT


@contextmanager
def odd_files(kind, tmp_path):
    if kind == "pipe":
        fds = list(os.pipe())
    elif kind == "directory":
        fds = [os.open(tmp_path, os.O_RDONLY)]
    elif kind == "device":
        fds = [os.open("/dev/zero", os.O_RDONLY)]
    elif kind == "writable":
        fds = [os.open(tmp_path / "w", os.O_RDWR | os.O_CREAT)]
        os.ftruncate(fds[0], len(CONTENT))
    elif kind == "path":
        (tmp_path / "p").write_bytes(CONTENT)
        fds = [os.open(tmp_path / "p", os.O_PATH)]
    else:
        (tmp_path / "short").write_bytes(CONTENT[:-1])
        fds = [os.open(tmp_path / "short", os.O_RDONLY)]
    yield fds[0]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "writable", "path", "short"])
def test_what_is_no_read_only_file_of_the_right_size_is_refused(daemon, sample, tmp_path, kind):
    with odd_files(kind, tmp_path) as fd:
        daemon.run(serving([fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
        with (
            blocking.connect(daemon.path) as client,
            pytest.raises(RemoteProtocolError, match="no read-only regular file"),
        ):
            client.serve_object(sample.address)
        daemon.finish()


@pytest.mark.usefixtures("no_descriptor_is_lost")
@pytest.mark.parametrize("count", [2, 3, 50])
def test_more_than_one_descriptor_is_a_violation_and_all_are_closed(
    daemon, sample, object_fd, count
):
    script = serving([object_fd] * count, answer(), End(size_bytes=len(CONTENT)))
    daemon.run(script, greets=False)
    with (
        blocking.connect(daemon.path) as client,
        pytest.raises(RemoteProtocolError, match="more than one descriptor"),
    ):
        client.serve_object(sample.address)
    daemon.finish()


def test_an_announced_descriptor_that_does_not_come_is_a_violation(daemon, sample):
    def script(peer):
        greet(peer)
        peer.request()
        peer.send(answer(), End(size_bytes=len(CONTENT)))
        peer.expect_closed()

    daemon.run(script, greets=False)
    with (
        blocking.connect(daemon.path) as client,
        pytest.raises(RemoteProtocolError, match="did not come"),
    ):
        client.serve_object(sample.address)


@pytest.mark.usefixtures("no_descriptor_is_lost")
def test_a_connection_with_a_descriptor_nobody_announced_is_not_used_again(
    daemon, sample, object_fd
):
    daemon.run(serving([object_fd], sample.health), greets=False)

    def plain(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    def unasked(peer):
        greet(peer)
        peer.request()
        send_with(peer, [object_fd], sample.health)
        peer.expect_closed()

    daemon._scripts[0] = unasked
    with blocking.connect(daemon.path) as client:
        client.backend_health()
        daemon.run(plain)
        client.backend_health()
    daemon.finish()
    assert daemon.accepted == 2


def test_a_descriptor_without_the_feature_is_a_violation(daemon, sample, object_fd):
    def script(peer):
        peer.receive()
        peer.send(Hello())
        request = peer.request()
        assert not request.accept_fd
        rights = array.array("i", [object_fd])
        frame = encode_frame(answer().to_wire())
        peer.sock.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        peer.expect_closed()

    daemon.run(script, greets=False)
    with (
        blocking.connect(daemon.path) as client,
        pytest.raises(RemoteProtocolError, match="serve_fd was not agreed on"),
    ):
        client.serve_object(sample.address)


def test_a_file_that_is_closed_by_another_thread_while_it_is_read_is_closed_after_that(
    daemon, sample, object_fd
):
    daemon.run(serving([object_fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client:
        served = client.serve_object(sample.address)
        body = served._served._body
        reading, closed = threading.Event(), threading.Event()
        plain_read = body._read

        def slow_read():
            reading.set()
            assert closed.wait(20)
            return plain_read()

        body._read = slow_read
        pieces = []
        thread = threading.Thread(target=lambda: pieces.append(next(served)))
        thread.start()
        assert reading.wait(20)
        served.close()
        os.fstat(body._fd)  # still open
        closed.set()
        thread.join(20)
        assert pieces == [CONTENT[: len(pieces[0])]]
        assert body._fd == -1


def test_a_file_that_shrinks_is_corrupt(daemon, sample, tmp_path):
    path = tmp_path / "o"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    daemon.run(serving([fd], answer(), End(size_bytes=len(CONTENT))), greets=False)
    with blocking.connect(daemon.path) as client, client.serve_object(sample.address) as served:
        next(served)
        os.truncate(path, 10)
        with pytest.raises(DataPlaneError, match="file ends at byte"):
            list(served)
    os.close(fd)
