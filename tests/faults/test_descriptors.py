"""Objects handed out as descriptors: what a client gets, and when it gets none."""

import array
import fcntl
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from dataplane_client import blocking
from dataplane_protocol import (
    BodyKind,
    Connection,
    ConnectionClosed,
    ContentAddress,
    End,
    Failure,
    Hello,
    Ok,
    Request,
    ServeArguments,
    Side,
    encode_frame,
)

CONTENT = os.urandom(1_000_003)

pytestmark = pytest.mark.slow


class Receiver:
    """A client that takes whatever descriptors come."""

    def __init__(self, path: str, *, features: tuple[str, ...] = ("serve_fd",)) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.connection = Connection(Side.CLIENT)
        self.fds: list[int] = []
        self.send(Hello(features=features))
        self.hello = self.event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)
        self.socket.close()

    def send(self, message: Any) -> None:
        self.socket.sendall(self.connection.send(message))

    def event(self) -> Any:
        while (event := self.connection.next_event()) is None:
            data, fds, flags, _ = socket.recv_fds(self.socket, 262_144, 8)
            assert not flags & socket.MSG_CTRUNC
            self.fds += fds
            if data:
                self.connection.receive(data)
            else:
                self.connection.receive_eof()
        return event

    def settle(self) -> None:
        """Have one more call: whatever the daemon had open for those before is closed then."""
        self.send(Request(op="list_objects"))
        assert isinstance(self.event(), Ok)

    def serve(
        self,
        address: ContentAddress,
        byte_range: tuple[int, int] | None = None,
        *,
        accept_fd: bool = True,
    ) -> tuple[Any, bytes, Any]:
        """Give the answer, the data frames' payload, and what ended the body."""
        arguments = ServeArguments(content_address=address, byte_range=byte_range)
        self.send(Request(op="serve_object", args=arguments.to_wire(), accept_fd=accept_fd))
        answer = self.event()
        data = b""
        if isinstance(answer, Failure):
            return answer, data, answer
        while isinstance(event := self.event(), memoryview):
            data += event
        return answer, data, event


@pytest.fixture
def plane(daemon: Any) -> Iterator[blocking.BlockingDataPlaneClient]:
    with blocking.connect(daemon.socket_path) as plane:
        yield plane


@pytest.fixture
def address(plane: blocking.BlockingDataPlaneClient) -> ContentAddress:
    return plane.ingest_stream([CONTENT]).receipt.content_address


def object_file(daemon: Any) -> Path:
    (path,) = daemon.files("objects")
    return Path(path)


def open_descriptors(daemon: Any) -> int:
    assert daemon.wait_for("swept")  # it looks into one directory after the other
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def test_a_large_object_comes_as_a_read_only_file_of_its_own(
    daemon: Any, address: ContentAddress
) -> None:
    with Receiver(daemon.socket_path) as peer:
        assert peer.hello.features == ("serve_fd",)
        answer, data, end = peer.serve(address)
        assert (answer.body, data) == (BodyKind.FD, b"")
        assert end == End(size_bytes=len(CONTENT), digest=address.to_digest())
        (fd,) = peer.fds
        status = os.fstat(fd)
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o400
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0
        assert os.pread(fd, len(CONTENT) + 1, 0) == CONTENT
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
        os.lseek(fd, 5, os.SEEK_SET)
        peer.serve(address)
        assert os.lseek(peer.fds[1], 0, os.SEEK_CUR) == 0


def test_a_range_comes_as_the_whole_file_with_its_place(
    daemon: Any, address: ContentAddress
) -> None:
    with Receiver(daemon.socket_path) as peer:
        answer, _, end = peer.serve(address, (100_000, 899_999))
        assert answer.result == {"size_bytes": len(CONTENT), "offset": 100_000, "length": 800_000}
        assert end == End(size_bytes=800_000)
        assert os.pread(peer.fds[0], 800_000, 100_000) == CONTENT[100_000:900_000]


def test_a_descriptor_outlives_a_delete_and_a_stop(
    daemon: Any, address: ContentAddress, plane: blocking.BlockingDataPlaneClient
) -> None:
    with Receiver(daemon.socket_path) as peer:
        peer.serve(address)
        assert plane.delete_object(address).deleted
        assert daemon.stop() == 0
        assert os.pread(peer.fds[0], len(CONTENT), 0) == CONTENT


@pytest.mark.parametrize(
    ("features", "accept_fd", "byte_range"),
    [
        ((), True, None),
        (("serve_fd",), False, None),
        (("ingest_fd", "later"), True, None),
        (("serve_fd",), True, (0, 65_535)),
    ],
    ids=["no-feature", "not-accepted", "other-features", "small-range"],
)
def test_bytes_come_where_a_descriptor_was_not_agreed_on_or_does_not_pay(
    daemon: Any,
    address: ContentAddress,
    features: tuple[str, ...],
    accept_fd: bool,
    byte_range: tuple[int, int] | None,
) -> None:
    with Receiver(daemon.socket_path, features=features) as peer:
        assert peer.hello.features == tuple(name for name in features if name == "serve_fd")
        answer, data, end = peer.serve(address, byte_range, accept_fd=accept_fd)
        expected = CONTENT if byte_range is None else CONTENT[: byte_range[1] + 1]
        assert (answer.body, data, peer.fds) == (BodyKind.STREAM, expected, [])
        assert isinstance(end, End)


def test_a_file_that_was_touched_is_streamed_and_checked_until_it_is_verified(
    daemon: Any, address: ContentAddress, plane: blocking.BlockingDataPlaneClient
) -> None:
    object_file(daemon).chmod(0o600)
    with Receiver(daemon.socket_path) as peer:
        answer, data, _ = peer.serve(address)
        assert (answer.body, data) == (BodyKind.STREAM, CONTENT)
        assert plane.verify_object(address).verified
        answer, _, _ = peer.serve(address)
        assert answer.body is BodyKind.FD


def test_a_damaged_file_is_never_handed_out(daemon: Any, address: ContentAddress) -> None:
    path = object_file(daemon)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(500_000)
        file.write(bytes([CONTENT[500_000] ^ 1]))
    with Receiver(daemon.socket_path) as peer:
        _, data, end = peer.serve(address)
        assert isinstance(end, Failure)
        assert end.code == "corrupt"
        assert CONTENT.startswith(data)
        _, _, end = peer.serve(address)
        assert end.code == "corrupt"
        assert peer.fds == []


@pytest.mark.parametrize("setting", ["serve_fd = false", "max_verify_age_s = 0"])
def test_descriptors_can_be_turned_off(
    setting: str, start_daemon: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    table = "daemon" if setting.startswith("serve") else "backend.local"
    config.write_text(
        f"[daemon]\n{setting if table == 'daemon' else ''}\n"
        f'[backend.local]\ntype = "filesystem"\nroot = "{tmp_path / "store"}"\n'
        f"{setting if table != 'daemon' else ''}\n"
    )
    daemon = start_daemon(("--config", str(config)))
    with blocking.connect(daemon.socket_path) as plane:
        address = plane.ingest_stream([CONTENT]).receipt.content_address
    with Receiver(daemon.socket_path) as peer:
        answer, data, _ = peer.serve(address)
        assert (answer.body, data) == (BodyKind.STREAM, CONTENT)


def test_serving_by_descriptor_leaves_none_open(daemon: Any, address: ContentAddress) -> None:
    with Receiver(daemon.socket_path) as peer:
        peer.serve(address)
        peer.settle()
        before = open_descriptors(daemon)
        for _ in range(100):
            peer.serve(address)
        peer.settle()
        assert open_descriptors(daemon) == before


def test_descriptors_that_a_client_sends_are_refused_or_dropped(
    daemon: Any, address: ContentAddress
) -> None:
    with Receiver(daemon.socket_path) as peer:
        peer.settle()
        before = open_descriptors(daemon)
        request = peer.connection.send(Request(op="list_backends"))
        rights = array.array("i", [0] * 100)
        try:
            peer.socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except PermissionError:  # SO_PASSRIGHTS, where the kernel has it
            peer.socket.sendall(request)
        assert isinstance(peer.event(), Ok)
        peer.settle()
        assert open_descriptors(daemon) == before
        answer, _, _ = peer.serve(address)
        assert answer.body is BodyKind.FD


def test_an_ingest_by_descriptor_is_a_violation(daemon: Any) -> None:
    with Receiver(daemon.socket_path, features=("ingest_fd", "serve_fd")) as peer:
        assert peer.hello.features == ("serve_fd",)
        frame = encode_frame(Request(op="ingest_stream", body=BodyKind.FD).to_wire())
        peer.socket.sendall(frame)
        told = peer.event()
        assert isinstance(told, Failure)
        assert told.code == "protocol"
        assert isinstance(peer.event(), ConnectionClosed)


OUT_OF_DESCRIPTORS = """
import os, resource, sys
from dataplane_client import blocking
from dataplane_protocol import ContentAddress

with blocking.connect(sys.argv[1], pool_size=1) as plane:
    plane.list_backends()
    lowest = os.dup(0)
    os.close(lowest)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    sys.stdout.buffer.write(b"".join(plane.serve_object(ContentAddress(sys.argv[2]))))
"""


def test_a_client_without_room_for_a_descriptor_gets_the_bytes(
    daemon: Any, address: ContentAddress
) -> None:
    command = [sys.executable, "-c", OUT_OF_DESCRIPTORS, daemon.socket_path, str(address)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (CONTENT, b"")
