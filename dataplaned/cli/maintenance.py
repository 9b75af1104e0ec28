"""The daemon's own operations as the commands call them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dataplane_protocol import RemoteProtocolError

from ..operations import (
    BackendArguments,
    Backup,
    CopyArguments,
    MaintenanceOperation,
    Purge,
    QuarantineListArguments,
    QuarantinePage,
    Restoration,
    scrub_status_from_wire,
)

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient

    from ..backends.maintenance import QuarantinedCopy, ScrubStatus


class Maintenance:
    """One backend of a daemon, the default one when there is no id."""

    def __init__(self, client: "BlockingDataPlaneClient", backend_id: str | None) -> None:
        self._client = client
        self._backend_id = backend_id

    def scrub_status(self) -> "ScrubStatus":
        """Ask what the scrub does."""
        return self._scrub(MaintenanceOperation.SCRUB_STATUS)

    def start_scrub(self) -> "ScrubStatus":
        """Have everything scrubbed now."""
        return self._scrub(MaintenanceOperation.SCRUB_START)

    def pause_scrub(self) -> "ScrubStatus":
        """Have the scrub paused."""
        return self._scrub(MaintenanceOperation.SCRUB_PAUSE)

    def quarantined(self) -> "Iterator[QuarantinedCopy]":
        """Walk over the copies in quarantine, in order of their numbers."""
        after, more = 0, True
        while more:
            arguments = QuarantineListArguments(after=after, backend_id=self._backend_id)
            page = QuarantinePage.from_wire(
                self._ask(MaintenanceOperation.QUARANTINE_LIST, arguments)
            )
            yield from page.copies
            last = page.copies[-1].number if page.copies else after
            if page.more and last <= after:
                raise RemoteProtocolError("a page of the quarantine does not go forward")
            after, more = last, page.more

    def restore(self, number: int) -> Restoration:
        """Have a copy read again."""
        arguments = CopyArguments(number=number, backend_id=self._backend_id)
        answer = self._ask(MaintenanceOperation.QUARANTINE_RESTORE, arguments)
        return Restoration.from_wire(answer)

    def purge(self, number: int) -> Purge:
        """Have a copy removed for good."""
        arguments = CopyArguments(number=number, backend_id=self._backend_id)
        return Purge.from_wire(self._ask(MaintenanceOperation.QUARANTINE_PURGE, arguments))

    def back_up(self) -> Backup:
        """Have a backup of the catalog written."""
        arguments = BackendArguments(backend_id=self._backend_id)
        return Backup.from_wire(self._ask(MaintenanceOperation.BACK_UP, arguments))

    def _scrub(self, operation: MaintenanceOperation) -> "ScrubStatus":
        arguments = BackendArguments(backend_id=self._backend_id)
        return scrub_status_from_wire(self._ask(operation, arguments))

    def _ask(
        self,
        operation: MaintenanceOperation,
        arguments: BackendArguments | QuarantineListArguments | CopyArguments,
    ) -> Mapping[str, object]:
        return self._client.call_private(operation.value, arguments.to_wire())
