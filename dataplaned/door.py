"""Where callers come in: connections accepted from every socket, each given a session."""

import errno
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from dataplane_protocol import DataPlaneError, UnavailableError

from .access import Access, Caller, read_credentials
from .listening import Listener
from .lobby import Lobby
from .peer import BufferPool, Peer
from .plane import LocalDataPlane
from .roster import Roster
from .server import FEATURES, NO_OPERATIONS, FurtherOperation, Session, turn_away
from .telemetry import Tracing

#: Seconds to wait before accepting again when the process has no descriptor left.
_ACCEPT_PAUSE: Final = 0.1

#: What accept(2) fails with for want of resources that others will give back.
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class Services:
    """What every session uses.

    Attributes:
        plane: Where calls go.
        roster: Who is connected, and the limits.
        access: Who may do what, by the name of the socket; may be set at any time.
        operations: As of `Session`.
        lobby: Where connections wait between calls.
        tracing: Makes spans of calls.
    """

    plane: LocalDataPlane
    roster: Roster
    access: Mapping[str, Access]
    operations: Mapping[str, FurtherOperation] = field(default_factory=lambda: NO_OPERATIONS)
    lobby: Lobby | None = None
    tracing: Tracing | None = None


class Door:
    """Accepts connections on several sockets.

    Args:
        listeners: The sockets.
        services: What their sessions use.
    """

    def __init__(self, listeners: Sequence[Listener], services: Services) -> None:
        self._listeners = listeners
        self._services = services
        self._sessions: set[Session] = set()
        self._buffers = BufferPool()
        self._all_gone = trio.Event()
        self._passed_on: list[trio.CancelScope] = []

    async def run(self, nursery: trio.Nursery) -> None:
        """Accept for ever.

        Args:
            nursery: Of the sessions; they end when it is cancelled.
        """
        async with trio.open_nursery() as accepting:
            for listener in self._listeners:
                accepting.start_soon(self._accept_until_drained, listener, nursery)

    async def drain(self, timeout_s: float) -> None:
        """Take nobody in any more, and wait until every call has ended or time is up.

        Whoever comes by a socket that systemd keeps waits for the next daemon; by another, it
        would wait without a word, and is told to try again.
        """
        self._services.roster.is_draining = True
        for scope in self._passed_on:
            scope.cancel()
        for session in self._sessions:
            session.drain()
        if self._sessions:
            self._all_gone = trio.Event()
            with trio.move_on_after(timeout_s) as scope:
                await self._all_gone.wait()
            if scope.cancelled_caught:
                _log.warning("drain_timeout", connections=len(self._sessions))

    async def _accept_until_drained(self, listener: Listener, nursery: trio.Nursery) -> None:
        if not listener.is_passed_on:
            await self._accept(listener, nursery)
            return
        with trio.CancelScope() as scope:
            self._passed_on.append(scope)
            await self._accept(listener, nursery)

    async def _accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        is_exhausted = False
        while True:
            try:
                accepted, _ = await listener.socket.accept()
            except OSError as exc:
                if exc.errno not in _EXHAUSTED:
                    _log.error("accept_failed", socket=listener.name, reason=exc.strerror)
                elif not is_exhausted:
                    # Said once and not ten times a second.
                    _log.error("out_of_descriptors", socket=listener.name, reason=exc.strerror)
                    is_exhausted = True
                await trio.sleep(_ACCEPT_PAUSE)
                continue
            is_exhausted = False
            nursery.start_soon(self._attend, listener.name, accepted)

    async def _attend(self, name: str, accepted: trio.socket.SocketType) -> None:
        services = self._services
        limits = services.roster.limits
        connected = socket.socket(fileno=accepted.detach())
        peer = Peer(connected, self._buffers, limits.stall_timeout_s)
        try:
            if services.roster.is_draining:
                raise UnavailableError("daemon is stopping")
            seat = services.roster.admit(self._identify(name, connected))
        except DataPlaneError as exc:
            await turn_away(peer, exc)
            return
        except OSError as exc:
            _log.error("credentials_failed", socket=name, reason=exc.strerror)
            peer.close()
            return
        session = Session(
            peer,
            seat,
            services.plane,
            FEATURES if limits.serve_fd else (),
            services.operations,
            services.lobby,
            limits.idle_timeout_s or math.inf,
            services.tracing,
        )
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._all_gone.set()

    def _identify(self, name: str, connected: socket.socket) -> Caller:
        credentials = read_credentials(connected)
        return Caller(
            pid=credentials.pid,
            uid=credentials.uid,
            gids=credentials.gids,
            socket=name,
            roles=self._services.access[name].roles_of(credentials),
        )
