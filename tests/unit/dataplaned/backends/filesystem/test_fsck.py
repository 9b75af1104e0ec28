"""What a check of a stopped store finds, and what a repair makes of it."""

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
from dataplaned.backends.filesystem.findings import Finding, Kind
from dataplaned.backends.filesystem.fsck import Fsck, NotOwnerError
from dataplaned.backends.filesystem.root import Root, StoreInUseError
from dataplaned.backends.filesystem.stopped import NotAStoreError
from dataplaned.digests import Digester

LATE = b"came later, and is large enough for a file" * 2_000


def blake3_of(content: bytes) -> bytes:
    digester = Digester()
    digester.update([content])
    return digester.finish().blake3


def address_of(content: bytes) -> str:
    return f"blake3:{blake3_of(content).hex()}"


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.kind, finding.detail) for finding in findings]


def flip(file: Path, offset: int = 100_000) -> None:
    file.chmod(0o600)
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ 1]))


def truncate(file: Path) -> None:
    file.chmod(0o600)
    os.truncate(file, 10)


def replace_by_fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def test_a_sound_store_has_no_findings_and_its_totals_are_told(stopped: Any) -> None:
    check = Fsck(str(stopped.path), is_verifying=True)
    assert list(check.run()) == []
    assert check.totals.objects == 4
    assert check.totals.size == sum(map(len, stopped.small + stopped.large))
    assert check.totals.quarantined == 0
    assert stopped.repair() == []
    assert stopped.holds(stopped.small + stopped.large)


def test_without_repair_nothing_is_changed_whatever_is_found(stopped: Any) -> None:
    truncate(stopped.file_of(stopped.large[0]))
    flip(stopped.file_of(stopped.large[1]))
    stopped.add_file(LATE)
    (stopped.path / "staging" / "00112233445566ff-0").write_bytes(b"half")
    stopped.sql("UPDATE store SET objects = 9, is_backup = 1")
    before = stopped.snapshot()
    assert len(stopped.fsck(is_verifying=True)) == 6
    stopped.fsck(is_adopting=True)
    assert stopped.snapshot() == before
    for lost in (lambda: stopped.catalog.write_bytes(b"nonsense" * 1000), stopped.catalog.unlink):
        lost()
        before = stopped.snapshot()
        assert len(stopped.fsck(is_verifying=True)) > 1
        assert stopped.snapshot() == before


def test_what_a_killed_daemon_left_in_the_wal_is_seen_and_stays_there(stopped: Any) -> None:
    script = (
        "import os, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('DELETE FROM objects WHERE file IS NULL')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, stopped.catalog], check=True)
    assert (stopped.path / "catalog.sqlite3-wal").stat().st_size > 0
    before = stopped.snapshot()
    found = stopped.fsck()
    assert [finding.kind for finding in found] == [Kind.STRAY, Kind.STRAY, Kind.TOTALS]
    assert stopped.snapshot() == before
    assert len(stopped.repair()) == 3
    assert stopped.holds(stopped.large)


@pytest.mark.parametrize("is_repairing", [False, True])
def test_a_store_in_use_is_refused_with_the_pid(stopped: Any, is_repairing: bool) -> None:
    with closing(Root(str(stopped.path))) as root:
        root.note_run()
        with pytest.raises(StoreInUseError, match=f"in use by process {os.getpid()}$"):
            stopped.fsck(is_repairing=is_repairing)


@pytest.mark.parametrize("is_repairing", [False, True])
def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path, is_repairing: bool) -> None:
    with pytest.raises(FileNotFoundError):
        list(Fsck(str(tmp_path / "none"), is_repairing=is_repairing).run())
    repository = tmp_path / "git"
    (repository / "objects").mkdir(parents=True)
    (repository / "HEAD").touch()
    for directory in (tmp_path, repository):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(NotAStoreError, match="is not a store"):
            list(Fsck(str(directory), is_repairing=is_repairing).run())
        assert sorted(tmp_path.rglob("*")) == before


def test_another_users_store_is_not_repaired(stopped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert stopped.fsck() == []
    with pytest.raises(NotOwnerError, match=f"is of user {os.getuid()}"):
        stopped.fsck(is_repairing=True)


def test_a_catalog_of_another_format_is_refused_and_left_alone(stopped: Any) -> None:
    stopped.sql("PRAGMA user_version = 3")
    before = stopped.snapshot()
    with pytest.raises(BackendError, match="has format 3, this version reads 2"):
        stopped.fsck()
    assert stopped.snapshot() == before
    with pytest.raises(BackendError, match="has format 3"):
        stopped.fsck(is_repairing=True)
    assert not list(stopped.path.glob("*damaged*"))


# Rows against files.


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (Path.unlink, "its bytes are gone"),
        (truncate, "size is 10 bytes, must be 320000"),
        (replace_by_fifo, "is no regular file"),
    ],
)
def test_a_file_that_is_not_what_its_row_says_is_quarantined(
    stopped: Any, damage: Any, detail: str
) -> None:
    damage(stopped.file_of(stopped.large[0]))
    (found,) = stopped.fsck()
    assert (found.kind, found.subject) == (Kind.OBJECT, address_of(stopped.large[0]))
    assert found.detail == detail
    assert found.is_open
    (found,) = stopped.repair()
    assert found.outcome == "quarantined"
    assert stopped.holds([*stopped.small, stopped.large[1]], bad=[stopped.large[0]])
    (reason,) = stopped.sql("SELECT reason FROM quarantine")
    assert reason == (detail,)
    (healed,) = stopped.ingest(stopped.large[0])
    assert healed.outcome == "healed"


def test_a_row_that_names_a_file_outside_its_place_is_quarantined(stopped: Any) -> None:
    stopped.sql("UPDATE objects SET file = '../../lock' WHERE size = 320000")
    found = stopped.repair()
    assert ("object", "names a file that cannot be its own") in told(found)
    # Its file is the copy that the object has not.
    assert [each.outcome for each in found if each.kind is Kind.ORPHAN] == ["adopted"]
    assert stopped.holds(stopped.small + stopped.large)


def test_rot_is_found_by_reading_and_only_then(stopped: Any) -> None:
    flip(stopped.file_of(stopped.large[0]))
    number = stopped.sql("SELECT content FROM objects WHERE size = 16")[0][0]
    stopped.sql("UPDATE contents SET bytes = ? WHERE id = ?", b"x" * 16, number)
    assert stopped.fsck() == []
    read: list[int] = []
    found = stopped.fsck(is_verifying=True, on_read=read.append)
    assert sum(read) == sum(map(len, stopped.small + stopped.large))
    assert sorted(each.detail for each in found) == [
        "content differs, first between bytes 0 and 15",
        "content differs, first between bytes 65536 and 131071",
    ]
    assert len(stopped.repair(is_verifying=True)) == 2
    assert stopped.holds(
        [stopped.small[1], stopped.large[1]], bad=[stopped.small[0], stopped.large[0]]
    )


def test_what_was_read_and_is_right_is_noted_as_verified(stopped: Any) -> None:
    stopped.sql("UPDATE objects SET verified_at_ms = 1, stamp = 'of another disk'")
    before = stopped.snapshot()
    assert stopped.fsck(is_verifying=True) == []
    assert stopped.snapshot() == before
    assert stopped.repair(is_verifying=True) == []
    assert [each.outcome for each in stopped.ingest(*stopped.large)] == ["existed"] * 2


def test_bytes_in_the_catalog_that_are_missing_or_too_long_are_quarantined(stopped: Any) -> None:
    (one,), (other,) = stopped.sql("SELECT content FROM objects WHERE file IS NULL ORDER BY size")
    stopped.sql("DELETE FROM contents WHERE id = ?", one)
    # Text has as many characters, and one byte more.
    stopped.sql("UPDATE contents SET bytes = ? WHERE id = ?", "é" + "x" * 19, other)
    assert sorted(told(stopped.fsck())) == [
        ("object", "its bytes are gone"),
        ("object", "size is 21 bytes, must be 20"),
    ]
    stopped.repair()
    assert stopped.holds(stopped.large, bad=stopped.small)


# The quarantine.


def test_the_quarantine_is_held_against_objects_and_files(stopped: Any) -> None:
    flip(stopped.file_of(stopped.large[0]))
    flip(stopped.file_of(stopped.large[1]))
    stopped.repair(is_verifying=True)
    assert stopped.fsck() == []
    # In the order of their names, as they were found.
    assert blake3_of(stopped.large[1]) < blake3_of(stopped.large[0])
    stopped.file_of(stopped.large[1]).unlink()
    stopped.sql("UPDATE objects SET is_rotten = 0 WHERE size = 320000")
    insert = (
        "INSERT INTO quarantine (blake3, size, file, reason, found_at_ms) VALUES (?, 1, ?, '', 1)"
    )
    stopped.sql(insert, blake3_of(stopped.small[0]), None)
    stopped.sql(insert, blake3_of(LATE), f"{blake3_of(LATE).hex()}.00112233445566ff-0")
    assert told(stopped.fsck()) == [
        ("quarantine", "copy 1 its bytes are gone"),
        ("quarantine", "copy 2 is of a copy that its object counts as good"),
        ("quarantine", "copy 3 is of a copy that is gone, and its object is not bad"),
        ("quarantine", "copy 4 its bytes are gone"),
    ]
    found = stopped.repair()
    assert [each.outcome for each in found] == ["noted", "object marked", "removed", "removed"]
    assert stopped.holds(stopped.small, bad=stopped.large)
    assert stopped.sql("SELECT id, file IS NULL, reason FROM quarantine")[0] == (
        1,
        1,
        "its bytes are gone",
    )


def test_a_bad_object_without_an_entry_gets_one(stopped: Any) -> None:
    stopped.sql("UPDATE objects SET is_rotten = 1")
    found = stopped.repair()
    assert told(found) == [("object", "is marked as bad, and not in quarantine")] * 4
    assert stopped.sql("SELECT count(*) FROM quarantine") == [(4,)]


def test_bad_bytes_in_the_catalog_that_are_kept_and_then_missing(stopped: Any) -> None:
    stopped.sql("UPDATE contents SET bytes = zeroblob(16) WHERE length(bytes) = 16")
    stopped.repair(is_verifying=True)
    stopped.sql("DELETE FROM contents WHERE length(bytes) = 16")
    assert told(stopped.repair()) == [("quarantine", "copy 1 its bytes are gone")]


# Rows against rows.


def test_rows_that_belong_to_nothing_are_removed(stopped: Any) -> None:
    stopped.sql("UPDATE store SET generation = 1000")
    stopped.sql("INSERT INTO contents VALUES (999, x'00')")
    stopped.sql("INSERT INTO blocks VALUES (?, 0, zeroblob(64))", blake3_of(b"nobody"))
    assert told(stopped.repair()) == [
        ("stray", "bytes 999 belong to nothing"),
        ("stray", "block digests of no object"),
    ]
    assert stopped.sql("SELECT count(*) FROM contents") == [(2,)]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM blocks WHERE blake3 = ?",
        "UPDATE blocks SET digests = zeroblob(128) WHERE blake3 = ?",
        "UPDATE blocks SET first = 4096 WHERE blake3 = ?",
        "INSERT INTO blocks VALUES (?, 4096, zeroblob(32))",
    ],
)
def test_block_digests_that_are_too_few_or_too_many_are_computed_again(
    stopped: Any, damage: str
) -> None:
    stopped.sql(damage, blake3_of(stopped.large[0]))
    assert [each.kind for each in stopped.fsck()] == [Kind.BLOCKS]
    (found,) = stopped.repair()
    assert found.outcome == "computed again"
    assert stopped.holds(stopped.small + stopped.large)


def test_block_digests_that_are_others_are_found_by_reading(stopped: Any) -> None:
    stopped.sql("UPDATE blocks SET digests = zeroblob(length(digests))")
    assert stopped.fsck() == []
    found = stopped.repair(is_verifying=True)
    assert [each.outcome for each in found] == ["computed again"] * 2
    assert stopped.holds(stopped.small + stopped.large)


def test_bad_bytes_get_no_new_block_digests(stopped: Any) -> None:
    flip(stopped.file_of(stopped.large[0]))
    stopped.sql("DELETE FROM blocks WHERE blake3 = ?", blake3_of(stopped.large[0]))
    (found,) = stopped.fsck(is_repairing=True)
    assert found.outcome is not None
    assert found.outcome.startswith("quarantined: content differs")
    assert stopped.holds([*stopped.small, stopped.large[1]], bad=[stopped.large[0]])


def test_totals_are_counted_again(stopped: Any) -> None:
    stopped.sql("UPDATE store SET objects = 7, bytes = 1")
    assert told(stopped.repair()) == [
        ("totals", "says 7 objects and 1 bytes, has 4 and 470036"),
    ]
    assert stopped.sql("SELECT objects, bytes FROM store") == [(4, 470_036)]


def test_generations_never_fall_behind_one_in_use(stopped: Any) -> None:
    stopped.sql("UPDATE store SET generation = 1")
    assert told(stopped.repair()) == [("generation", "last generation is 1, one of 4 is in use")]
    (published,) = stopped.ingest(b"next")
    assert published.generation == 5


# Files against rows.


def test_files_that_no_row_names_are_removed_so_that_deletes_are_final(stopped: Any) -> None:
    kept = stopped.path / "kept"
    kept.write_bytes(stopped.file_of(stopped.large[0]).read_bytes())
    name = stopped.file_of(stopped.large[0])
    stopped.delete(stopped.large[0])
    kept.rename(name)  # as a power cut can bring it back
    (stopped.path / "staging" / "00112233445566ff-0").write_bytes(b"half")
    (stopped.path / "staging" / "00112233445566ff-1-journal").write_bytes(b"half")
    assert [(each.kind, each.is_open) for each in stopped.fsck()] == [
        (Kind.STAGED, True),
        (Kind.STAGED, True),
        (Kind.ORPHAN, True),
    ]
    assert [each.outcome for each in stopped.repair()] == ["removed"] * 3
    assert not name.exists()
    assert stopped.holds([*stopped.small, stopped.large[1]])


def test_files_that_no_row_names_are_adopted_when_that_is_asked(stopped: Any) -> None:
    file = stopped.add_file(LATE)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    (found,) = stopped.repair(is_adopting=True)
    assert found.outcome == "adopted"
    assert file.stat().st_mode & 0o777 == 0o400
    assert stopped.holds([*stopped.small, *stopped.large, LATE])
    status = stopped.statuses()[blake3_of(LATE)]
    assert status.stored_at.timestamp() == 1_700_000_000
    assert time.time() - status.verified_at.timestamp() < 60
    assert status.generation > 10**15
    (again,) = stopped.ingest(LATE)
    assert again.outcome == "existed"
    assert again.generation > status.generation


def test_a_file_whose_bytes_are_not_its_names_is_quarantined(stopped: Any) -> None:
    stopped.add_file(LATE).write_bytes(LATE[:-1])
    (found,) = stopped.repair(is_adopting=True)
    assert found.outcome == "quarantined: content is not what its name says"
    assert stopped.holds(stopped.small + stopped.large)
    assert stopped.sql("SELECT blake3, size FROM quarantine") == [(blake3_of(LATE), len(LATE) - 1)]
    stopped.run(lambda backend: backend.purge(1))
    assert stopped.files_of(LATE) == []


def test_a_file_of_an_object_that_has_no_good_copy_heals_it(stopped: Any) -> None:
    stopped.file_of(stopped.large[0]).unlink()
    stopped.add_file(stopped.large[0])
    stopped.add_file(stopped.large[0], run="00112233445566ff-1")
    found = stopped.repair()
    assert [each.outcome for each in found] == ["quarantined", "adopted", "removed"]
    assert stopped.holds(stopped.small + stopped.large)
    assert stopped.sql("SELECT count(*) FROM quarantine") == [(0,)]


def test_foreign_names_are_told_and_never_touched(stopped: Any) -> None:
    shard = stopped.file_of(stopped.large[0]).parent
    other = next(each for each in (stopped.path / "objects").iterdir() if each != shard)
    foreign = [
        *(stopped.path / "README", stopped.path / "staging" / "notes.txt", shard / "notes.txt"),
        *(stopped.path / "objects" / "zz", other / f"{'0' * 64}.nonsense"),
        other / f"{shard.name}{'0' * 62}.00112233445566ff-0",
        shard / f"{shard.name}{'1' * 62}.00112233445566ff-0",
    ]
    for file in foreign[:-1]:
        file.write_bytes(b"somebody's")
    foreign[-1].mkdir()
    (stopped.path / "lost+found").mkdir()
    found = stopped.fsck()
    assert {each.kind for each in found} == {Kind.FOREIGN}
    assert sorted(each.subject for each in found) == sorted(
        str(file.relative_to(stopped.path)) for file in foreign
    )
    assert not any(each.is_open for each in found)
    assert len(stopped.repair(is_adopting=True)) == len(foreign)
    assert all(file.exists() for file in foreign)


# The run.


def test_an_older_catalog_in_its_place_is_repaired_with_the_files_that_came_since(
    stopped: Any, tmp_path: Path
) -> None:
    shutil.copy(stopped.catalog, tmp_path / "older")
    highest = stopped.ingest(LATE, b"small, and only in the newer catalog")[-1].generation
    shutil.copy(tmp_path / "older", stopped.catalog)
    with pytest.raises(BackendError, match=r"older than its store.*fsck --repair"):
        stopped.run()
    assert told(stopped.fsck()) == [
        ("run", "is older than its store"),
        ("orphan", "no row names it"),
    ]
    stopped.repair()
    assert stopped.holds([*stopped.small, *stopped.large, LATE])
    assert stopped.ingest(b"next")[0].generation > highest


def test_a_backup_in_the_place_of_the_catalog_is_repaired_with_the_files_that_came_since(
    stopped: Any,
) -> None:
    stopped.back_up()
    stopped.ingest(LATE)
    shutil.copy(stopped.backup, stopped.catalog)
    with pytest.raises(BackendError, match=r"is a backup.*fsck --repair"):
        stopped.run()
    assert told(stopped.repair())[0] == ("run", "is a backup, or its repair was not finished")
    assert stopped.holds([*stopped.small, *stopped.large, LATE])


def test_a_copy_that_was_healed_since_takes_the_place_of_the_one_before(
    stopped: Any, tmp_path: Path
) -> None:
    shutil.copy(stopped.catalog, tmp_path / "older")
    flip(stopped.file_of(stopped.large[0]))
    stopped.repair(is_verifying=True)
    stopped.ingest(stopped.large[0])
    assert len(stopped.files_of(stopped.large[0])) == 2
    shutil.copy(tmp_path / "older", stopped.catalog)
    stopped.repair()
    assert stopped.holds(stopped.small + stopped.large)


def test_a_lock_that_names_no_run_is_told_and_gets_one(stopped: Any) -> None:
    (stopped.path / "lock").unlink()
    (found,) = stopped.fsck()
    assert (found.kind, found.subject, found.is_open) == (Kind.RUN, "lock", True)
    assert not (stopped.path / "lock").exists()
    (found,) = stopped.repair()
    assert found.outcome == "noted"


@pytest.mark.slow
def test_a_hundred_thousand_objects_take_no_more_memory_than_a_few(
    stopped: Any, tmp_path: Path
) -> None:
    script = (
        "import resource, sys\n"
        "from dataplaned.backends.filesystem.fsck import Fsck\n"
        "count = sum(1 for _ in Fsck(sys.argv[1], is_repairing=sys.argv[2] == 'repair',\n"
        "                            is_verifying=True).run())\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def check(mode: str) -> tuple[int, int]:
        done = subprocess.run(
            [sys.executable, "-c", script, stopped.path, mode], check=True, capture_output=True
        )
        count, size = map(int, done.stdout.split())
        return count, size * 1024

    _, few = check("look")
    with closing(sqlite3.connect(stopped.catalog)) as connection, connection:
        numbers = (
            "WITH RECURSIVE numbers (n) AS "
            "(SELECT 10 UNION ALL SELECT n + 1 FROM numbers LIMIT 100000) "
        )
        connection.execute(numbers + "INSERT INTO contents SELECT n, randomblob(100) FROM numbers")
        # Half of them are rotten in every respect, and the others' bytes belong to nothing.
        connection.execute(
            numbers + "INSERT INTO objects SELECT randomblob(32), randomblob(32), 100, NULL, n, n, "
            "n, n, '', 0 FROM numbers WHERE n % 2"
        )
        connection.execute(
            numbers + "INSERT INTO blocks SELECT randomblob(32), 0, zeroblob(64) FROM numbers"
        )
        connection.execute("UPDATE store SET generation = 200000")
    for mode in ("look", "repair"):
        count, many = check(mode)
        assert count == 200_001
        assert many - few < 32 * 1024 * 1024
    assert stopped.fsck() == []
