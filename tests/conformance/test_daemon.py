"""Every conversation of `calls.json`, played against a running daemon over its socket.

The daemon has an empty store and one healthy backend. It may cut what it sends wherever it
likes; it may not send anything that the vectors do not have.
"""

import array
import fcntl
import os
import socket
import stat
import tempfile
from contextlib import ExitStack, closing, suppress

import pytest

from dataplane_client import blocking
from dataplane_protocol import FrameDecoder, data_head, encode_frame, message_from_wire

TIMEOUT = 10.0


@pytest.fixture(scope="module")
def daemons(daemon_process):
    """Give the running daemon that has a limit on objects, or none; one for all cases."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        running = {}

        def start(max_object_size=None):
            if max_object_size not in running:
                root = f"{folder}/{max_object_size}"
                arguments = ["--root", root]
                if max_object_size is not None:
                    config = f"{folder}/config.toml"
                    with open(config, "w", encoding="utf-8") as file:
                        file.write(f"[daemon]\nmax_object_size = {max_object_size}\n")
                    arguments += ["--config", config]
                daemon = stack.enter_context(daemon_process(arguments))
                running[max_object_size] = daemon, root
            return running[max_object_size]

        yield start


@pytest.fixture
def subject(daemons):
    """Give daemons as `daemons` does, each empty at the start and emptied at the end."""
    used = []

    def start(max_object_size=None):
        used.append(daemons(max_object_size))
        return used[-1]

    yield start
    for daemon, _ in used:
        with blocking.connect(daemon.socket_path) as plane:
            for page in plane.list_objects():
                for entry in page:
                    plane.delete_object(entry.content_address)


@pytest.fixture
def daemon(subject):
    return subject()[0]


class Peer:
    """A client that does what the steps say and knows nothing else of the protocol."""

    def __init__(self, path, *, takes_descriptors=False):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(path)
        self._takes_descriptors = takes_descriptors
        self._decoder = FrameDecoder()
        self._kept = None
        self._unmatched = []
        self._matched = []

    @property
    def taken_descriptors(self):
        return len(self._matched)

    def close(self):
        self._socket.close()
        for fd in (*self._unmatched, *(fd for fd, _ in self._matched)):
            os.close(fd)
        self._unmatched, self._matched = [], []

    def check_descriptors(self):
        """Look at what came by now: the object may have been deleted meanwhile."""
        assert self._unmatched == []
        for fd, data in self._matched:
            assert stat.S_ISREG(os.fstat(fd).st_mode)
            assert fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH) == os.O_RDONLY
            assert not os.get_inheritable(fd)
            assert os.lseek(fd, 0, os.SEEK_CUR) == 0
            assert os.fstat(fd).st_size == len(data)
            assert os.pread(fd, len(data) + 1, 0) == data

    def play(self, step):
        if step.kind == "client":
            self._send(encode_frame(step.control), step.fd)
        elif step.kind == "client_data":
            self._send(data_head(len(step.data)) + step.data)
        elif step.kind == "client_raw":
            self._send(step.data, step.fd)
        elif step.kind == "client_close":
            self._socket.close()
        elif step.kind == "server":
            self._expect_message(step)
        elif step.kind == "server_data":
            self._expect_data(step.data)
        else:
            assert step.kind == "server_close"
            assert self._next_event() is None

    def _send(self, data, fd=None):
        # The daemon may have closed already; what it said before can still be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            if fd is not None:
                data = data[self._send_with_descriptor(data, fd) :]
            self._socket.sendall(data)

    def _send_with_descriptor(self, data, content):
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            try:
                return socket.send_fds(self._socket, [data], [file.fileno()])
            except PermissionError:
                return 0  # The daemon has told the kernel that it takes no descriptors.

    def _expect_message(self, step):
        event, pattern = self._next_event(), step.pattern
        if step.is_optional and not self._is_match(event, step):
            self._kept = event
            return
        assert event is not None, f"the daemon closed, expected {pattern.wanted}"
        assert not isinstance(event, bytes), f"data, expected {pattern.wanted}"
        message_from_wire(event)
        assert self._is_match(event, step), f"{event}, expected {pattern.wanted}"
        if step.fd is not None:
            self._take_body(event, step.fd)

    def _is_match(self, event, step):
        if step.fd is not None and isinstance(event, dict) and event.get("body") == "stream":
            event = {**event, "body": "fd"}
        return step.pattern.matches(event)

    def _take_body(self, event, content):
        """Take the descriptor of an answer, or the stream that may come in its place."""
        if event["body"] == "fd":
            assert self._unmatched, "no descriptor came with the answer"
            self._matched.append((self._unmatched.pop(), content))
        else:
            result = event["ok"]
            self._expect_data(content[result["offset"] :][: result["length"]])

    def _expect_data(self, data):
        received = b""
        while isinstance(event := self._next_event(), bytes):
            received += event
        assert received == data
        self._kept = event

    def _next_event(self):
        """Give a control map, bytes of a body, or `None` at the end of the connection."""
        if self._kept is not None:
            event, self._kept = self._kept, None
            return event
        while (event := self._decoder.next()) is None:
            try:
                data = self._receive()
            except ConnectionResetError:
                data = b""  # It closed while something of ours was unread.
            if not data:
                assert self._decoder.is_between_frames
                return None
            self._decoder.receive(data)
        return bytes(event) if isinstance(event, memoryview) else event

    def _receive(self):
        if not self._takes_descriptors:
            return self._socket.recv(65_536)
        fds = array.array("i")
        data, ancillary, flags, _ = self._socket.recvmsg(
            65_536, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(payload)
        self._unmatched += fds
        assert not flags & socket.MSG_CTRUNC
        assert len(self._unmatched) <= 1
        return data


def enabled_features(daemon, features):
    """Say hello, offering `features`, and give those that the daemon enables."""
    with closing(Peer(daemon.socket_path)) as peer:
        peer._send(encode_frame({"hello": {"version": 1, "features": sorted(features)}}))
        return set(peer._next_event()["hello"]["features"])


def damage(root, content):
    """Change the first byte of the file that has just this content."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                if file.read() != content:
                    continue
            os.chmod(path, 0o600)
            with open(path, "r+b") as file:
                file.write(bytes([content[0] ^ 1]))
            return
    pytest.skip("the daemon has no file with just these bytes")


def test_a_conversation_goes_as_the_vectors_say(subject, daemon_case, objects):
    daemon, root = subject(daemon_case.max_object_size)
    if missing := daemon_case.features - enabled_features(daemon, daemon_case.features):
        pytest.skip(f"the daemon does not have {', '.join(missing)}")
    for steps in daemon_case.connections:
        takes_descriptors = bool(daemon_case.features)
        with closing(Peer(daemon.socket_path, takes_descriptors=takes_descriptors)) as peer:
            for step in steps:
                if step.kind == "tamper":
                    damage(root, objects[step.object_name][0])
                else:
                    peer.play(step)
            peer.check_descriptors()


def test_a_large_object_comes_as_a_descriptor(daemon, cases):
    # The conversation alone would let a daemon pass that only ever streams.
    if not enabled_features(daemon, {"serve_fd"}):
        pytest.skip("the daemon does not have serve_fd")
    (case,) = [case for case in cases if case.name == "serve by descriptor again and again"]
    ((*steps,),) = case.connections
    with closing(Peer(daemon.socket_path, takes_descriptors=True)) as peer:
        for step in steps:
            peer.play(step)
        assert peer.taken_descriptors == 3


@pytest.mark.parametrize("size", [1, 3])
def test_a_conversation_may_arrive_in_small_pieces(daemon, cases, size):
    (case,) = [case for case in cases if case.name == "serve a range"]
    ((*steps,),) = case.connections
    with closing(Peer(daemon.socket_path)) as peer:
        peer._send = lambda data, _fd=None: [
            peer._socket.sendall(data[start : start + size]) for start in range(0, len(data), size)
        ]
        for step in steps:
            peer.play(step)


def test_connections_are_independent(daemon, cases):
    (case,) = [case for case in cases if case.name == "ingest"]
    ((*steps,),) = case.connections
    with closing(Peer(daemon.socket_path)) as waiting, closing(Peer(daemon.socket_path)) as peer:
        for step in steps[:4]:
            waiting.play(step)
        for step in steps:
            peer.play(step)


def test_the_example_of_the_readme_asks_a_daemon_for_its_health(daemon, protocol_folder, capsys):
    text = (protocol_folder / "README.md").read_text(encoding="utf-8")
    source = text.split("```python\n")[1].split("```")[0]
    exec(source.replace("/run/dataplaned/dp.sock", daemon.socket_path), {})
    assert "state='ok', writable=True" in capsys.readouterr().out
