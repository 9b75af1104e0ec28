import pytest

from dataplane_protocol import (
    BodyKind,
    BodyMismatchError,
    DataPlaneError,
    Digest,
    End,
    Failure,
    Hello,
    LocalProtocolError,
    NoSpaceError,
    Ok,
    RemoteProtocolError,
    Request,
    UnavailableError,
    message_from_wire,
)

DIGEST = Digest("blake3", "0f" * 32)

MESSAGES = [
    (Hello(), {"hello": {"version": 1, "features": []}}),
    (
        Hello(version=2, features=("a", "b"), agent="x/1"),
        {"hello": {"version": 2, "features": ["a", "b"], "agent": "x/1"}},
    ),
    (Request(op="a"), {"op": "a", "args": {}}),
    (
        Request(op="a", args={"b": [1]}, body=BodyKind.STREAM, accept_fd=True, trace="t"),
        {"op": "a", "args": {"b": [1]}, "body": "stream", "accept_fd": True, "trace": "t"},
    ),
    (Ok(), {"ok": {}}),
    (Ok(result={"a": 1}, body=BodyKind.STREAM), {"ok": {"a": 1}, "body": "stream"}),
    (Failure(code="internal"), {"error": {"code": "internal", "message": ""}}),
    (
        Failure(code="a", message="b", retry=True, details={"c": 1}),
        {"error": {"code": "a", "message": "b", "retry": True, "details": {"c": 1}}},
    ),
    (End(size_bytes=0), {"end": {"size_bytes": 0}}),
    (
        End(size_bytes=2**53 - 1, digest=DIGEST),
        {"end": {"size_bytes": 2**53 - 1, "digest": str(DIGEST)}},
    ),
]


@pytest.mark.parametrize(("message", "wire"), MESSAGES)
def test_a_message_has_one_spelling(message, wire):
    assert message.to_wire() == wire
    assert message_from_wire(wire) == message


@pytest.mark.parametrize(("message", "wire"), MESSAGES)
def test_unknown_keys_are_ignored_everywhere(message, wire):
    extended = {
        key: {**value, "later": None} if key in ("hello", "error", "end") else value
        for key, value in wire.items()
    }
    assert message_from_wire({**extended, "later": [1]}) == message


def test_explicit_defaults_read_as_the_defaults():
    assert message_from_wire({"op": "a", "args": {}, "accept_fd": False}) == Request(op="a")
    assert message_from_wire(
        {"error": {"code": "a", "message": "", "retry": False, "details": {}}}
    ) == Failure(code="a")


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"ping": {}},
        {"ok": {}, "end": {"size_bytes": 0}},
        {"hello": {}, "op": "a", "ok": {}, "error": {}, "end": {}},
    ],
)
def test_a_frame_has_exactly_one_kind(wire):
    with pytest.raises(RemoteProtocolError, match="of the keys hello, op, ok, error, end"):
        message_from_wire(wire)


@pytest.mark.parametrize(
    "wire",
    [
        {"hello": None},
        {"hello": []},
        {"hello": {"features": []}},
        {"hello": {"version": 1}},
        {"hello": {"version": "1", "features": []}},
        {"hello": {"version": True, "features": []}},
        {"hello": {"version": -1, "features": []}},
        {"hello": {"version": 1, "features": "a"}},
        {"hello": {"version": 1, "features": [1]}},
        {"hello": {"version": 1, "features": [], "agent": None}},
        {"op": 1, "args": {}},
        {"op": "a"},
        {"op": "a", "args": None},
        {"op": "a", "args": []},
        {"op": "a", "args": {}, "body": 1},
        {"op": "a", "args": {}, "body": "file"},
        {"op": "a", "args": {}, "body": ""},
        {"op": "a", "args": {}, "accept_fd": 1},
        {"op": "a", "args": {}, "trace": 1},
        {"ok": None},
        {"ok": []},
        {"ok": {}, "body": "file"},
        {"ok": {}, "body": None},
        {"error": "a"},
        {"error": {"message": ""}},
        {"error": {"code": "a"}},
        {"error": {"code": 1, "message": ""}},
        {"error": {"code": "a", "message": 1}},
        {"error": {"code": "a", "message": "", "retry": 1}},
        {"error": {"code": "a", "message": "", "details": []}},
        {"end": 0},
        {"end": {}},
        {"end": {"size_bytes": -1}},
        {"end": {"size_bytes": 2**53}},
        {"end": {"size_bytes": 1.0}},
        {"end": {"size_bytes": True}},
        {"end": {"size_bytes": 0, "digest": 1}},
        {"end": {"size_bytes": 0, "digest": "blake3:00"}},
        {"end": {"size_bytes": 0, "digest": "nonsense"}},
    ],
    ids=str,
)
def test_a_known_key_of_the_wrong_type_is_a_violation(wire):
    with pytest.raises(RemoteProtocolError):
        message_from_wire(wire)


def test_arguments_and_results_are_not_looked_at():
    strange = {"content_address": 1, "later": {"a": None}}
    assert message_from_wire({"op": "a", "args": strange}).args == strange
    assert message_from_wire({"ok": strange}).result == strange


@pytest.mark.parametrize("code", ["no_space", "protocol", "no_such_code"])
def test_a_failure_and_an_error_stand_for_each_other(code):
    failure = Failure(code=code, message="why", retry=True, details={"a": 1})
    assert Failure.from_error(failure.to_error()) == failure


def test_an_error_carries_its_defaults():
    assert Failure.from_error(UnavailableError("down")) == Failure(
        code="unavailable", message="down", retry=True
    )
    assert isinstance(Failure(code="no_space").to_error(), NoSpaceError)
    assert isinstance(Failure(code="protocol").to_error(), LocalProtocolError)
    assert type(Failure(code="no_such_code").to_error()) is DataPlaneError


def test_the_size_of_a_body_is_compared():
    End(size_bytes=3).check_size(3)
    with pytest.raises(BodyMismatchError, match="body has 2 bytes, its end states 3") as caught:
        End(size_bytes=3).check_size(2)
    assert caught.value.details == {"size_bytes": 2}
