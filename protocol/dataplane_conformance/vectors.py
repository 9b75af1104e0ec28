"""The vectors of the contract, read as `vectors/README.md` tells.

What this version does not know how to play is kept with the reason, and skipped.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from .frames import Control

#: Keys of an entry that this version understands. `why` and `rules` are for people.
_CASE_KEYS: Final = {"name", "section", "connections", "needs", "why", "rules"}
_FRAME_KEYS: Final = {"name", "section", "frame", "control", "data", "needs", "why", "rules"}

_CONTROL_STEPS: Final = ("client", "server")
_BYTES_STEPS: Final = ("client_data", "client_raw", "server_data", "server_raw")
_OTHER_STEPS: Final = ("client_close", "server_close", "tamper")
_STEP_KEYS: Final = {*_CONTROL_STEPS, *_BYTES_STEPS, *_OTHER_STEPS, "fd", "optional"}

#: Descriptions of the files that this version reads.
_FORMATS: Final = (1, 2)


class VectorsError(Exception):
    """The vectors are not there, or are of a format that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a conversation: what its key is, and its value in one of the forms.

    Attributes:
        name: The object that a `tamper` is about.
        fd: The content of the descriptor that goes with it.
        is_optional: Whether it may be left out.
    """

    kind: str
    control: Control
    data: bytes
    name: str
    fd: bytes | None
    is_optional: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A case of `calls.json`.

    Attributes:
        needs: What it takes to play it, words of `vectors/README.md`.
        unknown: Why this version cannot play it; empty when it can.
    """

    name: str
    section: str
    connections: Sequence[Sequence[Step]]
    needs: Sequence[str]
    unknown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameVector:
    """An entry of `frames.json`."""

    name: str
    section: str
    frame: bytes
    control: Control | None
    needs: Sequence[str]
    unknown: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownObject:
    """Content whose digests are known without computing BLAKE3."""

    name: str
    data: bytes
    blake3: str
    sha256: str


def conversations() -> Iterator[Conversation]:
    """Give the cases of `calls.json`."""
    for entry in _load("calls")["cases"]:
        yield Conversation(
            name=entry["name"],
            section=entry["section"],
            connections=[[_step(step) for step in steps] for steps in entry["connections"]],
            needs=_needs(entry),
            unknown=_unknown(entry, _CASE_KEYS) or _unknown_step(entry["connections"]),
        )


def frames(group: str) -> Iterator[FrameVector]:
    """Give the entries of `accept`, `refuse` or `either` of `frames.json`."""
    for entry in _load("frames")[group]:
        yield FrameVector(
            name=entry["name"],
            section=entry["section"],
            frame=_bytes(entry["frame"]),
            control=_value(entry["control"]) if "control" in entry else None,
            needs=_needs(entry),
            unknown=_unknown(entry, _FRAME_KEYS),
        )


@cache
def objects() -> Mapping[str, KnownObject]:
    """Give the contents that `calls.json` uses, by name."""
    return {
        name: KnownObject(
            name=name, data=_bytes(entry["bytes"]), blake3=entry["blake3"], sha256=entry["sha256"]
        )
        for name, entry in _load("calls")["objects"].items()
    }


def matches(pattern: object, value: object) -> bool:
    """Whether a control frame is as a pattern of the vectors wants it."""
    if isinstance(pattern, list):
        wanted = cast("list[object]", pattern)
        if not isinstance(value, list):
            return False
        items = cast("list[object]", value)
        return len(wanted) == len(items) and all(map(matches, wanted, items))
    if not isinstance(pattern, dict):
        return type(pattern) is type(value) and pattern == value
    fields = cast("Control", pattern)
    if "$any" in fields:
        return True
    if not isinstance(value, dict):
        return False
    entries = cast("Control", value)
    return all(key in entries and matches(item, entries[key]) for key, item in fields.items())


def example(pattern: Any) -> Any:
    """Give a frame that matches a pattern."""
    if isinstance(pattern, list):
        return [example(item) for item in cast("list[object]", pattern)]
    if not isinstance(pattern, dict):
        return pattern
    fields = cast("Control", pattern)
    if "$any" in fields:
        return fields["$any"]
    return {key: example(item) for key, item in fields.items()}


@cache
def _load(name: str) -> dict[str, Any]:
    here = Path(__file__).parent
    # An installed kit has them inside the package, a checkout beside it.
    folder = here / "vectors"
    if not folder.is_dir():
        folder = here.parent / "vectors"
    document = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if document["format"] not in _FORMATS or document["protocol"] != 1:
        raise VectorsError(f"{name}.json is of a format or protocol that this kit does not know")
    return cast("dict[str, Any]", document)


def _step(step: dict[str, Any]) -> Step:
    # An unknown key is found by `_unknown_step`; its case is not played.
    kind = next((key for key in step if key not in ("fd", "optional")), "")
    value = step.get(kind)
    return Step(
        kind=kind,
        control=_value(value) if kind in _CONTROL_STEPS else {},
        data=_bytes(value) if kind in _BYTES_STEPS else b"",
        name=value if isinstance(value, str) and kind == "tamper" else "",
        fd=_bytes(step["fd"]) if "fd" in step else None,
        is_optional=step.get("optional", False),
    )


def _unknown_step(connections: Sequence[Sequence[Mapping[str, object]]]) -> str:
    keys = {key for steps in connections for step in steps for key in step} - _STEP_KEYS
    return f"a step says {', '.join(sorted(keys))}, which this kit does not know" if keys else ""


def _needs(entry: dict[str, Any]) -> Sequence[str]:
    needs = entry.get("needs", [])
    return [needs] if isinstance(needs, str) else needs


def _unknown(entry: dict[str, Any], known: set[str]) -> str:
    keys = sorted(set(entry) - known)
    return f"the vectors say {', '.join(keys)}, which this kit does not know" if keys else ""


def _bytes(notation: Any) -> bytes:
    if isinstance(notation, str):
        return bytes.fromhex(notation)
    if isinstance(notation, list):
        return b"".join(map(_bytes, cast("list[object]", notation)))
    return bytes.fromhex(notation["repeat"]) * cast("int", notation["count"])


def _value(notation: Any) -> Any:
    """Give a control map, in which two forms stand for what JSON lacks or would be long."""
    if isinstance(notation, list):
        return [_value(item) for item in cast("list[object]", notation)]
    if not isinstance(notation, dict):
        return notation
    fields = cast("dict[str, Any]", notation)
    if "$bytes" in fields:
        return bytes.fromhex(fields["$bytes"])
    if "$repeat" in fields:
        return fields["$repeat"] * fields["count"]
    return {key: _value(item) for key, item in fields.items()}
