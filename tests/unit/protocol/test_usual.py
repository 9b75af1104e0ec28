"""The quick way of reading and answering, held against the `Connection` both ways."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings, strategies as st

from dataplane_protocol import (
    ARGUMENTS,
    MAX_INTEGER,
    SERVE_FD,
    BodyKind,
    Connection,
    ContentAddress,
    DeleteArguments,
    DeletionResult,
    Digest,
    End,
    Hello,
    IngestArguments,
    IngestResult,
    ObjectStatus,
    Ok,
    RemoteProtocolError,
    Request,
    ServeArguments,
    ServeResult,
    Side,
    StatArguments,
    State,
    StorageReceipt,
    UsualDelete,
    UsualIngest,
    UsualServe,
    UsualStat,
    data_head,
    deletion_result_to_wire,
    encode_frame,
    ingest_result_to_wire,
    read_usual,
    stat_result_to_wire,
    usual_delete_answer,
    usual_ingest_answer,
    usual_object_entry,
    usual_serve_answer,
    usual_stat_answer,
)
from dataplane_protocol._fields import to_milliseconds

BLAKE3 = "blake3:" + "ab" * 32
SHA256 = "sha256:" + "0f" * 32

addresses = st.builds(
    lambda algorithm, value: f"{algorithm}:{value.hex()}",
    st.sampled_from(["blake3", "sha256"]),
    st.binary(min_size=32, max_size=32),
)
integers = st.one_of(
    st.integers(0, MAX_INTEGER),
    st.sampled_from(
        [limit + step for limit in (24, 256, 65_536, 2**32) for step in (-1, 0, 1)]
        + [0, MAX_INTEGER - 1, MAX_INTEGER]
    ),
)
backends = st.none() | st.text("abcxyz-_.09:AZ~!", min_size=1, max_size=26)
bodies = st.one_of(
    st.binary(min_size=1, max_size=70),
    st.integers(1, 70_000).map(lambda size: bytes(size)),
)


def ranges():
    ends = st.tuples(integers, integers).map(sorted).map(tuple)
    return st.none() | ends


stats = st.builds(
    lambda names, backend: (
        StatArguments(content_addresses=tuple(map(ContentAddress, names)), backend_id=backend),
        None,
    ),
    st.lists(addresses, min_size=1, max_size=4)
    | st.integers(1, 128).map(lambda count: [BLAKE3] * count),
    backends,
)
serves = st.builds(
    lambda name, ends, backend: (
        ServeArguments(content_address=ContentAddress(name), byte_range=ends, backend_id=backend),
        None,
    ),
    addresses,
    ranges(),
    backends,
)
deletes = st.builds(
    lambda name, backend, generation: (
        DeleteArguments(
            content_address=ContentAddress(name), backend_id=backend, if_generation=generation
        ),
        None,
    ),
    addresses,
    backends,
    st.none() | integers,
)
ingests = st.builds(
    lambda hint, algorithm, backend, body, digest: (
        IngestArguments(size_hint=hint, primary_algorithm=algorithm, backend_id=backend),
        (body, digest),
    ),
    st.none() | integers,
    st.sampled_from([None, "blake3", "sha256"]),
    backends,
    bodies,
    st.none() | addresses,
)


def encode(arguments, body, *, accept_fd=False):
    request = Request(
        op=arguments.OPERATION.value,
        args=arguments.to_wire(),
        body=None if body is None else BodyKind.STREAM,
        accept_fd=accept_fd,
    )
    frames = encode_frame(request.to_wire())
    if body is not None:
        content, digest = body
        end = End(size_bytes=len(content), digest=None if digest is None else Digest.parse(digest))
        frames += data_head(len(content)) + content + encode_frame(end.to_wire())
    return frames


def greeted():
    connection = Connection(Side.SERVER)
    connection.receive(encode_frame(Hello(features=(SERVE_FD,)).to_wire()))
    connection.next_event()
    connection.send(Hello(features=(SERVE_FD,)))
    return connection


def read_by_connection(data):
    """What a `Connection` makes of the same bytes, as a usual call if it is one whole call."""
    connection = greeted()
    connection.receive(data)
    request = connection.next_event()
    assert isinstance(request, Request)
    arguments = ARGUMENTS[request.op].from_wire(request.args)
    backend = arguments.backend_id
    match arguments:
        case StatArguments(content_addresses=names):
            call = UsualStat(tuple(map(str, names)), backend)
        case ServeArguments(content_address=name, byte_range=ends):
            call = UsualServe(str(name), ends, backend, request.accept_fd)
        case DeleteArguments(content_address=name, if_generation=generation):
            call = UsualDelete(str(name), backend, generation)
        case IngestArguments(primary_algorithm=algorithm, size_hint=hint):
            content = b""
            while isinstance(event := connection.next_event(), memoryview):
                content += event
            assert isinstance(event, End)
            event.check_size(len(content))
            digest = None if event.digest is None else str(event.digest)
            call = UsualIngest(content, digest, algorithm, backend, hint)
    assert connection.next_event() is None
    assert connection.their_state is State.DONE
    return call


@given(st.one_of(stats, serves, deletes, ingests), st.booleans())
def test_a_usual_call_is_read_as_a_connection_reads_it(call, accept_fd):
    arguments, body = call
    accept_fd = accept_fd and isinstance(arguments, ServeArguments)
    data = encode(arguments, body, accept_fd=accept_fd)
    expected = read_by_connection(data)
    found = read_usual(data)
    is_short = arguments.backend_id is None or len(arguments.backend_id) < 24
    assert found == (expected if is_short else None)


@pytest.mark.slow
@given(st.one_of(stats, serves, deletes, ingests), st.data())
@settings(max_examples=1500)
def test_what_is_read_of_changed_bytes_is_what_a_connection_reads(call, data):
    frames = bytearray(encode(*call))
    for _ in range(data.draw(st.integers(1, 3))):
        # Heads and keys are within the first bytes and the last; payloads are dull.
        place = data.draw(st.integers(0, 90)) % len(frames)
        if data.draw(st.booleans()):
            place = -1 - place
        what = data.draw(st.sampled_from(["set", "drop", "add", "nudge"]))
        value = data.draw(st.integers(0, 255))
        if what == "set":
            frames[place] = value
        elif what == "nudge":
            frames[place] = (frames[place] + data.draw(st.sampled_from([1, 255, 32]))) % 256
        elif what == "drop" and len(frames) > 1:
            del frames[place]
        else:
            frames.insert(place, value)
        # Otherwise nearly every change would be found by the frame's length alone.
        if data.draw(st.booleans()) and call[1] is None and len(frames) > 4:
            frames[:4] = (len(frames) - 4).to_bytes(4, "big")
    found = read_usual(bytes(frames))
    if found is not None:
        assert found == read_by_connection(bytes(frames))


def request_of(op, **args):
    return encode_frame(Request(op=op, args=args).to_wire())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(64),
        request_of("backend_health"),
        request_of("stat_objects"),
        request_of("stat_objects", content_addresses=[]),
        request_of("stat_objects", content_addresses=["blake3:" + "AB" * 32]),
        request_of("stat_objects", content_addresses=["md5:" + "ab" * 16]),
        request_of("stat_objects", content_addresses=[BLAKE3] * 129),
        request_of("stat_objects", content_addresses=[BLAKE3], later=True),
        request_of("stat_objects", content_addresses=[BLAKE3])[:-1],
        request_of("stat_objects", content_addresses=[BLAKE3]) * 2,
        request_of("serve_object", content_address=BLAKE3, byte_range={"offset": 0, "length": 0}),
        request_of("serve_object", content_address=BLAKE3, byte_range={"length": 1}),
        request_of("serve_object", content_address=BLAKE3, byte_range={"offset": -1}),
        request_of("delete_object", content_address=BLAKE3, if_generation=True),
        encode(IngestArguments(), (b"abc", None))[:-1],
        encode(IngestArguments(), (b"abc", None)).replace(b"jsize_bytes\x03", b"jsize_bytes\x02"),
        encode(IngestArguments(primary_algorithm="md5"), (b"abc", None)),
    ],
)
def test_what_is_not_usual_is_left_alone(data):
    assert read_usual(data) is None


@pytest.mark.parametrize(
    "long",
    [b"\x18\x17", b"\x19\x00\xff", b"\x1a\x00\x00\xff\xff", b"\x1b" + bytes(4) + b"\xff" * 4],
)
def test_an_integer_in_too_long_a_head_is_left_to_be_refused(long):
    usual = request_of("delete_object", content_address=BLAKE3, if_generation=1)
    item = usual[4:].replace(b"if_generation\x01", b"if_generation" + long)
    data = len(item).to_bytes(4, "big") + item
    assert read_usual(data) is None
    with pytest.raises(RemoteProtocolError):
        read_by_connection(data)


# Answers.


def answered(arguments, body, *messages):
    """The frames that a connection gives in answer to a call."""
    connection = greeted()
    connection.receive(encode(arguments, body))
    while connection.next_event() is not None:
        pass
    frames = b""
    for message in messages:
        if isinstance(message, bytes):
            frames += connection.send_data(len(message)) + message
        else:
            frames += connection.send(message)
    assert connection.is_reusable
    return frames


moments = st.integers(0, 4 * 10**12).map(
    lambda ms: datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
)
statuses = st.builds(
    lambda blake3, sha256, size, generation, stored, verified, state: ObjectStatus(
        content_address=ContentAddress(f"blake3:{blake3.hex()}"),
        size_bytes=size,
        sha256_digest=Digest("sha256", sha256.hex()),
        generation=generation,
        stored_at=stored,
        verified_at=verified,
        state=state,
    ),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    integers,
    integers,
    moments,
    moments,
    st.sampled_from(["ok", "quarantined"]),
)


def entry_of(status):
    return usual_object_entry(
        blake3=status.content_address.to_digest().hex,
        sha256=status.sha256_digest.hex,
        size=status.size_bytes,
        generation=status.generation,
        stored_at_ms=to_milliseconds(status.stored_at),
        verified_at_ms=to_milliseconds(status.verified_at),
        is_quarantined=status.state == "quarantined",
    )


@given(st.lists(statuses, max_size=3) | st.tuples(statuses, st.integers(1, 128)))
def test_a_stat_is_answered_as_a_connection_answers_it(objects):
    if isinstance(objects, tuple):
        objects = [objects[0]] * objects[1]
    asked = StatArguments(content_addresses=(ContentAddress(BLAKE3),))
    expected = answered(asked, None, Ok(result=stat_result_to_wire(objects)))
    assert usual_stat_answer([entry_of(each) for each in objects]) == expected


@given(integers, integers, bodies, st.none() | addresses)
def test_a_serve_is_answered_as_a_connection_answers_it(size, offset, content, address):
    asked = ServeArguments(content_address=ContentAddress(BLAKE3))
    result = ServeResult(size_bytes=size, offset=offset, length=len(content))
    digest = None if address is None else Digest.parse(address)
    expected = answered(
        asked,
        None,
        Ok(result=result.to_wire(), body=BodyKind.STREAM),
        content,
        End(size_bytes=len(content), digest=digest),
    )
    assert b"".join(usual_serve_answer(size, offset, content, address)) == expected


def test_a_long_body_is_cut_into_frames():
    frames = usual_serve_answer(300_000, 0, memoryview(bytes(300_000)), None)
    assert [len(frame) for frame in frames[2:5:2]] == [262_144, 37_856]
    assert frames[1] == data_head(262_144)


@given(addresses, addresses, integers, st.text(max_size=300), integers, moments)
def test_an_ingest_is_answered_as_a_connection_answers_it(
    primary, sha256, size, name, generation, stored_at
):
    primary_digest = Digest.parse(primary)
    result = IngestResult(
        primary_digest=primary_digest,
        sha256_digest=Digest.parse(sha256),
        size_bytes=size,
        receipt=StorageReceipt(
            backend_id=name,
            content_address=ContentAddress.from_digest(primary_digest),
            size_bytes=size,
            outcome="created",
            generation=generation,
            stored_at=stored_at,
        ),
    )
    wire = ingest_result_to_wire(result)
    expected = answered(IngestArguments(), (b"x", None), Ok(result=wire))
    found = usual_ingest_answer(
        primary=primary,
        sha256=sha256,
        size=size,
        backend_id=name,
        outcome="created",
        generation=generation,
        stored_at_ms=wire["receipt"]["stored_at_ms"],
    )
    assert found == expected


@given(addresses, st.text(max_size=30), st.booleans())
def test_a_delete_is_answered_as_a_connection_answers_it(address, name, deleted):
    named = ContentAddress(address)
    result = DeletionResult(content_address=named, backend_id=name, deleted=deleted)
    expected = answered(
        DeleteArguments(content_address=named), None, Ok(result=deletion_result_to_wire(result))
    )
    assert usual_delete_answer(address, name, deleted=deleted) == expected
