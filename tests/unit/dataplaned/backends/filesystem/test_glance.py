import threading

import pytest

from dataplaned.backends.filesystem import glance as glance_module
from dataplaned.backends.filesystem.glance import Glance


class Slow:
    """A function that takes as long as a test wants."""

    def __init__(self):
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self):
        self.has_begun.set()
        assert self.may_end.wait(10)
        return "late"


class Clock:
    """The time, as a test sets it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(glance_module.time, "monotonic", clock)
    return clock


@pytest.fixture
def glance(clock, monkeypatch):
    # What takes no time is waited for, however busy the machine is.
    monkeypatch.setattr(glance_module, "_PATIENCE_S", 10)
    glance = Glance()
    yield glance
    glance.close()
    assert not glance._thread.is_alive()


def miss(glance, monkeypatch):
    """Take a glance that is late, and let it end."""
    slow = Slow()
    monkeypatch.setattr(glance_module, "_PATIENCE_S", 0.001)
    assert glance.take(slow) is None
    monkeypatch.setattr(glance_module, "_PATIENCE_S", 10)
    assert slow.has_begun.wait(10)
    return slow


def end(glance, slow):
    slow.may_end.set()
    assert glance._late.is_done.acquire(timeout=10)
    glance._late.is_done.release()


@pytest.mark.parametrize("result", ["found", None])
def test_what_is_there_is_given(glance, result):
    assert glance.take(lambda: result) == (result,)


def test_what_fails_is_nothing_and_does_not_end_it(glance):
    assert glance.take(lambda: 1 / 0) is None
    assert glance.take(lambda: 1) == (1,)


def test_nobody_waits_behind_one_that_is_late(glance, clock, monkeypatch):
    slow = miss(glance, monkeypatch)
    clock.now += 60
    calls = []
    assert glance.take(lambda: calls.append(1)) is None
    end(glance, slow)
    assert calls == []
    assert glance.take(lambda: 2) == (2,)


def test_after_one_that_was_late_there_is_a_pause_that_grows(glance, clock, monkeypatch):
    for pause in (0.002, 0.004, 0.008):
        end(glance, miss(glance, monkeypatch))
        clock.now += 0.9 * pause
        assert glance.take(lambda: 1) is None
        clock.now += 0.2 * pause
    assert glance.take(lambda: 1) == (1,)
    end(glance, miss(glance, monkeypatch))
    clock.now += 0.0021
    assert glance.take(lambda: 1) == (1,)


def test_the_pause_has_a_limit(glance, clock, monkeypatch):
    for _ in range(15):
        end(glance, miss(glance, monkeypatch))
        clock.now += 1.01
    assert glance.take(lambda: 1) == (1,)
