"""The targets find faults that are put in: a fuzzer that cannot fail proves nothing."""

import pytest

from dataplane_protocol import Connection, FrameDecoder, Halves, data_head
from dataplane_protocol._codec import encode_control
from dataplane_protocol._fields import Fields

from . import client_target, control_target, server_target
from .mutants import frame

HELLO = frame(encode_control({"hello": {"version": 1, "features": []}}))
INGEST = frame(encode_control({"op": "ingest_stream", "args": {}, "body": "stream"}))
IN_PIECES = b"\x06\x02\x00"
AT_ONCE = b"\xff\xff\x00"

DATA = data_head(30) + bytes(30)


def test_the_server_target_finds_events_that_depend_on_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = IN_PIECES + HELLO + INGEST + DATA
    server_target.check(stream)
    take = FrameDecoder._take_payload

    def take_whole(decoder: FrameDecoder) -> memoryview | None:
        if len(decoder._input) < decoder._payload_left:
            decoder._payload_left -= len(decoder._input)
            decoder._input = memoryview(b"")
        return take(decoder)

    monkeypatch.setattr(FrameDecoder, "_take_payload", take_whole)
    with pytest.raises(AssertionError):
        server_target.check(stream)


def test_the_server_target_finds_what_is_read_after_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = AT_ONCE + HELLO + frame(encode_control({"ping": {}}))
    server_target.check(stream)
    monkeypatch.setattr(Connection, "next_event", Connection._next_event)
    with pytest.raises(AssertionError):
        server_target.check(stream)


def test_the_server_target_finds_input_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = IN_PIECES + HELLO + INGEST
    server_target.check(stream)
    following = FrameDecoder.next

    def next_and_keep(decoder: FrameDecoder) -> object:
        event = following(decoder)
        if event is None:
            decoder._input = memoryview(b"kept")
        return event

    monkeypatch.setattr(FrameDecoder, "next", next_and_keep)
    with pytest.raises(AssertionError):
        server_target.check(stream)


def test_the_client_target_finds_another_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = frame(encode_control({"error": {"code": 1, "message": "why"}}))
    stream = AT_ONCE + HELLO + answer
    client_target.check(stream)
    monkeypatch.setattr(Fields, "text", lambda fields, key: fields._map[key].strip())
    with pytest.raises(AttributeError):
        client_target.check(stream)


def test_the_client_target_finds_sides_that_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = AT_ONCE + HELLO + frame(encode_control({"error": {"code": "no", "message": ""}}))
    client_target.check(stream)
    advance = Halves.advance
    taken: list[Halves] = []

    def forget_every_sixth(halves: Halves, *args: object, **kwargs: object) -> None:
        taken.append(halves)
        if len(taken) % 6:
            advance(halves, *args, **kwargs)

    monkeypatch.setattr(Halves, "advance", forget_every_sixth)
    with pytest.raises(AssertionError):
        client_target.check(stream)


def test_the_control_target_finds_a_level_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    item = bytes.fromhex("a1626f6ba1616181818181a161788180")
    control_target.check(item)
    monkeypatch.setattr("dataplane_protocol._codec._is_deeper", lambda value, depth: False)
    with pytest.raises(AssertionError):
        control_target.check(item)


def test_the_control_target_finds_a_second_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    item = bytes.fromhex("a1626f6bb800")
    control_target.check(item)
    monkeypatch.setattr("dataplane_protocol._codec.cbor2.dumps", lambda value, canonical: item)
    with pytest.raises(AssertionError, match="accepted what a sender must not send"):
        control_target.check(item)
