"""Where values come from: a file, its drop-ins, the environment, options; and which one won."""

import dataclasses
import os
import tomllib
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from .values import (
    BACKEND_TYPES,
    AccessConfig,
    ConfigurationError,
    DaemonConfig,
    LogConfig,
    MetricsConfig,
    SocketConfig,
)

#: What variables begin with, and what is between their parts.
_PREFIX: Final = "DATAPLANED_"
_BETWEEN: Final = "__"

#: Tables whose tables have names that an operator chose.
_NAMED: Final = frozenset({"backend", "socket"})

#: What nobody set.
DEFAULT: Final = "default"


class Sources:
    """Values in tables, and where each of them was read.

    Attributes:
        tables: The values.
        name: What is said of a value that is nowhere: the file, or the command line.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.tables: dict[str, Any] = {}
        self._origins: dict[tuple[str, ...], str] = {}

    def get(self, table: str, key: str) -> object:
        """Give a value of a table; `None` when it is not there."""
        return self.tables.get(table, {}).get(key)

    def put(self, values: Mapping[str, Any], origin: str) -> None:
        """Let values take the place of those that are there; tables are put together.

        Raises:
            ConfigurationError: One that has to be a table is none.
        """
        for name, table in values.items():
            if not isinstance(table, Mapping):
                raise ConfigurationError(f"{origin}: {name}: must be a table")
        _merge(self.tables, values)
        for path in _paths(values):
            self._origins[path] = origin

    def replace(self, table: str, values: Mapping[str, Any], origin: str) -> None:
        """Let a table take the place of the one that is there."""
        for path in [path for path in self._origins if path[0] == table]:
            del self._origins[path]
        self.tables.pop(table, None)
        self.put({table: values}, origin)

    def origin_of(self, key: str) -> str:
        """Name where the value of a key such as `daemon.max_calls` was read, or a part of it."""
        path = tuple(key.split("."))
        for length in range(len(path), 0, -1):
            if path[:length] in self._origins:
                return self._origins[path[:length]]
        inner = (self._origins[each] for each in self._origins if each[: len(path)] == path)
        return next(inner, self.name)

    def is_set(self, key: str) -> bool:
        """Whether somebody has set a key, or a part of what it has."""
        path = tuple(key.split("."))
        return any(each[: len(path)] == path or path[: len(each)] == each for each in self._origins)


def read_sources(path: str | None, environment: Mapping[str, str]) -> Sources:
    """Read a file, its drop-ins, and the environment, each winning over those before.

    Args:
        path: The file; drop-ins are `*.toml` in the directory of its name with `.d`, in byte
            order. Neither is looked for when `None`.
        environment: Variables such as `DATAPLANED_DAEMON__MAX_CALLS`.

    Raises:
        ConfigurationError: Something cannot be read.
    """
    sources = Sources("command line" if path is None else path)
    if path is not None:
        for each in (path, *_drop_ins(path)):
            sources.put(_read(each), each)
    for name in sorted(environment):
        if name.startswith(_PREFIX) and _BETWEEN in name[len(_PREFIX) :]:
            keys = _keys(name, sources.tables)
            value: Any = _value(keys[-1], environment[name])
            for key in reversed(keys):
                value = {key: value}
            sources.put(value, f"${name}")
    return sources


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigurationError(f"{path}: {os.strerror(exc.errno or 0)}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def _drop_ins(path: str) -> list[str]:
    directory = f"{path}.d"
    try:
        names = sorted(map(os.fsencode, os.listdir(directory)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise ConfigurationError(f"{directory}: {os.strerror(exc.errno or 0)}") from exc
    return [os.path.join(directory, os.fsdecode(name)) for name in names if name.endswith(b".toml")]


def _keys(variable: str, tables: Mapping[str, Any]) -> list[str]:
    """Give the path of keys that a variable names.

    Names that an operator chose are matched without regard to case, and with `_` for `-` and
    `.`: no variable can have those.
    """
    keys = variable[len(_PREFIX) :].lower().split(_BETWEEN)
    if len(keys) < 2 or not all(keys):
        raise ConfigurationError(f"${variable}: must be {_PREFIX}TABLE{_BETWEEN}KEY")
    if keys[0] in _NAMED and isinstance(tables.get(keys[0]), dict):
        alike = [name for name in tables[keys[0]] if _plain(name) == _plain(keys[1])]
        if len(alike) > 1:
            raise ConfigurationError(f"${variable}: can be any of {', '.join(sorted(alike))}")
        keys[1:2] = alike or keys[1:2]
    return keys


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _value(key: str, text: str) -> Any:
    """Read a variable's text as TOML where the key wants no text."""
    if key in _TEXT_KEYS and text[:1] not in ('"', "'"):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _text_keys() -> Iterator[str]:
    tables = (DaemonConfig, SocketConfig, AccessConfig, LogConfig, MetricsConfig)
    for table in (*tables, *BACKEND_TYPES.values()):
        for name, kind in typing.get_type_hints(table).items():
            words = {kind, *typing.get_args(kind)}
            if str in words or all(isinstance(word, str) for word in typing.get_args(kind) or [0]):
                yield name


_TEXT_KEYS: Final = frozenset(_text_keys()) - {
    field.name
    for table in (DaemonConfig, *BACKEND_TYPES.values())
    for field in dataclasses.fields(table)
    if isinstance(field.default, int | float)
}


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], cast("Mapping[str, Any]", value))
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], cast("Mapping[str, Any]", value))
        else:
            into[key] = value


def _paths(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _paths(cast("Mapping[str, Any]", value), (*above, key))
        else:
            yield (*above, key)
