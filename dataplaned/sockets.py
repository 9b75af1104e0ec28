"""All sockets that a daemon listens on: its own, and those that systemd passes on."""

import contextlib
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from typing import Final

import structlog
import trio

from .access import Access, find_group, find_user
from .config import Config, SocketConfig
from .listening import Listener, listen, refuse_descriptors
from .paths import default_socket_path

#: The name of the one socket of a daemon that `[daemon]` gives a path.
MAIN: Final = "main"

_log = structlog.get_logger(__name__)


class NoSocketError(Exception):
    """The configuration has a socket that has no place."""


@contextlib.contextmanager
def open_sockets(
    config: Config, passed_on: Mapping[str, Sequence[socket.socket]]
) -> Generator[list[Listener]]:
    """Listen on every socket; at the end, remove those that were made, and let the others go.

    Args:
        config: Names them.
        passed_on: What systemd has passed on, by name: those are listened on by systemd.

    Raises:
        NoSocketError: A configured socket has no path, and was not passed on; or there is none.
        SocketInUseError: Somebody else has one.
        UnknownPrincipalError: One's user or group does not exist.
        OSError: One cannot be made.
    """
    with contextlib.ExitStack() as stack:
        listeners: list[Listener] = []
        for name, sockets in passed_on.items():
            # Systemd has a descriptor of its own.
            listeners += [_take(name, stack.enter_context(each)) for each in sockets]
        for name, path, settings in _own(config, passed_on):
            made = stack.enter_context(
                listen(
                    path,
                    mode=int(settings.mode, 8),
                    user=-1 if settings.user is None else find_user(settings.user),
                    group=-1 if settings.group is None else find_group(settings.group),
                )
            )
            listeners.append(Listener(name=name, socket=made))
        if not listeners:
            raise NoSocketError("no socket is configured, and systemd has passed none on")
        yield listeners


def access_by_socket(config: Config, listeners: Sequence[Listener]) -> dict[str, Access]:
    """Give who may do what, by the name of the socket.

    Raises:
        UnknownPrincipalError: A user or group does not exist.
        OSError: A socket's group cannot be read.
    """
    groups: dict[str, set[int]] = {listener.name: set() for listener in listeners}
    for listener in listeners:
        group = listener.group()
        if group is not None:
            groups[listener.name].add(group)
    return {
        name: Access(config.access, config.socket.get(name, SocketConfig()), several)
        for name, several in groups.items()
    }


def _take(name: str, passed_on: socket.socket) -> Listener:
    refuse_descriptors(passed_on)
    passed_on.setblocking(False)
    return Listener(name=name, socket=trio.socket.from_stdlib_socket(passed_on), is_passed_on=True)


def _own(
    config: Config, passed_on: Mapping[str, Sequence[socket.socket]]
) -> Generator[tuple[str, str, SocketConfig]]:
    paths = {each.getsockname() for sockets in passed_on.values() for each in sockets}
    path = config.daemon.socket
    # Nobody has asked for the default one where systemd has passed others on.
    if path and path not in paths and not (passed_on and path == default_socket_path()):
        yield MAIN, path, SocketConfig()
    for name, settings in config.socket.items():
        if name in passed_on:
            _compare(name, settings.path, passed_on[name])
        elif settings.path is None:
            raise NoSocketError(f"socket.{name}: has no path, and systemd has passed none on")
        else:
            yield name, settings.path, settings


def _compare(name: str, path: str | None, passed_on: Sequence[socket.socket]) -> None:
    places = [each.getsockname() for each in passed_on]
    if path is not None and not any(_is_same(path, place) for place in places):
        _log.warning("socket_elsewhere", socket=name, configured=path, passed_on=places)


def _is_same(path: str, place: object) -> bool:
    try:
        return isinstance(place, str) and os.path.samefile(path, place)
    except OSError:
        return False
