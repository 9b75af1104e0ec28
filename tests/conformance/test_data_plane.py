"""The SPI's promises, held against everything that is a data plane.

The same tests run over the in-process plane on each backend, and over the client against a
running daemon on trio and on asyncio. Every test stores bytes of its own, so that those that
share a daemon do not meet.
"""

import hashlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from blake3 import blake3

import dataplane_client
from dataplane_protocol import (
    BodyMismatchError,
    ConflictError,
    ContentAddress,
    DataPlane,
    Digest,
    FullDataPlane,
    IngestHints,
    InvalidRequestError,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectStatus,
    ObjectTooLargeError,
    RangeNotSatisfiableError,
    UnknownBackendError,
    UnsupportedError,
)
from dataplaned.backends.base import Backend
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.memory import MemoryBackend
from dataplaned.config import FilesystemConfig
from dataplaned.plane import LocalDataPlane

BLOCK = 65_536
MAX_OBJECT_SIZE = 50_000_000
EMPTY = ContentAddress("blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")


@dataclass(frozen=True)
class Subject:
    """One data plane under test."""

    plane: FullDataPlane
    backend: str
    root: Path | None

    def damage(self, address: ContentAddress, *, at: int) -> None:
        """Flip one bit of a stored object behind the daemon's back."""
        if self.root is None:
            pytest.skip(f"the bytes of a {self.backend} backend cannot be damaged from outside")
        with sqlite3.connect(self.root / "catalog.sqlite3") as catalog:
            (file,) = catalog.execute(
                "SELECT file FROM objects WHERE blake3 = ?", (bytes.fromhex(address.value[7:]),)
            ).fetchone()
        catalog.close()
        path = self.root / "objects" / file[:2] / file
        path.chmod(0o600)
        with path.open("r+b") as stored:
            stored.seek(at)
            byte = stored.read(1)
            stored.seek(at)
            stored.write(bytes([byte[0] ^ 1]))


@pytest.fixture(
    params=[
        ("trio", "local", "memory"),
        ("trio", "local", "filesystem"),
        ("trio", "client", "memory"),
        ("trio", "client", "filesystem"),
        ("asyncio", "client", "filesystem"),
    ],
    ids="-".join,
)
def kind(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def anyio_backend(kind: tuple[str, str, str]) -> str:
    return kind[0]


@pytest.fixture(scope="module")
def daemons(
    tmp_path_factory: pytest.TempPathFactory, daemon_process: Callable[..., Any]
) -> Generator[Callable[[str], Any]]:
    """Start at most one daemon for each backend type, for the whole module."""
    running: dict[str, Any] = {}
    with ExitStack() as stack:

        def get(backend: str) -> Any:
            if backend not in running:
                running[backend] = start(backend, stack)
            return running[backend]

        def start(backend: str, stack: ExitStack) -> Any:
            directory = tmp_path_factory.mktemp(backend)
            config = directory / "config.toml"
            root = directory / "store"
            root_line = f'root = "{root}"\n' if backend == "filesystem" else ""
            config.write_text(
                f"[daemon]\nmax_object_size = {MAX_OBJECT_SIZE}\n"
                f'[backend.first]\ntype = "{backend}"\n{root_line}'
                '[backend.second]\ntype = "memory"\n'
            )
            daemon = stack.enter_context(daemon_process(("--config", str(config))))
            return daemon, root if backend == "filesystem" else None

        yield get


@pytest.fixture
async def subject(
    kind: tuple[str, str, str], daemons: Callable[[str], Any], tmp_path: Path
) -> AsyncGenerator[Subject]:
    _, place, backend_type = kind
    async with AsyncExitStack() as stack:
        if place == "client":
            daemon, root = daemons(backend_type)
            client = dataplane_client.connect(daemon.socket_path)
            yield Subject(await stack.enter_async_context(client), backend_type, root)
            return
        first: Backend = MemoryBackend("first")
        root = None
        if backend_type == "filesystem":
            root = tmp_path / "store"
            first = FilesystemBackend("first", FilesystemConfig(root=str(root)))
        backends = {"first": first, "second": MemoryBackend("second")}
        for backend in backends.values():
            await backend.open()
            stack.push_async_callback(backend.aclose)
        plane = LocalDataPlane(backends, max_object_size=MAX_OBJECT_SIZE)
        yield Subject(plane, backend_type, root)


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """Bytes that no other test stores: a little over four blocks."""
    return hashlib.shake_256(request.node.nodeid.encode()).digest(4 * BLOCK + 77)


class pieces:  # noqa: N801 - reads as the function that it stands for
    """A stream of bytes that may be left half-way: a generator would have to be closed."""

    def __init__(self, data: bytes, size: int = 50_000) -> None:
        self._pieces = iter([data[at : at + size] for at in range(0, len(data), size)])

    def __aiter__(self) -> "pieces":
        return self

    async def __anext__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


async def read(
    plane: DataPlane, address: ContentAddress, byte_range: tuple[int, int] | None = None
) -> bytes:
    stream = await plane.serve_object(address, byte_range=byte_range)
    return b"".join([piece async for piece in stream])


def blake3_of(data: bytes) -> ContentAddress:
    return ContentAddress(f"blake3:{blake3(data).hexdigest()}")


def sha256_of(data: bytes) -> ContentAddress:
    return ContentAddress(f"sha256:{hashlib.sha256(data).hexdigest()}")


pytestmark = pytest.mark.anyio


async def test_it_is_a_data_plane(subject: Subject) -> None:
    assert isinstance(subject.plane, DataPlane)
    assert isinstance(subject.plane, FullDataPlane)


async def test_ingest_gives_both_digests_and_a_receipt(subject: Subject, content: bytes) -> None:
    result = await subject.plane.ingest_stream(pieces(content))
    assert ContentAddress.from_digest(result.primary_digest) == blake3_of(content)
    assert ContentAddress.from_digest(result.sha256_digest) == sha256_of(content)
    assert result.size_bytes == len(content)
    receipt = result.receipt
    assert (receipt.backend_id, receipt.outcome) == ("first", "created")
    assert receipt.content_address == blake3_of(content)
    assert receipt.size_bytes == len(content)
    assert receipt.generation > 0
    assert receipt.stored_at.utcoffset() is not None


async def test_sha256_can_be_primary(subject: Subject, content: bytes) -> None:
    hints = IngestHints(primary_algorithm="sha256", size_hint=len(content))
    result = await subject.plane.ingest_stream(pieces(content), hints=hints)
    assert result.primary_digest == result.sha256_digest
    assert result.receipt.content_address == sha256_of(content)
    assert await read(subject.plane, blake3_of(content)) == content


async def test_empty_input_is_an_object(subject: Subject) -> None:
    result = await subject.plane.ingest_stream(pieces(b""))
    assert ContentAddress.from_digest(result.primary_digest) == EMPTY
    assert result.size_bytes == 0
    assert await read(subject.plane, EMPTY) == b""
    assert (await subject.plane.verify_object(EMPTY)).verified
    with pytest.raises(RangeNotSatisfiableError):
        await subject.plane.serve_object(EMPTY, byte_range=(0, 0))


@pytest.mark.parametrize("size", [1, 1000, BLOCK, 300_000])
async def test_the_size_of_pieces_does_not_matter(
    subject: Subject, content: bytes, size: int
) -> None:
    data = content[:2000] if size == 1 else content
    result = await subject.plane.ingest_stream(pieces(data, size))
    assert ContentAddress.from_digest(result.primary_digest) == blake3_of(data)
    assert await read(subject.plane, sha256_of(data)) == data


async def test_an_object_of_many_batches_comes_back_whole(subject: Subject, content: bytes) -> None:
    data = content * 20
    await subject.plane.ingest_stream(pieces(data, 300_000))
    stream = await subject.plane.serve_object(blake3_of(data))
    async with stream:
        assert (stream.size, stream.offset, stream.length) == (len(data), 0, len(data))
        assert b"".join([piece async for piece in stream]) == data


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (0, 0),
        (0, BLOCK - 1),
        (BLOCK - 1, BLOCK),
        (BLOCK, 2 * BLOCK - 1),
        (100, 4 * BLOCK + 76),
        (4 * BLOCK + 76, 4 * BLOCK + 76),
        (4 * BLOCK, 10**12),
        (5, 2**60),
    ],
)
async def test_ranges_are_inclusive_and_clamped(
    subject: Subject, content: bytes, first: int, last: int
) -> None:
    await subject.plane.ingest_stream(pieces(content))
    stream = await subject.plane.serve_object(sha256_of(content), byte_range=(first, last))
    async with stream:
        expected = content[first : last + 1]
        assert (stream.size, stream.offset) == (len(content), first)
        assert stream.length == len(expected)
        assert b"".join([piece async for piece in stream]) == expected


@pytest.mark.parametrize(
    "byte_range", [(5, 4), (-1, 4), (0, -1), (-5, -3), (4 * BLOCK + 77, 10**9), (2**53, 2**60)]
)
async def test_impossible_ranges_are_refused(
    subject: Subject, content: bytes, byte_range: tuple[int, int]
) -> None:
    await subject.plane.ingest_stream(pieces(content))
    with pytest.raises(RangeNotSatisfiableError):
        await subject.plane.serve_object(blake3_of(content), byte_range=byte_range)
    assert await read(subject.plane, blake3_of(content), (0, 9)) == content[:10]


async def test_missing_objects_are_not_found_before_the_first_piece(
    subject: Subject, content: bytes
) -> None:
    for address in (blake3_of(content), sha256_of(content)):
        with pytest.raises(ObjectNotFoundError):
            await subject.plane.serve_object(address)
        with pytest.raises(ObjectNotFoundError):
            await subject.plane.verify_object(address)


async def test_the_same_bytes_again_exist_with_a_new_generation(
    subject: Subject, content: bytes
) -> None:
    first = await subject.plane.ingest_stream(pieces(content))
    second = await subject.plane.ingest_stream(pieces(content))
    assert second.receipt.outcome == "existed"
    assert second.receipt.generation > first.receipt.generation


async def test_an_expected_digest_is_checked_and_a_wrong_one_stores_nothing(
    subject: Subject, content: bytes
) -> None:
    plane = subject.plane
    for wrong in (blake3_of(b"other"), sha256_of(b"other")):
        with pytest.raises(BodyMismatchError):
            await plane.ingest_stream(pieces(content), expected_digest=wrong.to_digest())
    assert await plane.stat_objects([blake3_of(content)]) == ()
    for right in (blake3_of(content), sha256_of(content)):
        await plane.ingest_stream(pieces(content), expected_digest=right.to_digest())


async def test_an_expected_digest_may_be_known_only_after_the_bytes(
    subject: Subject, content: bytes
) -> None:
    running = hashlib.sha256()

    async def hashed() -> AsyncIterator[bytes]:
        async for piece in pieces(content):
            running.update(piece)
            yield piece

    result = await subject.plane.ingest_stream(
        hashed(), expected_digest=lambda: Digest("sha256", running.hexdigest())
    )
    assert result.size_bytes == len(content)


async def test_a_stream_that_raises_stores_nothing_and_its_error_comes_out(
    subject: Subject, content: bytes
) -> None:
    class SourceError(Exception):
        pass

    async def broken() -> AsyncIterator[bytes]:
        async for piece in pieces(content):
            yield piece
        raise SourceError("no more")

    for _ in range(10):  # more often than there are connections in the pool
        with pytest.raises(SourceError, match="no more"):
            await subject.plane.ingest_stream(broken())
    assert await subject.plane.stat_objects([blake3_of(content)]) == ()
    await subject.plane.ingest_stream(pieces(content))


async def test_a_cancelled_ingest_stores_nothing(subject: Subject, content: bytes) -> None:
    async def endless(scope: anyio.CancelScope) -> AsyncIterator[bytes]:
        async for piece in pieces(content):
            yield piece
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await subject.plane.ingest_stream(endless(scope))
    assert scope.cancelled_caught
    assert await subject.plane.stat_objects([blake3_of(content)]) == ()


async def test_what_is_not_bytes_is_refused(subject: Subject) -> None:
    async def texts() -> AsyncGenerator[Any]:
        yield "text"

    async with aclosing(texts()) as stream:
        with pytest.raises(InvalidRequestError):
            await subject.plane.ingest_stream(stream)


async def test_too_large_objects_are_refused_by_hint_and_by_size(
    subject: Subject, content: bytes
) -> None:
    with pytest.raises(ObjectTooLargeError) as caught:
        await subject.plane.ingest_stream(
            pieces(content), hints=IngestHints(size_hint=MAX_OBJECT_SIZE + 1)
        )
    assert caught.value.details == {"limit_bytes": MAX_OBJECT_SIZE}

    async def too_much() -> AsyncGenerator[bytes]:
        for _ in range(MAX_OBJECT_SIZE // len(content) + 1):
            yield content

    async with aclosing(too_much()) as stream:
        with pytest.raises(ObjectTooLargeError):
            await subject.plane.ingest_stream(stream)
    await subject.plane.ingest_stream(pieces(content))


async def test_verify_of_an_intact_object(subject: Subject, content: bytes) -> None:
    await subject.plane.ingest_stream(pieces(content))
    for address in (blake3_of(content), sha256_of(content)):
        result = await subject.plane.verify_object(address)
        assert result.verified
        assert result.mismatch is None
        assert result.content_address == address
        assert ContentAddress.from_digest(result.actual_primary_digest) == address
        assert ContentAddress.from_digest(result.actual_sha256_digest) == sha256_of(content)
        assert result.actual_size_bytes == len(content)


async def test_verify_detects_one_changed_bit_and_ingest_heals_it(
    subject: Subject, content: bytes
) -> None:
    await subject.plane.ingest_stream(pieces(content))
    subject.damage(blake3_of(content), at=BLOCK + 3)
    result = await subject.plane.verify_object(blake3_of(content))
    assert not result.verified
    assert result.mismatch == "content differs, first between bytes 65536 and 131071"
    assert ContentAddress.from_digest(result.actual_primary_digest) != blake3_of(content)
    with pytest.raises(ObjectCorruptError):
        await read(subject.plane, blake3_of(content))
    healed = await subject.plane.ingest_stream(pieces(content))
    assert healed.receipt.outcome == "healed"
    assert (await subject.plane.verify_object(blake3_of(content))).verified
    assert await read(subject.plane, sha256_of(content)) == content


async def test_serve_never_gives_out_a_damaged_byte(subject: Subject, content: bytes) -> None:
    await subject.plane.ingest_stream(pieces(content))
    subject.damage(blake3_of(content), at=4 * BLOCK)
    assert await read(subject.plane, blake3_of(content), (0, 4 * BLOCK - 1)) == content[:-77]
    received = b""
    stream = await subject.plane.serve_object(blake3_of(content))
    with pytest.raises(ObjectCorruptError):
        async for piece in stream:
            received += piece
    assert received == content[: len(received)]
    assert len(received) < len(content)
    healed = await subject.plane.ingest_stream(pieces(content))
    assert healed.receipt.outcome == "healed"
    assert await read(subject.plane, blake3_of(content)) == content


async def test_delete_is_true_then_false(subject: Subject, content: bytes) -> None:
    await subject.plane.ingest_stream(pieces(content))
    first = await subject.plane.delete_object(sha256_of(content))
    assert (first.deleted, first.backend_id) == (True, "first")
    assert first.content_address == sha256_of(content)
    assert not (await subject.plane.delete_object(blake3_of(content))).deleted
    with pytest.raises(ObjectNotFoundError):
        await subject.plane.serve_object(blake3_of(content))


async def test_delete_if_generation(subject: Subject, content: bytes) -> None:
    first = (await subject.plane.ingest_stream(pieces(content))).receipt.generation
    second = (await subject.plane.ingest_stream(pieces(content))).receipt.generation
    with pytest.raises(ConflictError) as caught:
        await subject.plane.delete_object(blake3_of(content), if_generation=first)
    assert caught.value.details == {"generation": second}
    deleted = await subject.plane.delete_object(blake3_of(content), if_generation=second)
    assert deleted.deleted


async def test_health_and_the_list_of_backends(subject: Subject) -> None:
    status = await subject.plane.backend_health()
    assert (status.backend_id, status.healthy, status.writable) == ("first", True, True)
    assert status.object_count is not None
    second = await subject.plane.backend_health(backend_id="second")
    assert second.backend_id == "second"
    backends = await subject.plane.list_backends()
    assert [entry.backend_id for entry in backends.backends] == ["first", "second"]
    assert backends.default == "first"


async def test_backends_are_chosen_by_id_and_hold_their_own(
    subject: Subject, content: bytes
) -> None:
    plane = subject.plane
    result = await plane.ingest_stream(pieces(content), hints=IngestHints(backend_id="second"))
    assert result.receipt.backend_id == "second"
    address = blake3_of(content)
    with pytest.raises(ObjectNotFoundError):
        await plane.serve_object(address)
    stream = await plane.serve_object(address, backend_id="second")
    assert b"".join([piece async for piece in stream]) == content
    assert (await plane.verify_object(address, backend_id="second")).verified
    assert len(await plane.stat_objects([address], backend_id="second")) == 1
    assert (await plane.delete_object(address, backend_id="second")).backend_id == "second"


async def test_unknown_backends_are_refused_everywhere(subject: Subject, content: bytes) -> None:
    plane, address = subject.plane, blake3_of(content)

    async def list_first() -> None:
        async for _ in plane.list_objects(backend_id="nope"):
            pass

    for call in (
        lambda: plane.ingest_stream(pieces(content), hints=IngestHints(backend_id="nope")),
        lambda: plane.serve_object(address, backend_id="nope"),
        lambda: plane.verify_object(address, backend_id="nope"),
        lambda: plane.delete_object(address, backend_id="nope"),
        lambda: plane.backend_health(backend_id="nope"),
        lambda: plane.stat_objects([address], backend_id="nope"),
        list_first,
    ):
        with pytest.raises(UnknownBackendError):
            await call()


async def test_other_algorithms_are_unsupported_everywhere(
    subject: Subject, content: bytes
) -> None:
    plane, address = subject.plane, ContentAddress("sha512:" + "ab" * 64)
    for call in (
        lambda: plane.ingest_stream(pieces(content), hints=IngestHints(primary_algorithm="sha512")),
        lambda: plane.serve_object(address),
        lambda: plane.verify_object(address),
        lambda: plane.delete_object(address),
        lambda: plane.stat_objects([address]),
    ):
        with pytest.raises(UnsupportedError):
            await call()


async def test_stat_answers_in_order_for_those_that_are_there(
    subject: Subject, content: bytes
) -> None:
    other = content[::-1]
    for data in (content, other):
        await subject.plane.ingest_stream(pieces(data))
    asked = [sha256_of(other), blake3_of(b"missing"), blake3_of(content)]
    statuses = await subject.plane.stat_objects(asked)
    assert [status.content_address for status in statuses] == [
        blake3_of(other),
        blake3_of(content),
    ]
    assert statuses[0].is_named(asked[0])
    assert not statuses[0].is_named(asked[2])
    assert statuses[0].sha256_digest == sha256_of(other).to_digest()
    assert statuses[0].size_bytes == len(other)
    assert statuses[0].state == "ok"
    assert await subject.plane.stat_objects([]) == ()


async def test_stat_takes_more_addresses_than_one_call_carries(
    subject: Subject, content: bytes
) -> None:
    await subject.plane.ingest_stream(pieces(content))
    asked = [blake3_of(b"missing %d" % number) for number in range(300)]
    asked.insert(200, blake3_of(content))
    (status,) = await subject.plane.stat_objects(asked)
    assert status.content_address == blake3_of(content)


async def test_a_listing_has_every_object_once_in_order(subject: Subject, content: bytes) -> None:
    stored = {blake3_of(content[:number]) for number in range(1, 31)}
    for number in range(1, 31):
        await subject.plane.ingest_stream(pieces(content[:number]))
    listed: list[ObjectStatus] = []
    async for page in subject.plane.list_objects(page_size=7):
        assert len(page) <= 7
        assert page.more or len(page) < 8
        listed += page
    addresses = [status.content_address for status in listed]
    assert addresses == sorted(set(addresses))
    assert stored <= set(addresses)
    after = sorted(stored)[10]
    rest = [s.content_address async for p in subject.plane.list_objects(after=after) for s in p]
    assert rest == [address for address in addresses if address > after]


async def test_a_walk_that_is_left_early_costs_nothing(subject: Subject, content: bytes) -> None:
    for number in range(1, 4):
        await subject.plane.ingest_stream(pieces(content[:number]))
    for _ in range(20):
        pages = subject.plane.list_objects(page_size=1)
        assert len(await anext(pages)) == 1
        await pages.aclose()


async def test_an_object_served_half_way_and_closed_leaves_the_plane_usable(
    subject: Subject, content: bytes
) -> None:
    data = content * 20
    await subject.plane.ingest_stream(pieces(data))
    for _ in range(20):
        async with await subject.plane.serve_object(blake3_of(data)) as stream:
            assert data.startswith(await anext(stream))
    assert await read(subject.plane, blake3_of(data)) == data


async def test_a_listing_asked_for_something_impossible_is_refused(subject: Subject) -> None:
    for arguments in ({"page_size": 0}, {"page_size": 129}, {"after": sha256_of(b"")}):
        with pytest.raises(InvalidRequestError):
            await anext(subject.plane.list_objects(**arguments))  # type: ignore[arg-type]


async def test_many_tasks_share_one_plane(subject: Subject, content: bytes) -> None:
    async def one(number: int) -> None:
        data = content[number:]
        await subject.plane.ingest_stream(pieces(data))
        assert await read(subject.plane, blake3_of(data)) == data
        assert (await subject.plane.verify_object(sha256_of(data))).verified
        assert (await subject.plane.delete_object(blake3_of(data))).deleted

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(one, number)
