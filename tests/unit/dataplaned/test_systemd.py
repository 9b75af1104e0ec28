import json
import os
import socket
import subprocess
import sys

import pytest

from dataplaned.systemd import Notifier, take_sockets

CHILD = """
import json, os, sys
names, count, pid = json.loads(sys.argv[1])
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["LISTEN_FDS"] = count
if names is not None:
    os.environ["LISTEN_FDNAMES"] = names
from dataplaned.systemd import PassedOnError, take_sockets
try:
    taken = take_sockets()
except PassedOnError as exc:
    print(json.dumps(str(exc)))
else:
    found = {name: [each.getsockname() for each in several] for name, several in taken.items()}
    inherited = [each.get_inheritable() for several in taken.values() for each in several]
    left = [name for name in os.environ if name.startswith("LISTEN_")]
    print(json.dumps([found, any(inherited), left, bool(take_sockets())]))
"""


def pass_on(sockets, names, count=None, pid=""):
    """Have a child take sockets that it gets as systemd passes them on."""
    mine = [each.fileno() for each in sockets]

    def place():
        # Out of the way first: one may have another's number.
        spare = [os.dup(fd) for fd in mine]
        for index, fd in enumerate(spare):
            os.dup2(fd, 3 + index, inheritable=True)

    asked = json.dumps([names, str(len(mine)) if count is None else count, pid])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, asked],
        preexec_fn=place,
        pass_fds=range(3, 3 + len(mine)),
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


@pytest.fixture
def listeners(short_path):
    sockets = []
    for name in "abc":
        sockets.append(socket.socket(socket.AF_UNIX))
        sockets[-1].bind(str(short_path / name))
        sockets[-1].listen()
    yield sockets
    for each in sockets:
        each.close()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("clients:admin:clients", {"clients": "ac", "admin": "b"}),
        ("clients", {"clients": "a", "unknown": "bc"}),
        ("::x", {"unknown": "ab", "x": "c"}),
        (None, {"unknown": "abc"}),
    ],
)
def test_sockets_are_taken_by_name_once(listeners, short_path, names, expected):
    found, is_inherited, left, again = pass_on(listeners, names)
    assert found == {
        name: [str(short_path / each) for each in several] for name, several in expected.items()
    }
    assert (is_inherited, left, again) == (False, [], False)


@pytest.mark.parametrize(("count", "pid"), [("3", "1"), ("", ""), ("x", ""), ("0", "")])
def test_what_is_not_for_this_process_is_left_alone(listeners, count, pid):
    found, _, left, _ = pass_on(listeners, "a:b:c", count, pid)
    assert (found, left) == ({}, [])


def test_what_is_no_listening_unix_socket_is_refused(short_path):
    with socket.socket(socket.AF_UNIX) as idle, socket.socket() as other:
        idle.bind(str(short_path / "s"))
        reason = "descriptor 3 (a) is no Unix stream socket that listens"
        assert pass_on([idle], "a") == reason
        other.listen()
        assert pass_on([other], "a") == reason
    with open(os.devnull) as file:
        assert pass_on([file], "f").startswith("descriptor 3 (f) is no socket: ")


def test_without_systemd_there_is_nothing(monkeypatch):
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    assert take_sockets() == {}


@pytest.fixture
def heard(short_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(short_path / "notify"))
        heard.setblocking(False)
        yield heard


def test_it_is_told_how_the_service_is(heard, short_path):
    notifier = Notifier({"NOTIFY_SOCKET": str(short_path / "notify")})
    notifier.ready()
    notifier.reloading()
    notifier.status("well\nand more")
    notifier.watchdog()
    notifier.stopping()
    assert heard.recv(4096) == b"READY=1"
    state, time = heard.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert time.removeprefix("MONOTONIC_USEC=").isdecimal()
    assert [heard.recv(4096) for _ in range(3)] == [b"STATUS=well", b"WATCHDOG=1", b"STOPPING=1"]
    notifier.close()
    notifier.ready()


def test_a_name_that_is_in_no_file_system(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0dataplaned-test-{os.getpid()}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@dataplaned-test-{os.getpid()}"})
        notifier.ready()
        notifier.close()
        assert heard.recv(100) == b"READY=1"


def test_nobody_who_listens_and_nobody_who_reads_cost_nothing(heard, short_path):
    away = Notifier({"NOTIFY_SOCKET": str(short_path / "nothing")})
    away.ready()
    away.close()
    notifier = Notifier({"NOTIFY_SOCKET": str(short_path / "notify")})
    for _ in range(1000):
        notifier.watchdog()
    notifier.close()
    Notifier({}).ready()


@pytest.mark.parametrize(
    ("more", "interval"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({}, None),
    ],
)
def test_whether_somebody_watches(short_path, more, interval):
    notifier = Notifier({"NOTIFY_SOCKET": str(short_path / "n"), **more})
    assert notifier.watchdog_interval_s == interval
    notifier.close()
    assert Notifier(more).watchdog_interval_s is None
