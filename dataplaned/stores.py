"""The backends of a daemon: made from the configuration, opened, looked after, closed."""

import contextlib
from collections.abc import AsyncGenerator, Mapping

import structlog
import trio

from dataplane_protocol import DataPlaneError

from .backends import entry_points
from .backends.base import Backend, BackendError
from .backends.filesystem import FilesystemBackend, StoreInUseError
from .backends.memory import MemoryBackend
from .backends.mirror import MirrorBackend
from .config import (
    BackendConfig,
    FilesystemConfig,
    MirrorConfig,
    ObjectStoreConfig,
    ThirdPartyConfig,
)

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def open_backends(
    configs: Mapping[str, BackendConfig],
) -> AsyncGenerator[dict[str, Backend]]:
    """Open every configured backend, and close all of them at the end.

    Raises:
        StoreInUseError: One is another daemon's.
        BackendError: One cannot be used; those opened before it are closed again. The message
            names it.
    """
    backends: dict[str, Backend] = {}
    try:
        for backend_id, config in configs.items():
            try:
                backend = _make_backend(backend_id, config)
                await backend.open()
            except BackendError as exc:
                kind = StoreInUseError if isinstance(exc, StoreInUseError) else BackendError
                raise kind(f"backend {backend_id}: {exc}") from exc
            backends[backend_id] = backend
        yield backends
    finally:
        with trio.CancelScope(shield=True):
            for backend in backends.values():
                await backend.aclose()


async def look_after(backend: Backend) -> None:
    """Sweep, then scrub: nothing that goes wrong in there may cost callers the daemon."""
    for name, job in (("sweep", backend.sweep), ("scrub", backend.scrub)):
        try:
            await job()
        except DataPlaneError as exc:
            _log.error(f"{name}_failed", backend=backend.backend_id, reason=exc.message)
        except Exception as exc:  # noqa: BLE001 - the backend goes on without it
            _log.error(f"{name}_failed", backend=backend.backend_id, exc_info=exc)


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
