"""Changes made together, held against the same changes made one by one."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings, strategies as st

from dataplane_protocol import BLAKE3, ConflictError, Digest, NoSpaceError
from dataplaned.backends.filesystem import changes, schema
from dataplaned.backends.filesystem.changes import NewFile
from dataplaned.backends.filesystem.hot import HotObject, HotObjects
from dataplaned.backends.filesystem.small import LeavesFilesError, RemoveSmall, StoreSmall
from dataplaned.backends.filesystem.writer import Writer
from dataplaned.digests import Digester

CONTENTS = [bytes([number]) * (number + 1) for number in range(12)] + [b"x" * 200_000]


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


DIGESTS = [digests_of(content) for content in CONTENTS]


def no_limit(_):
    pass


def storing(number, require_room=no_limit):
    return StoreSmall(DIGESTS[number], CONTENTS[number], lambda _: True, require_room, True)


def removing(number, if_generation=None):
    return RemoveSmall(DIGESTS[number].named(BLAKE3), if_generation)


def dump(connection):
    """Everything in a catalog but the times."""
    tables = {
        "objects": "blake3, sha256, size, file, content, generation, stamp, is_rotten",
        "contents": "*",
        "blocks": "*",
        "quarantine": "blake3, size, file, content, reason",
        "store": "generation, objects, bytes",
    }
    return {
        name: sorted(connection.execute(f"SELECT {columns} FROM {name}"))
        for name, columns in tables.items()
    }


def catalog(path=":memory:"):
    connection = sqlite3.connect(path, isolation_level=None)
    schema.prepare(connection, path)
    return connection


def one_by_one(connection, some):
    outcomes = []
    for change in some:
        try:
            outcome = change(connection)
        except (LeavesFilesError, ConflictError) as exc:
            outcome = type(exc)
        outcomes.append(outcome)
    return outcomes


def told(outcome):
    """What matters of an outcome."""
    row = getattr(outcome, "row", None)
    return outcome if row is None else (row.blake3, row.generation, row.content, outcome.outcome)


numbers = st.integers(0, len(CONTENTS) - 1)


@given(
    st.lists(numbers, max_size=6),
    st.lists(numbers, min_size=1, max_size=12),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=200)
def test_together_is_as_one_by_one_or_not_at_all(before, some, stores, has_quarantine):
    make = storing if stores else removing
    with closing(catalog()) as together, closing(catalog()) as apart:
        for connection in (together, apart):
            for number in before:
                storing(number)(connection)
            if has_quarantine and before:
                row = changes._find(connection, DIGESTS[before[0]].blake3)
                changes.mark_rotten(connection, row, "differs")
        unchanged = dump(together)
        kind = StoreSmall if stores else RemoveSmall
        results = kind.together(together, [make(number) for number in some])
        if results is None:
            assert dump(together) == unchanged
            return
        expected = one_by_one(apart, [make(number) for number in some])
        assert list(map(told, results)) == list(map(told, expected))
        assert dump(together) == dump(apart)


def test_new_objects_are_stored_together_and_removed_together():
    with closing(catalog()) as connection:
        some = list(range(len(CONTENTS)))
        stored = StoreSmall.together(connection, [storing(number) for number in some])
        assert [each.row.generation for each in stored] == [number + 1 for number in some]
        assert RemoveSmall.together(connection, [removing(number) for number in some]) == [
            True
        ] * len(some)
        assert dump(connection)["store"] == [(len(some), 0, 0)]
        assert dump(connection)["blocks"] == []


@pytest.mark.parametrize("count", [1, 2, 3, 31, 32, 33, 70])
def test_any_number_fits(count):
    contents = [b"%d" % number for number in range(count)]
    some = [StoreSmall(digests_of(each), each, lambda _: True, no_limit) for each in contents]
    with closing(catalog()) as connection:
        assert len(StoreSmall.together(connection, some)) == count
        assert len(dump(connection)["objects"]) == count


@pytest.mark.parametrize(
    "some",
    [
        [removing(0), removing(0)],
        [removing(0), removing(1, if_generation=1)],
        [removing(0), RemoveSmall(Digest("sha256", DIGESTS[1].sha256.hex()), None)],
    ],
    ids=["twice", "generation", "sha256"],
)
def test_removals_that_are_not_plain_are_left_to_be_made_one_by_one(some):
    with closing(catalog()) as connection:
        StoreSmall.together(connection, [storing(0), storing(1)])
        assert RemoveSmall.together(connection, some) is None


def test_an_object_with_a_file_is_not_removed_here():
    with closing(catalog()) as connection:
        fresh = NewFile(name="file", stamp="stamp")
        changes.store(connection, DIGESTS[0], fresh, lambda _: True)
        unchanged = dump(connection)
        assert RemoveSmall.together(connection, [removing(0), removing(1)]) is None
        assert dump(connection) == unchanged
        with pytest.raises(LeavesFilesError):
            removing(0)(connection)  # whoever commits takes it back
        changes.store(connection, DIGESTS[0], fresh, lambda _: True)
        with pytest.raises(LeavesFilesError):
            StoreSmall(DIGESTS[0], CONTENTS[0], lambda _: False, no_limit, True)(connection)


# Through the writer.


class Ledger:
    """A catalog on disk and its writer."""

    def __init__(self, path):
        self.connection = schema.connect(path)
        schema.prepare(self.connection, path)
        self.versions = 0
        self.hot = HotObjects(lambda: b"same")
        self.writer = Writer(self.connection, self.hot)
        self.outcomes = []

    def submit(self, change, keep=None):
        self.writer.submit(
            change, lambda result, error: self.outcomes.append(error or result), keep
        )


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(str(tmp_path / "catalog"))
    yield ledger
    if ledger.writer._thread.is_alive():
        ledger.writer.close()
    ledger.connection.close()


def hold(ledger, threading_event):
    ledger.submit(lambda _: threading_event.wait(10))


def names_of(number):
    digests = DIGESTS[number]
    return [str(digests.named("blake3")), str(digests.named("sha256"))]


@pytest.mark.parametrize(
    ("some", "kept"),
    [
        ([storing(0), storing(1), storing(2)], {0, 1, 2}),
        ([storing(0), removing(0)], set()),
        ([storing(0), storing(1), removing(0), removing(1), storing(1)], {1}),
        ([storing(0), storing(1), storing(0)], {0, 1}),
        ([removing(0), removing(1), storing(0), storing(1)], {0, 1}),
    ],
)
def test_what_a_group_leaves_is_kept_and_nothing_else(ledger, some, kept):
    import threading

    go = threading.Event()
    hold(ledger, go)
    for change in some:
        keep = (lambda stored: HotObject(stored.row)) if isinstance(change, StoreSmall) else None
        ledger.submit(change, keep)
    go.set()
    ledger.writer.close()
    for number in range(3):
        for name in names_of(number):
            assert (ledger.hot.get(name) is not None) == (number in kept)
    for number in kept:
        hot = ledger.hot.get(names_of(number)[0])
        assert hot.row == changes._find(ledger.connection, DIGESTS[number].blake3)


def test_one_that_finds_no_room_does_not_keep_the_others_of_its_group(ledger):
    import threading

    def none(size):
        raise NoSpaceError(f"no room for {size}")

    go = threading.Event()
    hold(ledger, go)
    for change in (storing(0, none), storing(1), storing(2)):
        ledger.submit(change)
    go.set()
    ledger.writer.close()
    refused, *stored = ledger.outcomes[1:]
    assert isinstance(refused, NoSpaceError)
    assert [each.row.blake3 for each in stored] == [DIGESTS[1].blake3, DIGESTS[2].blake3]


def test_a_row_that_another_replaces_is_forgotten(ledger):
    ledger.submit(storing(0), lambda stored: HotObject(stored.row))
    ledger.submit(storing(1), lambda stored: HotObject(stored.row))

    def replace(connection):
        # As rot may have it: the same second name under another first one.
        connection.execute(
            "INSERT OR REPLACE INTO objects SELECT zeroblob(32), sha256, size, file, content, "
            "generation, stored_at_ms, verified_at_ms, stamp, is_rotten FROM objects "
            "WHERE blake3 = ?",
            (DIGESTS[0].blake3,),
        )

    ledger.submit(replace)
    ledger.writer.close()
    assert ledger.hot.get(names_of(0)[0]) is None
    assert ledger.hot.get(names_of(1)[0]) is not None


def test_what_another_connection_changed_is_noticed_by_the_next_transaction(ledger, tmp_path):
    ledger.submit(storing(0), lambda stored: HotObject(stored.row))
    with closing(sqlite3.connect(tmp_path / "catalog", timeout=10)) as other, other:
        other.execute("UPDATE objects SET size = 5")
    ledger.submit(storing(1))
    ledger.writer.close()
    assert ledger.hot.get(names_of(0)[0]) is None
