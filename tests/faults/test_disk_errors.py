"""A disk that fails, fills up or turns read-only costs an error, and never an acknowledged byte.

Real daemons and real clients; the errors come from strace, from limits of the process, and from
tiny filesystems that are full, broken or cut off. Every test ends with the same question to a
daemon that was started again: is everything there that was acknowledged, and nothing torn?
"""

import contextlib
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from dataplane_protocol import (
    DataPlaneError,
    NoSpaceError,
    ObjectCorruptError,
    UnavailableError,
)

from .caller import HUGE, LARGE, SMALL, Caller, address_of, content, stored_before
from .places import (
    PLACES,
    SHARD_RENAME,
    SHARD_SYNC,
    STAGED_OPEN,
    STAGED_SYNC,
    STAGED_WRITE,
    WAL_SYNC,
    WAL_WRITE,
    Place,
    staged_file,
    write_ahead_log,
)

# Calls that fail once or for a while.


def failing(tamper: Any, caller: Caller, place: Place, error: str, data: bytes) -> DataPlaneError:
    """Ingest while a place fails, and give the error that this ends with."""
    daemon = caller.daemon
    with contextlib.ExitStack() as stack:
        traces: list[Any] = []

        def begin() -> None:
            path = place.path(daemon, data)
            traces.append(
                stack.enter_context(tamper(daemon.pid, place.calls, f"error={error}", [path]))
            )

        if place.path is staged_file:
            told = caller.failure(caller.ingest, data, between=begin)
        else:
            begin()
            told = caller.failure(caller.ingest, data)
        assert traces[0].injected(), "nothing failed, so nothing was tested"
    return told


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["kill", "stop"])
@pytest.mark.parametrize(("place", "size"), PLACES.values(), ids=PLACES)
def test_a_broken_disk_is_unavailable_and_nothing_is_acknowledged_by_asking_again(
    place: Place, size: int, ending: str, daemon: Any, tamper: Any
) -> None:
    with stored_before(daemon) as caller:
        told = failing(tamper, caller, place, "EIO", content(size, "new"))
        assert isinstance(told, UnavailableError)
        # From here on the disk is well again, as far as it says: the second fsync succeeds
        # although the first has lost what it was asked to keep.
        is_read_only = not caller.health().writable
        assert is_read_only or not place.is_sync
        if is_read_only:
            caller.check_refuses_writes()
        else:
            assert daemon.files("staging") == []
            caller.check_takes_writes()
        if ending == "stop":
            caller.check()  # not before a kill: what it notes may write over what is in doubt
        getattr(daemon, ending)()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
@pytest.mark.parametrize(("place", "size"), PLACES.values(), ids=PLACES)
def test_a_full_disk_is_no_space_wherever_it_shows(
    place: Place, size: int, error: str, daemon: Any, tamper: Any
) -> None:
    with stored_before(daemon) as caller:
        told = failing(tamper, caller, place, error, content(size, "new"))
        # SQLite tells only ENOSPC of a write apart. Of all else it says "input/output error",
        # and a commit that failed so is in doubt.
        is_told_apart = place is not WAL_SYNC and (place, error) != (WAL_WRITE, "EDQUOT")
        if is_told_apart or caller.health().writable:
            assert isinstance(told, NoSpaceError)
            assert daemon.files("staging") == []
            assert caller.listed() == set(caller.stored)
            caller.check_takes_writes()
        else:
            assert isinstance(told, NoSpaceError | UnavailableError)
            caller.check_refuses_writes()
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "size", "error"),
    [
        (STAGED_OPEN, HUGE, "EROFS"),
        (STAGED_OPEN, HUGE, "EMFILE"),
        (STAGED_OPEN, HUGE, "EACCES"),
        (STAGED_WRITE, HUGE, "EROFS"),
        (SHARD_RENAME, LARGE, "EROFS"),
        (WAL_WRITE, SMALL, "EROFS"),
        (WAL_SYNC, SMALL, "EROFS"),
        (STAGED_SYNC, HUGE, "EROFS"),
        (SHARD_SYNC, LARGE, "EROFS"),
    ],
    ids=lambda value: value.calls.replace("?", "") if isinstance(value, Place) else None,
)
def test_a_disk_that_takes_no_writes_is_unavailable(
    place: Place, size: int, error: str, daemon: Any, tamper: Any
) -> None:
    with stored_before(daemon) as caller:
        told = failing(tamper, caller, place, error, content(size, "new"))
        assert isinstance(told, UnavailableError)
        is_read_only = not caller.health().writable
        assert is_read_only or not place.is_sync
        (caller.check_refuses_writes if is_read_only else caller.check_takes_writes)()
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.parametrize("place", [WAL_WRITE, WAL_SYNC], ids=["write", "sync"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_delete_on_a_broken_disk_is_not_acknowledged(
    size: int, place: Place, daemon: Any, tamper: Any
) -> None:
    with stored_before(daemon) as caller:
        victim, spared = content(size, "victim"), content(size, "before")
        caller.ingest(victim)
        with tamper(
            daemon.pid, place.calls, "error=EIO", [write_ahead_log(daemon, victim)]
        ) as trace:
            assert isinstance(caller.failure(caller.delete, victim), UnavailableError)
            assert trace.injected()
        if not caller.health().writable:
            caller.check_refuses_writes()
        else:
            assert place is WAL_WRITE
        daemon.kill()
        daemon.start()
        assert address_of(spared) in caller.listed()
        caller.check_after_restart()


@pytest.mark.slow
def test_a_delete_finds_room_where_a_commit_did_not(daemon: Any, tamper: Any) -> None:
    """There is room set aside for it, so the second attempt succeeds."""
    with stored_before(daemon) as caller:
        victim = content(LARGE, "before")
        wal = write_ahead_log(daemon, victim)
        with tamper(daemon.pid, "pwrite64", "error=ENOSPC:when=1", [wal]) as trace:
            caller.delete(victim)
            assert trace.injected()
        assert caller.listed() == set(caller.stored)
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
def test_rot_is_told_and_never_served_although_the_catalog_cannot_note_it(
    daemon: Any, tamper: Any
) -> None:
    with stored_before(daemon) as caller:
        data = content(LARGE, "rotting")
        caller.ingest(data)
        address = address_of(data)
        (path,) = daemon.root.glob(f"objects/*/{address.to_digest().hex}.*")
        path.chmod(0o600)
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with tamper(
            daemon.pid, WAL_SYNC.calls, "error=EIO", [write_ahead_log(daemon, data)]
        ) as trace:
            assert not caller.plane.verify_object(address).verified
            assert trace.injected()
        for _ in range(2):
            with pytest.raises(ObjectCorruptError):
                caller.read(address)
            daemon.kill()
            daemon.start()
        caller.ingest(data)
        caller.check_after_restart()


# Reading.


@pytest.mark.slow
def test_an_object_that_cannot_be_read_is_rotten_until_it_is_ingested_again(
    daemon: Any, tamper: Any
) -> None:
    with stored_before(daemon) as caller:
        data = content(LARGE, "unreadable")
        caller.ingest(data)
        address = address_of(data)
        (path,) = daemon.root.glob(f"objects/*/{address.to_digest().hex}.*")
        with tamper(daemon.pid, "read,pread64,preadv", "error=EIO", [path]) as trace:
            with (
                pytest.raises(ObjectCorruptError),
                caller.plane.serve_object(address, byte_range=(100_000, 100_099)) as body,
            ):
                b"".join(body)
            result = caller.plane.verify_object(address)
            assert not result.verified
            assert result.mismatch
            assert trace.injected()
            assert caller.plane.stat_objects([address])[0].state == "quarantined"
            del caller.stored[address]
            neighbour = content(LARGE, "before")
            assert caller.read(address_of(neighbour)) == neighbour
            with pytest.raises(ObjectCorruptError):
                caller.read(address)
        assert caller.health().writable
        caller.ingest(data)
        caller.check()
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
def test_a_catalog_that_cannot_be_read_gives_errors_and_no_wrong_answers(
    daemon: Any, tamper: Any
) -> None:
    caller = stored_before(daemon)
    for number in range(60):
        caller.ingest(content(SMALL, number))
    daemon.stop()  # everything is in the main file then, and nothing in anybody's cache
    daemon.start()
    assert daemon.wait_for("swept")
    absent = address_of(b"never stored")
    with caller, tamper(daemon.pid, "read,pread64", "error=EIO", [daemon.root / "catalog.sqlite3"]):
        for address, data in caller.stored.items():
            with contextlib.suppress(UnavailableError, ObjectCorruptError):
                assert caller.read(address) == data
        with contextlib.suppress(UnavailableError):
            assert caller.plane.stat_objects([absent]) == ()
        with contextlib.suppress(UnavailableError):
            assert caller.listed() == set(caller.stored)
    assert daemon.process.poll() is None
    daemon.kill()
    daemon.start()
    with caller.__class__(daemon) as again:
        again.stored = caller.stored
        for data in caller.stored.values():
            again.ingest(data)  # heals what the errors had made look rotten
        again.check_after_restart()


# Limits of the process, which come and go while it runs.


@contextlib.contextmanager
def limited(daemon: Any, kind: int, value: int) -> Iterator[None]:
    soft, hard = resource.prlimit(daemon.pid, kind)
    resource.prlimit(daemon.pid, kind, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(daemon.pid, kind, (soft, hard))


@pytest.mark.slow
def test_a_daemon_with_a_limit_on_files_refuses_what_is_larger(daemon: Any) -> None:
    daemon.stop()
    # The shell counts in blocks of 512 bytes.
    daemon.start(wrapper=["sh", "-c", 'ulimit -f 4096 && exec "$@"', "sh"])
    with stored_before(daemon) as caller:
        assert isinstance(caller.failure(caller.ingest, content(HUGE, "new")), NoSpaceError)
        assert daemon.files("staging") == []
        assert caller.listed() == set(caller.stored)
        assert caller.health().state == "ok"
        for size in (SMALL, LARGE):
            caller.ingest(content(size, "after"))
        caller.check()
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
def test_a_limit_on_files_that_comes_and_goes_is_forgotten(daemon: Any) -> None:
    with stored_before(daemon) as caller:
        new = content(HUGE, "new")
        with limited(daemon, resource.RLIMIT_FSIZE, 1_000_000):
            assert isinstance(caller.failure(caller.ingest, new), NoSpaceError)
            assert daemon.files("staging") == []
            caller.check()
        assert caller.listed() == set(caller.stored)
        caller.check_takes_writes()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_limit_that_the_catalog_hits_loses_and_tears_nothing(size: int, daemon: Any) -> None:
    with stored_before(daemon) as caller:
        wal = write_ahead_log(daemon, b"")
        number = 0
        while wal.stat().st_size < 2 * LARGE:
            caller.ingest(content(SMALL, number))
            number += 1
        with limited(daemon, resource.RLIMIT_FSIZE, wal.stat().st_size):
            told = caller.failure(caller.ingest, content(size, "new"))
            # SQLite does not tell that limit from a broken disk.
            assert isinstance(told, NoSpaceError | UnavailableError)
            caller.check_reads()
        if caller.health().writable:
            caller.check_takes_writes()
        else:
            assert isinstance(told, UnavailableError)
            caller.check_refuses_writes()
        daemon.kill()
        daemon.start()
        caller.check_after_restart()


@pytest.mark.slow
@pytest.mark.parametrize("size", [SMALL, HUGE])
def test_running_out_of_descriptors_passes(size: int, daemon: Any) -> None:
    with stored_before(daemon) as caller:
        assert daemon.wait_for("swept")
        is_refused = False
        for spare in range(12):
            lowest = len(os.listdir(f"/proc/{daemon.pid}/fd"))
            data = content(size, spare)
            with limited(daemon, resource.RLIMIT_NOFILE, lowest + spare):
                try:
                    caller.ingest(data)
                except UnavailableError:
                    is_refused = True
                else:
                    break
            assert caller.health().state == "ok"
            assert daemon.files("staging") == []
        else:
            raise AssertionError("an ingest needs more than a dozen descriptors")
        assert is_refused or size == SMALL
        caller.check_takes_writes()
        caller.check_leaves_nothing()
