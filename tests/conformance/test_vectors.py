"""The vectors against the codec and the half-machines (`SPEC.md` 2 to 5)."""

import hashlib
import re

import blake3
import pytest

from dataplane_protocol import (
    ERRORS_BY_CODE,
    PROTOCOL_VERSION,
    BodyKind,
    Connection,
    ConnectionClosed,
    DataPlaneError,
    Failure,
    FrameDecoder,
    Hello,
    Ok,
    RemoteProtocolError,
    Request,
    ServeResult,
    Side,
    backend_list_from_wire,
    backend_status_from_wire,
    data_head,
    deletion_result_from_wire,
    encode_frame,
    ingest_result_from_wire,
    message_from_wire,
    object_page_from_wire,
    stat_result_from_wire,
    verify_result_from_wire,
)

RESULTS = {
    "ingest_stream": ingest_result_from_wire,
    "serve_object": ServeResult.from_wire,
    "verify_object": verify_result_from_wire,
    "delete_object": deletion_result_from_wire,
    "backend_health": backend_status_from_wire,
    "stat_objects": stat_result_from_wire,
    "list_objects": object_page_from_wire,
    "list_backends": backend_list_from_wire,
}

DIGESTS = {
    "blake3": lambda data: blake3.blake3(data).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
}


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


def test_every_need_is_a_word_of_the_readme(cases, protocol_folder):
    readme = (protocol_folder / "vectors" / "README.md").read_text(encoding="utf-8")
    table = readme.partition("| word | what it takes |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    words = {
        word.replace(":N", ":[0-9]+") for cell in cells for word in re.findall("`(.+?)`", cell)
    }
    needs = {need for case in cases for need in case.needs}
    for need in needs:
        assert any(re.fullmatch(word, need) for word in words), need
    for word in words:
        assert any(re.fullmatch(word, need) for need in needs), word


def test_a_case_needs_descriptors_where_a_step_has_one(cases):
    for case in cases:
        has_one = any(step.fd is not None for step in case.steps)
        assert ("descriptors" in case.needs) == has_one, case.name


def test_every_section_cited_exists(frames, cases, protocol_folder):
    spec = (protocol_folder / "SPEC.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^#+ ([0-9.]+[0-9])\.? ", spec, re.MULTILINE))
    cited = {vector.section for group in frames.values() for vector in group}
    cited |= {case.section for case in cases}
    assert cited - sections - {str(number) for number in range(1, 14)} == set()


def test_objects_have_the_digests_that_are_stated(objects):
    for name, (data, stated) in objects.items():
        assert stated["size_bytes"] == len(data), name
        for algorithm, digest_of in DIGESTS.items():
            assert stated[algorithm] == f"{algorithm}:{digest_of(data)}", name


class Ends:
    """Both ends of one connection in memory, each given what the other one sends.

    Descriptors are the contents of their files. `fault` is what the client has found against
    its server and `violation` what the server has found against its client.
    """

    def __init__(self):
        self.client = Connection(Side.CLIENT)
        self.server = Connection(Side.SERVER)
        self.fault = None
        self.violation = None
        self._to_client = []
        self._to_server = []
        self._op = None
        self._args = {}
        self._served = None
        self._body = b""

    def play(self, step):
        getattr(self, f"_play_{step.kind}")(step)

    def _play_client(self, step):
        message = message_from_wire(step.control)
        self._note_descriptor(step, self._to_server)
        assert self.client.send(message) == encode_frame(message.to_wire())
        self.server.receive(encode_frame(step.control))
        assert list(self._server_events()) == [message]

    def _play_client_data(self, step):
        for piece in cut(step.data, 1 << 20):
            self.server.receive(self.client.send_data(len(piece)) + piece)
            assert b"".join(self._server_events()) == piece

    def _play_client_raw(self, step):
        self._note_descriptor(step, self._to_server)
        self.server.receive(step.data)
        try:
            for event in self._server_events():
                # What was in order all the same, the client's end has sent.
                if isinstance(event, memoryview):
                    self.client.send_data(len(event))
                else:
                    self.client.send(event)
                    self._op = getattr(event, "op", self._op)
        except RemoteProtocolError as exc:
            self.violation = exc

    def _play_server(self, step):
        if step.is_optional and self.violation is not None:
            return
        message = message_from_wire(step.pattern.example)
        if isinstance(message, Failure) and message.code == "protocol":
            # The server says so where it has found a violation, or the client is told of one.
            self.fault = None if self.violation else message
        else:
            assert self.violation is None
        self._note_descriptor(step, self._to_client)
        assert self.server.send(message) == encode_frame(message.to_wire())
        self.client.receive(encode_frame(step.pattern.example))
        self._client_reads([message])

    def _play_server_data(self, step):
        for piece in cut(step.data, 100_000):
            self.client.receive(self.server.send_data(len(piece)) + piece)
            self._client_reads([piece])

    def _play_server_raw(self, step):
        self._note_descriptor(step, self._to_client)
        self.client.receive(step.data)
        self._client_reads(None)
        assert self.fault is not None

    def _play_server_close(self, _step):
        # A call that is cut off or refused is no clean end, nor is one that was broken off.
        is_clean = self.client.is_reusable
        self.client.receive_eof()
        assert self.client.next_event() == ConnectionClosed(is_clean=is_clean)

    def _play_client_close(self, _step):
        is_clean = self.server.is_reusable
        self.server.receive_eof()
        assert self.server.next_event() == ConnectionClosed(is_clean=is_clean)

    def _play_tamper(self, _step):
        """Nothing that is stored is in memory."""

    def _server_events(self):
        while (event := self.server.next_event()) is not None:
            if isinstance(event, Request) and event.body is BodyKind.FD:
                match_descriptor(self._to_server)
            yield event

    def _client_reads(self, expected):
        events = []
        try:
            while (event := self.client.next_event()) is not None:
                events.append(event)
                self._client_reads_one(event)
            if self.client.is_reusable and self._to_client:
                raise RemoteProtocolError("a descriptor came that no frame announces")
        except DataPlaneError as exc:
            self.fault = exc
        assert expected in (None, events)

    def _client_reads_one(self, event):
        if isinstance(event, Hello) and event.version != PROTOCOL_VERSION:
            raise RemoteProtocolError("server is of another version")
        if isinstance(event, memoryview):
            self._take(event)
        elif isinstance(event, Ok):
            self._open(event)
        elif self._served is not None:
            self._finish(event)

    def _open(self, answer):
        result = RESULTS[self._op](answer.result)
        if (answer.body is not None) != isinstance(result, ServeResult):
            raise RemoteProtocolError("a body came for an operation without, or the other way")
        if answer.body is not None:
            self._require_range(result)
            self._served, self._body = result, b""
        if answer.body is BodyKind.FD:
            content = match_descriptor(self._to_client)
            if len(content) != result.size_bytes:
                raise RemoteProtocolError("the descriptor is of a file of another size")
            self._take(content[result.offset :][: result.length])

    def _require_range(self, served):
        asked = self._args.get("byte_range", {"offset": 0})
        rest = served.size_bytes - asked["offset"]
        length = min(asked.get("length", rest), rest)
        if (served.offset, served.length) != (asked["offset"], length):
            raise RemoteProtocolError("another range was served than was asked for")

    def _take(self, data):
        self._body += data
        if len(self._body) > self._served.length:
            raise RemoteProtocolError("more came than was announced")

    def _finish(self, last):
        served, self._served = self._served, None
        if isinstance(last, Failure):
            return
        if not last.size_bytes == len(self._body) == served.length:
            raise RemoteProtocolError("the body is not as long as was announced")
        if last.digest is not None and last.digest.algorithm in DIGESTS:
            last_hex = DIGESTS[last.digest.algorithm](self._body)
            if last_hex != last.digest.hex:
                raise RemoteProtocolError("the body has not the digest that its end states")

    def _note_descriptor(self, step, waiting):
        if step.control is not None and "op" in step.control:
            self._op, self._args = step.control["op"], step.control["args"]
        if step.fd is not None and self._is_agreed(waiting):
            waiting.append(step.fd)

    def _is_agreed(self, waiting):
        """Whether the receiver reads descriptors at all; the kernel drops them if not."""
        needed = "serve_fd" if waiting is self._to_client else "ingest_fd"
        return needed in self.client.features


def match_descriptor(waiting):
    if len(waiting) != 1:
        raise RemoteProtocolError(f"{len(waiting)} descriptors have come for one frame")
    return waiting.pop()


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_a_conversation_is_followed_by_both_sides(case):
    for steps in case.connections:
        ends = Ends()
        for step in steps:
            ends.play(step)
        if case.is_for_clients:
            # A client closes on a fault of its server, and on nothing else that it is told.
            assert (ends.fault is not None) == (steps[-1].kind == "client_close")
        else:
            assert ends.fault is None
            assert (ends.violation is not None) == any(map(is_protocol_error, steps))
        if not steps[-1].kind.endswith("_close"):
            assert ends.client.is_reusable
            assert ends.server.is_reusable


def is_protocol_error(step):
    error = step.pattern.example.get("error", {}) if step.pattern else {}
    return error.get("code") == "protocol"


def test_every_operation_succeeds_and_every_code_is_answered_in_some_case(cases):
    succeeded, codes = set(), set()
    for case in cases:
        op = None
        for step in case.steps:
            if step.kind == "client":
                op = step.control.get("op", op)
            elif step.kind == "server":
                example = step.pattern.example
                if "ok" in example:
                    succeeded.add(op)
                codes.add(example.get("error", {}).get("code"))
    assert succeeded >= set(RESULTS)
    assert set(ERRORS_BY_CODE) <= codes
