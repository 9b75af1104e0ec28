"""One process: backends, the socket, signals, and a stop that lets calls finish."""

import contextlib
import errno
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Final

import structlog
import trio

from dataplane_protocol import DataPlaneError, UnavailableError

from .backends import entry_points
from .backends.base import Backend, BackendError
from .backends.filesystem import FilesystemBackend
from .backends.memory import MemoryBackend
from .backends.mirror import MirrorBackend
from .config import (
    BackendConfig,
    Config,
    DaemonConfig,
    FilesystemConfig,
    MirrorConfig,
    ObjectStoreConfig,
    ThirdPartyConfig,
)
from .listening import SocketInUseError, listen
from .lobby import Lobby
from .maintenance import Maintenance
from .peer import BufferPool, Peer
from .plane import LocalDataPlane
from .quick import QuickCalls
from .server import FEATURES, NO_OPERATIONS, FurtherOperation, Session, turn_away
from .telemetry import set_up_logging

#: Seconds to wait before accepting again when the process has no descriptor left.
_ACCEPT_PAUSE: Final = 0.1

#: What accept(2) fails with for want of resources that others will give back.
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = structlog.get_logger(__name__)


class StartupError(Exception):
    """The daemon cannot start: its store or its socket cannot be used."""


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; the calls under way then have their time to finish.

    Raises:
        StartupError: A store or the socket cannot be used.
    """
    set_up_logging()
    # What `serve` puts back when it is done: a late signal must not spoil a good end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trio.run(serve, config)


async def serve(
    config: Config, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Do what `run` does, as a task; `started` is called once the socket listens.

    Cancelling it ends without a drain; what was acknowledged is as durable as ever.
    """
    # From here to the end: a signal that comes while stores are opened or closed waits.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with open_backends(config.backend) as backends:
            plane = LocalDataPlane(backends, max_object_size=config.daemon.max_object_size)
            try:
                with (
                    listen(config.daemon.socket) as listener,
                    contextlib.closing(Lobby(QuickCalls(plane))) as lobby,
                ):
                    _log.info("listening", socket=config.daemon.socket, backends=list(backends))
                    async with trio.open_nursery() as nursery:
                        operations = Maintenance(backends).operations
                        door = _Door(listener, plane, config.daemon, operations, lobby)
                        for backend in backends.values():
                            nursery.start_soon(_look_after, backend)
                        nursery.start_soon(lobby.run)
                        nursery.start_soon(door.run, nursery)
                        task_status.started()
                        await _note_signal(signals, "stopping")
                        nursery.start_soon(_cancel_on_signal, signals, nursery.cancel_scope)
                        await door.drain(config.daemon.drain_timeout_s)
                        nursery.cancel_scope.cancel()
            except (SocketInUseError, OSError) as exc:
                raise StartupError(f"cannot listen on {config.daemon.socket}: {exc}") from exc
    _log.info("stopped")


@contextlib.asynccontextmanager
async def open_backends(
    configs: Mapping[str, BackendConfig],
) -> AsyncGenerator[dict[str, Backend]]:
    """Open every configured backend, and close all of them at the end.

    Raises:
        StartupError: One cannot be used; those opened before it are closed again.
    """
    backends: dict[str, Backend] = {}
    try:
        for backend_id, config in configs.items():
            try:
                backend = _make_backend(backend_id, config)
                await backend.open()
            except BackendError as exc:
                raise StartupError(f"backend {backend_id}: {exc}") from exc
            backends[backend_id] = backend
        yield backends
    finally:
        with trio.CancelScope(shield=True):
            for backend in backends.values():
                await backend.aclose()


def _make_backend(backend_id: str, config: BackendConfig) -> Backend:
    if isinstance(config, FilesystemConfig):
        return FilesystemBackend(backend_id, config)
    if isinstance(config, ObjectStoreConfig):
        return _make_object_store(backend_id, config)
    if isinstance(config, MirrorConfig):
        first = _make_backend(f"{backend_id}.first", config.first)
        second = _make_backend(f"{backend_id}.second", config.second)
        return MirrorBackend(backend_id, config, first, second)
    if isinstance(config, ThirdPartyConfig):
        return entry_points.make_backend(backend_id, config)
    return MemoryBackend(backend_id)


def _make_object_store(backend_id: str, config: ObjectStoreConfig) -> Backend:
    # Its library is an extra, and takes a while to load.
    try:
        from .backends.objectstore import ObjectStoreBackend
    except ImportError as exc:
        raise BackendError("needs obstore: pip install 'dataplaned[objectstore]'") from exc
    return ObjectStoreBackend(backend_id, config)


async def _note_signal(signals: AsyncIterator[int], event: str) -> None:
    async for number in signals:
        _log.info(event, signal=signal.Signals(number).name)
        return


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await _note_signal(signals, "stopping_at_once")
    scope.cancel()


async def _look_after(backend: Backend) -> None:
    """Sweep, then scrub: nothing that goes wrong in there may cost callers the daemon."""
    for name, job in (("sweep", backend.sweep), ("scrub", backend.scrub)):
        try:
            await job()
        except DataPlaneError as exc:
            _log.error(f"{name}_failed", backend=backend.backend_id, reason=exc.message)
        except Exception as exc:  # noqa: BLE001 - the backend goes on without it
            _log.error(f"{name}_failed", backend=backend.backend_id, exc_info=exc)


class _Door:
    """Accepts connections, up to a number, and gives each a session."""

    def __init__(
        self,
        listener: trio.socket.SocketType,
        plane: LocalDataPlane,
        config: DaemonConfig,
        operations: Mapping[str, FurtherOperation] = NO_OPERATIONS,
        lobby: Lobby | None = None,
    ) -> None:
        self._lobby = lobby
        self._listener = listener
        self._plane = plane
        self._max_connections = config.max_connections
        self._features = FEATURES if config.serve_fd else ()
        self._operations = operations
        self._sessions: set[Session] = set()
        self._buffers = BufferPool()
        self._is_draining = False
        self._all_gone = trio.Event()

    async def run(self, nursery: trio.Nursery) -> None:
        """Accept for ever; whoever comes after `drain` would otherwise wait without a word."""
        is_exhausted = False
        while True:
            try:
                accepted, _ = await self._listener.accept()
            except OSError as exc:
                if exc.errno not in _EXHAUSTED:
                    _log.error("accept_failed", reason=exc.strerror)
                elif not is_exhausted:
                    # Said once and not ten times a second.
                    _log.error("out_of_descriptors", reason=exc.strerror)
                    is_exhausted = True
                await trio.sleep(_ACCEPT_PAUSE)
                continue
            is_exhausted = False
            nursery.start_soon(self._attend, accepted)

    async def drain(self, timeout_s: float) -> None:
        """Turn newcomers away, and wait until every call has ended or time is up."""
        self._is_draining = True
        for session in self._sessions:
            session.drain()
        if self._sessions:
            self._all_gone = trio.Event()
            with trio.move_on_after(timeout_s) as scope:
                await self._all_gone.wait()
            if scope.cancelled_caught:
                _log.warning("drain_timeout", connections=len(self._sessions))

    async def _attend(self, accepted: trio.socket.SocketType) -> None:
        peer = Peer(socket.socket(fileno=accepted.detach()), self._buffers)
        if self._is_draining:
            await turn_away(peer, UnavailableError("daemon is stopping"))
            return
        if len(self._sessions) >= self._max_connections:
            await turn_away(
                peer, UnavailableError(f"daemon has {self._max_connections} connections")
            )
            return
        session = Session(peer, self._plane, self._features, self._operations, self._lobby)
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._all_gone.set()
