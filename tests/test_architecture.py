"""Who may import whom. Read from the source, so that an import inside a function counts."""

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]

PACKAGES = {
    "dataplane_protocol": TOP / "protocol" / "dataplane_protocol",
    "dataplane_conformance": TOP / "protocol" / "dataplane_conformance",
    "dataplane_client": TOP / "client" / "dataplane_client",
    "dataplaned": TOP / "dataplaned",
}

#: What each distribution may import besides itself and the standard library.
MAY_IMPORT = {
    "dataplane_protocol": {"cbor2"},
    "dataplane_conformance": set(),  # a judge shares nothing with whom it judges
    "dataplane_client": {"anyio", "dataplane_protocol"},
    "dataplaned": {
        "attrs",
        "blake3",
        "cattrs",
        "click",
        "dataplane_client",
        "dataplane_protocol",
        "h11",
        "prometheus_client",
        "rich",
        "structlog",
        "trio",
    },
}

#: Standard modules that a distribution may not import: the contract opens nothing, awaits
#: nothing and reads no clock; the client runs on whatever loop anyio finds.
MAY_NOT_IMPORT = {
    "dataplane_protocol": {
        "asyncio",
        "io",
        "os",
        "pathlib",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
        "threading",
        "time",
    },
    "dataplane_conformance": {"asyncio"},
    "dataplane_client": {"asyncio", "sqlite3", "subprocess"},
    "dataplaned": {"asyncio"},
}

#: The floors of the daemon, top first. A room imports only from floors below its own.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("daemon",),
    ("reloading", "watching"),
    ("door", "sockets"),
    ("server", "quick"),
    ("lobby",),
    ("plane", "peer", "listening", "maintenance", "roster", "watchdog", "stores"),
    ("operations", "outlet", "probing"),
    ("reports",),
    ("intake",),
    ("backends",),
    ("telemetry",),
    ("metrics",),
    ("calls",),
    ("access",),
    ("digests", "threads", "config", "systemd"),
    ("paths",),
)

#: Libraries that only some rooms of the daemon may use.
ONLY_IN = {
    "click": {"cli"},
    "rich": {"cli"},
    "dataplane_client": {"cli"},
    "blake3": {"cli", "digests"},
}

#: What the daemon may do without, and in which files it may not.
ONLY_IN_FILES = {
    "asyncio": {"backends/objectstore/bridge.py", "backends/objectstore/engine.py"},
    "h11": {"metrics/endpoint.py"},
    "prometheus_client": {"metrics/page.py"},
    "opentelemetry": {"telemetry/tracing.py"},
    "obstore": {"backends/objectstore/engine.py"},
    "pytest": {"backends/suite.py"},
}


def imports(path: Path, package: str, root: Path) -> Iterator[tuple[int, str]]:
    """Give the line and the absolute name of every module that a file imports."""
    parents = [package, *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def room_of(module: str) -> str:
    """Give the room of the daemon that a module is in; its version belongs to nobody."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__version") else ""


def floor_of(room: str) -> int:
    return next(index for index, rooms in enumerate(FLOORS) if room in rooms)


def violations(package: str, root: Path) -> list[str]:
    """Give a line for each import in a package that the rules forbid."""
    found = []
    for path in sorted(root.rglob("*.py")):
        here = path.relative_to(root)
        room = here.parts[0].removesuffix(".py")
        for line, module in imports(path, package, root):
            if package == "dataplaned" and str(here) in ONLY_IN_FILES.get(
                module.split(".", maxsplit=1)[0], ()
            ):
                continue
            problem = judge(package, "" if room == "__init__" else room, module)
            if problem:
                found.append(f"{package}/{here}:{line}: {module}: {problem}")
    return found


def judge(package: str, room: str, module: str) -> str | None:
    top = module.split(".", maxsplit=1)[0]
    if top != package:
        if top in MAY_NOT_IMPORT[package]:
            return "this package may not use it"
        if top not in sys.stdlib_module_names and top not in MAY_IMPORT[package]:
            return "not among its dependencies"
        parts = module.split(".")
        if top in PACKAGES and any(p.startswith("_") and p != "__version__" for p in parts):
            return "private to another package"
    if package != "dataplaned":
        return None
    if room not in ONLY_IN.get(top, {room}):
        return f"only {', '.join(sorted(ONLY_IN[top]))} may use it"
    other = room_of(module) if top == package else ""
    if other and other != room and room and floor_of(other) <= floor_of(room):
        return f"{room} may not look up to {other}"
    return None


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_allowed(package: str) -> None:
    assert violations(package, PACKAGES[package]) == []


def test_every_room_of_the_daemon_has_a_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGES["dataplaned"].iterdir()}
    for room in rooms - {"__init__", "__pycache__", "py.typed"}:
        floor_of(room)


@pytest.mark.parametrize(
    ("package", "file", "statement"),
    [
        ("dataplane_protocol", "_frames.py", "import socket"),
        ("dataplane_protocol", "_halves.py", "from time import monotonic"),
        ("dataplane_protocol", "_codec.py", "import trio"),
        ("dataplane_protocol", "_codec.py", "import dataplane_client"),
        ("dataplane_conformance", "cbor.py", "from dataplane_protocol import Digest"),
        ("dataplane_conformance", "wire.py", "import cbor2"),
        ("dataplane_client", "__init__.py", "import asyncio"),
        ("dataplane_client", "__init__.py", "import trio"),
        ("dataplane_client", "__init__.py", "def f():\n    import blake3"),
        ("dataplane_client", "__init__.py", "from dataplaned import plane"),
        ("dataplane_client", "__init__.py", "from dataplane_protocol._frames import data_head"),
        ("dataplaned", "server.py", "import dataplane_client"),
        ("dataplaned", "plane.py", "from .server import Session"),
        ("dataplaned", "plane.py", "from . import daemon"),
        ("dataplaned", "maintenance.py", "from .server import Session"),
        ("dataplaned", "operations.py", "from .maintenance import Maintenance"),
        ("dataplaned", "digests.py", "from .backends.base import Backend"),
        ("dataplaned", "backends/memory.py", "from ..plane import LocalDataPlane"),
        ("dataplaned", "backends/memory.py", "import obstore"),
        ("dataplaned", "backends/base.py", "import pytest"),
        ("dataplaned", "plane.py", "import asyncio"),
        ("dataplaned", "backends/filesystem/root.py", "from ... import cli"),
        ("dataplaned", "backends/filesystem/root.py", "import click"),
        ("dataplaned", "daemon.py", "import dataplaned.cli.serve"),
        ("dataplaned", "config/values.py", "import numpy"),
    ],
)
def test_a_planted_violation_is_found(
    package: str, file: str, statement: str, tmp_path: Path
) -> None:
    root = tmp_path / package
    shutil.copytree(PACKAGES[package], root, ignore=shutil.ignore_patterns("__pycache__"))
    with (root / file).open("a") as source:
        source.write(f"\n{statement}\n")
    assert len(violations(package, root)) == 1
