"""The configuration: TOML and command line into frozen values, once.

    [daemon]
    socket = "/run/dataplaned/dataplaned.sock"
    max_connections = 1000
    drain_timeout_s = 30.0
    max_object_size = 1099511627776

    [backend.local]
    type = "filesystem"
    root = "/var/lib/dataplaned"

Every key is optional. The first backend is the default one. Whatever is wrong is named with
its file and key, and everything that is wrong is named at once.
"""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from .paths import default_socket_path, default_store_path

_BACKEND_ID: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")

#: `sun_path` has 108 bytes and ends in a zero.
_MAX_SOCKET_PATH: Final = 107

#: The largest value of each number of a filesystem backend. A small object is at most one
#: block, whose digest is its own; a scrub once in a century is none.
_FILESYSTEM_LIMITS: Final[Mapping[str, float]] = {
    "max_verify_age_s": math.inf,
    "small_object_size": 65_536,
    "min_free_bytes": 2**53,
    "scrub_rate": 2**53,
    "scrub_interval_s": 100 * 366 * 86_400,
}


class ConfigurationError(Exception):
    """The configuration cannot be used. The message has a line for each thing wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemConfig:
    """A backend of type `filesystem`.

    Attributes:
        root: Its directory, made when it is missing.
        max_verify_age_s: Seconds for which bytes that were seen to be right, by an ingest, a
            verify or the scrub, are believed to be so without looking: by an ingest of the
            same bytes, and by a client that is handed the file to read by itself.
        small_object_size: Bytes up to which an object lives in the catalog and has no file.
        min_free_bytes: Bytes of the disk that ingests leave free; when `None`, 64 MiB, or a
            64th of a small disk.
        scrub_rate: Bytes a second that the scrub reads at most; 0 turns it off.
        scrub_interval_s: Seconds after its last verification when an object is due for the
            next. With more than `max_verify_age_s`, ingests rewrite what is there already.
    """

    type: Literal["filesystem"] = "filesystem"
    root: str
    max_verify_age_s: float = 7 * 86_400.0
    small_object_size: int = 32 * 1024
    min_free_bytes: int | None = None
    scrub_rate: int = 16 * 1024 * 1024
    scrub_interval_s: float = 3.5 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """A backend of type `memory`: gone when the daemon is."""

    type: Literal["memory"] = "memory"


BackendConfig = FilesystemConfig | MemoryConfig

_BACKEND_TYPES: Final[Mapping[str, type[BackendConfig]]] = {
    "filesystem": FilesystemConfig,
    "memory": MemoryConfig,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonConfig:
    """The table `[daemon]`.

    Attributes:
        socket: Path of the Unix socket.
        max_connections: Connections served at a time; one more is told to try again.
        drain_timeout_s: Seconds that calls under way have to end in after a signal to stop.
        max_object_size: Bytes an object may have; no limit when `None`.
        serve_fd: Whether clients may read large objects from a descriptor of the file.
    """

    socket: str = ""
    max_connections: int = 1000
    drain_timeout_s: float = 30.0
    max_object_size: int | None = None
    serve_fd: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that a daemon is told."""

    daemon: DaemonConfig = DaemonConfig()
    backend: Mapping[str, BackendConfig] = field(default_factory=dict[str, BackendConfig])


def load_config(path: str | None, *, socket: str | None, root: str | None) -> Config:
    """Read the file, if there is one, and let the command line have the last word.

    Args:
        path: The TOML file; defaults only when `None`.
        socket: Replaces `daemon.socket`.
        root: Replaces all backends by one filesystem store, `local`, in this directory.

    Raises:
        ConfigurationError: The file cannot be read or breaks the schema.
    """
    tables = {} if path is None else _read(path)
    for name in ("daemon", "backend"):
        if type(tables.setdefault(name, {})) is not dict:
            raise ConfigurationError(f"{path}: {name}: must be a table")
    daemon = cast("dict[str, object]", tables["daemon"])
    if socket or daemon.get("socket", "") == "":
        daemon["socket"] = socket or default_socket_path()
    if root is not None or not tables["backend"]:
        tables["backend"] = {"local": {"type": "filesystem", "root": root or default_store_path()}}
    config = _structure(tables, path or "command line")
    _check(config, path or "command line")
    return config


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise ConfigurationError(f"{path}: {os.strerror(exc.errno or 0)}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path}: {exc}") from exc


def _structure(tables: dict[str, Any], name: str) -> Config:
    try:
        return _CONVERTER.structure(tables, Config)
    except cattrs.BaseValidationError as exc:
        problems = cattrs.transform_error(exc, path="", format_exception=_describe)
    raise ConfigurationError("\n".join(f"{name}: {_tidy(problem)}" for problem in problems))


def _check(config: Config, name: str) -> None:
    daemon = config.daemon
    problems = [
        f"backend.{backend_id!r}: id must match {_BACKEND_ID.pattern}"
        for backend_id in config.backend
        if not _BACKEND_ID.fullmatch(backend_id)
    ]
    problems += [
        f"backend.{backend_id}.root: must not be empty or have a zero byte"
        for backend_id, backend in config.backend.items()
        if isinstance(backend, FilesystemConfig) and (not backend.root or "\0" in backend.root)
    ]
    problems += [
        f"backend.{backend_id}.{key}: is {getattr(backend, key)}, must be from 0 to {limit}"
        for backend_id, backend in config.backend.items()
        if isinstance(backend, FilesystemConfig)
        for key, limit in _FILESYSTEM_LIMITS.items()
        if not 0 <= (getattr(backend, key) or 0) <= limit
    ]
    if len(os.fsencode(daemon.socket)) > _MAX_SOCKET_PATH:
        problems.append(f"daemon.socket: longer than {_MAX_SOCKET_PATH} bytes")
    if "\0" in daemon.socket:
        problems.append("daemon.socket: must not have a zero byte")
    if daemon.max_connections < 1:
        problems.append(f"daemon.max_connections: is {daemon.max_connections}, must be 1 or more")
    if not 0 <= daemon.drain_timeout_s <= 86_400:
        problems.append(
            f"daemon.drain_timeout_s: is {daemon.drain_timeout_s}, must be from 0 to 86400"
        )
    if daemon.max_object_size is not None and daemon.max_object_size < 0:
        problems.append(f"daemon.max_object_size: is {daemon.max_object_size}, must be 0 or more")
    if problems:
        raise ConfigurationError("\n".join(f"{name}: {problem}" for problem in problems))


def _describe(exc: BaseException, _type: type | None) -> str:
    if isinstance(exc, ForbiddenExtraKeysError):
        return f"unknown key {', '.join(sorted(map(repr, exc.extra_fields)))}"
    if isinstance(exc, KeyError):
        return "is missing"
    return str(exc)


def _tidy(problem: str) -> str:
    what, _, where = problem.rpartition(" @ ")
    key = re.sub(r"\['([^']*)'\]", r".\1", where).strip(".")
    return f"{key}: {what}" if key else what


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    for kind, accepted in (
        (bool, (bool,)),
        (int, (int,)),
        (float, (int, float)),
        (str, (str,)),
    ):
        converter.register_structure_hook(kind, _strict(kind, accepted))
    for table in (FilesystemConfig, MemoryConfig):
        converter.register_structure_hook(
            table,
            make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True),
        )
    converter.register_structure_hook(BackendConfig, _structure_backend)
    return converter


def _structure_backend(table: object, _: object) -> BackendConfig:
    kind = cast("dict[str, object]", table).get("type") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in _BACKEND_TYPES:
        raise ValueError(f"type is {kind!r}, must be one of {', '.join(_BACKEND_TYPES)}")
    return _CONVERTER.structure(table, _BACKEND_TYPES[kind])


def _strict(kind: type, accepted: tuple[type, ...]) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) not in accepted:  # true is an integer to isinstance
            raise ValueError(f"is {value!r}, must be {kind.__name__}")
        return kind(value)

    return structure


_CONVERTER: Final = _make_converter()
