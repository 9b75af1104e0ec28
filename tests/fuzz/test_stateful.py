"""Two ends of one connection, driven at random and held against a model.

The model is the conformance kit's own table of the half-machines, one copy for each side's
view. Each end has a twin that is given the same bytes in other pieces.
"""

from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dataplane_conformance import halves as kit
from dataplane_protocol import (
    BLAKE3,
    INGEST_FD,
    MAX_DATA_SIZE,
    MAX_INTEGER,
    SERVE_FD,
    SHA256,
    BodyKind,
    Connection,
    ConnectionClosed,
    Digest,
    End,
    Failure,
    Hello,
    LocalProtocolError,
    Message,
    Ok,
    RemoteProtocolError,
    Request,
    Side,
    State,
)

from .seeds import frames

PATTERN = bytes(range(256)) * 4097

SIDES = st.sampled_from(Side)
TEXTS = st.text(max_size=8)
SIZES = st.integers(0, MAX_INTEGER)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXTS | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
MAPS = st.dictionaries(TEXTS, VALUES, max_size=3)
DEEP: list[object] = []
for _ in range(8):
    DEEP = [DEEP]
UNSENDABLE = st.sampled_from([1.5, {1}, {1: 2}, MAX_INTEGER + 1, "\ud800", DEEP])
BODIES = st.sampled_from([None, BodyKind.STREAM, BodyKind.FD])
DIGESTS = st.builds(
    Digest, st.sampled_from([BLAKE3, SHA256]), st.binary(min_size=32, max_size=32).map(bytes.hex)
)

HELLOS = st.builds(
    Hello,
    version=st.just(1) | SIZES,
    features=st.lists(st.sampled_from([SERVE_FD, INGEST_FD, "other"]), max_size=3).map(tuple),
    agent=st.none() | TEXTS,
)
REQUESTS = st.builds(
    Request, op=TEXTS, args=MAPS, body=BODIES, accept_fd=st.booleans(), trace=st.none() | TEXTS
)
OKS = st.builds(Ok, result=MAPS, body=BODIES)
ENDS = st.builds(End, size_bytes=SIZES, digest=st.none() | DIGESTS)
FAILURES = st.builds(
    Failure,
    code=st.sampled_from(["cancelled", "not_found", "corrupt", "later"]),
    message=TEXTS,
    retry=st.booleans(),
    details=MAPS,
)
BREAK_OFF = st.just(Failure(code="protocol", message="why"))
KINDS: dict[str, st.SearchStrategy[Message]] = {
    "hello": HELLOS,
    "op": REQUESTS,
    "ok": OKS,
    "end": ENDS,
    "error": FAILURES,
}
FEATURES = st.sampled_from([(), (SERVE_FD,), (INGEST_FD, SERVE_FD), ("other", INGEST_FD)])
SELDOM = st.integers(0, 5).map(lambda number: number == 5)
GARBAGE = st.binary(min_size=1, max_size=40) | st.sampled_from(frames())
DATA_SIZES = st.integers(1, 300) | st.sampled_from(
    [0, 23, 24, 255, 256, 65_535, 65_536, MAX_DATA_SIZE, MAX_DATA_SIZE + 1]
)


class View:
    """One end under test, its twin, and the model of what it has seen."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.ends = [Connection(side), Connection(side)]
        self.model = kit.Halves()
        self.offered: set[str] = set()
        self.features: set[str] = set()
        self.accepts_fd = False
        self.sent = 0
        self.incoming = bytearray()
        self.expected: deque[Message | bytearray] = deque()
        self.is_misled = False
        self.is_cut = False
        self.is_eof = False
        self.violation: str | None = None

    @property
    def end(self) -> Connection:
        return self.ends[0]

    def snapshot(self) -> object:
        return [
            (
                *(end.our_state, end.their_state, end.features, end.is_reusable),
                *(end.sent_bytes, end.received_bytes),
            )
            for end in self.ends
        ]

    def allows(self, sender: Side, message: Message | None) -> bool:
        """Whether the model allows a message, or data; takes the step if so."""
        if isinstance(message, Request | Ok) and message.body is BodyKind.FD:
            feature = INGEST_FD if isinstance(message, Request) else SERVE_FD
            if feature not in self.features:
                return False
            if isinstance(message, Ok) and not self.accepts_fd:
                return False
        breaks_off = isinstance(message, Failure) and message.code == "protocol"
        before = dict(self.model.states)
        if self.model.step(sender.value, step_name(message), breaks_off=breaks_off) is not None:
            assert self.model.states == before
            self.model.is_broken = False
            return False
        if isinstance(message, Request):
            self.accepts_fd = message.accept_fd
        elif isinstance(message, Hello) and sender is Side.CLIENT:
            self.offered = set(message.features)
        elif isinstance(message, Hello):
            self.features = self.offered & set(message.features)
        return True

    def take(self, event: Message | memoryview) -> None:
        """Compare an event with what was sent, and with the model."""
        payload = bytes(event) if isinstance(event, memoryview) else None
        assert self.allows(self.side.other, None if payload is not None else event)
        if self.is_misled:
            return
        sent = self.expected[0]
        if payload is None:
            assert self.expected.popleft() == event
        else:
            assert isinstance(sent, bytearray)
            assert sent.startswith(payload)
            del sent[: len(payload)]
            if not sent:
                self.expected.popleft()


def step_name(message: Message | None) -> str:
    if message is None:
        return "data"
    if isinstance(message, Request | Ok) and message.body is not None:
        return f"{message.KEY}+{message.body.value}"
    return message.KEY


def drain(end: Connection) -> list[object]:
    """Give all events there are, a violation last; pieces of payload are copied."""
    events: list[object] = []
    try:
        while (event := end.next_event()) is not None:
            events.append(bytes(event) if isinstance(event, memoryview) else event)
            if isinstance(event, ConnectionClosed):
                break
    except RemoteProtocolError as exc:
        events.append(str(exc))
    return events


def joined(events: Sequence[object]) -> list[object]:
    """Join pieces of payload that are next to each other."""
    result: list[object] = []
    for event in events:
        if isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += event
        else:
            result.append(event)
    return result


class TwoEnds(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.views = {side: View(side) for side in Side}

    @initialize(offered=FEATURES, enabled=FEATURES)
    def greet(self, offered: tuple[str, ...], enabled: tuple[str, ...]) -> None:
        for side, features in ((Side.CLIENT, offered), (Side.SERVER, enabled)):
            self.send(side, Hello(features=features))
            self.deliver_everything(side.other, 1000)

    @rule()
    @precondition(lambda self: self.is_over())
    def connect(self) -> None:
        self.views = {side: View(side) for side in Side}

    @rule(offered=FEATURES, enabled=FEATURES)
    @precondition(lambda self: self.is_over())
    def connect_and_greet(self, offered: tuple[str, ...], enabled: tuple[str, ...]) -> None:
        self.connect()
        self.greet(offered, enabled)

    @rule(side=SIDES, message=st.one_of(*KINDS.values()))
    def send_anything(self, side: Side, message: Message) -> None:
        self.send(side, message)

    @rule(side=SIDES, data=st.data())
    def send_what_is_due(self, side: Side, data: st.DataObject) -> None:
        state = self.views[side].model.states[side.value]
        steps = {name for half, at, name in kit._TABLE if half == side.value and at == state}
        kinds = sorted({name.partition("+")[0] for name in steps} - {"data"})
        if kinds:
            kind = data.draw(st.sampled_from(kinds))
            self.send(side, data.draw(KINDS[kind], label=kind))

    @rule(side=SIDES, data=st.data())
    def send_what_is_due_and_deliver(self, side: Side, data: st.DataObject) -> None:
        self.send_what_is_due(side, data)
        self.deliver_everything(side.other, data.draw(st.integers(1, 64), label="piece"))

    @rule(side=SIDES, message=BREAK_OFF, is_meant=SELDOM)
    def break_off(self, side: Side, message: Message, is_meant: bool) -> None:
        if is_meant:
            self.send(side, message)

    @rule(side=SIDES, value=UNSENDABLE, key=st.sampled_from(["args", "result", "details"]))
    def send_what_has_no_encoding(self, side: Side, value: object, key: str) -> None:
        message: Message = {
            "args": Request(op="x", args={"x": value}),
            "result": Ok(result={"x": value}),
            "details": Failure(code="x", details={"x": value}),
        }[key]
        view = self.views[side]
        before = view.snapshot()
        for end in view.ends:
            with pytest.raises(LocalProtocolError):
                end.send(message)
        assert view.snapshot() == before

    @rule(side=SIDES, size=DATA_SIZES)
    def send_data(self, side: Side, size: int) -> None:
        view = self.views[side]
        before = view.snapshot()
        is_allowed = 1 <= size <= MAX_DATA_SIZE and view.allows(side, None)
        heads = self.attempt(view, [lambda end=end: end.send_data(size) for end in view.ends])
        if heads is None:
            assert not is_allowed
            assert view.snapshot() == before
            return
        assert is_allowed
        view.sent += size
        self.put(side, heads + PATTERN[:size], bytearray(PATTERN[:size]))

    @rule(side=SIDES, data=st.data())
    def deliver(self, side: Side, data: st.DataObject) -> None:
        view = self.views[side]
        if view.incoming:
            most = len(view.incoming)
            size = data.draw(st.integers(1, most) | st.integers(1, min(9, most)), label="size")
            self.give(view, size, data.draw(st.integers(1, 64), label="piece"))

    @rule(side=SIDES, piece=st.integers(1, 2000))
    def deliver_everything(self, side: Side, piece: int) -> None:
        view = self.views[side]
        if view.incoming:
            self.give(view, len(view.incoming), piece)

    @rule(side=SIDES, garbage=GARBAGE, is_meant=SELDOM)
    def inject(self, side: Side, garbage: bytes, is_meant: bool) -> None:
        view = self.views[side]
        if is_meant and not view.is_cut:
            view.is_misled = True
            view.incoming += garbage

    @rule(side=SIDES, data=st.data(), is_meant=SELDOM)
    def cut(self, side: Side, data: st.DataObject, is_meant: bool) -> None:
        """The stream towards a side ends, perhaps in the middle of what is under way."""
        view = self.views[side]
        if not is_meant:
            return
        lost = data.draw(st.integers(0, len(view.incoming)), label="lost")
        if lost:
            del view.incoming[-lost:]
        view.is_cut = True

    @rule(side=SIDES)
    def end_of_stream(self, side: Side) -> None:
        view = self.views[side]
        if not view.is_cut or view.incoming or view.is_eof:
            return
        view.is_eof = True
        is_whole = view.end._decoder.is_between_frames
        for end in view.ends:
            end.receive_eof()
            (event,) = drain(end)
            if view.violation is not None:
                assert event == view.violation
                continue
            is_at_rest = set(view.model.states.values()) in ({"ready"}, {"hello"})
            assert event == ConnectionClosed(is_clean=is_at_rest and is_whole)

    @invariant()
    def ends_are_as_their_model(self) -> None:
        for view in self.views.values():
            for end in view.ends:
                assert end.our_state.value == view.model.states[view.side.value]
                assert end.their_state.value == view.model.states[view.side.other.value]
                assert end.features == view.features
                assert end.sent_bytes == view.sent
                if end.is_reusable:
                    assert end.our_state is end.their_state is State.READY
                    assert not view.is_eof
                    assert view.violation is None

    @invariant()
    def both_ends_agree_once_everything_is_delivered(self) -> None:
        views = self.views.values()
        if any(self.is_disturbed(view) or view.incoming for view in views):
            return
        client, server = (view.end for view in views)
        assert (client.our_state, client.their_state) == (server.their_state, server.our_state)
        assert client.sent_bytes == server.received_bytes
        assert server.sent_bytes == client.received_bytes
        assert client.features == server.features
        assert client.is_reusable == server.is_reusable

    def is_over(self) -> bool:
        """Whether one side takes nothing any more, so that the rest is seldom of interest."""
        return any(
            view.is_eof or view.end.our_state is State.CLOSED or view.violation is not None
            for view in self.views.values()
        )

    def is_disturbed(self, view: View) -> bool:
        return view.is_misled or view.is_cut or view.violation is not None

    def send(self, side: Side, message: Message) -> None:
        view = self.views[side]
        before = view.snapshot()
        is_allowed = view.allows(side, message)
        frame = self.attempt(view, [lambda end=end: end.send(message) for end in view.ends])
        if frame is None:
            assert not is_allowed
            assert view.snapshot() == before
            return
        assert is_allowed
        if isinstance(message, Request | Ok) and message.body is not None:
            view.sent = 0
        self.put(side, frame, message)

    def attempt(self, view: View, sends: Sequence[object]) -> bytes | None:
        """Send from an end and its twin alike."""
        frames = []
        for send in sends:
            try:
                frames.append(send())
            except LocalProtocolError:
                frames.append(None)
        assert frames[0] == frames[1]
        return frames[0]

    def put(self, side: Side, frame: bytes, sent: Message | bytearray) -> None:
        """Put on the wire what the peer has to see, unless the wire is cut."""
        peer = self.views[side.other]
        if not peer.is_cut:
            peer.incoming += frame
            peer.expected.append(sent)

    def give(self, view: View, size: int, piece: int) -> None:
        data = bytes(view.incoming[:size])
        del view.incoming[:size]
        was_broken = view.violation
        view.end.receive(data)
        events = drain(view.end)
        twin: list[object] = []
        piece = piece if size < 10_000 else 9973
        for start in range(0, len(data), piece):
            if not (twin and isinstance(twin[-1], str)):
                view.ends[1].receive(data[start : start + piece])
                twin += drain(view.ends[1])
        if was_broken is not None:
            assert events == [was_broken]
            assert set(twin) <= {was_broken}
            return
        assert joined(events) == joined(twin)
        for event in events:
            if isinstance(event, str):
                self.check_violation(view, event)
            else:
                view.take(memoryview(event) if isinstance(event, bytes) else event)

    def check_violation(self, view: View, reason: str) -> None:
        """Only a liar, or a peer that did not know yet, sends what may not be sent."""
        is_lied_to = any(each.is_misled for each in self.views.values())
        assert is_lied_to or view.end.their_state is State.CLOSED
        view.violation = reason


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        TwoEnds,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_two_ends_agree_whatever_is_sent_and_however_it_arrives() -> None:
    run(examples=4, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(900)  # what is left for finding the shortest example of a failure
def test_two_ends_agree_over_many_conversations() -> None:
    run(examples=1000, steps=60)
