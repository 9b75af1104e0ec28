import os
import signal

import pytest
import structlog.testing
import trio
import trio.testing

from dataplane_protocol import Ok, Request
from dataplaned.config import Config, load_config
from dataplaned.daemon import serve
from dataplaned.telemetry import set_level
from tests.unit.dataplaned.test_daemon import connected

pytestmark = pytest.mark.trio

HEALTH = Request(op="backend_health")


class Reloaded:
    """A daemon as a task, whose configuration file a test writes."""

    def __init__(self, path):
        self.path = path
        self.socket = str(path.parent / "s")

    def write(self, text):
        self.path.write_text(text)

    def load(self) -> Config:
        return load_config(str(self.path), socket=None, root=None, environment={})

    async def reload(self):
        with structlog.testing.capture_logs() as logs:
            os.kill(os.getpid(), signal.SIGHUP)
            while not any(line["event"].startswith("reload") for line in logs):
                await trio.testing.wait_all_tasks_blocked()
        return {line["event"]: line for line in logs}


@pytest.fixture
async def daemon(short_path, nursery):
    daemon = Reloaded(short_path / "c.toml")
    daemon.start = (
        f'[daemon]\nsocket = "{daemon.socket}"\nmax_connections = 1\n'
        f'[backend.b]\ntype = "filesystem"\nroot = "{short_path}/store"\n'
    )
    daemon.write(daemon.start)

    async def run(task_status):
        await serve(daemon.load(), load=daemon.load, task_status=task_status)

    with trio.fail_after(30):
        await nursery.start(run)
        yield daemon
        nursery.cancel_scope.cancel()
    set_level("info")


async def test_what_can_change_does_and_what_cannot_is_named(daemon):
    async with connected(daemon.socket) as client:
        text = daemon.start.replace("max_connections = 1", "max_connections = 2")
        text = text.replace("/store", "/other") + "scrub_rate = 7\n[log]\nlevel = 'error'\n"
        daemon.write(text)
        logs = await daemon.reload()
        assert logs["reloaded"]["applied"] == (
            "backend.b.scrub_rate",
            "daemon.max_connections",
            "log.level",
        )
        assert logs["reload_needs_restart"]["keys"] == ("backend.b.root",)
        async with connected(daemon.socket) as other:
            assert isinstance(await other.call(HEALTH), Ok)
            status = await other.call(Request(op="dataplaned.scrub_status"))
            assert status.result["rate"] == 7
        assert isinstance(await client.call(HEALTH), Ok)
    logs = await daemon.reload()
    assert logs["reload_needs_restart"]["keys"] == ("backend.b.root",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[daemon]\nmax_conections = 5\n", "did you mean 'max_connections'?"),
        ("[access.users]\nnot-there = ['read']\n", "no user has the name 'not-there'"),
        ("[", "Invalid"),
    ],
)
async def test_what_cannot_be_used_changes_nothing(daemon, text, problem):
    daemon.write(text if "[daemon]" in text else daemon.start + text)
    logs = await daemon.reload()
    (line,) = logs["reload_refused"]["problems"]
    assert problem in line
    async with connected(daemon.socket) as client:
        assert isinstance(await client.call(HEALTH), Ok)
