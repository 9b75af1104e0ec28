"""One process: stores, sockets, signals, systemd, and a stop that lets calls finish."""

import contextlib
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from typing import Final

import structlog
import trio

from .access import UnknownPrincipalError
from .backends.base import Backend, BackendError
from .backends.filesystem import StoreInUseError
from .config import Config
from .door import Door, Services
from .listening import Listener, SocketInUseError
from .lobby import Lobby
from .maintenance import Maintenance
from .metrics import CallMeasures
from .metrics.endpoint import open_endpoint, serve_pages
from .plane import LocalDataPlane
from .probing import Probes
from .quick import QuickCalls
from .reloading import Reloader
from .roster import Roster
from .sockets import NoSocketError, access_by_socket, open_sockets
from .stores import look_after, open_backends
from .systemd import Notifier, PassedOnError, take_sockets
from .telemetry import Audit, CallLog, set_up_logging, tracing_from
from .watchdog import feed_watchdog
from .watching import Watching

#: Descriptors beside those of connections: of files, of the catalog, of the loop.
_OTHER_DESCRIPTORS: Final = 128

#: Seconds that the end may take beside the drain, while stores are closed.
_CLOSING_TIMEOUT_S: Final = 30.0

_log = structlog.get_logger(__name__)


class StartupError(Exception):
    """The daemon cannot start: its store or its socket cannot be used."""


class InUseError(StartupError):
    """Another process has the store or the socket, and may give it back."""


class MisconfiguredError(StartupError):
    """The configuration cannot be used on this machine."""


def run(config: Config, load: Callable[[], Config] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; the calls under way then have their time to finish.

    Args:
        config: What it is told.
        load: Reads the configuration again, when SIGHUP comes.

    Raises:
        StartupError: A store or a socket cannot be used.
    """
    set_up_logging(config.log)
    try:
        sockets = take_sockets()
    except PassedOnError as exc:
        raise MisconfiguredError(str(exc)) from exc
    _raise_descriptor_limit(config.daemon.max_connections)
    # What `serve` puts back when it is done: a late signal must not spoil a good end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with contextlib.closing(Notifier()) as notifier:
        trio.run(lambda: serve(config, load=load, passed_on=sockets, notifier=notifier))


async def serve(
    config: Config,
    *,
    load: Callable[[], Config] | None = None,
    passed_on: Mapping[str, Sequence[socket.socket]] | None = None,
    notifier: Notifier | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do what `run` does, as a task; `started` is called once the sockets listen.

    Cancelling it ends without a drain; what was acknowledged is as durable as ever.
    """
    notifier = notifier or Notifier({})
    # From here to the end: a signal that comes while stores are opened or closed waits.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        try:
            async with open_backends(config.backend) as backends:
                with (
                    open_sockets(config, passed_on or {}) as listeners,
                    _open_endpoint(config) as endpoint,
                    contextlib.closing(_open_audit(config)) as audit,
                ):
                    daemon = _Daemon(config, load, backends, listeners, notifier, audit)
                    with contextlib.closing(daemon):
                        await daemon.run(signals, endpoint, task_status)
        except SocketInUseError as exc:
            raise InUseError(f"cannot listen: {exc}") from exc
        except StoreInUseError as exc:
            raise InUseError(str(exc)) from exc
        except (NoSocketError, UnknownPrincipalError) as exc:
            raise MisconfiguredError(str(exc)) from exc
        except BackendError as exc:
            raise StartupError(str(exc)) from exc
        except OSError as exc:
            raise StartupError(f"cannot listen: {exc}") from exc
    _log.info("stopped")


class _Daemon:
    """All parts of a daemon, put together."""

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config] | None,
        backends: Mapping[str, Backend],
        listeners: Sequence[Listener],
        notifier: Notifier,
        audit: Audit,
    ) -> None:
        plane = LocalDataPlane(backends, max_object_size=config.daemon.max_object_size)
        self._notifier = notifier
        self._backends = backends
        self._listeners = listeners
        calls = CallMeasures(backends)
        self._roster = Roster(config.daemon, (CallLog(), audit, calls))
        self._probes = Probes(backends)
        self._watching = Watching(
            self._probes, self._roster, [each.name for each in listeners], calls, audit
        )
        self._lobby = Lobby(QuickCalls(plane))
        self._tracing = tracing_from()
        services = Services(
            plane=plane,
            roster=self._roster,
            access=access_by_socket(config, listeners),
            operations=Maintenance(backends).operations | self._watching.operations,
            lobby=self._lobby,
            tracing=self._tracing,
        )
        self._door = Door(listeners, services)
        self._reloader = Reloader(
            config, load or (lambda: config), listeners, services, backends, audit
        )

    def close(self) -> None:
        """Let go."""
        self._lobby.close()
        self._tracing.close()

    async def run(
        self,
        signals: AsyncIterator[int],
        endpoint: trio.socket.SocketType | None,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve, until a signal to stop and the drain that follows."""
        notifier = self._notifier
        async with trio.open_nursery() as nursery:
            for backend in self._backends.values():
                nursery.start_soon(look_after, backend)
            nursery.start_soon(self._lobby.run)
            nursery.start_soon(self._door.run, nursery)
            nursery.start_soon(self._probes.run)
            nursery.start_soon(self._watching.measure_lag)
            nursery.start_soon(feed_watchdog, notifier, self._probes, self._describe)
            if endpoint is not None:
                nursery.start_soon(serve_pages, endpoint, self._watching.pages)
            _log.info(
                "listening",
                sockets={each.name: each.socket.getsockname() for each in self._listeners},
                backends=list(self._backends),
            )
            notifier.ready()
            task_status.started()
            await self._wait_for_stop(signals)
            notifier.stopping()
            nursery.start_soon(_stop_at_once, signals, nursery.cancel_scope)
            drain_timeout = self._reloader.config.daemon.drain_timeout_s
            notifier.extend(drain_timeout + _CLOSING_TIMEOUT_S)
            await self._door.drain(drain_timeout)
            nursery.cancel_scope.cancel()

    async def _wait_for_stop(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                _log.info("stopping", signal=signal.Signals(number).name)
                return
            self._notifier.reloading()
            self._reloader.reload()
            self._notifier.ready()

    def _describe(self) -> str:
        roster = self._roster
        state = "stopping: " if roster.is_draining else ""
        return f"{state}{len(roster)} connections, {roster.calls_in_flight} calls"


@contextlib.contextmanager
def _open_endpoint(config: Config) -> Generator[trio.socket.SocketType | None]:
    listen = config.metrics.listen
    if listen is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            endpoint = stack.enter_context(open_endpoint(listen))
        except OSError as exc:
            raise StartupError(f"metrics.listen: {listen}: {exc.strerror}") from exc
        yield endpoint


def _open_audit(config: Config) -> Audit:
    try:
        return Audit(config.log.audit)
    except OSError as exc:
        raise MisconfiguredError(f"log.audit: {config.log.audit}: {exc.strerror}") from exc


async def _stop_at_once(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            _log.info("stopping_at_once", signal=signal.Signals(number).name)
            scope.cancel()
            return


def _raise_descriptor_limit(connections: int) -> None:
    """Take as many descriptors as this process may have, and say if they may not be enough."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _OTHER_DESCRIPTORS  # a call may have a file open
    if soft != resource.RLIM_INFINITY and soft < wanted:
        _log.warning("few_descriptors", limit=soft, wanted=wanted, max_connections=connections)
