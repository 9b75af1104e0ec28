"""What the known keys of every frame, argument and result must be (`SPEC.md` 2.3, 6 and 7).

Unknown keys are never looked at. A check gives a complaint, or `None` when it has none.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, cast

from .cbor import MAX_INTEGER
from .frames import Control, FrameError, kind_of

Check: TypeAlias = Callable[[object], str | None]

MAX_BATCH: Final = 128
_MAX_MILLISECONDS: Final = 253_402_300_799_999
_DIGEST: Final = re.compile(r"([a-z][a-z0-9_-]{0,31}):((?:[0-9a-f]{2}){1,64})")
_DIGITS: Final = {"blake3": 64, "sha256": 64}


def check_frame(control: Control) -> str | None:
    """Judge a control frame, but for what is inside `args` and `ok`."""
    try:
        kind = kind_of(control)
    except FrameError as exc:
        return str(exc)
    return FRAMES[kind](control)


def is_digest(text: object) -> bool:
    """Whether it is a digest as 6.1 has it."""
    match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    return match is not None and len(match[2]) == _DIGITS.get(match[1], len(match[2]))


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else "is not text"


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else "is neither true nor false"


def _digest(value: object) -> str | None:
    return None if is_digest(value) else "is not a digest"


def _digest_of(algorithm: str) -> Check:
    def check(value: object) -> str | None:
        is_one = is_digest(value) and str(value).startswith(f"{algorithm}:")
        return None if is_one else f"is not a {algorithm} digest"

    return check


def _integer(least: int, most: int) -> Check:
    def check(value: object) -> str | None:
        is_one = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return None if is_one else f"is not an integer from {least} to {most}"

    return check


def _one_of(*words: str) -> Check:
    def check(value: object) -> str | None:
        return None if value in words else f"is not {' or '.join(words)}"

    return check


def _list(item: Check, least: int, most: int) -> Check:
    def check(value: object) -> str | None:
        if not isinstance(value, list):
            return "is not a list"
        items = cast("list[object]", value)
        if not least <= len(items) <= most:
            return f"has {len(items)} entries, must have {least} to {most}"
        for index, entry in enumerate(items):
            if complaint := item(entry):
                return f"[{index}] {complaint}"
        return None

    return check


def _map(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    known = {**required, **(optional or {})}

    def check(value: object) -> str | None:
        if not isinstance(value, dict):
            return "is not a map"
        entries = cast("Control", value)
        for key, item in known.items():
            if key in entries:
                if complaint := item(entries[key]):
                    return f".{key} {complaint}"
            elif key in required:
                return f".{key} is missing"
        return None

    return check


_ANY_MAP: Final = _map({})
_SIZE: Final = _integer(0, MAX_INTEGER)
_TIME: Final = _integer(0, _MAX_MILLISECONDS)
_BODY: Final = _one_of("stream", "fd")
_BACKEND: Final = {"backend_id": _text}
_RANGE: Final = _map({"offset": _SIZE}, {"length": _integer(1, MAX_INTEGER)})

#: Whole control frames, by kind.
FRAMES: Final[Mapping[str, Check]] = {
    "hello": _map(
        {"hello": _map({"version": _SIZE, "features": _list(_text, 0, 65_536)}, {"agent": _text})}
    ),
    "op": _map(
        {"op": _text, "args": _ANY_MAP}, {"body": _BODY, "accept_fd": _boolean, "trace": _text}
    ),
    "ok": _map({"ok": _ANY_MAP}, {"body": _BODY}),
    "error": _map(
        {"error": _map({"code": _text, "message": _text}, {"retry": _boolean, "details": _ANY_MAP})}
    ),
    "end": _map({"end": _map({"size_bytes": _SIZE}, {"digest": _digest})}),
}

_STATUS: Final = _map(
    {"backend_id": _text, "state": _text, "writable": _boolean},
    {"free_bytes": _SIZE, "total_bytes": _SIZE, "object_count": _SIZE, "message": _text},
)
_OBJECTS: Final = _list(
    _map(
        {
            "content_address": _digest_of("blake3"),
            "size_bytes": _SIZE,
            "sha256_digest": _digest_of("sha256"),
            "generation": _SIZE,
            "stored_at_ms": _TIME,
        },
        {"verified_at_ms": _TIME, "state": _text},
    ),
    0,
    MAX_BATCH,
)

#: `args`, by operation.
ARGUMENTS: Final[Mapping[str, Check]] = {
    "ingest_stream": _map({}, {"size_hint": _SIZE, "primary_algorithm": _text, **_BACKEND}),
    "serve_object": _map({"content_address": _digest}, {"byte_range": _RANGE, **_BACKEND}),
    "verify_object": _map({"content_address": _digest}, _BACKEND),
    "delete_object": _map({"content_address": _digest}, {"if_generation": _SIZE, **_BACKEND}),
    "backend_health": _map({}, _BACKEND),
    "stat_objects": _map({"content_addresses": _list(_digest, 1, MAX_BATCH)}, _BACKEND),
    "list_objects": _map(
        {}, {"after": _digest_of("blake3"), "limit": _integer(1, MAX_BATCH), **_BACKEND}
    ),
    "list_backends": _ANY_MAP,
}

#: `ok`, by operation.
RESULTS: Final[Mapping[str, Check]] = {
    "ingest_stream": _map(
        {
            "primary_digest": _digest,
            "sha256_digest": _digest_of("sha256"),
            "size_bytes": _SIZE,
            "receipt": _map(
                {"backend_id": _text, "outcome": _text, "generation": _SIZE, "stored_at_ms": _TIME}
            ),
        }
    ),
    "serve_object": _map({"size_bytes": _SIZE, "offset": _SIZE, "length": _SIZE}),
    "verify_object": _map(
        {
            "content_address": _digest,
            "verified": _boolean,
            "actual_primary_digest": _digest,
            "actual_sha256_digest": _digest_of("sha256"),
            "actual_size_bytes": _SIZE,
        },
        {"mismatch": _text},
    ),
    "delete_object": _map({"content_address": _digest, "backend_id": _text, "deleted": _boolean}),
    "backend_health": _STATUS,
    "stat_objects": _map({"objects": _OBJECTS}),
    "list_objects": _map({"objects": _OBJECTS, "more": _boolean}),
    "list_backends": _map({"backends": _list(_STATUS, 0, MAX_BATCH), "default": _text}),
}
