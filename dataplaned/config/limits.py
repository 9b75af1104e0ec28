"""What is wrong with values that have the right types, in lines that name the key."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from .values import (
    AccessConfig,
    BackendConfig,
    Config,
    DaemonConfig,
    FilesystemConfig,
    MirrorConfig,
    ObjectStoreConfig,
    SocketConfig,
)

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

#: The same for the daemon. One call can hold 3 MiB.
_DAEMON_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "max_connections": (1, math.inf),
    "max_connections_per_user": (1, math.inf),
    "max_calls": (1, math.inf),
    "max_bytes_in_flight": (16 * 1024**2, math.inf),
    "idle_timeout_s": (0, 366 * 86_400),
    "stall_timeout_s": (60, 3600),  # the contract promises callers the first
    "drain_timeout_s": (0, 86_400),
    "max_object_size": (0, math.inf),
}

#: As systemd has them for descriptors.
_SOCKET_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_MODE: Final = re.compile(r"0?[0-7]{3}")

#: A name as useradd(8) and its like make them, or a number.
_PRINCIPAL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.@-]{0,255}\$?|[0-9]{1,10}")

#: The last number is what calls take for none.
_MAX_ID: Final = 2**32 - 2

_NOBODY: Final = frozenset({"nobody", "nogroup", "65534"})

_LOOPBACK: Final = re.compile(
    r"(?:127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[::1\]|localhost):([0-9]{1,5})"
)

_OBJECT_STORE_URL: Final = re.compile(r"(s3a?|gs|az|azure)://[^:@/?#]+(/[^?#]*)?")
_ENDPOINT: Final = re.compile(r"https?://[^@?#\s]+")
_CREDENTIAL: Final = re.compile(r"[^/\0]{1,255}")

#: Names of options that hold a secret, and those that only sound like it.
_SECRET_NAME: Final = re.compile("secret|password|token|sas|key|credential|private", re.IGNORECASE)
_NO_SECRET: Final = re.compile("(aws_)?(access_key_id|sse_kms_key_id)")


def problems_of(config: Config) -> list[str]:
    """Give a line for everything that is out of bounds."""
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
        for problem in _problems_of_bucket(backend)
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
    problems += [f"daemon.socket: {problem}" for problem in _problems_of_path(daemon.socket)]
    problems += [f"daemon.{problem}" for problem in _problems_of_daemon(daemon)]
    problems += _problems_of_sockets(config)
    problems += _problems_of_access("access", config.access)
    problems += _problems_of_places(config)
    return problems


def _problems_of_path(path: str) -> Iterator[str]:
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        yield f"longer than {_MAX_SOCKET_PATH} bytes"
    if "\0" in path:
        yield "must not have a zero byte"


def _problems_of_daemon(daemon: DaemonConfig) -> Iterator[str]:
    for key, (least, most) in _DAEMON_LIMITS.items():
        value = getattr(daemon, key)
        if value is not None and not least <= value <= most:
            bounds = f"{least} or more" if most == math.inf else f"from {least} to {most}"
            yield f"{key}: is {value}, must be {bounds}"
    if 0 < daemon.idle_timeout_s < 1:
        yield f"idle_timeout_s: is {daemon.idle_timeout_s}, must be 0 or from 1 on"


def _problems_of_sockets(config: Config) -> Iterator[str]:
    paths = {config.daemon.socket: "daemon.socket"} if config.daemon.socket else {}
    for name, socket in config.socket.items():
        key = f"socket.{name}"
        if not _SOCKET_NAME.fullmatch(name):
            yield f"{key}: name must match {_SOCKET_NAME.pattern}"
        if not _MODE.fullmatch(socket.mode):
            yield f"{key}.mode: is {socket.mode!r}, must be octal, such as 0660"
        if socket.path is not None:
            if not socket.path:
                yield f"{key}.path: must not be empty"
            yield from (f"{key}.path: {problem}" for problem in _problems_of_path(socket.path))
            if socket.path in paths:
                yield f"{key}.path: is that of {paths[socket.path]} too"
            paths[socket.path] = key
        for kind in ("user", "group"):
            principal = getattr(socket, kind)
            if principal is not None:
                yield from (f"{key}.{kind}: {each}" for each in _problems_of_principal(principal))
        yield from _problems_of_access(key, socket)


def _problems_of_access(key: str, access: AccessConfig | SocketConfig) -> Iterator[str]:
    for kind in ("users", "groups"):
        for name in getattr(access, kind):
            yield from (f"{key}.{kind}.{name}: {each}" for each in _problems_of_principal(name))


def _problems_of_principal(name: str) -> Iterator[str]:
    if name in _NOBODY:
        yield f"is {name!r}, which stands for everybody unknown, and can have no roles"
    elif not _PRINCIPAL.fullmatch(name) or (name.isdecimal() and int(name) > _MAX_ID):
        yield f"is {name!r}, must be a name or a number up to {_MAX_ID}"


def _problems_of_places(config: Config) -> Iterator[str]:
    audit = config.log.audit
    if audit not in ("log", "off") and (not audit.startswith("/") or "\0" in audit):
        yield f"log.audit: is {audit!r}, must be log, off, or an absolute path"
    listen = config.metrics.listen
    if listen is None:
        return
    if listen.startswith("/"):
        yield from (f"metrics.listen: {problem}" for problem in _problems_of_path(listen))
    elif not (match := _LOOPBACK.fullmatch(listen)) or int(match[1]) > 65_535:
        yield (
            f"metrics.listen: is {listen!r}, must be a loopback address such as 127.0.0.1:9464, "
            "or an absolute path: it tells everybody who reaches it"
        )


def _with_sides(
    backends: Mapping[str, BackendConfig],
) -> Iterator[tuple[str, BackendConfig]]:
    for backend_id, backend in backends.items():
        yield backend_id, backend
        if isinstance(backend, MirrorConfig):
            yield f"{backend_id}.first", backend.first
            yield f"{backend_id}.second", backend.second


def _problems_of_bucket(config: ObjectStoreConfig) -> Iterator[str]:
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
