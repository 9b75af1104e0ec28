"""A catalog that is lost or damaged, and what takes its place."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem.findings import Kind
from dataplaned.backends.filesystem.fsck import Fsck
from dataplaned.digests import Digester

LATE = b"came later, and is large enough for a file" * 2_000
LATE_SMALL = b"came later"


def blake3_of(content: bytes) -> bytes:
    digester = Digester()
    digester.update([content])
    return digester.finish().blake3


def overwrite(file: Path) -> None:
    file.write_bytes(b"no database" * 1000)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def break_header(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA application_id = 1")


def forget_the_store(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("DELETE FROM store")


def forget_a_column(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("ALTER TABLE quarantine RENAME COLUMN reason TO cause")


def break_tree(table: str) -> Any:
    """Give what overwrites the root page of a table."""

    def damage(file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection:
            (page,) = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
            ).fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
        with file.open("r+b") as opened:
            opened.seek((page - 1) * size)
            opened.write(b"\xff" * 100)

    return damage


@pytest.mark.parametrize(
    ("damage", "detail", "is_readable"),
    [
        (Path.unlink, "is missing", False),
        (empty, "is empty", False),
        (overwrite, "file is not a database", False),
        (break_header, "is not a catalog", True),
        (forget_the_store, "says nothing of its store", True),
        (forget_a_column, "no such column: reason", True),
        (break_tree("objects_by_verification"), "Page", True),
        (break_tree("objects"), "Page", False),
        (break_tree("contents"), "Page", False),
    ],
)
def test_a_lost_catalog_is_made_anew_from_the_files_and_what_can_be_read_of_it(
    stopped: Any, damage: Any, detail: str, is_readable: bool
) -> None:
    damage(stopped.catalog)
    damaged = stopped.catalog.read_bytes() if stopped.catalog.exists() else None
    found = stopped.fsck()
    assert found[0].kind is Kind.CATALOG
    assert detail in found[0].detail
    assert [each.kind for each in found[1:]] == [Kind.ORPHAN] * 2
    found = stopped.repair()
    assert [each.outcome for each in found[1:]] == ["adopted"] * 2
    assert stopped.holds(stopped.large + (stopped.small if is_readable else ()))
    aside = stopped.path / "catalog.sqlite3-damaged-1"
    if damaged is None:
        assert not aside.exists()
    else:
        assert aside.read_bytes() == damaged
        assert f"the damaged one is {aside.name}" in found[0].outcome
    # Larger than every generation before, whoever gave them.
    assert stopped.ingest(b"next")[0].generation > time.time() * 1_000_000 - 600e6


def test_a_lost_catalog_is_made_anew_from_the_backup(stopped: Any) -> None:
    stopped.back_up()
    before = stopped.statuses()
    stopped.delete(stopped.small[0], stopped.large[0])
    highest = stopped.ingest(LATE, LATE_SMALL)[-1].generation
    stopped.catalog.unlink()
    found = stopped.fsck()
    assert found[0].detail == "is missing; backup.sqlite3 is sound, small objects since are lost"
    found = stopped.repair()
    assert found[0].outcome == "made anew from backup.sqlite3"
    # What FORMAT.md says of deletes since the backup: the small one is back, the large one is
    # listed as damaged; and of small objects that came since: they are lost.
    assert stopped.holds([*stopped.small, stopped.large[1], LATE], bad=[stopped.large[0]])
    after = stopped.statuses()
    for content in (stopped.small[1], stopped.large[1]):
        assert after[blake3_of(content)] == before[blake3_of(content)]
    assert after[blake3_of(LATE)].generation > highest
    assert stopped.backup.exists()


def test_small_objects_of_a_damaged_catalog_join_those_of_the_backup(stopped: Any) -> None:
    stopped.back_up()
    before = stopped.statuses()
    stopped.ingest(LATE, LATE_SMALL)
    stored_at = stopped.sql("SELECT stored_at_ms FROM objects WHERE size = 10")
    break_tree("objects_by_verification")(stopped.catalog)
    found = stopped.repair()
    assert found[0].outcome == (
        "made anew from backup.sqlite3, with 1 small objects of the damaged one; "
        "the damaged one is catalog.sqlite3-damaged-1"
    )
    assert stopped.holds([*stopped.small, *stopped.large, LATE, LATE_SMALL])
    after = stopped.statuses()
    assert all(after[key] == status for key, status in before.items())
    assert stopped.sql("SELECT stored_at_ms FROM objects WHERE size = 10") == stored_at


def test_small_objects_on_both_sides_of_the_damage_are_salvaged(stopped: Any) -> None:
    many = [b"%d" % number for number in range(150)]
    stopped.ingest(*many)
    with closing(sqlite3.connect(stopped.catalog)) as connection:
        root, size = connection.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema "
            "WHERE name = 'objects'"
        ).fetchone()
    data = bytearray(stopped.catalog.read_bytes())
    page = (root - 1) * size
    cells = int.from_bytes(data[page + 3 : page + 5], "big")
    assert data[page] == 2  # an inner page: those below are leaves
    offset = page + 12 + cells // 2 * 2
    cell = page + int.from_bytes(data[offset : offset + 2], "big")
    leaf = (int.from_bytes(data[cell : cell + 4], "big") - 1) * size
    data[leaf : leaf + 100] = b"\xff" * 100
    stopped.catalog.write_bytes(data)
    stopped.repair()
    served = stopped.served()
    assert all(each is not None for each in served.values())
    keys = sorted(blake3_of(each) for each in many)
    assert keys[0] in served
    assert keys[-1] in served
    assert 100 < len(served) < 150


def test_bytes_that_are_not_what_their_row_says_are_not_salvaged(stopped: Any) -> None:
    stopped.sql("UPDATE contents SET bytes = 'text' WHERE length(bytes) = 16")
    stopped.sql("UPDATE objects SET sha256 = zeroblob(32) WHERE size = 20")
    forget_the_store(stopped.catalog)
    stopped.repair()
    assert stopped.holds(stopped.large)


def test_a_damaged_backup_is_as_good_as_none(stopped: Any) -> None:
    stopped.back_up()
    overwrite(stopped.backup)
    stopped.catalog.unlink()
    found = stopped.repair()
    assert found[0].detail == (
        "is missing; backup.sqlite3 is missing or damaged, small objects are lost"
    )
    assert found[0].outcome == "made anew, without a backup"
    assert stopped.holds(stopped.large)


def test_a_store_is_restored_from_a_backup_and_object_files_alone(
    stopped: Any, tmp_path: Path
) -> None:
    stopped.back_up()
    target = type(stopped)(tmp_path / "restored")
    target.path.mkdir()
    shutil.copy(stopped.backup, target.backup)
    shutil.copytree(stopped.path / "objects", target.path / "objects")
    with pytest.raises(BackendError, match="has objects but no catalog"):
        target.run()
    target.repair()
    assert target.holds(stopped.small + stopped.large)


def test_damaged_catalogs_are_never_overwritten(stopped: Any) -> None:
    for number in (1, 2, 3):
        stopped.catalog.write_bytes(b"%d" % number * 9999)
        (stopped.path / "catalog.sqlite3-wal").write_bytes(b"wal %d" % number)
        stopped.repair()
    for number in (1, 2, 3):
        aside = stopped.path / f"catalog.sqlite3-damaged-{number}"
        assert aside.read_bytes() == b"%d" % number * 9999
        assert Path(f"{aside}-wal").read_bytes() == b"wal %d" % number
    assert not (stopped.path / "catalog.sqlite3-shm").exists()


@pytest.mark.parametrize("trace", ["lock", "backup", "damaged"])
def test_a_daemon_refuses_a_store_of_small_objects_that_has_lost_its_catalog(
    stopped: Any, trace: str
) -> None:
    stopped.delete(*stopped.large)
    if trace == "backup":
        stopped.back_up()
    if trace != "lock":
        os.truncate(stopped.path / "lock", 0)
    stopped.catalog.rename(
        stopped.path / ("catalog.sqlite3-damaged-1" if trace == "damaged" else "../elsewhere")
    )
    with pytest.raises(BackendError, match=r"has lost its catalog\.sqlite3: .*fsck --repair"):
        stopped.run()
    stopped.repair()
    assert stopped.holds(stopped.small if trace == "backup" else ())


def test_a_clock_that_was_set_back_does_not_set_generations_back(
    stopped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = max(each.stat().st_mtime_ns for each in stopped.path.iterdir()) // 1000
    stopped.catalog.unlink()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000_000)
    stopped.repair()
    assert stopped.sql("SELECT generation FROM store")[0][0] >= newest


def test_what_is_left_of_an_unfinished_repair_is_not_put_in_place_later(stopped: Any) -> None:
    shutil.copy(stopped.catalog, stopped.path / "catalog.sqlite3-new")
    stopped.repair()
    assert not (stopped.path / "catalog.sqlite3-new").exists()


#: Runs a repair in a copy of a store for each of its steps, and ends it as a crash would
#: before that step; prints how many there were.
CRASHES = """
import os, shutil, sqlite3, sys
from dataplaned.backends.filesystem import fsck, schema

template, work = sys.argv[1:]

def steps_of(number, path):
    left = [number]

    def step():
        if left[0] == 0:
            os._exit(9)
        left[0] -= 1

    def counted(function):
        def call(*args, **kwargs):
            step()
            return function(*args, **kwargs)
        return call

    for name in ("rename", "unlink", "fsync", "pwrite", "fchmod"):
        setattr(os, name, counted(getattr(os, name)))
    connect = schema.connect

    def traced(*args, **kwargs):
        connection = connect(*args, **kwargs)
        changing = ("BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "PRAGMA wal_checkpoint")
        connection.set_trace_callback(lambda text: text.startswith(changing) and step())
        return connection

    schema.connect = traced
    # One repair in each transaction, so that there is something between two.
    fsck._BATCH = 1
    for _ in fsck.Fsck(path, is_repairing=True).run():
        pass
    os._exit(0)

for number in range(100_000):
    path = f"{work}/{number}"
    shutil.copytree(template, path)
    child = os.fork()
    if child == 0:
        try:
            steps_of(number, path)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 9:
        assert code == 0, code
        break
print(number)
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lost", "damaged", "backup", "older", "own"])
def test_a_repair_that_was_killed_at_any_step_comes_to_the_same_end(
    stopped: Any, tmp_path: Path, case: str
) -> None:
    older = tmp_path / "older"
    gone, rest = stopped.large
    expected = [*stopped.small, *stopped.large, LATE]
    if case == "own":
        stopped.file_of(gone).unlink()
        stopped.add_file(LATE)
        stopped.sql("UPDATE store SET objects = 0")
        stopped.sql("DELETE FROM blocks WHERE blake3 = ?", blake3_of(rest))
        expected = [*stopped.small, rest]
    elif case == "backup":
        stopped.back_up()
        stopped.ingest(LATE, LATE_SMALL)
        (stopped.path / "catalog.sqlite3").unlink()
    else:
        shutil.copy(stopped.catalog, older)
        stopped.ingest(LATE, LATE_SMALL)
        if case == "older":
            shutil.copy(older, stopped.catalog)
        elif case == "damaged":
            forget_the_store(stopped.catalog)
            (stopped.path / "catalog.sqlite3-wal").write_bytes(b"what is left of one")
            expected.append(LATE_SMALL)
        else:
            stopped.catalog.unlink()
            expected = [*stopped.large, LATE]
    bad = [gone] if case == "own" else []
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CRASHES, stopped.path, work], check=True, capture_output=True
    )
    count = int(done.stdout)
    assert count > 20
    for number in range(count + 1):
        crashed = type(stopped)(work / str(number))
        is_open = is_ready(crashed)
        if is_open and case != "own":
            # A daemon that opens a store half-way must not lose what the repair would keep.
            assert crashed.holds(expected, bad), number
        crashed.repair()
        assert crashed.holds(expected, bad), number
        shutil.rmtree(crashed.path)
    assert is_open


def is_ready(stopped: Any) -> bool:
    """Whether a daemon opens a store as it is."""
    try:
        stopped.run()
    except (BackendError, sqlite3.Error):
        return False
    return True


def test_reading_a_damaged_catalog_for_lack_of_room_is_no_damage(
    stopped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stopped.path / "catalog.sqlite3-wal").write_bytes(b"what is left of one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        stopped.fsck(is_repairing=True)
    assert not list(stopped.path.glob("*damaged*"))


def test_a_catalog_that_the_disk_cannot_read_is_damaged(
    stopped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stopped.path / "catalog.sqlite3-wal").write_bytes(b"what is left of one")

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", broken)
        found = list(Fsck(str(stopped.path), is_repairing=True).run())
    assert found[0].detail.startswith("cannot be read: Input/output error")
    assert stopped.holds(stopped.large)
