"""The configuration written: an example with every key, and what a daemon would use, as TOML."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, cast

from .values import Config


def example() -> str:
    """Give a configuration with every key, a line on each, and its default."""
    return files("dataplaned.config").joinpath("example.toml").read_text(encoding="utf-8")


def to_toml(config: Config) -> str:
    """Give a configuration in full, defaults among it; keys without a value are left out."""
    tables = {"daemon": _plain(config.daemon)}
    tables |= {f"backend.{name}": _plain(backend) for name, backend in config.backend.items()}
    return "\n".join(line for name, table in tables.items() for line in _table(name, table))


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
    return value


def _table(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield f"[{name}]"
    inner: dict[str, Mapping[str, Any]] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            inner[key] = cast("Mapping[str, Any]", value)
        elif value is not None:
            # What JSON writes, TOML reads, for text, numbers, lists and truth.
            yield f"{key} = {json.dumps(value)}"
    yield ""
    for key, value in inner.items():
        if value:
            yield from _table(f"{name}.{key}", value)
