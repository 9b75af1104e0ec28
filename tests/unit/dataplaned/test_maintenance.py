"""What an operator asks, over a filesystem backend and one that has nothing to look after."""

import os
from contextlib import asynccontextmanager

import pytest
import structlog
import trio

from dataplane_protocol import (
    ConflictError,
    InvalidRequestError,
    ObjectNotFoundError,
    UnknownBackendError,
    UnsupportedError,
)
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.memory import MemoryBackend
from dataplaned.backends.mirror import MirrorBackend
from dataplaned.config import FilesystemConfig, MemoryConfig, MirrorConfig
from dataplaned.digests import Digester
from dataplaned.maintenance import Maintenance
from dataplaned.operations import (
    Backup,
    MaintenanceOperation,
    Purge,
    QuarantinePage,
    Restoration,
    scrub_status_from_wire,
)

#: Larger than what lives in the catalog, so that each has a file to damage.
CONTENTS = [bytes([number]) * 40_000 for number in range(3)]


class Ward:
    """A filesystem store and its operations."""

    def __init__(self, backend, root):
        self.backend = backend
        self.root = root
        self.maintenance = Maintenance({"f": backend, "m": MemoryBackend("m")})

    async def call(self, operation, **args):
        return await self.maintenance.operations[f"dataplaned.{operation}"](args)

    async def list(self, **args):
        return QuarantinePage.from_wire(await self.call("quarantine_list", **args))

    async def store(self, *contents):
        for content in contents:
            staging = await self.backend.stage(len(content))
            await staging.write([content])
            await staging.publish(digests_of(content))
            await staging.abort()

    def flip(self):
        """Flip the first bit of every object file."""
        for file in self.files():
            file.chmod(0o600)
            with file.open("r+b") as opened:
                first = opened.read(1)[0]
                opened.seek(0)
                opened.write(bytes([first ^ 1]))

    def files(self):
        return [file for file in (self.root / "objects").rglob("*") if file.is_file()]

    async def store_bad(self, *contents):
        await self.store(*contents)
        self.flip()
        for content in contents:
            await self.backend.verify(digests_of(content).named("blake3"))


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


def address_of(content):
    return digests_of(content).address


@asynccontextmanager
async def opened(root):
    backend = FilesystemBackend("f", FilesystemConfig(root=str(root)))
    await backend.open()
    try:
        yield Ward(backend, root)
    finally:
        await backend.aclose()


@pytest.fixture
async def ward(tmp_path):
    async with opened(tmp_path / "store") as ward:
        yield ward


@pytest.mark.trio
async def test_every_operation_is_there(ward):
    assert set(ward.maintenance.operations) == set(MaintenanceOperation)


@pytest.mark.trio
@pytest.mark.parametrize("operation", MaintenanceOperation)
async def test_a_backend_that_has_nothing_to_look_after_says_so(ward, operation):
    function = ward.maintenance.operations[operation]
    args = {"number": 1} if "restore" in operation or "purge" in operation else {}
    with pytest.raises(UnsupportedError, match="backend m has no scrub, quarantine or backup"):
        await function({**args, "backend_id": "m"})
    with pytest.raises(UnknownBackendError):
        await function({**args, "backend_id": "x"})
    with pytest.raises(InvalidRequestError, match="backend_id must be text"):
        await function({**args, "backend_id": 1})


@pytest.mark.trio
async def test_the_default_backend_is_the_first(ward):
    assert scrub_status_from_wire(await ward.call("scrub_status")).backend_id == "f"
    named = await ward.call("scrub_status", backend_id="f")
    assert scrub_status_from_wire(named).backend_id == "f"


@pytest.mark.trio
async def test_a_pause_and_a_start_are_answered_with_what_the_scrub_does_then(ward):
    await ward.store(CONTENTS[0])
    assert scrub_status_from_wire(await ward.call("scrub_pause")).state == "paused"
    assert scrub_status_from_wire(await ward.call("scrub_status")).state == "paused"
    started = scrub_status_from_wire(await ward.call("scrub_start"))
    assert started.state == "idle"
    assert scrub_status_from_wire(await ward.call("scrub_status")).quarantined == 0


@pytest.mark.trio
async def test_a_pause_is_seen_before_the_scrub_itself_has_begun(tmp_path):
    async with opened(tmp_path / "store") as ward:
        await ward.call("scrub_pause")
    async with opened(tmp_path / "store") as ward:
        assert scrub_status_from_wire(await ward.call("scrub_status")).state == "paused"


@pytest.mark.trio
async def test_a_start_during_a_pass_is_heard_when_that_ends(ward, monkeypatch):
    passes, has_gone_on = [], trio.Event()

    async def look_again():
        passes.append(1)
        if len(passes) == 1:
            await ward.call("scrub_start")
        else:
            has_gone_on.set()

    monkeypatch.setattr(ward.backend._scrub, "_pass", look_again)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ward.backend.scrub)
            await has_gone_on.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_the_quarantine_comes_page_by_page(ward):
    assert await ward.list() == QuarantinePage(copies=(), more=False)
    await ward.store_bad(*CONTENTS)
    whole = await ward.list()
    assert [copy.content_address for copy in whole.copies] == list(map(address_of, CONTENTS))
    assert all(copy.is_only_copy for copy in whole.copies)
    assert not whole.more
    assert await ward.list(limit=3) == whole
    first = await ward.list(limit=2)
    assert first == QuarantinePage(copies=whole.copies[:2], more=True)
    rest = await ward.list(limit=2, after=first.copies[-1].number)
    assert rest == QuarantinePage(copies=whole.copies[2:], more=False)


@pytest.mark.trio
async def test_a_copy_is_restored_when_its_bytes_are_right_again(ward):
    await ward.store_bad(CONTENTS[0])
    (copy,) = (await ward.list()).copies
    still = Restoration.from_wire(await ward.call("quarantine_restore", number=copy.number))
    assert still.content_address == address_of(CONTENTS[0])
    assert still.mismatch == copy.reason
    assert (await ward.list()).copies == (copy,)
    ward.flip()
    restored = Restoration.from_wire(await ward.call("quarantine_restore", number=copy.number))
    assert restored.mismatch is None
    assert (await ward.list()).copies == ()
    with pytest.raises(ObjectNotFoundError, match=f"no copy {copy.number} in quarantine"):
        await ward.call("quarantine_restore", number=copy.number)


@pytest.mark.trio
async def test_a_copy_whose_object_was_healed_is_purged_and_not_restored(ward):
    await ward.store_bad(CONTENTS[0])
    (bad,) = ward.files()
    await ward.store(CONTENTS[0])
    (copy,) = (await ward.list()).copies
    assert not copy.is_only_copy
    with pytest.raises(ConflictError):
        await ward.call("quarantine_restore", number=copy.number)
    purged = Purge.from_wire(await ward.call("quarantine_purge", number=copy.number))
    assert purged == Purge(
        number=copy.number, content_address=address_of(CONTENTS[0]), was_only_copy=False
    )
    assert not bad.exists()
    assert (await ward.list()).copies == ()
    assert len(await ward.backend.stat([digests_of(CONTENTS[0]).named("blake3")])) == 1
    with pytest.raises(ObjectNotFoundError):
        await ward.call("quarantine_purge", number=copy.number)


@pytest.mark.trio
async def test_an_object_goes_with_its_only_copy(ward):
    await ward.store_bad(CONTENTS[0])
    with structlog.testing.capture_logs() as logs:
        purged = Purge.from_wire(await ward.call("quarantine_purge", number=1))
    assert purged.was_only_copy
    assert await ward.backend.stat([digests_of(CONTENTS[0]).named("blake3")]) == ()
    assert ward.files() == []
    (entry,) = logs
    assert (entry["event"], entry["object"]) == ("purged", str(purged.content_address))


@pytest.mark.trio
@pytest.mark.parametrize("operation", ["quarantine_restore", "quarantine_purge"])
async def test_a_number_between_two_copies_is_not_the_next_one(ward, operation):
    await ward.store_bad(*CONTENTS)
    await ward.call("quarantine_purge", number=2)
    with pytest.raises(ObjectNotFoundError, match="no copy 2"):
        await ward.call(operation, number=2)
    assert len((await ward.list()).copies) == 2


@pytest.mark.trio
async def test_a_purge_that_is_cancelled_after_its_commit_leaves_no_file(ward, monkeypatch):
    await ward.store_bad(CONTENTS[0])
    commit = ward.backend._store.commit
    with trio.CancelScope() as scope:

        async def commit_and_cancel(change):
            committed = await commit(change)
            scope.cancel()
            return committed

        monkeypatch.setattr(ward.backend._store, "commit", commit_and_cancel)
        await ward.call("quarantine_purge", number=1)
    assert (await ward.list()).copies == ()
    assert ward.files() == []


@pytest.mark.trio
async def test_a_backup_is_where_it_says(ward):
    written = Backup.from_wire(await ward.call("back_up"))
    assert written.backend_id == "f"
    assert os.path.dirname(written.path) == str(ward.root)
    assert os.path.getsize(written.path) > 0


@pytest.mark.trio
async def test_a_side_of_a_mirror_is_looked_after_by_its_own_id(tmp_path):
    first = FilesystemConfig(root=str(tmp_path / "first"), min_free_bytes=0)
    config = MirrorConfig(first=first, second=MemoryConfig(), journal=str(tmp_path / "journal"))
    sides = FilesystemBackend("both.first", first), MemoryBackend("both.second")
    mirror = MirrorBackend("both", config, *sides)
    await mirror.open()
    try:
        maintenance = Maintenance({"both": mirror})
        status = scrub_status_from_wire(
            await maintenance.scrub_status({"backend_id": "both.first"})
        )
        assert status.backend_id == "both.first"
        with pytest.raises(UnsupportedError, match=r"made of both\.first, both\.second"):
            await maintenance.scrub_status({})
        with pytest.raises(UnsupportedError):
            await maintenance.scrub_status({"backend_id": "both.second"})
    finally:
        await mirror.aclose()
