from contextlib import closing
from dataclasses import replace
from itertools import count

import pytest

from dataplane_protocol import ConflictError
from dataplaned.backends.filesystem import changes, schema
from dataplaned.backends.filesystem.changes import MISSING, NewFile
from dataplaned.backends.filesystem.rows import COLUMNS, Quarantined, Row
from dataplaned.digests import BLOCK_SIZE, DIGEST_SIZE, ObjectDigests

KINDS = ("small", "file")


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


class Tables:
    """The tables of a catalog, changed one change at a time; they must agree after each."""

    def __init__(self, connection):
        self.connection = connection
        self._numbers = count()

    def fresh(self, kind):
        """Give bytes that are at hand: in a file, or as they are."""
        number = next(self._numbers)
        return NewFile(name=f"file {number}", stamp="s") if kind == "file" else b"bytes %d" % number

    def store(self, number, fresh, *, is_trusted=True, **digests):
        """Store; copies that are not rotten are trusted, or none."""
        return self._checked(
            changes.store(
                self.connection,
                digests_of(number, **digests),
                fresh,
                lambda row: is_trusted and not row.is_rotten,
            )
        )

    def renew(self, number, *, is_trusted=True):
        return self._checked(
            changes.renew(
                self.connection,
                digests_of(number),
                lambda row: is_trusted and not row.is_rotten,
            )
        )

    def remove(self, name, if_generation=None):
        return self._checked(changes.remove(self.connection, name, if_generation))

    def mark_good(self, row, stamp="s"):
        return self._checked(changes.mark_good(self.connection, row, stamp))

    def mark_rotten(self, row, reason="differs"):
        return self._checked(changes.mark_rotten(self.connection, row, reason))

    def purge(self, number):
        return self._checked(changes.purge(self.connection, number))

    def row(self, number):
        """Give the row of an object."""
        blake3 = digests_of(number).blake3
        rows = self.all(f"SELECT {COLUMNS} FROM objects WHERE blake3 = ?", blake3)
        return Row(*rows[0]) if rows else None

    def quarantined(self):
        """Give every entry of the quarantine."""
        rows = self.all(f"SELECT {Quarantined.COLUMNS} FROM quarantine ORDER BY id")
        return [Quarantined(*row) for row in rows]

    def contents(self):
        """Give everything that is kept in the catalog, by its number."""
        return dict(self.all("SELECT id, bytes FROM contents"))

    def totals(self):
        (totals,) = self.all("SELECT objects, bytes FROM store")
        return totals

    def all(self, statement, *values):
        return self.connection.execute(statement, values).fetchall()

    def _checked(self, result):
        (counted,) = self.all("SELECT count(*), coalesce(sum(size), 0) FROM objects")
        assert self.totals() == counted
        named = self.all(
            "SELECT content FROM objects WHERE content IS NOT NULL "
            "UNION SELECT content FROM quarantine WHERE content IS NOT NULL"
        )
        held = self.contents()
        gone = {
            row.content
            for row in [Row(*row) for row in self.all(f"SELECT {COLUMNS} FROM objects")]
            if row.content is not None and row.content not in held
        }
        assert {number for (number,) in named} - gone == set(held)
        return result


@pytest.fixture
def tables():
    with closing(schema.connect(":memory:")) as connection:
        schema.prepare(connection, ":memory:")
        yield Tables(connection)


def copy_of(fresh, tables):
    """Give what of some fresh bytes is a file, and what is in the catalog."""
    if isinstance(fresh, NewFile):
        return fresh.name, None
    (content,) = [number for number, data in tables.contents().items() if data == fresh]
    return None, content


def garbage_of(fresh):
    """Give what has to be unlinked once some bytes are wanted no more."""
    return (fresh.name,) if isinstance(fresh, NewFile) else ()


# Storing.


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_object_has_a_row_and_no_garbage(tables, clock, kind):
    fresh = tables.fresh(kind)
    stored = tables.store(1, fresh, size=123)
    assert stored.outcome == "created"
    assert stored.garbage == ()
    row = stored.row
    assert row == tables.row(1)
    assert (row.size, row.is_rotten, row.stamp) == (123, 0, "s" if kind == "file" else "")
    assert (row.file, row.content) == copy_of(fresh, tables)
    assert row.stored_at_ms == row.verified_at_ms == clock.now_ms
    assert tables.totals() == (1, 123)


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_a_copy_that_is_trusted_is_kept_and_the_fresh_bytes_are_garbage(tables, clock, old, new):
    first = tables.store(1, tables.fresh(old)).row
    clock.pass_s(5)
    fresh = tables.fresh(new)
    second = tables.store(1, fresh)
    assert second.outcome == "existed"
    assert second.garbage == garbage_of(fresh)
    assert second.row == tables.row(1)
    assert (second.row.file, second.row.content) == (first.file, first.content)
    assert second.row.generation > first.generation
    assert second.row.verified_at_ms == first.verified_at_ms
    assert second.row.stored_at_ms == clock.now_ms
    assert len(tables.contents()) == (old == "small")


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_a_copy_that_is_not_trusted_is_replaced_and_is_garbage(tables, clock, old, new):
    bad = tables.fresh(old)
    first = tables.store(1, bad).row
    clock.pass_s(5)
    fresh = tables.fresh(new)
    healed = tables.store(1, fresh, is_trusted=False)
    assert healed.outcome == "healed"
    assert healed.garbage == garbage_of(bad)
    assert healed.row == tables.row(1)
    assert (healed.row.file, healed.row.content) == copy_of(fresh, tables)
    assert healed.row.copy != first.copy
    assert healed.row.generation > first.generation
    assert healed.row.verified_at_ms == clock.now_ms
    assert len(tables.contents()) == (new == "small")
    assert tables.quarantined() == []


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_a_rotten_copy_that_is_replaced_stays_in_quarantine(tables, old, new):
    bad = tables.fresh(old)
    row = tables.store(1, bad).row
    tables.mark_rotten(row)
    fresh = tables.fresh(new)
    healed = tables.store(1, fresh)
    assert (healed.outcome, healed.garbage) == ("healed", ())
    assert (healed.row.file, healed.row.content) == copy_of(fresh, tables)
    assert healed.row.is_rotten == 0
    (entry,) = tables.quarantined()
    assert (entry.file, entry.content) == (row.file, row.content)
    assert len(tables.contents()) == (old == "small") + (new == "small")


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_of_a_missing_copy_that_is_replaced_nothing_stays(tables, old, new):
    row = tables.store(1, tables.fresh(old)).row
    tables.connection.execute("DELETE FROM contents")
    tables.mark_rotten(row, MISSING)
    healed = tables.store(1, tables.fresh(new))
    assert (healed.outcome, healed.garbage) == ("healed", ())
    assert tables.quarantined() == []
    assert len(tables.contents()) == (new == "small")


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_heals_second_keeps_the_copy_of_the_first(tables, kind):
    tables.mark_rotten(tables.store(1, tables.fresh(kind)).row)
    first = tables.store(1, tables.fresh(kind))
    fresh = tables.fresh(kind)
    second = tables.store(1, fresh)
    assert (first.outcome, second.outcome) == ("healed", "existed")
    assert second.garbage == garbage_of(fresh)
    assert second.row.copy == first.row.copy


def test_a_copy_that_rots_again_is_a_second_entry_of_the_quarantine(tables):
    copies = []
    for kind in ("small", "file", "small"):
        row = tables.store(1, tables.fresh(kind)).row
        copies.append((row.file, row.content))
        tables.mark_rotten(row, f"bad {kind}")
    entries = tables.quarantined()
    assert [(entry.file, entry.content) for entry in entries] == copies
    assert [entry.reason for entry in entries] == ["bad small", "bad file", "bad small"]
    assert [entry.is_copy_of(tables.row(1)) for entry in entries] == [False, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_deleted_meanwhile_is_new_again(tables, kind):
    tables.store(1, tables.fresh(kind))
    tables.remove(blake3_of(1))
    stored = tables.store(1, tables.fresh(kind))
    assert (stored.outcome, stored.garbage) == ("created", ())
    assert tables.totals() == (1, 10)


def test_a_number_of_bytes_in_the_catalog_is_never_used_twice(tables):
    numbers = []
    for _ in range(4):
        numbers.append(tables.store(1, tables.fresh("small")).row.content)
        numbers.append(tables.store(1, tables.fresh("small"), is_trusted=False).row.content)
        tables.remove(blake3_of(1))
    assert len(set(numbers)) == 8


def test_generations_only_grow(tables):
    generations = []
    for _ in range(3):
        for kind in KINDS:
            generations.append(tables.store(1, tables.fresh(kind)).row.generation)
            generations.append(tables.store(1, tables.fresh(kind)).row.generation)
            generations.append(tables.renew(1).generation)
        tables.remove(blake3_of(1))
    assert generations == sorted(set(generations))


def test_totals_are_those_of_all_objects(tables):
    for number in range(5):
        tables.store(number, tables.fresh(KINDS[number % 2]), size=number * 1000)
    tables.store(3, tables.fresh("small"), size=3000)
    tables.store(4, tables.fresh("small"), size=4000, is_trusted=False)
    assert tables.totals() == (5, 10_000)
    tables.mark_rotten(tables.row(2))
    assert tables.totals() == (5, 10_000)
    tables.remove(blake3_of(4))
    assert tables.totals() == (4, 6000)


# Renewing.


@pytest.mark.parametrize("kind", KINDS)
def test_renewing_gives_another_generation_and_keeps_the_rest(tables, clock, kind):
    old = tables.store(1, tables.fresh(kind)).row
    clock.pass_s(5)
    renewed = tables.renew(1)
    assert renewed == tables.row(1)
    assert renewed.generation > old.generation
    assert renewed.stored_at_ms == clock.now_ms
    assert replace(renewed, generation=old.generation, stored_at_ms=old.stored_at_ms) == old


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_renewed_that_is_gone_rotten_or_not_trusted(tables, kind):
    for number in (1, 2, 3):
        tables.store(number, tables.fresh(kind))
    tables.remove(blake3_of(1))
    tables.mark_rotten(tables.row(2))
    before = [tables.row(number) for number in (1, 2, 3)]
    assert tables.renew(1) is None
    assert tables.renew(2) is None
    assert tables.renew(3, is_trusted=False) is None
    assert [tables.row(number) for number in (1, 2, 3)] == before


# Removing.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [blake3_of(1), sha256_of(1)])
def test_removing_takes_everything_of_one_object(tables, name, kind):
    fresh = tables.fresh(kind)
    tables.store(1, fresh, size=BLOCK_SIZE + 1, blocks=bytes(2 * DIGEST_SIZE))
    kept = tables.store(2, tables.fresh(kind)).row
    assert tables.remove(name).garbage == garbage_of(fresh)
    assert tables.row(1) is None
    assert tables.row(2) == kept
    assert tables.all("SELECT * FROM blocks") == []
    assert len(tables.contents()) == (kind == "small")
    assert tables.totals() == (1, 10)
    assert tables.remove(name) is None
    assert tables.totals() == (1, 10)


@pytest.mark.parametrize("state", ["good", "rotten", "missing"])
@pytest.mark.parametrize("kind", KINDS)
def test_removing_takes_the_bad_copies_too(tables, kind, state):
    copies = [tables.fresh(kind) for _ in range(3)]
    for fresh in copies[:2]:
        tables.mark_rotten(tables.store(1, fresh).row)
    row = tables.store(1, copies[2]).row
    if state == "missing" and kind == "small":
        tables.connection.execute("DELETE FROM contents WHERE id = ?", (row.content,))
    if state != "good":
        tables.mark_rotten(row, MISSING if state == "missing" else "differs")
    other = tables.store(2, tables.fresh("small")).row
    tables.mark_rotten(other)
    removed = tables.remove(blake3_of(1))
    assert sorted(removed.garbage) == sorted(name for fresh in copies for name in garbage_of(fresh))
    assert [entry.blake3 for entry in tables.quarantined()] == [other.blake3]
    assert set(tables.contents()) == {other.content}


def test_removing_under_a_condition_that_fails_changes_nothing(tables):
    old = tables.store(1, tables.fresh("small")).row
    row = tables.renew(1)
    with pytest.raises(ConflictError) as caught:
        tables.remove(blake3_of(1), old.generation)
    assert caught.value.details == {"generation": row.generation}
    assert tables.row(1) == row
    assert tables.totals() == (1, 10)
    assert tables.remove(sha256_of(1), row.generation) is not None


def test_a_condition_on_an_object_that_is_not_there_is_no_conflict(tables):
    assert tables.remove(blake3_of(1), 7) is None


# Marking.


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_mark_gives_the_time_and_the_stamp(tables, clock, kind):
    row = tables.store(1, tables.fresh(kind)).row
    clock.pass_s(5)
    tables.mark_good(row, "another")
    found = tables.row(1)
    assert (found.verified_at_ms, found.stamp, found.is_rotten) == (clock.now_ms, "another", 0)
    assert (found.generation, found.stored_at_ms) == (row.generation, row.stored_at_ms)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_mark_is_made_once_and_keeps_the_rest(tables, clock, kind):
    row = tables.store(1, tables.fresh(kind)).row
    clock.pass_s(5)
    assert tables.mark_rotten(row, "first")
    assert not tables.mark_rotten(row, "second")
    found = tables.row(1)
    assert found.is_rotten
    assert (found.generation, found.verified_at_ms) == (row.generation, row.verified_at_ms)
    (entry,) = tables.quarantined()
    assert (entry.file, entry.content, entry.size) == (row.file, row.content, row.size)
    assert (entry.reason, entry.found_at_ms) == ("first", clock.now_ms)
    assert (entry.digest, entry.is_copy_of(found)) == (blake3_of(1), True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_holds_for_the_copy_that_was_read_only(tables, kind):
    old = tables.store(1, tables.fresh(kind)).row
    new = tables.store(1, tables.fresh(kind), is_trusted=False).row
    assert not tables.mark_rotten(old)
    tables.mark_good(old, "another")
    assert tables.row(1) == new
    assert tables.quarantined() == []
    tables.remove(blake3_of(1))
    assert not tables.mark_rotten(new)
    tables.mark_good(new)
    assert tables.row(1) is None
    assert tables.quarantined() == []


@pytest.mark.parametrize("reason", ["differs", MISSING])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_is_right_after_all_leaves_the_quarantine(tables, kind, reason):
    row = tables.store(1, tables.fresh(kind)).row
    tables.mark_rotten(row, reason)
    tables.mark_good(tables.row(1))
    assert not tables.row(1).is_rotten
    assert tables.quarantined() == []
    assert tables.renew(1) is not None
    assert tables.mark_rotten(row, reason)
    assert len(tables.quarantined()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_marked_bad_since_it_was_looked_up_leaves_the_quarantine_too(tables, kind):
    # Else a purge of the entry would take the only copy of a good object.
    row = tables.store(1, tables.fresh(kind)).row
    tables.mark_rotten(row)
    tables.mark_good(row)
    assert tables.quarantined() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_copy_that_was_replaced_meanwhile_stays_in_quarantine(tables, kind):
    # Nothing else names it, so that nobody would ever remove it.
    tables.mark_rotten(tables.store(1, tables.fresh(kind)).row)
    old = tables.row(1)
    new = tables.store(1, tables.fresh(kind)).row
    tables.mark_good(old)
    assert tables.row(1) == new
    (entry,) = tables.quarantined()
    assert (entry.file, entry.content) == (old.file, old.content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_mark_leaves_the_other_bad_copies_alone(tables, kind):
    bad = tables.store(1, tables.fresh(kind)).row
    tables.mark_rotten(bad)
    tables.store(1, tables.fresh(kind))
    tables.mark_rotten(tables.row(1))
    tables.mark_good(tables.row(1))
    assert [(e.file, e.content) for e in tables.quarantined()] == [(bad.file, bad.content)]


# Purging.


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", KINDS)
def test_purging_a_copy_that_was_replaced_takes_that_copy_alone(tables, old, new):
    bad = tables.fresh(old)
    tables.mark_rotten(tables.store(1, bad).row)
    good = tables.store(1, tables.fresh(new)).row
    (entry,) = tables.quarantined()
    assert tables.purge(entry.number).garbage == garbage_of(bad)
    assert tables.row(1) == good
    assert tables.quarantined() == []
    assert len(tables.contents()) == (new == "small")


@pytest.mark.parametrize("kind", KINDS)
def test_purging_one_of_several_leaves_the_others(tables, kind):
    for _ in range(3):
        tables.mark_rotten(tables.store(1, tables.fresh(kind)).row)
    first, second, third = tables.quarantined()
    tables.purge(second.number)
    assert tables.quarantined() == [first, third]
    assert tables.row(1).is_rotten


@pytest.mark.parametrize("reason", ["differs", MISSING])
@pytest.mark.parametrize("kind", KINDS)
def test_purging_the_only_copy_takes_the_object(tables, kind, reason):
    fresh = tables.fresh(kind)
    tables.mark_rotten(tables.store(1, fresh).row, reason)
    (entry,) = tables.quarantined()
    assert tables.purge(entry.number).garbage == garbage_of(fresh)
    assert tables.row(1) is None
    assert tables.quarantined() == []
    assert tables.contents() == {}
    assert tables.totals() == (0, 0)


def test_a_number_is_purged_once_and_never_given_again(tables):
    tables.mark_rotten(tables.store(1, tables.fresh("small")).row)
    (entry,) = tables.quarantined()
    assert tables.purge(entry.number) is not None
    assert tables.purge(entry.number) is None
    tables.mark_rotten(tables.store(1, tables.fresh("small")).row)
    (other,) = tables.quarantined()
    assert other.number > entry.number
    assert tables.purge(entry.number) is None
