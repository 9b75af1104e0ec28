"""The configuration written: an example with every key, and what a daemon would use, as TOML."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final, cast

from .loading import Loaded
from .sources import DEFAULT, Sources
from .values import Config

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def example() -> str:
    """Give a configuration with every key, a line on each, and its default."""
    return files("dataplaned.config").joinpath("example.toml").read_text(encoding="utf-8")


def to_toml(config: Config) -> str:
    """Give a configuration in full, defaults among it; keys without a value are left out."""
    return "\n".join(_lines(config, None, is_whole=True))


def annotated(loaded: Loaded, *, is_whole: bool) -> str:
    """Give a configuration with a word on where each value was read.

    Args:
        loaded: The configuration.
        is_whole: Whether what nobody has set is given too.
    """
    return "\n".join(_lines(loaded.config, loaded.sources, is_whole=is_whole))


def _lines(config: Config, sources: Sources | None, *, is_whole: bool) -> Iterator[str]:
    for name, value in _plain(config).items():
        named = value.items() if name in ("backend", "socket") else ()
        tables = {f"{name}.{_key(each)}": table for each, table in named} or (
            {} if name in ("backend", "socket") else {name: value}
        )
        for title, table in tables.items():
            yield from _table(title, table, sources, is_whole=is_whole)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        # Of a backend that others have written, its settings are the rest of its table.
        return fields | cast("dict[str, Any]", fields.pop("settings", {}))
    if isinstance(value, Mapping):
        table = cast("Mapping[str, Any]", value)
        return {name: _plain(item) for name, item in table.items()}
    return list(cast("tuple[Any]", value)) if isinstance(value, tuple) else value


def _table(
    name: str, table: Mapping[str, Any], sources: Sources | None, *, is_whole: bool
) -> Iterator[str]:
    lines: list[str] = []
    inner: dict[str, Mapping[str, Any]] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner[key] = cast("Mapping[str, Any]", value)
        elif value is not None:
            lines += _line(f"{name}.{key}", key, value, sources, is_whole=is_whole)
    if lines or is_whole:
        yield from (f"[{name}]", *lines, "")
    for key, value in inner.items():
        if value:
            yield from _table(f"{name}.{_key(key)}", value, sources, is_whole=is_whole)


def _line(
    path: str, key: str, value: object, sources: Sources | None, *, is_whole: bool
) -> Iterator[str]:
    # What JSON writes, TOML reads, for text, numbers, lists and truth.
    text = f"{_key(key)} = {json.dumps(value)}"
    if sources is None:
        yield text
        return
    is_set = sources.is_set(path.replace('"', ""))
    if is_set or is_whole:
        origin = sources.origin_of(path.replace('"', "")) if is_set else DEFAULT
        yield f"{text}  # {json.dumps(origin)[1:-1]}"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)
