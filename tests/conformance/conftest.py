"""The vectors of `protocol/vectors`, read as its README tells.

Tests are parametrised by the names of their arguments: `accepted`, `refused` and `either`
are the entries of `frames.json`, `case` is a conversation of `calls.json`.
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
    """One step: `kind` is its key in the file, exactly one of the others has its value."""

    kind: str
    control: Mapping[str, object] | None = None
    pattern: Pattern | None = None
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation: its connections, one after the other."""

    name: str
    section: str
    connections: tuple[tuple[Step, ...], ...]

    @property
    def steps(self) -> Iterator[Step]:
        for connection in self.connections:
            yield from connection


def pytest_generate_tests(metafunc):
    for argument, load in (
        ("accepted", lambda: _frames("accept")),
        ("refused", lambda: _frames("refuse")),
        ("either", lambda: _frames("either")),
        ("case", _cases),
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
    return [
        (name, _bytes(entry["bytes"]), entry) for name, entry in _load("calls")["objects"].items()
    ]


def _load(name):
    document = json.loads((PROTOCOL / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    assert (document["format"], document["protocol"]) == (1, 1)
    return document


def _frames(group):
    return [
        Vector(
            name=entry["name"],
            section=entry["section"],
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
            connections=tuple(
                tuple(_step(step) for step in connection) for connection in entry["connections"]
            ),
        )
        for entry in _load("calls")["cases"]
    ]


def _step(step):
    ((kind, value),) = step.items()
    if kind == "client":
        return Step(kind, control=_value(value))
    if kind == "server":
        return Step(kind, pattern=Pattern(value))
    if kind in ("client_data", "client_raw", "server_data"):
        return Step(kind, data=_bytes(value))
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
