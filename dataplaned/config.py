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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final, Literal, cast

import cattrs
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from .paths import default_socket_path, default_store_path

#: Where distributions announce the types of backends that they bring.
ENTRY_POINT_GROUP: Final = "dataplaned.backends"

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


#: A comparison reads all names of both sides.
_LEAST_COMPARE_INTERVAL_S: Final = 10.0

#: The same for an object store, with the least. A part is one request; the number of parts of
#: an object has six hex digits.
_OBJECT_STORE_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "spool_size": (0, 2**53),
    "part_size": (65_536, 1024**3),
    "small_object_size": (0, 65_536),
    "parallel_parts": (1, 64),
    "connect_timeout_s": (0.1, 300),
    "request_timeout_s": (0.1, 3600),
    "retry_timeout_s": (0.1, 3600),
    "reclaim_after_s": (900, 366 * 86_400),
    "reclaim_interval_s": (0, 366 * 86_400),
}

_OBJECT_STORE_URL: Final = re.compile(r"(s3a?|gs|az|azure)://[^:@/?#]+(/[^?#]*)?")
_ENDPOINT: Final = re.compile(r"https?://[^@?#\s]+")
_CREDENTIAL: Final = re.compile(r"[^/\0]{1,255}")

#: Names of options that hold a secret, and those that only sound like it.
_SECRET_NAME: Final = re.compile("secret|password|token|sas|key|credential|private", re.IGNORECASE)
_NO_SECRET: Final = re.compile("(aws_)?(access_key_id|sse_kms_key_id)")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialSource:
    """Where a secret is read from, one of the two, when the backend is opened.

    Attributes:
        credential: Name of a credential that systemd has put into `$CREDENTIALS_DIRECTORY`.
        file: Path of a file.
    """

    credential: str | None = None
    file: str | None = None

    def read(self) -> str:
        """Give the secret, without white space around it.

        Raises:
            ConfigurationError: It cannot be read.
        """
        path = self.file
        if path is None:
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if directory is None:
                raise ConfigurationError("$CREDENTIALS_DIRECTORY is not set: not run by systemd?")
            path = os.path.join(directory, self.credential or "")
        try:
            with open(path, encoding="utf-8") as file:
                return file.read().strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "not text"
            raise ConfigurationError(f"{path}: {reason}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreConfig:
    """A backend of type `objectstore`.

    Attributes:
        url: The bucket, and a prefix in it: `s3://bucket/prefix`, `gs://`, `az://`.
        endpoint: Where the engine is, if not where its maker's cloud is; `http://` is taken
            for an engine of one's own.
        region: Its region.
        options: Further options, by the names that obstore gives them; none is a secret.
        credentials: Secret options by name, each with where it is read from. Without them it
            is the environment (`AWS_ACCESS_KEY_ID` and so on) or the machine's own role.
        spool: Directory on a local disk for bodies that are taken in; when `None`, a folder
            for it beside the daemon's default store.
        spool_size: Bytes that may be in it.
        part_size: Bytes of the pieces that objects are stored in.
        small_object_size: Bytes up to which an object is stored with its record.
        parallel_parts: Parts of all ingests that are sent at a time.
        connect_timeout_s: Seconds in which a connection has to stand.
        request_timeout_s: Seconds that one request may take.
        retry_timeout_s: Seconds after which a request that failed is not made again, and its
            caller is told.
        reclaim_after_s: Seconds after which bytes that no object has any more are removed.
            Longer than any request can be under way: 15 minutes at least.
        reclaim_interval_s: Seconds between two searches of the whole bucket for such bytes; 0
            turns them off.
    """

    type: Literal["objectstore"] = "objectstore"
    url: str
    endpoint: str | None = None
    region: str | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    credentials: Mapping[str, CredentialSource] = field(default_factory=dict[str, CredentialSource])
    spool: str | None = None
    spool_size: int = 16 * 1024**3
    part_size: int = 8 * 1024**2
    small_object_size: int = 65_536
    parallel_parts: int = 4
    connect_timeout_s: float = 5.0
    request_timeout_s: float = 30.0
    retry_timeout_s: float = 60.0
    reclaim_after_s: float = 3600.0
    reclaim_interval_s: float = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyConfig:
    """A backend of a type that another distribution brings (backends/entry_points.py).

    Attributes:
        type: The name of its entry point.
        settings: The rest of its table, for whoever made it to look at.
    """

    type: str
    settings: Mapping[str, object]


#: What a side of a mirror can be.
SideConfig = FilesystemConfig | MemoryConfig | ObjectStoreConfig | ThirdPartyConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorConfig:
    """A backend of type `mirror`: two backends as one, in the tables `first` and `second`.

    Attributes:
        first: The one that is read from where it can be.
        second: The other one.
        acknowledge: `both`: an ingest has to be on both sides. `first`: it has to be on the
            first, and the journal says that the second gets it.
        journal: Path of the file that says what a side still has to do; when `None`, beside
            the daemon's default store.
        compare_interval_s: Seconds between two comparisons of all that the sides have.
    """

    type: Literal["mirror"] = "mirror"
    first: SideConfig
    second: SideConfig
    acknowledge: Literal["both", "first"] = "both"
    journal: str | None = None
    compare_interval_s: float = 6 * 3600.0


BackendConfig = SideConfig | MirrorConfig

_BACKEND_TYPES: Final[Mapping[str, type[BackendConfig]]] = {
    "filesystem": FilesystemConfig,
    "memory": MemoryConfig,
    "objectstore": ObjectStoreConfig,
    "mirror": MirrorConfig,
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
    backends = list(_with_sides(config.backend))
    problems += [
        f"backend.{backend_id}.root: must not be empty or have a zero byte"
        for backend_id, backend in backends
        if isinstance(backend, FilesystemConfig) and (not backend.root or "\0" in backend.root)
    ]
    problems += [
        f"backend.{backend_id}.{problem}"
        for backend_id, backend in backends
        if isinstance(backend, ObjectStoreConfig)
        for problem in _problems_of(backend)
    ]
    problems += [
        f"backend.{backend_id}.compare_interval_s: is {backend.compare_interval_s}, "
        f"must be from {_LEAST_COMPARE_INTERVAL_S} on"
        for backend_id, backend in backends
        if isinstance(backend, MirrorConfig)
        and not backend.compare_interval_s >= _LEAST_COMPARE_INTERVAL_S
    ]
    problems += [
        f"backend.{backend_id}.{key}: is {getattr(backend, key)}, must be from 0 to {limit}"
        for backend_id, backend in backends
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


def _with_sides(
    backends: Mapping[str, BackendConfig],
) -> Iterator[tuple[str, BackendConfig]]:
    for backend_id, backend in backends.items():
        yield backend_id, backend
        if isinstance(backend, MirrorConfig):
            yield f"{backend_id}.first", backend.first
            yield f"{backend_id}.second", backend.second


def _problems_of(config: ObjectStoreConfig) -> Iterator[str]:
    if not _OBJECT_STORE_URL.fullmatch(config.url):
        yield f"url: is {config.url!r}, must be like s3://bucket/prefix, gs:// or az://"
    if config.endpoint is not None and not _ENDPOINT.fullmatch(config.endpoint):
        yield "endpoint: must be like https://host:port, without credentials"
    for name in config.options:
        if _SECRET_NAME.search(name) and not _NO_SECRET.fullmatch(name):
            yield f"options.{name}: is a secret, must be among credentials"
    for name, source in config.credentials.items():
        if (source.credential is None) == (source.file is None):
            yield f"credentials.{name}: must have either credential or file"
        elif source.credential is not None and not _CREDENTIAL.fullmatch(source.credential):
            yield f"credentials.{name}.credential: must be a file name, without a slash"
    for key, (least, most) in _OBJECT_STORE_LIMITS.items():
        if not least <= getattr(config, key) <= most:
            yield f"{key}: is {getattr(config, key)}, must be from {least} to {most}"
    if config.part_size % 65_536:
        yield f"part_size: is {config.part_size}, must be a multiple of 65536"
    if config.reclaim_after_s < 10 * config.retry_timeout_s:
        yield (
            f"reclaim_after_s: is {config.reclaim_after_s}, must be at least ten times "
            f"retry_timeout_s, {10 * config.retry_timeout_s}"
        )


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
    # Before the tables, whose hooks look for those of their fields.
    sides = {kind: table for kind, table in _BACKEND_TYPES.items() if kind != "mirror"}
    converter.register_structure_hook(SideConfig, _structure_backend(sides))
    converter.register_structure_hook(BackendConfig, _structure_backend(_BACKEND_TYPES))
    for table in (CredentialSource, *_BACKEND_TYPES.values()):
        converter.register_structure_hook(
            table,
            make_dict_structure_fn(table, converter, _cattrs_forbid_extra_keys=True),
        )
    return converter


def _structure_backend(types: Mapping[str, type[BackendConfig]]) -> Any:
    def structure(table: object, _: object) -> BackendConfig:
        settings = cast("dict[str, object]", table) if isinstance(table, dict) else {}
        kind = settings.get("type")
        if isinstance(kind, str) and kind in types:
            return _CONVERTER.structure(table, types[kind])
        installed = {found.name for found in entry_points(group=ENTRY_POINT_GROUP)}
        if not isinstance(kind, str) or kind not in installed - set(_BACKEND_TYPES):
            known = ", ".join((*types, *sorted(installed)))
            raise ValueError(f"type is {kind!r}, must be one of {known}")
        others = {name: value for name, value in settings.items() if name != "type"}
        return ThirdPartyConfig(type=kind, settings=others)

    return structure


def _strict(kind: type, accepted: tuple[type, ...]) -> Any:
    def structure(value: object, _: object) -> object:
        if type(value) not in accepted:  # true is an integer to isinstance
            raise ValueError(f"is {value!r}, must be {kind.__name__}")
        return kind(value)

    return structure


_CONVERTER: Final = _make_converter()
