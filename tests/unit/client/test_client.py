"""What the client is, and what it takes to make one."""

import subprocess
import sys

import anyio
import pytest

from dataplane_client import DataPlaneClient, connect
from dataplane_protocol import DataPlane, FullDataPlane, InvalidRequestError, UnavailableError


def test_a_client_is_a_data_plane(tmp_path):
    client = connect(tmp_path / "nobody")
    assert isinstance(client, DataPlaneClient)
    assert isinstance(client, DataPlane)
    assert isinstance(client, FullDataPlane)


@pytest.mark.parametrize("size", [0, 108])
def test_a_path_that_no_socket_can_have_is_refused(size):
    with pytest.raises(InvalidRequestError, match=f"{size} bytes, must have 1 to 107"):
        connect("x" * size)


def test_a_path_is_measured_in_bytes():
    with pytest.raises(InvalidRequestError, match="108 bytes"):
        connect("\u00e9" * 54)


def test_a_pool_has_room_for_one(tmp_path):
    with pytest.raises(InvalidRequestError, match="pool_size is 0"):
        connect(tmp_path / "s", pool_size=0)


@pytest.mark.anyio
async def test_a_closed_client_refuses_calls(daemon):
    client = connect(daemon.path)
    await client.aclose()
    await client.aclose()
    with pytest.raises(UnavailableError, match="client is closed") as caught:
        await client.backend_health()
    assert not caught.value.retry


@pytest.mark.anyio
async def test_a_cancelled_caller_sends_nothing(daemon):
    async with connect(daemon.path) as client:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await client.backend_health()
    assert scope.cancelled_caught
    daemon.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        daemon.listener.accept()


def test_one_client_serves_event_loops_of_both_kinds_one_after_the_other(daemon, sample):
    def script(peer):
        for _ in range(2):
            peer.request()
            peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    client = connect(daemon.path)
    anyio.run(client.backend_health, backend="asyncio")
    anyio.run(client.backend_health, backend="trio")
    anyio.run(client.aclose)


def test_importing_the_blocking_client_loads_no_event_loop():
    code = (
        "import dataplane_client.blocking, sys;"
        "print(*sorted({'anyio', 'asyncio', 'trio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
