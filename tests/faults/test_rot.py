"""Stored bytes that have changed: found, typed, set aside, never handed out, healed by an ingest.

A matrix of what can happen to a copy against everything that reads it. A large object's copy is
a file, a small one's is a row of the catalog; what the catalog says of an object can rot too.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from dataplane_protocol import (
    ContentAddress,
    IngestOutcome,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectState,
    UnavailableError,
)
from dataplaned.backends.filesystem import store as store_module
from dataplaned.digests import Digester

from .rotting import (
    BEHIND_THE_STAMP,
    CONTENTS,
    FILE_ROT,
    FILES,
    FINDERS,
    LARGE,
    ROWS,
    SMALL,
    Rot,
    check_found_and_healed,
    check_healed,
    cut,
    digest_of,
    filled,
    set_column,
)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nobody_is_calling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the scrub begin at once, and not 0.2 seconds after the last call."""
    monkeypatch.setattr(store_module, "_BUSY_S", 0.0)


@pytest.mark.trio
@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize(("subject", "rot"), FILES + CONTENTS + ROWS)
async def test_rot_is_found_set_aside_and_healed(
    tmp_path: Path, subject: bytes, rot: Rot, finder: Any
) -> None:
    async with filled(tmp_path / "store") as shelf:
        damaged = shelf.damage(subject, rot)
        await finder(shelf, subject, rot)
        await check_found_and_healed(shelf, subject, rot, damaged)


@pytest.mark.trio
@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize(("subject", "rot"), BEHIND_THE_STAMP)
async def test_rot_behind_the_stamp_is_found_by_whoever_reads(
    tmp_path: Path, subject: bytes, rot: Rot, finder: Any
) -> None:
    async with filled(tmp_path / "store") as shelf:
        damaged = shelf.damage(subject, rot)
        shelf.keep_stamp(subject)
        assert await shelf.put(subject) == IngestOutcome.EXISTED, "an ingest reads nothing"
        await finder(shelf, subject, rot)
        await check_found_and_healed(shelf, subject, rot, damaged)


@pytest.mark.trio
@pytest.mark.parametrize(("subject", "rot"), FILES)
async def test_an_ingest_heals_a_changed_file_that_nobody_has_read(
    tmp_path: Path, subject: bytes, rot: Rot
) -> None:
    async with filled(tmp_path / "store") as shelf:
        shelf.damage(subject, rot)
        assert await shelf.put(subject) == IngestOutcome.HEALED
        await check_healed(shelf, subject, rot, kept=0)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("subject", "rot"), [each for each in ROWS if each.values[1].name.startswith(("size", "sha"))]
)
async def test_an_ingest_does_not_believe_a_row_that_says_otherwise(
    tmp_path: Path, subject: bytes, rot: Rot
) -> None:
    async with filled(tmp_path / "store") as shelf:
        shelf.damage(subject, rot)
        assert await shelf.put(subject) == IngestOutcome.HEALED
        await check_healed(shelf, subject, rot, kept=0)


@pytest.mark.trio
@pytest.mark.parametrize(
    ("subject", "rot"), [each for each in FILES if each.values[1].spared is not None]
)
async def test_a_range_that_the_rot_spares_is_served_right(
    tmp_path: Path, subject: bytes, rot: Rot
) -> None:
    async with filled(tmp_path / "store") as shelf:
        shelf.damage(subject, rot)
        assert await shelf.get(subject, rot.spared) == cut(subject, rot.spared)
        assert await shelf.state(subject) == ObjectState.OK


@pytest.mark.trio
async def test_an_object_whose_row_is_gone_is_not_there_and_can_come_again(tmp_path: Path) -> None:
    async with filled(tmp_path / "store") as shelf:
        for content in (LARGE, SMALL):
            shelf.edit(
                lambda catalog, content=content: catalog.execute(
                    "DELETE FROM objects WHERE blake3 = ?", (digest_of(content),)
                )
            )
            for call in (shelf.get, shelf.verify):
                with pytest.raises(ObjectNotFoundError):
                    await call(content)
            assert await shelf.put(content) == IngestOutcome.CREATED
            assert await shelf.get(content) == content
            assert await shelf.verify(content)


@pytest.mark.trio
@pytest.mark.parametrize("subject", [LARGE, SMALL], ids=["large", "small"])
async def test_bytes_that_the_catalog_takes_for_text_are_still_the_same(
    tmp_path: Path, subject: bytes
) -> None:
    # One flipped bit of a record's header is enough, and the bytes are untouched.
    async with filled(tmp_path / "store") as shelf:
        for column in ("contents SET bytes = CAST(bytes", "blocks SET digests = CAST(digests"):
            shelf.edit(lambda catalog, c=column: catalog.execute(f"UPDATE {c} AS TEXT)"))
        assert await shelf.get(subject) == subject
        assert await shelf.verify(subject)
        await shelf.scrub()
        assert await shelf.quarantine() == []


@pytest.mark.trio
async def test_a_sha256_that_rotted_into_a_name_of_other_bytes_is_not_served(
    tmp_path: Path,
) -> None:
    other = b"never stored"
    digester = Digester()
    digester.update([other])
    name = digester.finish().named("sha256")
    async with filled(tmp_path / "store") as shelf:
        shelf.edit(
            lambda catalog: set_column("sha256", bytes.fromhex(name.hex))(
                catalog, digest_of(SMALL), b""
            )
        )
        assert not await shelf.verify(SMALL)
        with pytest.raises(ObjectCorruptError):
            await shelf.plane.serve_object(ContentAddress.from_digest(name))


@pytest.mark.trio
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_is_unavailable_and_holds_nobody_up(
    tmp_path: Path,
) -> None:
    async with filled(tmp_path / "store") as shelf:
        file = shelf.file(LARGE)
        file.chmod(0)
        for call in (shelf.get, shelf.verify):
            with pytest.raises((ObjectCorruptError, UnavailableError)):
                await call(LARGE)
        await shelf.check_others(LARGE, FILE_ROT[0])
        file.chmod(0o400)
        assert await shelf.get(LARGE) == LARGE
        assert await shelf.verify(LARGE)
