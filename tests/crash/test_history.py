"""What is owed after a crash, from what was asked and answered before it."""

import itertools
from collections.abc import Callable

import pytest

from .history import History, Operation


@pytest.fixture
def history() -> History:
    return History(itertools.count().__next__)


def outcomes_at(history: History, point: int) -> set[bool]:
    return history.outcomes("x", {number: number for number in range(100)}, point)


def ingest(history: History) -> Operation:
    return history.begin("x", leaves_it=True)


def delete(history: History) -> Operation:
    return history.begin("x", leaves_it=False)


def done(history: History, ask: Callable[[History], Operation]) -> None:
    history.acknowledge(ask(history))


def test_an_ingest_is_owed_from_its_answer_on(history: History) -> None:
    done(history, ingest)
    assert [outcomes_at(history, point) for point in (0, 1, 2)] == [{False}, {True, False}, {True}]


def test_a_delete_in_flight_may_have_been_done(history: History) -> None:
    done(history, ingest)
    done(history, delete)
    assert [outcomes_at(history, point) for point in (3, 4)] == [{True, False}, {False}]


def test_of_two_at_the_same_time_either_may_be_the_last(history: History) -> None:
    first, second = ingest(history), delete(history)
    history.acknowledge(first)
    history.acknowledge(second)
    assert outcomes_at(history, 4) == {True, False}
    done(history, ingest)
    assert outcomes_at(history, 6) == {True}


def test_what_was_never_answered_is_over_once_something_later_was(history: History) -> None:
    done(history, ingest)
    history.give_up(delete(history))
    assert outcomes_at(history, 4) == {True, False}
    done(history, ingest)
    assert outcomes_at(history, 6) == {True}


def test_a_damaged_copy_may_be_bad_until_its_healing_is_acknowledged(history: History) -> None:
    done(history, ingest)
    damage = history.damage("x")
    damage.heals = ingest(history)
    history.acknowledge(damage.heals)
    positions = {number: number for number in range(5)}
    damaged = [history.is_damaged("x", positions, point) for point in range(6)]
    assert damaged == [False, False, False, True, True, False]
