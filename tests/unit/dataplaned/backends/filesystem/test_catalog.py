import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from dataplane_protocol import ConflictError, Digest
from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem.catalog import Catalog
from dataplaned.digests import BLOCK_SIZE, DIGEST_SIZE, ObjectDigests


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "catalog.sqlite3")


@pytest.fixture
def catalog(path):
    with closing(Catalog(path)) as catalog:
        yield catalog


def digests_of(number, size=10, blocks=b""):
    """Digests as an object could have them, in the order of their numbers."""
    return ObjectDigests(
        blake3=number.to_bytes(2, "big") * 16,
        sha256=(0xFFFF - number).to_bytes(2, "big") * 16,
        size=size,
        blocks=blocks,
    )


def blake3_of(number):
    return digests_of(number).named("blake3")


def sha256_of(number):
    return digests_of(number).named("sha256")


def add(catalog, number, file="file", replaces=None, **digests):
    return catalog.store(digests_of(number, **digests), file, replaces, stamp="stamp")


def totals_of(catalog):
    (totals,) = catalog._read("SELECT objects, bytes FROM totals")
    (actual,) = catalog._read("SELECT count(*), coalesce(sum(size), 0) FROM objects")
    assert totals == actual
    return totals


# Finding.


def test_an_object_is_found_by_either_digest(catalog):
    stored = add(catalog, 1)
    assert catalog.find(blake3_of(1)) == stored.row
    assert catalog.find(sha256_of(1)) == stored.row
    assert catalog.find(blake3_of(2)) is None


def test_a_digest_of_one_kind_is_not_the_name_of_the_other(catalog):
    add(catalog, 1)
    assert catalog.find(Digest("sha256", blake3_of(1).hex)) is None


def test_pages_are_in_order_and_start_after_a_value(catalog):
    for number in (5, 3, 9, 1):
        add(catalog, number)
    every = [digests_of(number).blake3 for number in (1, 3, 5, 9)]
    assert [row.blake3 for row in catalog.page(b"", 10)] == every
    assert [row.blake3 for row in catalog.page(b"", 2)] == every[:2]
    assert [row.blake3 for row in catalog.page(every[1], 10)] == every[2:]
    assert [row.blake3 for row in catalog.page(digests_of(4).blake3, 1)] == every[2:3]
    assert catalog.page(every[3], 10) == []


def test_a_file_is_named_by_a_row_only_under_its_own_object(catalog):
    file = f"{digests_of(1).blake3.hex()}.0123456789abcdef-0"
    add(catalog, 1, file=file)
    assert catalog.names_file(file)
    assert not catalog.names_file(file + "1")
    assert not catalog.names_file(f"{digests_of(2).blake3.hex()}.0123456789abcdef-0")


# Storing.


def test_a_new_object_has_a_row_and_no_garbage(catalog):
    stored = add(catalog, 1, size=123, file="a")
    assert stored.is_new
    assert stored.garbage is None
    assert (stored.row.size, stored.row.file, stored.row.is_rotten) == (123, "a", 0)
    assert stored.row.stored_at_ms == stored.row.verified_at_ms
    assert totals_of(catalog) == (1, 123)


def test_a_copy_that_is_not_trusted_is_replaced(catalog):
    old = add(catalog, 1, file="bad").row
    catalog.mark_rotten(old)
    stored = add(catalog, 1, file="fresh", replaces=old)
    assert not stored.is_new
    assert stored.garbage == "bad"
    assert (stored.row.file, stored.row.is_rotten) == ("fresh", 0)
    assert catalog.find(blake3_of(1)) == stored.row
    assert totals_of(catalog) == (1, 10)


def test_whoever_comes_second_keeps_the_file_of_the_first(catalog):
    first = add(catalog, 1, file="first").row
    second = add(catalog, 1, file="second")
    assert not second.is_new
    assert second.garbage == "second"
    assert second.row.file == "first"
    assert second.row.generation > first.generation
    assert second.row.verified_at_ms == first.verified_at_ms
    assert totals_of(catalog) == (1, 10)


def test_whoever_heals_second_keeps_the_file_of_the_first(catalog):
    bad = add(catalog, 1, file="bad").row
    assert add(catalog, 1, file="first", replaces=bad).garbage == "bad"
    assert add(catalog, 1, file="second", replaces=bad).garbage == "second"
    found = catalog.find(sha256_of(1))
    assert found is not None
    assert found.file == "first"


@pytest.mark.parametrize("is_suspected", [False, True])
def test_a_copy_found_rotten_meanwhile_is_never_kept(catalog, is_suspected):
    # Between the look at the copy and the commit, somebody who reads it finds damage.
    suspected = add(catalog, 1, file="suspected").row
    present = add(catalog, 1, file="other", replaces=suspected).row
    catalog.mark_rotten(present)
    stored = add(catalog, 1, file="fresh", replaces=suspected if is_suspected else None)
    assert (stored.row.file, stored.row.is_rotten) == ("fresh", 0)
    assert stored.garbage == "other"
    assert catalog.find(blake3_of(1)) == stored.row


def test_an_object_deleted_meanwhile_is_new_again(catalog):
    old = add(catalog, 1, file="old").row
    catalog.remove(blake3_of(1), None)
    stored = add(catalog, 1, file="fresh", replaces=old)
    assert stored.is_new
    assert stored.garbage is None
    assert totals_of(catalog) == (1, 10)


# Renewing and marking.


def test_renewing_gives_another_generation_and_keeps_the_rest(catalog):
    old = add(catalog, 1).row
    renewed = catalog.renew(old)
    assert renewed == catalog.find(blake3_of(1))
    assert renewed.generation > old.generation
    assert (renewed.file, renewed.verified_at_ms) == (old.file, old.verified_at_ms)
    assert totals_of(catalog) == (1, 10)


def test_nothing_is_renewed_that_is_gone_replaced_or_rotten(catalog):
    gone = add(catalog, 1).row
    catalog.remove(blake3_of(1), None)
    replaced = add(catalog, 2, file="old").row
    add(catalog, 2, file="new", replaces=replaced)
    rotten = add(catalog, 3).row
    catalog.mark_rotten(rotten)
    before = catalog.page(b"", 10)
    assert [catalog.renew(row) for row in (gone, replaced, rotten)] == [None, None, None]
    assert catalog.page(b"", 10) == before


def test_a_mark_holds_for_the_file_that_was_read_only(catalog):
    old = add(catalog, 1, file="old").row
    new = add(catalog, 1, file="new", replaces=old).row
    catalog.mark_rotten(old)
    assert catalog.find(blake3_of(1)) == new
    catalog.mark_rotten(new)
    found = catalog.find(blake3_of(1))
    assert found is not None
    assert found.is_rotten
    assert found.generation == new.generation


def test_a_copy_that_was_seen_to_be_right_is_trusted_again(catalog):
    row = add(catalog, 1).row
    catalog.mark_rotten(row)
    catalog.mark_good(row, "stamp")
    found = catalog.find(blake3_of(1))
    assert found is not None
    assert not found.is_rotten
    assert found.verified_at_ms >= row.verified_at_ms
    assert catalog.renew(row) is not None


# Removing.


@pytest.mark.parametrize("name", [blake3_of(1), sha256_of(1)])
def test_removing_gives_the_last_row_and_takes_everything(catalog, name):
    row = add(catalog, 1, size=BLOCK_SIZE + 1, blocks=bytes(2 * DIGEST_SIZE)).row
    kept = add(catalog, 2).row
    assert catalog.remove(name, None) == row
    assert catalog.find(blake3_of(1)) is None
    assert catalog.find(sha256_of(1)) is None
    assert catalog.block_digests(row.blake3, 0, 2) == b""
    assert catalog.page(b"", 10) == [kept]
    assert totals_of(catalog) == (1, 10)
    assert catalog.remove(name, None) is None
    assert totals_of(catalog) == (1, 10)


def test_removing_under_a_condition_that_fails_changes_nothing(catalog):
    old = add(catalog, 1).row
    row = catalog.renew(old)
    with pytest.raises(ConflictError) as caught:
        catalog.remove(blake3_of(1), old.generation)
    assert caught.value.details == {"generation": row.generation}
    assert catalog.find(blake3_of(1)) == row
    assert totals_of(catalog) == (1, 10)
    assert catalog.remove(sha256_of(1), row.generation) == row


def test_a_condition_on_an_object_that_is_not_there_is_no_conflict(catalog):
    assert catalog.remove(blake3_of(1), 7) is None


# Generations.


def test_generations_only_grow_over_deletes_and_openings(path):
    generations = []
    for _ in range(3):
        with closing(Catalog(path)) as catalog:
            generations.append(add(catalog, 1).row.generation)
            generations.append(add(catalog, 2).row.generation)
            generations.append(catalog.renew(catalog.find(blake3_of(1))).generation)
            catalog.remove(blake3_of(1), None)
            catalog.remove(blake3_of(2), None)
    assert generations == sorted(set(generations))


# Block digests.


def test_blocks_are_given_across_the_border_of_two_rows(catalog):
    count = 2 * 4096 + 5
    blocks = b"".join(index.to_bytes(DIGEST_SIZE, "big") for index in range(count))
    add(catalog, 1, size=count * BLOCK_SIZE - 1, blocks=blocks)
    blake3 = digests_of(1).blake3
    for first, wanted in (
        (0, 1), (0, count), (4095, 1), (4095, 2), (4096, 1), (4094, 4),
        (4090, 4200), (8191, 3), (count - 1, 1),
    ):  # fmt: skip
        part = blocks[first * DIGEST_SIZE : (first + wanted) * DIGEST_SIZE]
        assert catalog.block_digests(blake3, first, wanted) == part
    assert catalog.block_digests(blake3, count - 1, 4) == blocks[-DIGEST_SIZE:]
    assert catalog.block_digests(digests_of(2).blake3, 0, 4) == b""


# What is on disk.


def test_every_commit_is_synced(catalog):
    assert catalog._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert catalog._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert catalog._writer.execute("PRAGMA mmap_size").fetchone() in ((0,), None)


def test_the_reading_connection_cannot_write(catalog):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        catalog._read("DELETE FROM objects")


def test_nothing_is_left_of_a_transaction_that_fails(catalog):
    before = add(catalog, 1).row
    broken = ObjectDigests(blake3=bytes(32), sha256=b"too short", size=1, blocks=b"")
    with pytest.raises(sqlite3.IntegrityError):
        catalog.store(broken, "file", None, stamp="stamp")
    assert catalog.page(b"", 10) == [before]
    assert totals_of(catalog) == (1, 10)
    assert add(catalog, 2).row.generation == before.generation + 1


def test_a_full_disk_changes_nothing(catalog):
    before = add(catalog, 1).row
    (pages,) = catalog._writer.execute("PRAGMA page_count").fetchone()
    catalog._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError) as caught:
        add(catalog, 2, size=10**9, blocks=bytes(DIGEST_SIZE * 10_000))
    assert caught.value.sqlite_errorname == "SQLITE_FULL"
    assert catalog.find(blake3_of(2)) is None
    assert totals_of(catalog) == (1, 10)
    catalog._writer.execute("PRAGMA max_page_count = 1000000")
    assert add(catalog, 2).row.generation == before.generation + 1


def as_killed(path, aside):
    """Give a copy of the files as they would be if the process was killed now."""
    aside.mkdir()
    for name in ("catalog.sqlite3", "catalog.sqlite3-wal"):
        shutil.copy(f"{os.path.dirname(path)}/{name}", aside)
    return str(aside / "catalog.sqlite3")


def test_rows_that_a_killed_process_left_in_the_wal_are_on_disk_before_they_are_seen(
    catalog, path, tmp_path
):
    add(catalog, 1)
    path = as_killed(path, tmp_path / "killed")
    assert os.path.getsize(f"{path}-wal") > 0
    assert rows_of_main_file(path) == 0
    with closing(Catalog(path)) as catalog:
        assert os.path.getsize(f"{path}-wal") == 0
        assert rows_of_main_file(path) == 1
        assert catalog.find(blake3_of(1)) is not None


def rows_of_main_file(path):
    """Count the rows that are there without the WAL."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        return connection.execute("SELECT count(*) FROM objects").fetchone()[0]


def test_a_catalog_that_nobody_wrote_to_is_complete_without_its_wal(catalog, path, tmp_path):
    # An object is stored only after this: a catalog of no bytes never had objects.
    path = as_killed(path, tmp_path / "killed")
    os.unlink(f"{path}-wal")
    with closing(Catalog(path)) as catalog:
        assert add(catalog, 1).is_new


def test_closing_folds_the_wal_into_the_file(path):
    with closing(Catalog(path)) as catalog:
        add(catalog, 1)
    assert os.listdir(os.path.dirname(path)) == ["catalog.sqlite3"]
    assert rows_of_main_file(path) == 1


# What is no catalog of ours.


def test_a_newer_format_is_refused_and_left_as_it_is(path):
    Catalog(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = content_of(path)
    with pytest.raises(BackendError, match="has format 2, this version reads 1"):
        Catalog(path)
    assert content_of(path) == before


def test_somebody_elses_database_is_refused_and_left_as_it_is(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE invoices (amount)")
    before = content_of(path)
    with pytest.raises(BackendError, match="is not a catalog"):
        Catalog(path)
    assert content_of(path) == before
    assert os.listdir(os.path.dirname(path)) == ["catalog.sqlite3"]


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path):
    garbage = b"certainly not SQLite " * 1000
    with open(path, "wb") as file:
        file.write(garbage)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        Catalog(path)
    assert content_of(path) == garbage


def content_of(path):
    with open(path, "rb") as file:
        return file.read()
