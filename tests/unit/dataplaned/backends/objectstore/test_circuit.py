import pytest

from dataplane_protocol import BackendState
from dataplaned.backends.objectstore.circuit import Circuit


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def circuit(clock):
    return Circuit(clock)


def fail(circuit, times):
    for _ in range(times):
        circuit.note_failure("no connection")


def test_it_starts_well(circuit):
    assert circuit.state == BackendState.OK
    assert circuit.lets_through()


def test_a_failure_is_remembered_for_a_minute(circuit, clock):
    fail(circuit, 1)
    assert circuit.lets_through()
    circuit.note_success()
    assert circuit.state == BackendState.DEGRADED
    assert circuit.reason == "no connection"
    clock.now += 60
    assert circuit.state == BackendState.OK


def test_after_five_in_a_row_nobody_is_let_through(circuit):
    fail(circuit, 4)
    assert circuit.lets_through()
    fail(circuit, 1)
    assert circuit.state == BackendState.DOWN
    assert not circuit.lets_through()


def test_four_with_a_success_between_do_no_harm(circuit):
    for _ in range(10):
        fail(circuit, 4)
        circuit.note_success()
    assert circuit.state == BackendState.DEGRADED
    assert circuit.lets_through()


def test_after_a_pause_one_finds_out(circuit, clock):
    fail(circuit, 5)
    clock.now += 1
    assert circuit.lets_through()
    assert not circuit.lets_through()
    circuit.note_success()
    assert circuit.lets_through()
    assert circuit.lets_through()


def test_pauses_grow_up_to_half_a_minute(circuit, clock):
    fail(circuit, 5)
    pauses = []
    for _ in range(8):
        start = clock.now
        while not circuit.lets_through():
            clock.now += 0.5
        pauses.append(clock.now - start)
        fail(circuit, 1)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    circuit.note_success()
    fail(circuit, 5)
    clock.now += 1
    assert circuit.lets_through()


def test_whoever_finds_out_and_does_not_come_back_keeps_nobody_out_for_ever(circuit, clock):
    fail(circuit, 5)
    clock.now += 1
    assert circuit.lets_through()
    clock.now += 1
    assert circuit.lets_through()
