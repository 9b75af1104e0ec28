"""The mirror backend: two backends as one, each with a copy of every object.

An ingest is acknowledged when both have it, or when the first has it and the journal says that
the second has to get it (`acknowledge`). Whatever is read comes from the first, and from the
second where the first has nothing, has damage, or is away; what a side lacks it is given by the
other. A deletion is in the journal before either side begins with it.

Generations are those of the first side, doubled; an odd one is the second side's, told while
the first is away, and no condition that a delete can have.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
import trio

from dataplane_protocol import (
    BLAKE3,
    BackendState,
    BackendStatus,
    ConflictError,
    DataPlaneError,
    Digest,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectPage,
    ObjectState,
    ObjectStatus,
    UnavailableError,
)

from ...config import BackendConfig, MirrorConfig
from ...digests import ObjectDigests
from ...paths import default_store_path
from ...threads import open_plain_nursery, to_the_end
from ..base import Backend, Published, Staging, StoredObject, Verification
from .journal import Journal, Pending, Task
from .mending import Mender
from .reading import MirrorObject

FIRST: Final = 0
SECOND: Final = 1
_SIDES: Final = (FIRST, SECOND)
_NAMES: Final = ("first", "second")

#: For how long a side may be behind without its being worth a word.
_USUAL_DELAY: Final = timedelta(seconds=30)

_log = structlog.get_logger(__name__)


class MirrorBackend(Backend):
    """Two backends, opened and closed with this one, and used by nobody else.

    Args:
        backend_id: The id that calls name it by.
        config: What its operator chose.
        first: The one that is preferred.
        second: The other one.
    """

    def __init__(
        self, backend_id: str, config: MirrorConfig, first: Backend, second: Backend
    ) -> None:
        super().__init__(backend_id)
        self._config = config
        self._sides = self.inner = (first, second)
        path = config.journal or os.path.join(
            os.path.dirname(default_store_path()), f"mirror-{backend_id}.sqlite3"
        )
        self._journal = Journal(path)
        self.mender = Mender(backend_id, self._sides, self._journal)

    @property
    def waits_for_both(self) -> bool:
        """Whether an ingest is acknowledged only when both sides have it."""
        return self._config.acknowledge == "both"

    async def open(self) -> None:
        opened: list[Backend | Journal] = []
        try:
            for part in (self._journal, *self._sides):
                await part.open()
                opened.append(part)
        except BaseException:
            with trio.CancelScope(shield=True):
                for part in opened:
                    await part.aclose()
            raise

    def reconfigure(self, config: BackendConfig) -> None:
        if isinstance(config, MirrorConfig):
            first, second = self._sides
            first.reconfigure(config.first)
            second.reconfigure(config.second)

    async def aclose(self) -> None:
        for part in (*self._sides, self._journal):
            await part.aclose()

    async def sweep(self) -> None:
        async with open_plain_nursery() as nursery:
            for side in self._sides:
                nursery.start_soon(side.sweep)

    async def scrub(self) -> None:
        async with open_plain_nursery() as nursery:
            for number, side in enumerate(self._sides):
                nursery.start_soon(self._scrub_side, side)
                nursery.start_soon(self.mender.work, number)
            nursery.start_soon(self._compare_now_and_then)

    async def stage(self, size_hint: int | None) -> Staging:
        first = await self._sides[FIRST].stage(size_hint)
        if not self.waits_for_both:
            return _MirrorStaging(self, (first,))
        try:
            return _MirrorStaging(self, (first, await self._sides[SECOND].stage(size_hint)))
        except BaseException:
            await first.abort()
            raise

    async def open_object(
        self, digest: Digest, byte_range: tuple[int, int] | None = None
    ) -> StoredObject:
        try:
            stored = await self._open_on(FIRST, digest, byte_range)
        except (ObjectNotFoundError, ObjectCorruptError, UnavailableError) as exc:
            trouble = exc
        else:
            return self._as_mirrors(FIRST, stored, byte_range)
        try:
            stored = await self._open_on(SECOND, digest, byte_range)
        except (ObjectNotFoundError, ObjectCorruptError, UnavailableError) as other:
            raise self._worse(trouble, other) from None
        if not isinstance(trouble, UnavailableError):
            await self._want_copy(FIRST, stored.status)
        return self._as_mirrors(SECOND, stored, byte_range)

    async def verify(self, digest: Digest) -> Verification:
        statuses = await self.stat([digest])
        if not statuses:
            raise ObjectNotFoundError(f"no object {digest}")
        name = statuses[0].content_address.to_digest()
        results: dict[int, Verification | DataPlaneError] = {}
        async with open_plain_nursery() as nursery:
            for side in _SIDES:
                nursery.start_soon(self._verify_on, side, name, results)
        good = [side for side in _SIDES if _is_good(results[side])]
        for side in _SIDES:
            if good and not isinstance(results[side], UnavailableError) and side not in good:
                await self._mend_now(side, name, results)
        errors: list[DataPlaneError] = []
        for side in _SIDES:
            result = results[side]
            if isinstance(result, Verification):
                return result
            errors.append(result)
        raise self._worse(*errors)

    async def delete(self, digest: Digest, if_generation: int | None) -> bool:
        statuses, errors = await self._stat_both(digest)
        if len(errors) == len(_SIDES):
            raise errors[FIRST]
        if not statuses:
            if errors and digest.algorithm == BLAKE3 and if_generation is None:
                await self._delete_where_away(digest)
            return False
        name = next(iter(statuses.values())).content_address.to_digest()
        async with self.mender.lock(bytes.fromhex(name.hex)):
            condition = None
            if if_generation is not None:
                generation = await self._generation_of(name)
                if generation is None:
                    return False
                # An odd one is the second side's, which says nothing of the first.
                if generation != if_generation or generation % 2:
                    raise ConflictError(
                        f"object has generation {generation}, not {if_generation}",
                        details={"generation": generation},
                    )
                condition = generation // 2
            return await to_the_end(lambda: self._delete_locked(name, condition))

    async def stat(self, digests: Sequence[Digest]) -> tuple[ObjectStatus, ...]:
        try:
            first = await self._stat_on(FIRST, digests)
        except UnavailableError as exc:
            try:
                second = await self._stat_on(SECOND, digests)
            except UnavailableError:
                raise exc from None
            return tuple(second[digest] for digest in digests if digest in second)
        doubtful = [
            digest
            for digest in digests
            if digest not in first or first[digest].state != ObjectState.OK
        ]
        second = {}
        if doubtful:
            with contextlib.suppress(UnavailableError):
                second = await self._stat_on(SECOND, doubtful)
        found = (_better(first.get(digest), second.get(digest)) for digest in digests)
        return tuple(status for status in found if status is not None)

    async def list_page(self, after: Digest | None, limit: int) -> ObjectPage:
        try:
            return await self._list_on(FIRST, after, limit)
        except UnavailableError as exc:
            try:
                return await self._list_on(SECOND, after, limit)
            except UnavailableError:
                raise exc from None

    async def health(self) -> BackendStatus:
        healths: dict[int, BackendStatus] = {}

        async def ask(number: int) -> None:
            healths[number] = await self._sides[number].health()

        async with open_plain_nursery() as nursery:
            for number in _SIDES:
                nursery.start_soon(ask, number)
        first, second = healths[FIRST], healths[SECOND]
        messages = [
            f"{_NAMES[number]} is {healths[number].state}: {healths[number].message}"
            for number in _SIDES
            if not healths[number].healthy
        ]
        behind = [number for number in _SIDES if self._journal.count(number)]
        # A second side that is given everything later is always a little behind.
        is_late = any(
            self.waits_for_both
            or number == FIRST
            or datetime.now(UTC) - self._journal.since(number) > _USUAL_DELAY
            for number in behind
        )
        if messages or is_late:
            messages += [
                f"{_NAMES[number]} is {self._journal.count(number)} objects behind since "
                f"{self._journal.since(number).isoformat(timespec='seconds')}"
                for number in behind
            ]
        if first.state == second.state == BackendState.DOWN:
            state = BackendState.DOWN
        else:
            state = BackendState.DEGRADED if messages else BackendState.OK
        return BackendStatus(
            backend_id=self.backend_id,
            state=state,
            writable=first.writable and (second.writable or not self.waits_for_both),
            free_bytes=first.free_bytes,
            total_bytes=first.total_bytes,
            object_count=first.object_count,
            message="; ".join(messages) or None,
        )

    async def figures(self) -> Mapping[str, float]:
        behind = (self._journal.count(FIRST), self._journal.count(SECOND))
        return {"first_behind_objects": behind[0], "second_behind_objects": behind[1]}

    async def publish(self, stagings: Sequence[Staging], digests: ObjectDigests) -> Published:
        """Publish what was staged on one side or on both, and say what is left to do."""
        blake3 = digests.blake3
        async with self.mender.lock(blake3):
            published = await stagings[FIRST].publish(digests)
            # It takes the place of whatever either side had to do with the object.
            settled = [Pending(side, blake3, task) for side in _SIDES for task in Task]
            behind = [Pending(SECOND, blake3, Task.COPY)]
            try:
                for staging in stagings[1:]:
                    await staging.publish(digests)
                    behind = []
            except BaseException:
                await self._note(add=behind, drop=settled)
                raise
            await self._note(add=behind, drop=settled)
        return dataclasses.replace(published, generation=2 * published.generation)

    async def _note(self, add: Sequence[Pending] = (), drop: Sequence[Pending] = ()) -> None:
        if add or any(map(self._journal.count, _SIDES)):
            with trio.CancelScope(shield=True):
                await self._journal.change(add, drop)
        if add:
            self.mender.wake()

    async def _want_copy(self, side: int, status: ObjectStatus) -> None:
        await self.mender.want_copy(side, bytes.fromhex(status.content_address.to_digest().hex))

    async def _open_on(
        self, side: int, digest: Digest, byte_range: tuple[int, int] | None
    ) -> StoredObject:
        stored = await self._sides[side].open_object(digest, byte_range)
        if self._is_deleted(side, stored.status):
            await stored.aclose()
            raise ObjectNotFoundError(f"no object {digest}")
        return stored

    def _as_mirrors(
        self, side: int, stored: StoredObject, byte_range: tuple[int, int] | None
    ) -> MirrorObject:
        status = stored.status
        name = status.content_address.to_digest()
        reopen = functools.partial(self._open_on, 1 - side, name, byte_range)
        return MirrorObject(
            _renumbered(side, status),
            byte_range,
            stored,
            reopen=reopen if side == FIRST else None,
            report=functools.partial(self._want_copy, side, status),
        )

    def _worse(self, first: DataPlaneError, second: DataPlaneError) -> DataPlaneError:
        """Choose what to say when neither side gives an object.

        That there is none, only the first side can say while the second is away, and not even
        that one while it is behind.
        """
        for error in (first, second):
            if isinstance(error, ObjectCorruptError):
                return error
        if isinstance(second, UnavailableError) and not self._journal.count(FIRST):
            return first
        return second if isinstance(first, ObjectNotFoundError) else first

    async def _verify_on(
        self, side: int, name: Digest, results: dict[int, Verification | DataPlaneError]
    ) -> None:
        if self._journal.is_deleted(side, bytes.fromhex(name.hex)):
            results[side] = ObjectNotFoundError(f"no object {name}")
            return
        try:
            results[side] = await self._sides[side].verify(name)
        except (ObjectNotFoundError, UnavailableError) as exc:
            results[side] = exc

    async def _mend_now(
        self, side: int, name: Digest, results: dict[int, Verification | DataPlaneError]
    ) -> None:
        blake3 = bytes.fromhex(name.hex)
        try:
            await self.mender.want_copy(side, blake3)
            await self.mender.copy(side, blake3)
        except DataPlaneError as exc:
            _log.warning(
                "side_not_mended", backend=self._sides[side].backend_id, reason=exc.message
            )
            return
        await self._verify_on(side, name, results)

    async def _generation_of(self, name: Digest) -> int | None:
        """Give the generation of an object, which the first side has to be asked for."""
        for side in _SIDES:
            statuses = await self._stat_on(side, [name])
            if statuses:
                return statuses[name].generation
        return None

    async def _delete_where_away(self, name: Digest) -> None:
        """Have an object that no side shows deleted on one that is away, if it has it after all."""
        blake3 = bytes.fromhex(name.hex)
        async with self.mender.lock(blake3):
            statuses, errors = await self._stat_both(name)
            if not statuses:
                await self._note(add=[Pending(side, blake3, Task.DELETE) for side in errors])

    async def _delete_locked(self, name: Digest, condition: int | None) -> bool:
        rows = [Pending(side, bytes.fromhex(name.hex), Task.DELETE) for side in _SIDES]
        # From here on it is gone, whatever happens: what is not done now is done later.
        await self._note(add=rows)
        deleted: list[bool] = []
        errors: list[DataPlaneError] = []
        for row, side in zip(rows, self._sides, strict=True):
            try:
                deleted.append(await side.delete(name, condition if row.side == FIRST else None))
            except ConflictError:
                await self._note(drop=rows)
                raise
            except UnavailableError as exc:
                errors.append(exc)
            else:
                await self._note(drop=[row])
        if len(errors) == len(rows):
            await self._note(drop=rows)
            raise errors[FIRST]
        return any(deleted)

    async def _stat_both(
        self, digest: Digest
    ) -> tuple[dict[int, ObjectStatus], dict[int, UnavailableError]]:
        statuses: dict[int, ObjectStatus] = {}
        errors: dict[int, UnavailableError] = {}
        for side in _SIDES:
            try:
                found = await self._stat_on(side, [digest])
            except UnavailableError as exc:
                errors[side] = exc
            else:
                statuses |= {side: found[digest]} if found else {}
        return statuses, errors

    async def _stat_on(self, side: int, digests: Sequence[Digest]) -> dict[Digest, ObjectStatus]:
        """Give a side's statuses, numbered as the mirror's, by the digests they were asked by."""
        found: dict[Digest, ObjectStatus] = {}
        for status in await self._sides[side].stat(digests):
            if not self._is_deleted(side, status):
                numbered = _renumbered(side, status)
                found[status.content_address.to_digest()] = numbered
                found[status.sha256_digest] = numbered
        return {digest: found[digest] for digest in digests if digest in found}

    async def _list_on(self, side: int, after: Digest | None, limit: int) -> ObjectPage:
        page = await self._sides[side].list_page(after, limit)
        while page.more and all(self._is_deleted(side, status) for status in page):
            after = page.objects[-1].content_address.to_digest()
            page = await self._sides[side].list_page(after, limit)
        return ObjectPage(
            objects=tuple(
                _renumbered(side, status) for status in page if not self._is_deleted(side, status)
            ),
            more=page.more,
        )

    def _is_deleted(self, side: int, status: ObjectStatus) -> bool:
        blake3 = bytes.fromhex(status.content_address.to_digest().hex)
        return self._journal.is_deleted(side, blake3)

    async def _scrub_side(self, side: Backend) -> None:
        try:
            await side.scrub()
        except Exception as exc:  # noqa: BLE001 - the other side goes on, and the mirror
            _log.error("scrub_failed", backend=side.backend_id, exc_info=exc)

    async def _compare_now_and_then(self) -> None:
        while True:
            await trio.sleep(self._config.compare_interval_s)
            try:
                await self.mender.compare()
            except DataPlaneError as exc:
                _log.warning("compare_failed", backend=self.backend_id, reason=exc.message)


class _MirrorStaging(Staging):
    """An ingest on the first side, or on both."""

    def __init__(self, mirror: MirrorBackend, stagings: Sequence[Staging]) -> None:
        self._mirror = mirror
        self._stagings = stagings

    async def write(self, pieces: Sequence[bytes]) -> None:
        async with open_plain_nursery() as nursery:
            for staging in self._stagings:
                nursery.start_soon(staging.write, pieces)

    async def publish(self, digests: ObjectDigests) -> Published:
        return await self._mirror.publish(self._stagings, digests)

    async def abort(self) -> None:
        for staging in self._stagings:
            await staging.abort()


def _renumbered(side: int, status: ObjectStatus) -> ObjectStatus:
    return dataclasses.replace(status, generation=2 * status.generation + side)


def _better(first: ObjectStatus | None, second: ObjectStatus | None) -> ObjectStatus | None:
    """Describe an object by the first side, and as good if the second has it in good order."""
    if first is None or second is None:
        return first or second
    return dataclasses.replace(first, state=second.state, verified_at=second.verified_at)


def _is_good(result: Verification | DataPlaneError) -> bool:
    return isinstance(result, Verification) and result.mismatch is None
