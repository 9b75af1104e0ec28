"""An open object of a mirror: read from one side, and from the other when that one fails."""

from collections.abc import Awaitable, Callable

from dataplane_protocol import DataPlaneError, ObjectCorruptError, ObjectStatus, UnavailableError

from ..base import StoredObject

#: Opens the same object and range on the other side.
Reopen = Callable[[], Awaitable[StoredObject]]

#: Is told that the side that is read from has a bad copy.
Report = Callable[[], Awaitable[None]]


class MirrorObject(StoredObject):
    """The readers of both sides as one."""

    def __init__(
        self,
        status: ObjectStatus,
        byte_range: tuple[int, int] | None,
        stored: StoredObject,
        *,
        reopen: Reopen | None,
        report: Report,
    ) -> None:
        super().__init__(status, byte_range)
        self._stored = stored
        self._reopen = reopen
        self._report = report

    async def read(self, first_block: int, count: int) -> bytes:
        try:
            return await self._stored.read(first_block, count)
        except (ObjectCorruptError, UnavailableError) as exc:
            if isinstance(exc, ObjectCorruptError):
                await self._report()
            if self._reopen is None:
                raise
            try:
                other = await self._reopen()
            except DataPlaneError:
                raise exc from None
        await self._stored.aclose()
        self._stored, self._reopen = other, None
        self._report = _say_nothing
        return await other.read(first_block, count)

    def read_into(self, first_block: int, buffer: memoryview) -> int:
        return self._stored.read_into(first_block, buffer)

    def take_descriptor(self) -> int | None:
        return self._stored.take_descriptor()

    async def aclose(self) -> None:
        await self._stored.aclose()


async def _say_nothing() -> None:
    pass
