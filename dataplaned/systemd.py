"""What systemd passes on to a service, and what it is told (sd_listen_fds(3), sd_notify(3)).

Nothing here does anything where systemd has not asked for it.
"""

import contextlib
import math
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

#: The first of the descriptors that are passed on.
_FIRST_FD: Final = 3

#: What a socket is called whose unit gives it no name.
_UNNAMED: Final = "unknown"

#: Characters of a status that are told.
_MAX_STATUS: Final = 200


class PassedOnError(Exception):
    """What was passed on is no socket that a daemon can listen on."""


def take_sockets() -> dict[str, list[socket.socket]]:
    """Take the sockets that were passed on to this process, by name; none the second time.

    Raises:
        PassedOnError: One is not a Unix stream socket that listens.
    """
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdecimal():
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    with contextlib.ExitStack() as stack:
        for index, name in enumerate(_complete(names, int(count))):
            taken = stack.enter_context(_take(_FIRST_FD + index, name))
            sockets.setdefault(name, []).append(taken)
        stack.pop_all()
    return sockets


def _complete(names: str, count: int) -> list[str]:
    given = names.split(":") if names else []
    return [name or _UNNAMED for name in (*given, *[""] * count)][:count]


def _take(fd: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        taken = socket.socket(fileno=fd)
    except OSError as exc:
        raise PassedOnError(f"descriptor {fd} ({name}) is no socket: {exc.strerror}") from exc
    if not _is_listening_stream(taken):
        taken.close()
        raise PassedOnError(f"descriptor {fd} ({name}) is no Unix stream socket that listens")
    return taken


def _is_listening_stream(taken: socket.socket) -> bool:
    return (taken.family, taken.type) == (socket.AF_UNIX, socket.SOCK_STREAM) and bool(
        taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


class Notifier:
    """Tells systemd how the service is. Never waits, and never fails.

    Args:
        environment: Where `NOTIFY_SOCKET` and `WATCHDOG_USEC` are looked up.

    Attributes:
        watchdog_interval_s: Seconds within which `watchdog` has to be called again and again;
            `None` when nobody watches.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A name that begins with @ is not in the file system.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.watchdog_interval_s = _watchdog_interval(environment) if self._address else None

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """The service does what it is there for, from the start or after `reloading`."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is read again; `ready` follows."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """The service ends."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in a line how it goes."""
        line, *_ = text.splitlines() or [""]
        self._send(f"STATUS={line[:_MAX_STATUS]}")

    def watchdog(self) -> None:
        """The service is well."""
        self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> None:
        """Have systemd wait that long from now for the start, or the end, that is under way.

        It waits no shorter than it would anyway, and the longest of what it was told counts.
        """
        self._send(f"EXTEND_TIMEOUT_USEC={math.ceil(seconds * 1e6)}")

    def _send(self, *assignments: str) -> None:
        if self._socket is None:
            return
        try:
            message = "\n".join(assignments).encode(errors="replace")
            self._socket.sendto(message, self._address)
        except OSError:
            # Nobody listens, or takes it now. Nothing depends on it here.
            return


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None
