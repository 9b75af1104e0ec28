import pytest

from dataplane_protocol import (
    MAX_CONTROL_SIZE,
    MAX_DATA_SIZE,
    BodyKind,
    Connection,
    ConnectionClosed,
    End,
    Failure,
    Hello,
    LocalProtocolError,
    Ok,
    RemoteProtocolError,
    Request,
    Side,
    State,
    data_head,
    encode_frame,
)

INGEST = Request(op="ingest_stream", body=BodyKind.STREAM)
SERVE = Request(op="serve_object")
BROKEN = Failure(code="protocol", message="why")


@pytest.fixture
def pair():
    """A client and a server that have said hello."""
    client, server = Connection(Side.CLIENT), Connection(Side.SERVER)
    pass_on(Hello(), client, server)
    pass_on(Hello(agent="server"), server, client)
    return client, server


def pass_on(message, sender, receiver):
    receiver.receive(sender.send(message))
    assert receiver.next_event() == message
    assert receiver.next_event() is None


def pass_data(payload, sender, receiver):
    receiver.receive(sender.send_data(len(payload)) + payload)
    assert receiver.next_event() == payload


def states(connection):
    return connection.our_state, connection.their_state


def test_a_new_connection_has_said_nothing():
    connection = Connection(Side.CLIENT)
    assert states(connection) == (State.HELLO, State.HELLO)
    assert not connection.is_reusable
    assert (connection.sent_bytes, connection.received_bytes) == (0, 0)
    assert connection.next_event() is None


def test_after_both_hellos_a_call_may_start(pair):
    for connection in pair:
        assert states(connection) == (State.READY, State.READY)
        assert connection.is_reusable


def test_a_call_without_bodies(pair):
    client, server = pair
    pass_on(Request(op="backend_health"), client, server)
    assert states(client) == (State.DONE, State.READY)
    assert states(server) == (State.READY, State.DONE)
    assert not client.is_reusable
    pass_on(Ok(), server, client)
    assert client.is_reusable
    assert server.is_reusable


def test_a_body_is_counted_on_both_sides_until_the_next_one(pair):
    client, server = pair
    for payloads in ([b"abc", b"d"], [b"ef"]):
        pass_on(INGEST, client, server)
        for payload in payloads:
            pass_data(payload, client, server)
        total = sum(map(len, payloads))
        pass_on(End(size_bytes=total), client, server)
        assert (client.sent_bytes, server.received_bytes) == (total, total)
        pass_on(Ok(), server, client)
    pass_on(SERVE, client, server)
    assert client.sent_bytes == 2
    pass_on(Ok(body=BodyKind.STREAM), server, client)
    pass_data(b"ghi", server, client)
    assert (server.sent_bytes, client.received_bytes) == (3, 3)
    assert (client.sent_bytes, server.received_bytes) == (2, 2)
    pass_on(End(size_bytes=3), server, client)
    pass_on(SERVE, client, server)
    pass_on(Ok(body=BodyKind.STREAM), server, client)
    assert (server.sent_bytes, client.received_bytes) == (0, 0)


def test_pieces_of_one_data_frame_are_counted_as_they_come(pair):
    client, server = pair
    pass_on(INGEST, client, server)
    stream = client.send_data(6) + b"abcdef"
    for byte in stream[:-1]:
        server.receive(bytes([byte]))
        server.next_event()
    assert server.received_bytes == 5
    assert client.sent_bytes == 6


def test_an_early_refusal_leaves_the_connection_usable(pair):
    client, server = pair
    pass_on(INGEST, client, server)
    pass_data(b"abc", client, server)
    pass_on(Failure(code="no_space"), server, client)
    assert states(client) == (State.BODY, State.DONE)
    assert not client.is_reusable
    pass_data(b"def", client, server)
    pass_on(Failure(code="cancelled"), client, server)
    assert client.is_reusable
    assert server.is_reusable


def test_unread_bytes_keep_a_connection_from_being_used_again(pair):
    client, server = pair
    client.receive(server.send(Failure(code="protocol"))[:3])
    assert client.next_event() is None
    assert client.our_state is State.READY
    assert not client.is_reusable


def test_what_may_not_be_sent_now_is_refused_and_changes_nothing(pair):
    client, server = pair
    for message in (Ok(), End(size_bytes=0), Hello(), Failure(code="cancelled")):
        with pytest.raises(LocalProtocolError, match="client may not send"):
            client.send(message)
    with pytest.raises(LocalProtocolError, match="client may not send data"):
        client.send_data(1)
    with pytest.raises(LocalProtocolError):
        server.send(Failure(code="internal"))
    assert client.is_reusable
    assert server.is_reusable
    assert client.sent_bytes == 0


def test_what_cannot_be_encoded_changes_nothing(pair):
    client, server = pair
    with pytest.raises(LocalProtocolError):
        client.send(Request(op="x" * MAX_CONTROL_SIZE))
    assert client.is_reusable
    pass_on(INGEST, client, server)
    for size in (0, MAX_DATA_SIZE + 1):
        with pytest.raises(LocalProtocolError):
            client.send_data(size)
    assert client.sent_bytes == 0


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(Ok().to_wire()),
        encode_frame(Hello().to_wire()),
        encode_frame(End(size_bytes=0).to_wire()),
        data_head(1) + b"a",
        encode_frame({"ping": {}}),
        encode_frame({"op": "a", "args": {}, "body": "fd"}),
        b"\xff\xff\xff\xff",
    ],
)
def test_what_the_peer_may_not_send_now_is_refused(pair, frame):
    _, server = pair
    server.receive(frame)
    with pytest.raises(RemoteProtocolError):
        server.next_event()


def test_a_second_request_before_the_answer_is_refused(pair):
    client, server = pair
    frame = client.send(SERVE)
    server.receive(frame + frame)
    assert server.next_event() == SERVE
    with pytest.raises(RemoteProtocolError, match="while its half is done"):
        server.next_event()


def test_a_server_may_not_answer_before_the_body_has_ended(pair):
    client, server = pair
    pass_on(INGEST, client, server)
    with pytest.raises(LocalProtocolError):
        server.send(Ok())
    client.receive(encode_frame(Ok().to_wire()))
    with pytest.raises(RemoteProtocolError):
        client.next_event()


@pytest.mark.parametrize("breaker", [0, 1])
def test_either_side_may_break_off_and_both_are_closed(pair, breaker):
    sender, receiver = pair[breaker], pair[1 - breaker]
    pass_on(BROKEN, sender, receiver)
    for connection in pair:
        assert states(connection) == (State.CLOSED, State.CLOSED)
        assert not connection.is_reusable
        with pytest.raises(LocalProtocolError):
            connection.send(BROKEN)


def test_a_server_may_refuse_in_place_of_its_hello():
    client, server = Connection(Side.CLIENT), Connection(Side.SERVER)
    pass_on(Failure(code="denied"), server, client)
    assert states(client) == (State.CLOSED, State.CLOSED)
    with pytest.raises(LocalProtocolError):
        client.send(Hello())


def test_the_end_is_clean_while_no_call_is_open(pair):
    for connection in (*pair, Connection(Side.SERVER)):
        connection.receive_eof()
        assert connection.next_event() == ConnectionClosed(is_clean=True)
        assert connection.next_event() == ConnectionClosed(is_clean=True)
        assert not connection.is_reusable


def test_the_end_is_not_clean_between_the_hellos():
    connection = Connection(Side.CLIENT)
    connection.send(Hello())
    connection.receive_eof()
    assert connection.next_event() == ConnectionClosed(is_clean=False)


def test_the_end_is_not_clean_inside_a_call(pair):
    client, server = pair
    pass_on(INGEST, client, server)
    for connection in pair:
        connection.receive_eof()
        assert connection.next_event() == ConnectionClosed(is_clean=False)


@pytest.mark.parametrize("size", [1, 4, 5, 8])
def test_the_end_is_not_clean_inside_a_frame(pair, size):
    client, server = pair
    server.receive(client.send(SERVE)[:size])
    server.receive_eof()
    assert server.next_event() == ConnectionClosed(is_clean=False)


def test_what_came_before_the_end_is_given_first(pair):
    client, server = pair
    pass_on(SERVE, client, server)
    client.receive(server.send(Ok()))
    client.receive_eof()
    assert client.next_event() == Ok()
    assert client.next_event() == ConnectionClosed(is_clean=True)


def test_a_violation_of_order_or_schema_is_raised_again_and_nothing_after_it_is_read():
    for first in (End(size_bytes=0).to_wire(), {"hello": {"version": 1}}):
        connection = Connection(Side.SERVER)
        connection.receive(encode_frame(first) + encode_frame(Hello().to_wire()))
        with pytest.raises(RemoteProtocolError) as caught:
            connection.next_event()
        with pytest.raises(RemoteProtocolError) as again:
            connection.next_event()
        assert again.value is caught.value


def greeted(*, offered=(), enabled=()):
    """Give a client and a server that have exchanged hellos."""
    client, server = Connection(Side.CLIENT), Connection(Side.SERVER)
    server.receive(client.send(Hello(features=offered)))
    assert server.next_event() == Hello(features=offered)
    client.receive(server.send(Hello(features=enabled)))
    assert client.next_event() == Hello(features=enabled)
    return client, server


@pytest.mark.parametrize(
    ("offered", "enabled", "agreed"),
    [
        ((), (), set()),
        (("serve_fd",), (), set()),
        (("serve_fd", "later"), ("serve_fd",), {"serve_fd"}),
        ((), ("serve_fd",), set()),
    ],
)
def test_features_are_those_that_were_offered_and_enabled(offered, enabled, agreed):
    for connection in greeted(offered=offered, enabled=enabled):
        assert connection.features == agreed


def test_a_descriptor_goes_where_it_was_agreed_on_and_accepted():
    client, server = greeted(offered=("serve_fd",), enabled=("serve_fd",))
    server.receive(client.send(Request(op="serve_object", accept_fd=True)))
    assert server.next_event() == Request(op="serve_object", accept_fd=True)
    client.receive(server.send(Ok(body=BodyKind.FD)) + server.send(End(size_bytes=5)))
    assert client.next_event() == Ok(body=BodyKind.FD)
    assert client.next_event() == End(size_bytes=5)
    assert client.is_reusable
    assert server.is_reusable


@pytest.mark.parametrize("features", [(), ("serve_fd",)])
def test_a_descriptor_that_was_not_agreed_on_or_accepted_is_a_violation(features):
    client, server = greeted(offered=features, enabled=features)
    request = Request(op="serve_object", accept_fd=not features)
    server.receive(client.send(request))
    server.next_event()
    with pytest.raises(LocalProtocolError, match="body is an fd"):
        server.send(Ok(body=BodyKind.FD))
    client.receive(encode_frame(Ok(body=BodyKind.FD).to_wire()))
    with pytest.raises(RemoteProtocolError, match="body is an fd"):
        client.next_event()


def test_a_request_with_a_descriptor_needs_its_own_feature():
    client, server = greeted(offered=("serve_fd",), enabled=("serve_fd",))
    request = Request(op="ingest_stream", body=BodyKind.FD)
    with pytest.raises(LocalProtocolError, match="ingest_fd was not agreed"):
        client.send(request)
    server.receive(encode_frame(request.to_wire()))
    with pytest.raises(RemoteProtocolError, match="ingest_fd was not agreed"):
        server.next_event()
    client, server = greeted(offered=("ingest_fd",), enabled=("ingest_fd",))
    server.receive(client.send(request) + client.send(End(size_bytes=3)))
    assert server.next_event() == request
    assert server.next_event() == End(size_bytes=3)


def test_data_may_not_go_with_a_descriptor():
    client, server = greeted(offered=("serve_fd",), enabled=("serve_fd",))
    server.receive(client.send(Request(op="serve_object", accept_fd=True)))
    server.next_event()
    client.receive(server.send(Ok(body=BodyKind.FD)) + data_head(1) + b"x")
    with pytest.raises(LocalProtocolError):
        server.send_data(1)
    assert client.next_event() == Ok(body=BodyKind.FD)
    with pytest.raises(RemoteProtocolError, match="may not send data"):
        client.next_event()


def test_no_call_may_start_after_a_violation_that_came_in_a_whole_frame(pair):
    # Both halves are still ready then, and no byte is left over.
    for connection in pair:
        connection.receive(encode_frame({"ping": {}}))
        with pytest.raises(RemoteProtocolError, match="0 of the keys"):
            connection.next_event()
        assert states(connection) == (State.READY, State.READY)
        assert not connection.is_reusable
