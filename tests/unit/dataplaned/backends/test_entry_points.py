"""A backend of somebody else's: it passes the suite, and a daemon takes it up."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataplane_client import blocking
from dataplane_protocol import IngestHints
from dataplaned.backends import entry_points
from dataplaned.backends.base import BackendError
from dataplaned.backends.suite import BackendSuite, names_of, publish
from dataplaned.config import ConfigurationError, ThirdPartyConfig, load_config

from . import example_backend

CONFIG = '[backend.mine]\ntype = "example"\nroot = "{root}"\n'

ENTRY_POINTS = """
[dataplaned.backends]
example = example_backend:make_backend
broken = example_backend:no_such_name
nothing = builtins:dict
"""


class TestExample(BackendSuite):
    @pytest.fixture
    async def backend(self, tmp_path):
        backend = example_backend.make_backend("test", {"root": str(tmp_path / "root")})
        await backend.open()
        yield backend
        await backend.aclose()

    async def replace(self, backend, data, stored):
        backend._entries[names_of(data)[0]].data = stored

    @pytest.mark.trio
    async def test_it_outlives_itself(self, backend):
        for data in (b"one", b"two", b"one"):
            await publish(backend, data)
        await backend.delete(names_of(b"two")[0], None)
        before = await backend.list_page(None, 10)
        again = example_backend.ExampleBackend("test", backend._root)
        await again.open()
        after = await again.list_page(None, 10)
        assert [status.generation for status in after] == [3]
        assert (await publish(again, b"two")).generation == 4
        await again.delete(names_of(b"two")[0], None)
        third = example_backend.ExampleBackend("test", backend._root)
        await third.open()
        assert (await publish(third, b"two")).generation == 5
        assert [status.content_address for status in after] == [
            status.content_address for status in before
        ]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install the example, as pip would, in a directory of its own."""
    site = tmp_path / "site"
    metadata = site / "example_backend-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: example-backend\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "example_backend.py").write_text(Path(example_backend.__file__).read_text())
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    yield
    sys.modules.pop("example_backend", None)


@pytest.fixture
def write_config(tmp_path):
    def write(text):
        path = tmp_path / "dp.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_daemon_takes_it_up(installed, write_config, start_daemon, tmp_path):
    path = write_config(CONFIG.format(root=tmp_path / "objects"))
    daemon = start_daemon(["--config", path])
    with contextlib.closing(blocking.connect(daemon.socket_path)) as plane:
        hints = IngestHints(backend_id="mine")
        address = plane.ingest_stream([b"hello"], hints=hints).receipt.content_address
        daemon.kill()
        daemon.start()
        with plane.serve_object(address) as body:
            assert b"".join(body) == b"hello"


def test_its_settings_are_the_rest_of_its_table(installed, write_config):
    path = write_config('[backend.mine]\ntype = "example"\nroot = "r"\nmore = [1, 2]\n')
    config = load_config(path, socket="s", root=None)
    assert config.backend["mine"] == ThirdPartyConfig(
        type="example", settings={"root": "r", "more": [1, 2]}
    )


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("example", {}, r"'example' \(example_backend:make_backend\) refuses its settings: root"),
        ("broken", {}, r"'broken' \(example_backend:no_such_name\) cannot be loaded: Attribute"),
        ("nothing", {}, r"'nothing' \(builtins:dict\) cannot be loaded: TypeError"),
    ],
)
def test_what_cannot_be_made_says_why(installed, kind, settings, words):
    with pytest.raises(BackendError, match=words):
        entry_points.make_backend("mine", ThirdPartyConfig(type=kind, settings=settings))


def test_what_is_no_backend_is_refused(installed, monkeypatch):
    monkeypatch.setattr(
        sys.modules.setdefault("example_backend", example_backend), "make_backend", print
    )
    with pytest.raises(BackendError, match="gives NoneType, must give a Backend"):
        entry_points.make_backend("mine", ThirdPartyConfig(type="example", settings={}))


def test_types_that_are_not_installed_are_named_with_those_that_are(installed, write_config):
    with pytest.raises(
        ConfigurationError, match=r"type is 'tape', must be one of filesystem,.*example"
    ):
        load_config(write_config('[backend.mine]\ntype = "tape"\n'), socket="s", root=None)


def test_a_daemon_says_in_a_line_why_it_does_not_start(installed, write_config, tmp_path):
    path = write_config('[backend.mine]\ntype = "example"\n')
    done = subprocess.run(
        [sys.executable, "-m", "dataplaned", "serve", "--socket", tmp_path / "s", "--config", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "backend mine: type 'example' (example_backend:make_backend) refuses" in done.stderr
    assert "Traceback" not in done.stderr
