"""The promises of `base.py` as tests, to be held against a backend by whoever writes one.

    from dataplaned.backends.suite import BackendSuite

    class TestMyBackend(BackendSuite):
        @pytest.fixture
        async def backend(self, tmp_path):
            backend = MyBackend("test", ...)
            await backend.open()
            yield backend
            await backend.aclose()

        async def replace(self, backend, data, stored):
            ...  # give the object whose bytes are `data` other ones, behind the backend's back

They need pytest and pytest-trio, which the extra `test` brings.
"""

import functools
from abc import abstractmethod
from typing import Final

import pytest
import trio
import trio.testing

from dataplane_protocol import (
    ConflictError,
    Digest,
    IngestOutcome,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectState,
)

from ..digests import BLOCK_SIZE, Digester, ObjectDigests
from .base import Backend, Published

#: Four blocks.
CONTENT: Final = bytes(range(256)) * 1024


def digests_of(data: bytes) -> ObjectDigests:
    """Digest some bytes."""
    digester = Digester()
    digester.update([data])
    return digester.finish()


def names_of(data: bytes) -> tuple[Digest, Digest]:
    """Give the BLAKE3 and the SHA-256 of some bytes."""
    digests = digests_of(data)
    return digests.named("blake3"), digests.named("sha256")


async def publish(backend: Backend, data: bytes) -> Published:
    """Ingest some bytes."""
    staging = await backend.stage(None)
    try:
        for start in range(0, len(data), 100_000):
            await staging.write([data[start : start + 100_000]])
        return await staging.publish(digests_of(data))
    finally:
        await staging.abort()


async def count(backend: Backend) -> int:
    """Count what is stored, up to a thousand."""
    return len((await backend.list_page(None, 1000)).objects)


class BackendSuite:
    """The tests. A subclass has the fixture `backend`, opened and empty, and `replace`."""

    @abstractmethod
    async def replace(self, backend: Backend, data: bytes, stored: bytes) -> None:
        """Change the stored bytes of an object behind its backend's back.

        Args:
            backend: The backend.
            data: What was ingested.
            stored: What is to be stored in its place, of the same length.
        """

    async def store(self, backend: Backend, data: bytes) -> str:
        """Ingest some bytes, and give the outcome."""
        return (await publish(backend, data)).outcome

    async def damage(self, backend: Backend, data: bytes, *, at: int) -> None:
        """Change one byte of a stored object."""
        changed = bytearray(data)
        changed[at] ^= 1
        await self.replace(backend, data, bytes(changed))

    @pytest.mark.trio
    @pytest.mark.parametrize("size", [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 300_000])
    async def test_what_was_published_is_read_back_by_either_digest(
        self, backend: Backend, size: int
    ) -> None:
        data = (CONTENT * 2)[:size]
        assert await self.store(backend, data) == IngestOutcome.CREATED
        for name in names_of(data):
            async with await backend.open_object(name) as stored:
                assert stored.status.size_bytes == size
                assert not size or await stored.read(0, 100) == data

    @pytest.mark.trio
    async def test_blocks_are_read_from_anywhere_and_clamped(self, backend: Backend) -> None:
        await self.store(backend, CONTENT)
        async with await backend.open_object(names_of(CONTENT)[0]) as stored:
            assert await stored.read(1, 2) == CONTENT[BLOCK_SIZE : 3 * BLOCK_SIZE]
            assert await stored.read(3, 9) == CONTENT[3 * BLOCK_SIZE :]

    @pytest.mark.trio
    async def test_nothing_is_visible_before_it_is_published(self, backend: Backend) -> None:
        staging = await backend.stage(len(CONTENT))
        await staging.write([CONTENT])
        for name in names_of(CONTENT):
            with pytest.raises(ObjectNotFoundError):
                await backend.open_object(name)
        assert await backend.stat(names_of(CONTENT)) == ()
        assert not (await backend.list_page(None, 10)).objects
        await staging.abort()
        assert await count(backend) == 0

    @pytest.mark.trio
    async def test_abort_after_publish_changes_nothing(self, backend: Backend) -> None:
        staging = await backend.stage(None)
        await staging.write([CONTENT])
        await staging.publish(digests_of(CONTENT))
        await staging.abort()
        await staging.abort()
        assert (await backend.verify(names_of(CONTENT)[0])).mismatch is None

    @pytest.mark.trio
    async def test_the_same_bytes_again_exist_with_a_larger_generation(
        self, backend: Backend
    ) -> None:
        await self.store(backend, CONTENT)
        (first,) = await backend.stat([names_of(CONTENT)[0]])
        assert await self.store(backend, CONTENT) == IngestOutcome.EXISTED
        (second,) = await backend.stat([names_of(CONTENT)[1]])
        assert second.generation > first.generation
        assert second.stored_at >= first.stored_at
        assert await count(backend) == 1

    @pytest.mark.trio
    @pytest.mark.parametrize("content", [CONTENT[:1000], CONTENT], ids=["small", "large"])
    async def test_a_hundred_ingests_of_one_object_at_once_all_succeed(
        self, backend: Backend, content: bytes
    ) -> None:
        given: list[Published] = []

        async def one() -> None:
            given.append(await publish(backend, content))

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(one)
        outcomes = sorted(published.outcome for published in given)
        assert outcomes == [IngestOutcome.CREATED] + [IngestOutcome.EXISTED] * 99
        generations = {published.generation for published in given}
        assert len(generations) == 100
        (status,) = await backend.stat([names_of(content)[0]])
        assert status.generation == max(generations)
        assert await count(backend) == 1
        assert (await backend.verify(names_of(content)[0])).mismatch is None

    @pytest.mark.trio
    async def test_a_damaged_block_is_never_given_out_and_the_others_are(
        self, backend: Backend
    ) -> None:
        await self.store(backend, CONTENT)
        await self.damage(backend, CONTENT, at=BLOCK_SIZE + 5)
        stored = await backend.open_object(names_of(CONTENT)[0])
        async with stored:
            assert await stored.read(0, 1) == CONTENT[:BLOCK_SIZE]
            assert await stored.read(2, 2) == CONTENT[2 * BLOCK_SIZE :]
            with pytest.raises(ObjectCorruptError):
                await stored.read(0, 4)
        (status,) = await backend.stat([names_of(CONTENT)[0]])
        assert status.state == ObjectState.QUARANTINED
        with pytest.raises(ObjectCorruptError):
            await backend.open_object(names_of(CONTENT)[1])

    @pytest.mark.trio
    async def test_verify_says_where_the_first_damage_is_and_ingest_heals(
        self, backend: Backend
    ) -> None:
        await self.store(backend, CONTENT)
        assert (await backend.verify(names_of(CONTENT)[0])).mismatch is None
        await self.damage(backend, CONTENT, at=3 * BLOCK_SIZE)
        verification = await backend.verify(names_of(CONTENT)[0])
        assert verification.mismatch == "content differs, first between bytes 196608 and 262143"
        assert verification.actual.size == len(CONTENT)
        assert verification.actual.named("sha256") != names_of(CONTENT)[1]
        assert await self.store(backend, CONTENT) == IngestOutcome.HEALED
        assert (await backend.verify(names_of(CONTENT)[0])).mismatch is None
        async with await backend.open_object(names_of(CONTENT)[1]) as stored:
            assert await stored.read(0, 4) == CONTENT
        assert await count(backend) == 1

    @pytest.mark.trio
    async def test_a_verify_that_finds_nothing_wrong_lifts_the_quarantine(
        self, backend: Backend
    ) -> None:
        await self.store(backend, CONTENT)
        await self.damage(backend, CONTENT, at=0)
        await backend.verify(names_of(CONTENT)[0])
        assert (await backend.stat([names_of(CONTENT)[0]]))[0].state == ObjectState.QUARANTINED
        await self.replace(backend, CONTENT, CONTENT)
        assert (await backend.verify(names_of(CONTENT)[0])).mismatch is None
        assert (await backend.stat([names_of(CONTENT)[0]]))[0].state == ObjectState.OK

    @pytest.mark.trio
    async def test_delete_is_final_and_tells_whether_there_was_anything(
        self, backend: Backend
    ) -> None:
        await self.store(backend, CONTENT)
        assert await backend.delete(names_of(CONTENT)[1], None)
        assert not await backend.delete(names_of(CONTENT)[0], None)
        for call in (backend.open_object, backend.verify):
            with pytest.raises(ObjectNotFoundError):
                await call(names_of(CONTENT)[0])
        assert await self.store(backend, CONTENT) == IngestOutcome.CREATED

    @pytest.mark.trio
    async def test_delete_with_an_older_generation_is_a_conflict(self, backend: Backend) -> None:
        await self.store(backend, CONTENT)
        (first,) = await backend.stat([names_of(CONTENT)[0]])
        await self.store(backend, CONTENT)
        (second,) = await backend.stat([names_of(CONTENT)[0]])
        with pytest.raises(ConflictError) as caught:
            await backend.delete(names_of(CONTENT)[0], first.generation)
        assert caught.value.details == {"generation": second.generation}
        assert await backend.delete(names_of(CONTENT)[0], second.generation)

    @pytest.mark.trio
    async def test_generations_are_not_used_again_after_a_delete(self, backend: Backend) -> None:
        await self.store(backend, CONTENT)
        (first,) = await backend.stat([names_of(CONTENT)[0]])
        await backend.delete(names_of(CONTENT)[0], None)
        await self.store(backend, CONTENT)
        (second,) = await backend.stat([names_of(CONTENT)[0]])
        assert second.generation > first.generation

    @pytest.mark.trio
    async def test_a_scrub_gives_the_way_to_whoever_cancels_it(self, backend: Backend) -> None:
        await self.store(backend, CONTENT)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(backend.scrub)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert (await backend.verify(names_of(CONTENT)[0])).mismatch is None

    @pytest.mark.trio
    async def test_an_open_object_stays_readable_when_it_is_deleted(self, backend: Backend) -> None:
        await self.store(backend, CONTENT)
        async with await backend.open_object(names_of(CONTENT)[0]) as stored:
            # The block digests of a large object leave with its row; what was read before the
            # delete was checked, and what is read after it is checked or refused.
            assert await stored.read(0, 1) == CONTENT[:BLOCK_SIZE]
            await backend.delete(names_of(CONTENT)[0], None)
            assert await stored.read(1, 3) == CONTENT[BLOCK_SIZE:]

    @pytest.mark.trio
    async def test_pages_are_in_order_and_complete(self, backend: Backend) -> None:
        names: list[Digest] = []
        for number in range(10):
            await self.store(backend, b"object %d" % number)
            names.append(names_of(b"object %d" % number)[0])
        names.sort()
        first = await backend.list_page(None, 4)
        assert [status.content_address.to_digest() for status in first] == names[:4]
        assert first.more
        second = await backend.list_page(names[3], 6)
        assert [status.content_address.to_digest() for status in second] == names[4:]
        assert not second.more
        between = Digest("blake3", f"{int(names[4].hex, 16) + 1:064x}")
        third = await backend.list_page(between, 100)
        assert [status.content_address.to_digest() for status in third] == names[5:]

    @pytest.mark.trio
    async def test_stat_keeps_the_order_and_leaves_out_what_is_missing(
        self, backend: Backend
    ) -> None:
        for data in (b"a", b"b"):
            await self.store(backend, data)
        missing = names_of(b"c")[0]
        asked = [names_of(b"b")[1], missing, names_of(b"a")[0]]
        statuses = await backend.stat(asked)
        assert [status.content_address.to_digest() for status in statuses] == [
            names_of(b"b")[0],
            names_of(b"a")[0],
        ]
        assert statuses[0].sha256_digest == names_of(b"b")[1]

    @pytest.mark.trio
    async def test_health_says_that_writing_works(self, backend: Backend) -> None:
        status = await backend.health()
        assert status.healthy
        assert status.writable
        assert status.message is None

    @pytest.mark.trio
    async def test_ingests_deletes_and_reads_of_one_object_at_once_leave_it_whole_or_absent(
        self,
        backend: Backend,
    ) -> None:
        name = names_of(CONTENT)[0]

        async def write() -> None:
            for _ in range(10):
                await self.store(backend, CONTENT)

        async def remove() -> None:
            for _ in range(20):
                await backend.delete(name, None)

        async def read() -> None:
            for _ in range(20):
                try:
                    async with await backend.open_object(name) as stored:
                        assert await stored.read(0, 4) == CONTENT
                except ObjectNotFoundError:
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for task in (write, write, remove, read, read):
                nursery.start_soon(functools.partial(task))
        await self.store(backend, CONTENT)
        assert (await backend.verify(name)).mismatch is None
        assert await count(backend) == 1
