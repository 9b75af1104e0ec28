"""Two configurations held against each other: what a running daemon can take over, and what not."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, cast

from .values import BackendConfig, Config, FilesystemConfig, MirrorConfig, SideConfig, SocketConfig

#: Keys of `[socket.NAME]` that can change while the socket is listened on.
_OF_SOCKET: Final = ("group_roles", "users", "groups")

#: Keys of a filesystem backend that can change while it is open.
_OF_FILESYSTEM: Final = ("max_verify_age_s", "min_free_bytes", "scrub_rate", "scrub_interval_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is other in a configuration than in the one before.

    Attributes:
        applied: Keys that a running daemon takes over.
        needs_restart: Keys that it does not.
    """

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def changes(old: Config, new: Config) -> Changes:
    """Name the keys that differ, such as `backend.local.scrub_rate`."""
    differing = tuple(_differing("", old, new))
    left = set(_differing("", changed_while_running(old, new), new))
    return Changes(
        applied=tuple(key for key in differing if key not in left),
        needs_restart=tuple(key for key in differing if key in left),
    )


def changed_while_running(old: Config, new: Config) -> Config:
    """Give the old configuration with all of the new one that a running daemon takes over."""
    return replace(
        old,
        daemon=replace(new.daemon, socket=old.daemon.socket),
        access=new.access,
        log=replace(old.log, level=new.log.level),
        socket={name: _socket(value, new.socket.get(name)) for name, value in old.socket.items()},
        backend={
            name: _backend(value, new.backend.get(name)) for name, value in old.backend.items()
        },
    )


def _socket(old: SocketConfig, new: SocketConfig | None) -> SocketConfig:
    return old if new is None else replace(old, **{key: getattr(new, key) for key in _OF_SOCKET})


def _backend(old: BackendConfig, new: BackendConfig | None) -> BackendConfig:
    if isinstance(old, FilesystemConfig) and isinstance(new, FilesystemConfig):
        return replace(old, **{key: getattr(new, key) for key in _OF_FILESYSTEM})
    if isinstance(old, MirrorConfig) and isinstance(new, MirrorConfig):
        return replace(old, first=_side(old.first, new.first), second=_side(old.second, new.second))
    return old


def _side(old: SideConfig, new: SideConfig) -> SideConfig:
    return cast("SideConfig", _backend(old, new))


def _differing(path: str, old: object, new: object) -> Iterator[str]:
    before, after = _table(old), _table(new)
    if before is None or after is None or type(old) is not type(new):
        if old != new:
            yield path
        return
    for key in sorted(before.keys() | after.keys()):
        name = f"{path}.{key}" if path else key
        if key in before and key in after:
            yield from _differing(name, before[key], after[key])
        else:
            yield name


def _table(value: object) -> Mapping[str, Any] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else None
