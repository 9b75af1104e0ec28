"""The first corpus, made from the vectors of the contract; and the words that mutants use."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dataplane_conformance.cbor import encode, head
from dataplane_conformance.frames import control_frame, frame

CORPUS: Final = Path(__file__).parent / "corpus"
VECTORS: Final = Path(__file__).parents[2] / "protocol" / "vectors"

#: Each target and its share of the inputs of a run, the slower ones with less.
TARGETS: Final = {"server": 1, "client": 1, "control": 3}

#: Bytes of the largest seed. What is larger is slow to mutate and hardly finds more.
MAX_SEED_SIZE: Final = 1024

#: What stands before the stream of a seed, in turn: see `feeding`. Few are cut byte by byte,
#: since that is slow.
_SCRIPTS: Final = tuple(
    bytes.fromhex(script)
    for script in ("3f0b0b", "2f0219", "1d3a00", "500403", "ff3f0f", "090510", "7f0108", "00000f")
)


def frames() -> list[bytes]:
    """Give every short frame of `frames.json`, good and bad."""
    found = json.loads((VECTORS / "frames.json").read_text())
    entries = found["accept"] + found["refuse"] + found["either"]
    all_frames = [_bytes(entry["frame"]) for entry in entries]
    return [each for each in all_frames if len(each) <= MAX_SEED_SIZE]


def conversations() -> Iterator[tuple[str, bytes, bytes]]:
    """Give a name and what each side sends, for every connection of `calls.json`."""
    found = json.loads((VECTORS / "calls.json").read_text())
    for case in found["cases"]:
        for number, steps in enumerate(case["connections"]):
            said = {"client": b"", "server": b""}
            for step in steps:
                for word, spoken in step.items():
                    side = word.partition("_")[0]
                    if side in said and not isinstance(spoken, bool):
                        said[side] += _spoken(word, spoken, step)
            yield f"{case['name']} {number}", said["client"], said["server"]


def seeds(target: str) -> Iterator[bytes]:
    """Give the inputs that a target starts from."""
    if target == "control":
        yield from (each[4:] for each in frames() if each[4:])
        return
    hello = control_frame({"hello": {"version": 1, "features": ["serve_fd", "ingest_fd"]}})
    streams = [hello + each for each in frames()]
    streams += [ours if target == "server" else theirs for _, ours, theirs in conversations()]
    for number, stream in enumerate(streams):
        if len(stream) <= MAX_SEED_SIZE:
            yield _SCRIPTS[number % len(_SCRIPTS)] + stream


def _spoken(word: str, spoken: object, step: Mapping[str, object]) -> bytes:
    if word.endswith("_raw"):
        return _bytes(spoken)
    if word.endswith("_data"):
        payload = _bytes(spoken)
        return frame(head(2, len(payload)) + payload) if payload else b""
    assert word in ("client", "server"), step
    return frame(encode(_value(spoken)))


def _bytes(notation: object) -> bytes:
    if isinstance(notation, str):
        return bytes.fromhex(notation)
    if isinstance(notation, dict):
        return _bytes(notation["repeat"]) * notation["count"]
    return b"".join(map(_bytes, notation))


def _value(notation: object) -> object:
    """Turn the JSON forms of a control frame into values; a pattern into its example."""
    if isinstance(notation, list):
        return [_value(each) for each in notation]
    if not isinstance(notation, dict):
        return notation
    if "$bytes" in notation:
        return bytes.fromhex(notation["$bytes"])
    if "$repeat" in notation:
        return notation["$repeat"] * notation["count"]
    if "$any" in notation:
        return _value(notation["$any"])
    return {key: _value(each) for key, each in notation.items()}
