"""The vectors of `protocol/vectors`, read as its README tells.

Tests are parametrised by the names of their arguments: `accepted`, `refused` and `either`
are the entries of `frames.json`, `case` is a conversation of `calls.json`, `daemon_case` one
that a daemon can be brought to.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PROTOCOL = Path(__file__).parents[2] / "protocol"


@dataclass(frozen=True, slots=True)
class Vector:
    """One entry of `frames.json`."""

    name: str
    section: str
    rules: tuple[str, ...]
    frame: bytes
    control: Mapping[str, object] | None
    data: bytes | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a control frame of the server must match, and an example that does."""

    wanted: object

    @property
    def example(self) -> dict[str, object]:
        value = _example(self.wanted)
        assert isinstance(value, dict)
        return value

    def matches(self, value: object) -> bool:
        return _matches(self.wanted, value)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `kind` is its key in the file, at most one of the next four has its value."""

    kind: str
    control: Mapping[str, object] | None = None
    pattern: Pattern | None = None
    data: bytes = b""
    object_name: str = ""
    fd: bytes | None = None
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation: its connections, one after the other."""

    name: str
    section: str
    rules: tuple[str, ...]
    needs: frozenset[str]
    connections: tuple[tuple[Step, ...], ...]

    @property
    def steps(self) -> Iterator[Step]:
        for connection in self.connections:
            yield from connection

    @property
    def is_for_clients(self) -> bool:
        return "server-role" in self.needs

    @property
    def features(self) -> frozenset[str]:
        return frozenset(self._arguments("feature:"))

    @property
    def max_object_size(self) -> int | None:
        sizes = [int(size) for size in self._arguments("max-object-size:")]
        return sizes[0] if sizes else None

    def _arguments(self, word: str) -> Iterator[str]:
        return (need.removeprefix(word) for need in self.needs if need.startswith(word))


def pytest_generate_tests(metafunc):
    for argument, load in (
        ("accepted", lambda: _frames("accept")),
        ("refused", lambda: _frames("refuse")),
        ("either", lambda: _frames("either")),
        ("case", _cases),
        ("daemon_case", lambda: [case for case in _cases() if not case.is_for_clients]),
    ):
        if argument in metafunc.fixturenames:
            metafunc.parametrize(argument, load(), ids=lambda vector: vector.name)


@pytest.fixture(scope="session")
def protocol_folder():
    return PROTOCOL


@pytest.fixture(scope="session")
def frames():
    return {group: _frames(group) for group in ("accept", "refuse", "either")}


@pytest.fixture(scope="session")
def cases():
    return _cases()


@pytest.fixture(scope="session")
def objects():
    """Bytes and stated identity of the objects that the cases use."""
    return {
        name: (_bytes(entry["bytes"]), entry) for name, entry in _load("calls")["objects"].items()
    }


def _load(name):
    document = json.loads((PROTOCOL / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    assert (document["format"], document["protocol"]) == (2, 1)
    return document


def _frames(group):
    return [
        Vector(
            name=entry["name"],
            section=entry["section"],
            rules=tuple(entry["rules"]),
            frame=_bytes(entry["frame"]),
            control=_value(entry["control"]) if "control" in entry else None,
            data=_bytes(entry["data"]) if "data" in entry else None,
        )
        for entry in _load("frames")[group]
    ]


def _cases():
    return [
        Case(
            name=entry["name"],
            section=entry["section"],
            rules=tuple(entry["rules"]),
            needs=frozenset(entry.get("needs", ())),
            connections=tuple(
                tuple(_step(step) for step in connection) for connection in entry["connections"]
            ),
        )
        for entry in _load("calls")["cases"]
    ]


def _step(entry):
    step = dict(entry)
    fd = _bytes(step.pop("fd")) if "fd" in step else None
    is_optional = step.pop("optional", False)
    ((kind, value),) = step.items()
    if kind == "client":
        return Step(kind, control=_value(value), fd=fd)
    if kind == "server":
        return Step(kind, pattern=Pattern(value), fd=fd, is_optional=is_optional)
    assert not is_optional
    if kind in ("client_data", "client_raw", "server_data", "server_raw"):
        return Step(kind, data=_bytes(value), fd=fd)
    assert fd is None
    if kind == "tamper":
        return Step(kind, object_name=value)
    assert kind in ("client_close", "server_close")
    assert value is True
    return Step(kind)


def _bytes(notation):
    if isinstance(notation, str):
        return bytes.fromhex(notation)
    if isinstance(notation, list):
        return b"".join(map(_bytes, notation))
    return bytes.fromhex(notation["repeat"]) * notation["count"]


def _value(notation):
    """Give the value of a control map, which has two forms that are not plain JSON."""
    if isinstance(notation, list):
        return [_value(item) for item in notation]
    if not isinstance(notation, dict):
        return notation
    if "$bytes" in notation:
        return bytes.fromhex(notation["$bytes"])
    if "$repeat" in notation:
        return notation["$repeat"] * notation["count"]
    return {key: _value(item) for key, item in notation.items()}


def _example(pattern):
    if isinstance(pattern, list):
        return [_example(item) for item in pattern]
    if not isinstance(pattern, dict):
        return pattern
    if "$any" in pattern:
        return pattern["$any"]
    return {key: _example(item) for key, item in pattern.items()}


def _matches(pattern, value):
    if isinstance(pattern, list):
        return (
            isinstance(value, list)
            and len(pattern) == len(value)
            and all(map(_matches, pattern, value))
        )
    if not isinstance(pattern, dict):
        return type(pattern) is type(value) and pattern == value
    if "$any" in pattern:
        return True
    return isinstance(value, dict) and all(
        key in value and _matches(item, value[key]) for key, item in pattern.items()
    )
