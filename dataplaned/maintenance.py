"""What an operator asks of the stores: the daemon's own operations, over its backends.

Each takes the arguments of a request and gives the result, in the forms of `operations.py`.
Any of them may be cancelled: a restore ends then, and what has begun to be committed goes on
to its end.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from dataplane_protocol import ObjectNotFoundError, UnknownBackendError, UnsupportedError

from .backends.base import Backend
from .backends.maintenance import Maintained, QuarantinedCopy
from .operations import (
    BackendArguments,
    Backup,
    CopyArguments,
    MaintenanceOperation,
    Purge,
    QuarantineListArguments,
    QuarantinePage,
    Restoration,
    scrub_status_to_wire,
)

_Arguments: TypeAlias = Mapping[str, object]
_Result: TypeAlias = Mapping[str, object]

_log = structlog.get_logger(__name__)


class Maintenance:
    """The operations over a daemon's backends.

    All of them raise:

        InvalidRequestError: An argument is missing, malformed or out of bounds.
        UnknownBackendError: No backend has the id.
        UnsupportedError: The backend has nothing to look after.

    Args:
        backends: By id; the first is the default. Opened and closed by whoever made them.
            What they are made of has ids too.
    """

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = dict(backends)
        for backend in backends.values():
            self._backends |= {inner.backend_id: inner for inner in backend.inner}
        self._default = next(iter(self._backends))

    @property
    def operations(self) -> dict[str, Callable[[_Arguments], Awaitable[_Result]]]:
        """Each operation by its name on the wire."""
        return {
            MaintenanceOperation.SCRUB_STATUS: self.scrub_status,
            MaintenanceOperation.SCRUB_START: self.start_scrub,
            MaintenanceOperation.SCRUB_PAUSE: self.pause_scrub,
            MaintenanceOperation.QUARANTINE_LIST: self.list_quarantined,
            MaintenanceOperation.QUARANTINE_RESTORE: self.restore,
            MaintenanceOperation.QUARANTINE_PURGE: self.purge,
            MaintenanceOperation.BACK_UP: self.back_up,
        }

    async def scrub_status(self, args: _Arguments) -> _Result:
        """Say what the scrub of a backend does."""
        _, backend = self._backend(BackendArguments.from_wire(args).backend_id)
        return scrub_status_to_wire(await backend.scrub_status())

    async def start_scrub(self, args: _Arguments) -> _Result:
        """Have everything in a backend scrubbed now, and say what the scrub does then."""
        backend_id, backend = self._backend(BackendArguments.from_wire(args).backend_id)
        await backend.start_scrub()
        _log.info("scrub_started", backend=backend_id)
        return scrub_status_to_wire(await backend.scrub_status())

    async def pause_scrub(self, args: _Arguments) -> _Result:
        """Pause the scrub of a backend, and say what it does then."""
        backend_id, backend = self._backend(BackendArguments.from_wire(args).backend_id)
        await backend.pause_scrub()
        _log.info("scrub_paused", backend=backend_id)
        return scrub_status_to_wire(await backend.scrub_status())

    async def list_quarantined(self, args: _Arguments) -> _Result:
        """Give a page of the copies in quarantine."""
        arguments = QuarantineListArguments.from_wire(args)
        _, backend = self._backend(arguments.backend_id)
        limit = arguments.limit
        copies = await backend.list_quarantined(arguments.after, limit + 1)
        return QuarantinePage(copies=tuple(copies[:limit]), more=len(copies) > limit).to_wire()

    async def restore(self, args: _Arguments) -> _Result:
        """Read a copy in quarantine again; as `Maintained.restore`."""
        arguments = CopyArguments.from_wire(args)
        backend_id, backend = self._backend(arguments.backend_id)
        copy = await _find(backend, arguments.number)
        verification = await backend.restore(copy.number)
        if verification.mismatch is None:
            _log.info("restored", backend=backend_id, object=str(copy.content_address))
        return Restoration(
            number=copy.number,
            content_address=copy.content_address,
            mismatch=verification.mismatch,
        ).to_wire()

    async def purge(self, args: _Arguments) -> _Result:
        """Remove a copy in quarantine for good; as `Maintained.purge`."""
        arguments = CopyArguments.from_wire(args)
        backend_id, backend = self._backend(arguments.backend_id)
        copy = await _find(backend, arguments.number)
        await backend.purge(copy.number)
        _log.info(
            "purged",
            backend=backend_id,
            object=str(copy.content_address),
            was_only_copy=copy.is_only_copy,
        )
        return Purge(
            number=copy.number,
            content_address=copy.content_address,
            was_only_copy=copy.is_only_copy,
        ).to_wire()

    async def back_up(self, args: _Arguments) -> _Result:
        """Write a backup of a backend's catalog."""
        backend_id, backend = self._backend(BackendArguments.from_wire(args).backend_id)
        path = await backend.back_up()
        _log.info("backed_up", backend=backend_id, path=path)
        return Backup(backend_id=backend_id, path=path).to_wire()

    def _backend(self, backend_id: str | None) -> tuple[str, Maintained]:
        chosen = self._default if backend_id is None else backend_id
        backend = self._backends.get(chosen)
        if backend is None:
            raise UnknownBackendError("no backend with this id is configured")
        if not isinstance(backend, Maintained):
            parts = ", ".join(inner.backend_id for inner in backend.inner)
            raise UnsupportedError(
                f"backend {chosen} has no scrub, quarantine or backup"
                + (f": it is made of {parts}" if parts else "")
            )
        return chosen, backend


async def _find(backend: Maintained, number: int) -> QuarantinedCopy:
    """Give one copy. It may have left the quarantine by the time that its number is used."""
    copies = await backend.list_quarantined(number - 1, 1)
    if not copies or copies[0].number != number:
        raise ObjectNotFoundError(f"no copy {number} in quarantine")
    return copies[0]
