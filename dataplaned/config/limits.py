"""What is wrong with values that have the right types, in lines that name the key."""

import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from .values import BackendConfig, Config, FilesystemConfig, MirrorConfig, ObjectStoreConfig

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
    return problems


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
