"""Every pair of states and every step: what is allowed leads where, the rest is refused."""

import itertools

import pytest

from dataplane_protocol import (
    TRANSITIONS,
    BodyKind,
    End,
    Failure,
    Halves,
    Hello,
    Ok,
    OrderError,
    Request,
    Side,
    State,
    Step,
)
from dataplane_protocol._halves import step_of

C, S = Side.CLIENT, Side.SERVER
HELLO, READY, BODY, FD, DONE, CLOSED = State

#: For each pair of states (client, server) that a connection can be in: the steps that are
#: allowed, and the pair that each leads to. Written down by hand from `SPEC.md` 5.
ALLOWED = {
    (HELLO, HELLO): {
        (C, Step.HELLO): (READY, HELLO),
        (S, Step.ERROR): (CLOSED, CLOSED),
    },
    (READY, HELLO): {
        (S, Step.HELLO): (READY, READY),
        (S, Step.ERROR): (CLOSED, CLOSED),
    },
    (READY, READY): {
        (C, Step.REQUEST): (DONE, READY),
        (C, Step.REQUEST_WITH_BODY): (BODY, READY),
        (C, Step.REQUEST_WITH_FD): (FD, READY),
    },
    (DONE, READY): {
        (S, Step.OK): (READY, READY),
        (S, Step.OK_WITH_BODY): (DONE, BODY),
        (S, Step.OK_WITH_FD): (DONE, FD),
        (S, Step.ERROR): (READY, READY),
    },
    (BODY, READY): {
        (C, Step.DATA): (BODY, READY),
        (C, Step.END): (DONE, READY),
        (C, Step.ERROR): (DONE, READY),
        (S, Step.ERROR): (BODY, DONE),
    },
    (DONE, BODY): {
        (S, Step.DATA): (DONE, BODY),
        (S, Step.END): (READY, READY),
        (S, Step.ERROR): (READY, READY),
    },
    (BODY, DONE): {
        (C, Step.DATA): (BODY, DONE),
        (C, Step.END): (READY, READY),
        (C, Step.ERROR): (READY, READY),
    },
    (FD, READY): {
        (C, Step.END): (DONE, READY),
        (C, Step.ERROR): (DONE, READY),
        (S, Step.ERROR): (FD, DONE),
    },
    (DONE, FD): {
        (S, Step.END): (READY, READY),
        (S, Step.ERROR): (READY, READY),
    },
    (FD, DONE): {
        (C, Step.END): (READY, READY),
        (C, Step.ERROR): (READY, READY),
    },
    (CLOSED, CLOSED): {},
}

#: Steps that lead from the start to each pair.
PATHS = {
    (HELLO, HELLO): [],
    (READY, HELLO): [(C, Step.HELLO)],
    (READY, READY): [(C, Step.HELLO), (S, Step.HELLO)],
    (DONE, READY): [(C, Step.HELLO), (S, Step.HELLO), (C, Step.REQUEST)],
    (BODY, READY): [(C, Step.HELLO), (S, Step.HELLO), (C, Step.REQUEST_WITH_BODY)],
    (DONE, BODY): [(C, Step.HELLO), (S, Step.HELLO), (C, Step.REQUEST), (S, Step.OK_WITH_BODY)],
    (BODY, DONE): [
        (C, Step.HELLO),
        (S, Step.HELLO),
        (C, Step.REQUEST_WITH_BODY),
        (S, Step.ERROR),
    ],
    (FD, READY): [(C, Step.HELLO), (S, Step.HELLO), (C, Step.REQUEST_WITH_FD)],
    (DONE, FD): [(C, Step.HELLO), (S, Step.HELLO), (C, Step.REQUEST), (S, Step.OK_WITH_FD)],
    (FD, DONE): [(C, Step.HELLO), (S, Step.HELLO), (C, Step.REQUEST_WITH_FD), (S, Step.ERROR)],
    (CLOSED, CLOSED): [(S, Step.ERROR)],
}

STEPS = list(itertools.product(Side, Step))


def states(halves):
    return halves[C], halves[S]


def halves_in(pair):
    halves = Halves()
    for side, step in PATHS[pair]:
        halves.advance(side, step)
    assert states(halves) == pair
    return halves


@pytest.mark.parametrize("pair", ALLOWED, ids=lambda pair: "-".join(s.value for s in pair))
@pytest.mark.parametrize(("side", "step"), STEPS, ids=lambda word: word.value)
def test_a_step_leads_where_the_rules_say_or_is_refused(pair, side, step):
    halves = halves_in(pair)
    following = ALLOWED[pair].get((side, step))
    if following is None:
        with pytest.raises(OrderError, match=f"{side.value} may not send {step.value}"):
            halves.advance(side, step)
        assert states(halves) == pair
    else:
        halves.advance(side, step)
        assert states(halves) == following


def test_no_other_pair_of_states_can_be_reached():
    assert {pair for steps in ALLOWED.values() for pair in steps.values()} <= set(ALLOWED)
    assert set(PATHS) == set(ALLOWED)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("pair", ALLOWED, ids=lambda pair: "-".join(s.value for s in pair))
def test_breaking_off_closes_both_halves_from_everywhere_but_closed(pair, side):
    halves = halves_in(pair)
    if pair == (CLOSED, CLOSED):
        with pytest.raises(OrderError):
            halves.advance(side, Step.ERROR, breaks_off=True)
    else:
        halves.advance(side, Step.ERROR, breaks_off=True)
    assert states(halves) == (CLOSED, CLOSED)


@pytest.mark.parametrize("pair", ALLOWED, ids=lambda pair: "-".join(s.value for s in pair))
def test_halves_know_whether_they_are_ready_or_fresh(pair):
    halves = halves_in(pair)
    assert halves.are_ready == (pair == (READY, READY))
    assert halves.are_fresh == (pair == (HELLO, HELLO))


def test_every_transition_of_the_table_is_taken_somewhere():
    taken = {
        (side, pair[side is S], step) for pair, steps in ALLOWED.items() for side, step in steps
    }
    assert taken == {
        (side, state, step)
        for side, table in TRANSITIONS.items()
        for state, steps in table.items()
        for step in steps
    }


def test_the_table_covers_every_state():
    for table in TRANSITIONS.values():
        assert set(table) == set(State)


def test_each_side_has_the_other():
    assert C.other is S
    assert S.other is C


@pytest.mark.parametrize(
    ("message", "step"),
    [
        (Hello(), Step.HELLO),
        (Request(op="a"), Step.REQUEST),
        (Request(op="a", body=BodyKind.STREAM), Step.REQUEST_WITH_BODY),
        (Request(op="a", body=BodyKind.FD), Step.REQUEST_WITH_FD),
        (Ok(), Step.OK),
        (Ok(body=BodyKind.STREAM), Step.OK_WITH_BODY),
        (Ok(body=BodyKind.FD), Step.OK_WITH_FD),
        (End(size_bytes=0), Step.END),
        (Failure(code="internal"), Step.ERROR),
    ],
)
def test_a_message_is_a_step(message, step):
    assert step_of(message) is step
