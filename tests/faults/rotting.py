"""What can happen to a stored copy, a store to do it to, and those who have to find it."""

import contextlib
import os
import random
import shutil
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from dataplane_protocol import (
    ContentAddress,
    IngestOutcome,
    ObjectCorruptError,
    ObjectState,
)
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.filesystem.root import stamp_of
from dataplaned.backends.maintenance import QuarantinedCopy
from dataplaned.config import FilesystemConfig
from dataplaned.digests import BLOCK_SIZE, Digester
from dataplaned.plane import LocalDataPlane


def made(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


LARGE, LARGE_TWIN = made(1, 5 * BLOCK_SIZE), made(2, 5 * BLOCK_SIZE)
SMALL, SMALL_TWIN = made(3, 20_000), made(4, 20_000)
BYSTANDERS = (made(5, 3 * BLOCK_SIZE + 17), made(6, 20_000), b"")
MIDDLE = len(LARGE) // 2

Range = tuple[int, int]


def digest_of(content: bytes) -> bytes:
    digester = Digester()
    digester.update([content])
    return digester.finish().blake3


def address_of(content: bytes) -> ContentAddress:
    return ContentAddress(f"blake3:{digest_of(content).hex()}")


def cut(content: bytes, byte_range: Range | None) -> bytes:
    return content if byte_range is None else content[byte_range[0] : byte_range[1] + 1]


def flipped(content: bytes, at: int) -> bytes:
    at %= len(content)
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@dataclass(frozen=True)
class Rot:
    """One thing that happens to a copy.

    Attributes:
        name: For the test's name.
        change: Does it. It gets the copy's file and its twin's, or a connection to the catalog
            and the BLAKE3 values of the two.
        touched: A range with bad bytes in it.
        spared: A range without, that shares no block with them.
        is_missing: Whether nothing is left that quarantine could keep.
        is_harmless: Whether all the object's bytes can still be read from what there is.
        reaches_twin: Whether the twin's copy rots with it.
        keeps_size: Whether the disk alone can do it, behind the file's stamp.
    """

    name: str
    change: Callable[..., None]
    touched: Range | None = None
    spared: Range | None = None
    is_missing: bool = False
    is_harmless: bool = False
    reaches_twin: bool = False
    keeps_size: bool = False

    def __str__(self) -> str:
        return self.name


# What happens to files.


def write_at(file: Path, offset: int, data: bytes) -> None:
    file.chmod(0o600)
    with file.open("r+b") as out:
        out.seek(offset)
        out.write(data)
    file.chmod(0o400)


def flip(offset: int) -> Callable[[Path, Path], None]:
    def change(file: Path, twin: Path) -> None:
        content = file.read_bytes()
        write_at(file, 0, flipped(content, offset))

    return change


def resize(size: int) -> Callable[[Path, Path], None]:
    def change(file: Path, twin: Path) -> None:
        file.chmod(0o600)
        os.truncate(file, size)

    return change


def zero_fill(file: Path, twin: Path) -> None:
    write_at(file, 0, bytes(file.stat().st_size))


def swap(file: Path, twin: Path) -> None:
    mine, other = file.read_bytes(), twin.read_bytes()
    write_at(file, 0, other)
    write_at(twin, 0, mine)


def exchange(file: Path, twin: Path) -> None:
    """Swap the names: both files are whole, each is the other's."""
    aside = file.with_name("aside")
    file.rename(aside)
    twin.rename(file)
    aside.rename(twin)


def make_directory(file: Path, twin: Path) -> None:
    file.unlink()
    file.mkdir()


def link_to_a_good_copy(file: Path, twin: Path) -> None:
    outside = file.parents[3] / f"outside-{file.name}"
    shutil.copy(file, outside)
    file.unlink()
    file.symlink_to(outside)


def make_fifo(file: Path, twin: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def remove(file: Path, twin: Path) -> None:
    file.unlink()


FILE_ROT = (
    Rot("first-byte", flip(0), (0, 99), (BLOCK_SIZE, len(LARGE) - 1), keeps_size=True),
    Rot("middle-byte", flip(MIDDLE), (MIDDLE, MIDDLE), (0, BLOCK_SIZE - 1), keeps_size=True),
    Rot("last-byte", flip(-1), (len(LARGE) - 9, len(LARGE) - 1), (5, 999), keeps_size=True),
    Rot("cut-by-one", resize(len(LARGE) - 1), (len(LARGE) - 1, len(LARGE) - 1), (0, 70_000)),
    Rot("cut-to-nothing", resize(0)),
    Rot(
        "cut-at-a-block",
        resize(2 * BLOCK_SIZE),
        (2 * BLOCK_SIZE - 1, 2 * BLOCK_SIZE),
        (0, 2 * BLOCK_SIZE - 1),
    ),
    Rot("extended", resize(len(LARGE) + 1), spared=(0, 99), is_harmless=True),
    Rot("extended-by-a-block", resize(len(LARGE) + BLOCK_SIZE), is_harmless=True),
    Rot("zero-filled", zero_fill, (7, 7), keeps_size=True),
    Rot("swapped", swap, (0, BLOCK_SIZE - 1), reaches_twin=True, keeps_size=True),
    Rot("exchanged", exchange, (1, 2), reaches_twin=True),
    Rot("directory", make_directory),
    Rot("link", link_to_a_good_copy),
    Rot("fifo", make_fifo),
    Rot("gone", remove, is_missing=True),
)

# What happens to rows.


def set_bytes(
    new: Callable[[bytes], object],
) -> Callable[[sqlite3.Connection, bytes, bytes], None]:
    def change(catalog: sqlite3.Connection, blake3: bytes, twin: bytes) -> None:
        ((number, old),) = catalog.execute(
            "SELECT id, bytes FROM contents JOIN objects ON content = id WHERE blake3 = ?",
            (blake3,),
        )
        catalog.execute("UPDATE contents SET bytes = ? WHERE id = ?", (new(old), number))

    return change


def swap_bytes(catalog: sqlite3.Connection, blake3: bytes, twin: bytes) -> None:
    numbers = "SELECT blake3, content FROM objects WHERE blake3 IN (?, ?)"
    content = dict(catalog.execute(numbers, (blake3, twin)))
    for old, new in (
        (content[blake3], -1),
        (content[twin], content[blake3]),
        (-1, content[twin]),
    ):
        catalog.execute("UPDATE contents SET id = ? WHERE id = ?", (new, old))


def remove_bytes(catalog: sqlite3.Connection, blake3: bytes, twin: bytes) -> None:
    catalog.execute(
        "DELETE FROM contents WHERE id = (SELECT content FROM objects WHERE blake3 = ?)", (blake3,)
    )


def set_column(column: str, value: object) -> Callable[[sqlite3.Connection, bytes, bytes], None]:
    def change(catalog: sqlite3.Connection, blake3: bytes, twin: bytes) -> None:
        catalog.execute(f"UPDATE objects SET {column} = ? WHERE blake3 = ?", (value, blake3))

    return change


def set_blocks(expression: str) -> Callable[[sqlite3.Connection, bytes, bytes], None]:
    def change(catalog: sqlite3.Connection, blake3: bytes, twin: bytes) -> None:
        catalog.execute(f"UPDATE blocks SET digests = {expression} WHERE blake3 = ?", (blake3,))

    return change


def remove_blocks(catalog: sqlite3.Connection, blake3: bytes, twin: bytes) -> None:
    catalog.execute("DELETE FROM blocks WHERE blake3 = ?", (blake3,))


CONTENT_ROT = (
    Rot("first-byte", set_bytes(lambda old: flipped(old, 0)), (0, 0)),
    Rot("middle-byte", set_bytes(lambda old: flipped(old, len(old) // 2)), (5, 9)),
    Rot("last-byte", set_bytes(lambda old: flipped(old, -1)), (19_999, 19_999)),
    Rot("cut-by-one", set_bytes(lambda old: old[:-1])),
    Rot("emptied", set_bytes(lambda old: b"")),
    Rot("extended", set_bytes(lambda old: old + b"\0")),
    Rot("zero-filled", set_bytes(lambda old: bytes(len(old)))),
    Rot("now-text", set_bytes(lambda old: "x" * len(old))),
    Rot("now-a-number", set_bytes(lambda old: 7)),
    Rot("swapped", swap_bytes, reaches_twin=True),
    Rot("gone", remove_bytes, is_missing=True),
)

SMALL_ROW_ROT = (
    Rot("size-one-less", set_column("size", len(SMALL) - 1)),
    Rot("size-one-more", set_column("size", len(SMALL) + 1)),
    Rot("size-zero", set_column("size", 0), (0, 0)),
    Rot("size-beyond-a-block", set_column("size", len(SMALL) + 2 * BLOCK_SIZE)),
    Rot("sha256", set_column("sha256", bytes(32)), is_harmless=True),
)

LARGE_ROW_ROT = (
    Rot("size-one-less", set_column("size", len(LARGE) - 1)),
    Rot("size-one-more", set_column("size", len(LARGE) + 1)),
    Rot("size-a-block-less", set_column("size", len(LARGE) - BLOCK_SIZE)),
    Rot("size-a-block-more", set_column("size", len(LARGE) + BLOCK_SIZE)),
    Rot("size-zero", set_column("size", 0)),
    Rot("sha256", set_column("sha256", bytes(32)), is_harmless=True),
    Rot("block-digest", set_blocks("CAST(zeroblob(32) || substr(digests, 33) AS BLOB)"), (0, 0)),
    Rot("block-digests-cut", set_blocks("substr(digests, 1, 128)"), (len(LARGE) - 1,) * 2),
    Rot("block-digests-gone", remove_blocks),
)


def labelled(kind: str, subject: bytes, rots: tuple[Rot, ...]) -> list[Any]:
    return [pytest.param(subject, rot, id=f"{kind}-{rot}") for rot in rots]


FILES = labelled("file", LARGE, FILE_ROT)
CONTENTS = labelled("content", SMALL, CONTENT_ROT)
ROWS = labelled("small-row", SMALL, SMALL_ROW_ROT) + labelled("large-row", LARGE, LARGE_ROW_ROT)
BEHIND_THE_STAMP = labelled("file", LARGE, tuple(rot for rot in FILE_ROT if rot.keeps_size))


class Shelf:
    """An open store with an object to be damaged, its twin, and others that must not care."""

    def __init__(self, root: Path, backend: FilesystemBackend) -> None:
        self.root = root
        self.backend = backend
        self.plane = LocalDataPlane({"b": backend})

    async def put(self, content: bytes) -> str:
        async def pieces() -> AsyncGenerator[bytes]:
            yield content

        return (await self.plane.ingest_stream(pieces())).receipt.outcome

    async def get(self, content: bytes, byte_range: Range | None = None) -> bytes:
        """Serve, and hold every byte that comes out against what was stored."""
        expected, got = cut(content, byte_range), b""
        async with await self.plane.serve_object(
            address_of(content), byte_range=byte_range
        ) as served:
            async for piece in served:
                assert piece, "a reader would wait for ever"
                got += piece
                assert expected.startswith(got), "wrong bytes left"
        assert got == expected
        return got

    async def verify(self, content: bytes) -> bool:
        return (await self.plane.verify_object(address_of(content))).verified

    async def state(self, content: bytes) -> str:
        (status,) = await self.plane.stat_objects([address_of(content)])
        return status.state

    async def quarantine(self) -> list[QuarantinedCopy]:
        return list(await self.backend.list_quarantined(0, 100))

    async def scrub(self) -> None:
        """Have everything verified in the background, and wait until nothing is due."""
        newest = max(
            [
                entry.verified_at
                async for page in self.plane.list_objects()
                for entry in page.objects
            ]
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.backend.scrub)
            with trio.fail_after(30):
                # What was verified in the very millisecond of the request is not due.
                while newest.timestamp() >= time.time() - 0.001:
                    await trio.sleep(0.001)
                await self.backend.start_scrub()
                while (await self.backend.scrub_status()).due_objects:
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    def file(self, content: bytes) -> Path:
        row = self.backend._store.find(address_of(content).to_digest())
        assert row.file is not None
        return self.root / "objects" / row.file[:2] / row.file

    def edit(self, change: Callable[[sqlite3.Connection], None]) -> None:
        edit(self.root, change)

    def damage(self, subject: bytes, rot: Rot) -> Path | None:
        """Let it happen, and give the damaged file, if it is one."""
        twin = LARGE_TWIN if subject is LARGE else SMALL_TWIN
        if rot in FILE_ROT:
            file = self.file(subject)
            rot.change(file, self.file(twin))
            if file.is_file() and not file.is_symlink():
                os.utime(file, (0, 0))  # a clock with coarse ticks would leave the stamp as it was
            return file
        self.edit(lambda catalog: rot.change(catalog, digest_of(subject), digest_of(twin)))
        return None

    def keep_stamp(self, content: bytes) -> None:
        """Make the catalog believe in a file as it is now, as the disk does with its own rot."""
        stamp = stamp_of(os.stat(self.file(content)))
        self.edit(lambda catalog: set_column("stamp", stamp)(catalog, digest_of(content), b""))

    async def check_others(self, subject: bytes, rot: Rot) -> None:
        """See that nobody else has lost anything, and that the store takes more."""
        for content in (*BYSTANDERS, LARGE_TWIN, SMALL_TWIN):
            is_twin = len(content) == len(subject)
            if not (rot.reaches_twin and is_twin):
                assert await self.get(content) == content
                assert await self.verify(content)
                assert await self.state(content) == ObjectState.OK
        assert await self.put(b"one more") in (IngestOutcome.CREATED, IngestOutcome.EXISTED)
        assert (await self.backend.health()).state == "ok"


def edit(root: Path, change: Callable[[sqlite3.Connection], None]) -> None:
    """Change a catalog from outside, past the daemon that may have it open."""
    catalog = sqlite3.connect(root / "catalog.sqlite3", isolation_level=None, timeout=30)
    with contextlib.closing(catalog):
        catalog.execute("BEGIN IMMEDIATE")
        change(catalog)
        catalog.execute("COMMIT")


@contextlib.asynccontextmanager
async def opened(root: Path, **options: Any) -> AsyncGenerator[Shelf]:
    config = FilesystemConfig(root=str(root), scrub_rate=2**40, min_free_bytes=0, **options)
    backend = FilesystemBackend("b", config)
    await backend.open()
    try:
        with trio.fail_after(30):
            yield Shelf(root, backend)
    finally:
        await backend.aclose()


@contextlib.asynccontextmanager
async def filled(root: Path) -> AsyncGenerator[Shelf]:
    async with opened(root) as shelf:
        for content in (LARGE, LARGE_TWIN, SMALL, SMALL_TWIN, *BYSTANDERS):
            assert await shelf.put(content) == IngestOutcome.CREATED
        yield shelf


# The finders: each has to come upon the damage, unless it cannot see it.


async def serving(shelf: Shelf, content: bytes, rot: Rot) -> None:
    if rot.is_harmless:
        await shelf.get(content)
        assert not await shelf.verify(content)
    else:
        with pytest.raises(ObjectCorruptError):
            await shelf.get(content)


async def serving_a_range(shelf: Shelf, content: bytes, rot: Rot) -> None:
    if rot.touched is None:
        await serving(shelf, content, rot)
    else:
        with pytest.raises(ObjectCorruptError):
            await shelf.get(content, rot.touched)


async def verifying(shelf: Shelf, content: bytes, rot: Rot) -> None:
    assert not await shelf.verify(content)


async def scrubbing(shelf: Shelf, content: bytes, rot: Rot) -> None:
    await shelf.scrub()
    status = await shelf.backend.scrub_status()
    assert status.quarantined == 1 + rot.reaches_twin


FINDERS = [
    serving,
    *(
        pytest.param(each, marks=pytest.mark.slow)
        for each in (serving_a_range, verifying, scrubbing)
    ),
]


async def check_found(shelf: Shelf, content: bytes, rot: Rot) -> None:
    """What holds from the moment in which anybody has seen it."""
    assert await shelf.state(content) == ObjectState.QUARANTINED
    (copy,) = [
        copy
        for copy in await shelf.quarantine()
        if copy.content_address == address_of(content) and copy.reason
    ]
    assert copy.is_only_copy
    for byte_range in (None, rot.touched, rot.spared):
        with pytest.raises(ObjectCorruptError):
            await shelf.get(content, byte_range)
    assert not await shelf.verify(content)
    assert len([one for one in await shelf.quarantine() if one.number != copy.number]) <= 1
    await shelf.check_others(content, rot)


async def check_healed(shelf: Shelf, content: bytes, rot: Rot, kept: int) -> None:
    """What holds once it was ingested again."""
    assert await shelf.state(content) == ObjectState.OK
    assert await shelf.get(content) == content
    assert await shelf.get(content, (3, 7)) == content[3:8]
    assert await shelf.verify(content)
    assert await shelf.put(content) == IngestOutcome.EXISTED
    copies = [one for one in await shelf.quarantine() if one.content_address == address_of(content)]
    assert len(copies) == kept
    assert not any(copy.is_only_copy for copy in copies)
    await shelf.check_others(content, rot)


async def check_found_and_healed(
    shelf: Shelf, subject: bytes, rot: Rot, damaged: Path | None
) -> None:
    await check_found(shelf, subject, rot)
    bad = damaged.read_bytes() if damaged and damaged.is_file() else None
    assert await shelf.put(subject) == IngestOutcome.HEALED
    await check_healed(shelf, subject, rot, kept=0 if rot.is_missing else 1)
    if rot.reaches_twin:
        twin = LARGE_TWIN if subject is LARGE else SMALL_TWIN
        await verifying(shelf, twin, rot)
        assert await shelf.put(twin) == IngestOutcome.HEALED
        await check_healed(shelf, twin, rot, kept=1)
    if damaged is not None:
        assert os.path.lexists(damaged) != rot.is_missing
        if bad is not None:
            assert damaged.read_bytes() == bad, "what is in quarantine was not left alone"
