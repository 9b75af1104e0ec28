"""Control frames to bytes and back: cbor2, held to the profile of `SPEC.md` 3.

cbor2 alone is too generous for a socket: it ignores bytes after the item, accepts long
heads and byte-string keys, and turns 22 tags into live objects, regular expressions and
self-referencing lists among them. Tags, duplicate keys, indefinite lengths and depth are
refused while decoding. What is left, trailing bytes and second spellings, is caught by
encoding the value again; that must come after the tags are gone, since 2 KB of shared
references encode to gigabytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NoReturn, cast

import cbor2

from ._errors import LocalProtocolError, RemoteProtocolError
from ._limits import MAX_CONTROL_SIZE, MAX_DEPTH, MAX_INTEGER

#: Tags that cbor2 decodes by itself, without asking `tag_hook`.
_BUILT_IN_TAGS: Final = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100),
    *(256, 258, 260, 261, 1004, 43000, 55799),
)

_LEAVES: Final = (str, bytes, bytearray)


def encode_control(message: Mapping[str, object]) -> bytes:
    """Encode a control map deterministically, without its length.

    Raises:
        LocalProtocolError: It has a value outside the profile, or more than
            `MAX_CONTROL_SIZE` bytes.
    """
    _require_profile(message, MAX_DEPTH)
    try:
        item = cbor2.dumps(message, canonical=True)
    except (cbor2.CBOREncodeError, UnicodeEncodeError) as exc:
        raise LocalProtocolError(f"control frame cannot be encoded: {exc}") from exc
    if len(item) > MAX_CONTROL_SIZE:
        raise LocalProtocolError(f"control frame is {len(item)} bytes, limit is {MAX_CONTROL_SIZE}")
    return item


def decode_control(item: bytes) -> Mapping[str, object]:
    """Decode the one CBOR map of a control frame.

    Raises:
        RemoteProtocolError: The bytes are not exactly one map within the profile.
    """
    try:
        value: object = cbor2.loads(
            item,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
            max_depth=MAX_DEPTH,
            semantic_decoders=dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag),
            tag_hook=_refuse_tag,
            object_hook=_require_text_keys,
        )
        respelled = cbor2.dumps(value, canonical=True)
    except (cbor2.CBORError, ValueError, RecursionError, MemoryError) as exc:
        raise RemoteProtocolError(f"control frame is not valid: {_reason(exc)}") from exc
    if respelled != item:
        raise RemoteProtocolError("control frame is not one item in deterministic encoding")
    if not isinstance(value, dict):
        raise RemoteProtocolError("control frame is not a map")
    message = cast("Mapping[str, object]", value)
    if _is_deeper(message, MAX_DEPTH):
        raise RemoteProtocolError(f"control frame is nested deeper than {MAX_DEPTH}")
    return message


def _require_profile(value: object, depth: int) -> None:
    """Refuse what the peer would take for a violation.

    cbor2 encodes sets, times and large numbers as tags, and follows nesting until the
    stack is gone.
    """
    if value is None or isinstance(value, _LEAVES):
        return
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise LocalProtocolError("control frame cannot be encoded: an integer beyond 2^53-1")
        return
    if not isinstance(value, dict | list | tuple):
        kind = type(value).__name__
        raise LocalProtocolError(f"control frame cannot be encoded: a value of type {kind}")
    if not depth:
        raise LocalProtocolError(f"control frame cannot be encoded: deeper than {MAX_DEPTH}")
    if not isinstance(value, dict):
        for item in cast("Sequence[object]", value):
            _require_profile(item, depth - 1)
        return
    for key, item in cast("Mapping[object, object]", value).items():
        if not isinstance(key, str):
            raise LocalProtocolError("control frame cannot be encoded: a key that is not text")
        _require_profile(item, depth - 1)


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("tags are not allowed")


def _is_deeper(value: object, depth: int) -> bool:
    """Whether more than `depth` containers are nested: cbor2 does not count an empty one."""
    level = [value]
    for _ in range(depth):
        level = [item for each in level for item in _items(each) if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _items(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return cast("Mapping[str, object]", container).values()
    return cast("Sequence[object]", container)


def _require_text_keys(value: Mapping[object, object], _immutable: object) -> object:
    if not all(type(key) is str for key in value):
        raise ValueError("map keys must be text")
    return value


def _reason(exc: BaseException) -> str:
    # cbor2 wraps what a hook raised; the hook's own words say more.
    return str(exc.__cause__ or exc)[:200]
