"""The vectors against the codec and the half-machines (`SPEC.md` 2 to 5)."""

import hashlib
import re

import blake3
import pytest

from dataplane_protocol import (
    Connection,
    ConnectionClosed,
    Failure,
    FrameDecoder,
    RemoteProtocolError,
    Side,
    State,
    data_head,
    encode_frame,
    message_from_wire,
)


def read(data, *, step):
    """Give the control maps and the payload of `data`, received in pieces of `step` bytes."""
    decoder = FrameDecoder()
    maps, payload = [], b""
    for start in range(0, len(data), step):
        decoder.receive(data[start : start + step])
        while (event := decoder.next()) is not None:
            if isinstance(event, memoryview):
                payload += event
            else:
                message_from_wire(event)
                maps.append(event)
    return maps, payload, decoder.is_between_frames


@pytest.mark.parametrize("step", [1 << 30, 65_537, 4096])
def test_a_frame_to_accept_is_read(accepted, step):
    maps, payload, is_whole = read(accepted.frame, step=step)
    assert maps == ([] if accepted.control is None else [accepted.control])
    assert payload == (accepted.data or b"")
    assert is_whole


def test_a_frame_to_accept_is_read_byte_by_byte(accepted):
    # Payloads of a megabyte need not be cut that finely.
    start = accepted.frame[:2000]
    assert read(start, step=1) == read(start, step=1 << 30)


def test_a_frame_to_accept_is_written_byte_for_byte(accepted):
    if accepted.data is None:
        assert encode_frame(accepted.control).hex() == accepted.frame.hex()
    else:
        assert data_head(len(accepted.data)) + accepted.data == accepted.frame


@pytest.mark.parametrize("step", [1 << 30, 1])
def test_a_frame_to_refuse_is_refused(refused, step):
    with pytest.raises(RemoteProtocolError):
        read(refused.frame, step=step)


def test_a_frame_that_may_be_either_is_read_or_refused(either):
    try:
        maps, payload, is_whole = read(either.frame, step=1 << 30)
    except RemoteProtocolError:
        return
    assert (len(maps), payload, is_whole) == (1, b"", True)


def test_names_are_unique(frames, cases):
    names = [vector.name for group in frames.values() for vector in group]
    assert len(set(names)) == len(names)
    assert len({case.name for case in cases}) == len(cases)


def test_every_section_cited_exists(frames, cases, protocol_folder):
    spec = (protocol_folder / "SPEC.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#+ ([0-9.]+[0-9])\.? ", spec, re.MULTILINE))
    cited = {vector.section for group in frames.values() for vector in group}
    cited |= {case.section for case in cases}
    assert cited - sections - {str(number) for number in range(1, 14)} == set()


def test_objects_have_the_digests_that_are_stated(objects):
    for name, data, stated in objects:
        assert stated["size_bytes"] == len(data), name
        assert stated["blake3"] == f"blake3:{blake3.blake3(data).hexdigest()}", name
        assert stated["sha256"] == f"sha256:{hashlib.sha256(data).hexdigest()}", name


def deliver(frame, message, sender, receiver):
    """Send a control frame, and see that the receiver reads what was sent."""
    assert sender.send(message) == encode_frame(message.to_wire())
    receiver.receive(frame)
    assert receiver.next_event() == message
    assert receiver.next_event() is None


def deliver_body(data, sender, receiver, *, most):
    for start in range(0, len(data), most):
        piece = data[start : start + most]
        receiver.receive(sender.send_data(len(piece)) + piece)
        received = b""
        while (event := receiver.next_event()) is not None:
            received += event
        assert received == piece


def deliver_raw(data, server):
    """Give the violation that the server finds in bytes that no client should send."""
    server.receive(data)
    try:
        while server.next_event() is not None:
            pass
    except RemoteProtocolError as exc:
        return exc
    return None


def test_a_conversation_is_followed_by_both_sides(case):
    for steps in case.connections:
        client, server = Connection(Side.CLIENT), Connection(Side.SERVER)
        violation = None
        for step in steps:
            if step.kind == "client":
                deliver(encode_frame(step.control), message_from_wire(step.control), client, server)
            elif step.kind == "client_data":
                deliver_body(step.data, client, server, most=1 << 20)
            elif step.kind == "client_raw":
                violation = deliver_raw(step.data, server)
            elif step.kind == "server":
                answer = message_from_wire(step.pattern.example)
                broken_off = isinstance(answer, Failure) and answer.code == "protocol"
                assert broken_off == (violation is not None)
                deliver(encode_frame(step.pattern.example), answer, server, client)
            elif step.kind == "server_data":
                deliver_body(step.data, server, client, most=100_000)
            elif step.kind == "server_close":
                assert client.our_state is State.CLOSED
                client.receive_eof()
                assert client.next_event() == ConnectionClosed(is_clean=False)
            else:
                is_clean = client.is_reusable
                server.receive_eof()
                assert server.next_event() == ConnectionClosed(is_clean=is_clean)
        if not steps[-1].kind.endswith("_close"):
            assert client.is_reusable
            assert server.is_reusable
