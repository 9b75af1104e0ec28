from dataclasses import replace

import pytest

from dataplane_protocol import AccessDeniedError, InternalError, UnavailableError
from dataplaned.access import ALL_ROLES, NO_ROLES, Access, Caller, Role
from dataplaned.config import AccessConfig, DaemonConfig, SocketConfig
from dataplaned.roster import BODY_HOLD, Roster, fail

MIB = 1024 * 1024
ALICE = Caller(pid=5, uid=1001, socket="clients", roles=ALL_ROLES)


@pytest.fixture
def ended():
    return []


def roster_of(ended=None, **limits):
    return Roster(DaemonConfig(**limits), () if ended is None else (ended.append,))


def test_each_socket_has_places_of_its_own():
    roster = roster_of(max_connections=2)
    seats = [roster.admit(ALICE) for _ in range(2)]
    with pytest.raises(UnavailableError, match="daemon has 2 connections") as raised:
        roster.admit(ALICE)
    assert raised.value.retry
    roster.admit(replace(ALICE, socket="admin"))
    seats[0].leave()
    roster.admit(ALICE)
    assert len(roster) == 3


def test_a_user_has_so_many_connections():
    roster = roster_of(max_connections_per_user=1)
    seat = roster.admit(ALICE)
    with pytest.raises(UnavailableError, match="user 1001 has 1 connections"):
        roster.admit(replace(ALICE, socket="admin"))
    roster.admit(replace(ALICE, uid=1002))
    seat.leave()
    roster.admit(ALICE)


def test_whoever_may_do_nothing_is_turned_away_and_observed(ended):
    roster = roster_of(ended)
    with pytest.raises(AccessDeniedError, match="user 1001 has no role on this socket"):
        roster.admit(replace(ALICE, roles=NO_ROLES))
    (call,) = ended
    assert (call.op, call.code, call.caller.uid) == ("connect", "denied", 1001)
    assert len(roster) == 0


@pytest.mark.parametrize(
    ("op", "role"),
    [
        ("stat_objects", Role.READ),
        ("ingest_stream", Role.INGEST),
        ("delete_object", Role.DELETE),
        ("dataplaned.back_up", Role.ADMIN),
    ],
)
def test_a_call_needs_its_role(op, role):
    roster = roster_of()
    entitled = roster.admit(replace(ALICE, roles=role))
    entitled.admit(entitled.begin(op))
    others = roster.admit(replace(ALICE, roles=ALL_ROLES ^ role))
    with pytest.raises(AccessDeniedError, match="user 1001 lacks the role"):
        others.admit(others.begin(op))
    assert (entitled.may(role), others.may(role)) == (True, False)


def test_there_are_so_many_calls():
    roster = roster_of(max_calls=1)
    first, second = roster.admit(ALICE), roster.admit(ALICE)
    call = first.begin("stat_objects")
    first.admit(call)
    other = second.begin("stat_objects")
    with pytest.raises(UnavailableError, match="daemon has 1 calls open"):
        second.admit(other)
    second.end(other)
    first.end(call)
    second.admit(second.begin("stat_objects"))


def test_bodies_are_reckoned_with_what_they_may_come_to_hold():
    roster = roster_of(max_bytes_in_flight=16 * MIB)
    seats = [roster.admit(ALICE) for _ in range(6)]
    calls = [seat.begin("ingest_stream") for seat in seats]
    seats[0].hold(1000)
    seats[0].hold(500)
    assert roster.held_bytes == 1000
    seats[0].hold(10**12)
    seats[0].hold(10**13)
    assert roster.held_bytes == BODY_HOLD
    for seat in seats[1:5]:
        seat.hold(512 * 1024)
    with pytest.raises(UnavailableError, match="daemon holds 16777216 bytes of bodies"):
        seats[5].hold(2 * MIB)
    seats[0].end(calls[0])
    seats[5].hold(2 * MIB)
    for seat, call in zip(seats[1:], calls[1:], strict=True):
        seat.end(call)
    assert roster.held_bytes == 0


def test_limits_may_change():
    roster = roster_of(max_connections=1)
    roster.admit(ALICE)
    roster.limits = DaemonConfig(max_connections=2)
    roster.admit(ALICE)


def test_totals_and_observers_see_every_call(ended):
    roster = roster_of(ended)
    seat = roster.admit(ALICE)
    for code in ("ok", "internal"):
        call = seat.begin("ingest_stream", "a trace")
        call.received_bytes = 10
        if code != "ok":
            fail(call, InternalError("broken"))
        assert seat.is_busy
        seat.end(call)
    assert [(each.code, each.reason, each.trace) for each in ended] == [
        ("ok", None, "a trace"),
        ("internal", "broken", "a trace"),
    ]
    assert all(each.duration_s > 0 for each in ended)
    assert (roster.calls_total, roster.errors_total, roster.received_bytes_total) == (2, 1, 20)
    assert (roster.calls_in_flight, seat.is_busy) == (0, False)


def test_a_call_that_begins_anew_in_another_way_is_one(ended):
    roster = roster_of(ended)
    seat = roster.admit(ALICE)
    seat.begin("stat_objects")
    seat.withdraw()
    assert roster.calls_in_flight == 0
    seat.begin("stat_objects")  # and fails without a word
    call = seat.begin("stat_objects")
    assert roster.calls_in_flight == 1
    seat.end(call)
    assert (roster.calls_in_flight, len(ended)) == (0, 1)


def test_everybody_can_be_described():
    roster = roster_of()
    seat = roster.admit(ALICE)
    call = seat.begin("serve_object")
    (status,) = roster.connections()
    assert (status.number, status.uid, status.pid, status.socket) == (1, 1001, 5, "clients")
    assert (status.op, status.calls) == ("serve_object", 0)
    assert status.since <= status.op_since
    call.sent_bytes = 7
    seat.end(call)
    (status,) = roster.connections()
    assert (status.op, status.op_since, status.calls, status.sent_bytes) == (None, None, 1, 7)


def test_rights_may_be_taken_and_given_while_connected():
    roster = roster_of()
    seat = roster.admit(replace(ALICE, gids=frozenset({2001})))
    access = Access(AccessConfig(groups={"2001": ["read"]}), SocketConfig())
    roster.entitle({"clients": access})
    assert (seat.may(Role.READ), seat.may(Role.INGEST)) == (True, False)
    assert seat.caller.roles == Role.READ
