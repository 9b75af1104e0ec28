import pytest

from dataplaned.backends.mirror.journal import START, Journal, Pending, Task

pytestmark = pytest.mark.trio

A, B, C = (bytes([number]) * 32 for number in range(3))


@pytest.fixture
async def journal(tmp_path):
    journal = Journal(str(tmp_path / "journal"))
    await journal.open()
    yield journal
    await journal.aclose()


async def rows(journal, side):
    return [row for _, row in await journal.rows(side, START, 100)]


async def test_rows_come_back_after_a_restart(journal, tmp_path):
    add = [Pending(0, A, Task.COPY), Pending(1, A, Task.DELETE), Pending(1, B, Task.COPY)]
    await journal.change(add=add)
    for one in (journal, Journal(str(tmp_path / "journal"))):
        if one is not journal:
            await one.open()
        assert await rows(one, 0) == [Pending(0, A, Task.COPY)]
        assert await rows(one, 1) == [Pending(1, A, Task.DELETE), Pending(1, B, Task.COPY)]
        assert (one.count(0), one.count(1)) == (1, 2)
        assert one.is_deleted(1, A)
        assert not one.is_deleted(0, A)
        assert not one.is_deleted(1, B)
        assert one.since(1).year > 2000
        if one is not journal:
            await one.aclose()


async def test_a_row_takes_the_place_of_the_one_before(journal):
    await journal.change(add=[Pending(0, A, Task.DELETE)])
    await journal.change(add=[Pending(0, A, Task.COPY)])
    assert await rows(journal, 0) == [Pending(0, A, Task.COPY)]
    assert not journal.is_deleted(0, A)
    assert journal.count(0) == 1
    await journal.change(add=[Pending(0, A, Task.COPY)])
    assert journal.count(0) == 1


async def test_only_a_row_of_the_same_task_is_dropped(journal):
    await journal.change(add=[Pending(0, A, Task.DELETE)])
    await journal.change(drop=[Pending(0, A, Task.COPY), Pending(1, A, Task.DELETE)])
    assert journal.is_deleted(0, A)
    assert (journal.count(0), journal.count(1)) == (1, 0)
    await journal.change(drop=[Pending(0, A, Task.DELETE)])
    assert not journal.is_deleted(0, A)
    assert journal.count(0) == 0


async def test_rows_are_given_from_a_place_on(journal):
    await journal.change(add=[Pending(0, name, Task.COPY) for name in (B, A)])
    await journal.change(add=[Pending(0, C, Task.COPY)])
    (place, first), *_ = await journal.rows(0, START, 1)
    rest = [row for _, row in await journal.rows(0, place, 100)]
    assert {row.blake3 for row in (first, *rest)} == {A, B, C}
    assert len(rest) == 2
