"""Every conversation of `calls.json`, played against a running daemon over its socket.

The daemon has an empty store and one healthy backend. It may cut what it sends wherever it
likes; it may not send anything that the vectors do not have.
"""

import socket
from contextlib import closing, suppress

import pytest

from dataplane_client import blocking
from dataplane_protocol import FrameDecoder, data_head, encode_frame, message_from_wire

TIMEOUT = 10.0


@pytest.fixture(scope="module")
def running_daemon(daemon_process):
    with daemon_process() as daemon:
        yield daemon


@pytest.fixture
def daemon(running_daemon):
    """One daemon for all conversations, each of which finds it empty."""
    yield running_daemon
    with blocking.connect(running_daemon.socket_path) as plane:
        for page in plane.list_objects():
            for entry in page:
                plane.delete_object(entry.content_address)


class Peer:
    """A client that does what the steps say and knows nothing else of the protocol."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.connect(path)
        self._decoder = FrameDecoder()
        self._kept = None

    def close(self):
        self._socket.close()

    def play(self, step):
        if step.kind == "client":
            self._send(encode_frame(step.control))
        elif step.kind == "client_data":
            self._send(data_head(len(step.data)) + step.data)
        elif step.kind == "client_raw":
            self._send(step.data)
        elif step.kind == "client_close":
            self.close()
        elif step.kind == "server":
            self._expect_message(step.pattern)
        elif step.kind == "server_data":
            self._expect_data(step.data)
        else:
            self._expect_close()

    def _send(self, data):
        # The daemon may have closed already; what it said before can still be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def _expect_message(self, pattern):
        event = self._next_event()
        assert event is not None, f"the daemon closed, expected {pattern.wanted}"
        assert not isinstance(event, bytes), f"data, expected {pattern.wanted}"
        message_from_wire(event)
        assert pattern.matches(event), f"{event}, expected {pattern.wanted}"

    def _expect_data(self, data):
        received = b""
        while isinstance(event := self._next_event(), bytes):
            received += event
        assert received == data
        self._kept = event

    def _expect_close(self):
        assert self._next_event() is None

    def _next_event(self):
        """Give a control map, bytes of a body, or `None` at the end of the connection."""
        if self._kept is not None:
            event, self._kept = self._kept, None
            return event
        while (event := self._decoder.next()) is None:
            try:
                data = self._socket.recv(65_536)
            except ConnectionResetError:
                data = b""  # It closed while something of ours was unread.
            if not data:
                assert self._decoder.is_between_frames
                return None
            self._decoder.receive(data)
        return bytes(event) if isinstance(event, memoryview) else event


def test_a_conversation_goes_as_the_vectors_say(daemon, case):
    for steps in case.connections:
        with closing(Peer(daemon.socket_path)) as peer:
            for step in steps:
                peer.play(step)


@pytest.mark.parametrize("size", [1, 3])
def test_a_conversation_may_arrive_in_small_pieces(daemon, cases, size):
    (case,) = [case for case in cases if case.name == "serve a range"]
    ((*steps,),) = case.connections
    with closing(Peer(daemon.socket_path)) as peer:
        peer._send = lambda data: [
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
