import socket
from contextlib import asynccontextmanager, suppress

import pytest
import structlog.testing
import trio
import trio.testing

from dataplane_protocol import (
    BodyKind,
    Connection,
    End,
    Failure,
    Hello,
    Ok,
    Request,
    Side,
    UsualIngest,
    UsualStat,
    encode_frame,
)
from dataplaned.access import ALL_ROLES, Caller
from dataplaned.backends.memory import MemoryBackend
from dataplaned.config import DaemonConfig
from dataplaned.lobby import Lobby
from dataplaned.peer import BufferPool, Peer
from dataplaned.plane import LocalDataPlane
from dataplaned.roster import Roster
from dataplaned.server import Session

CALLER = Caller(pid=1, uid=0, socket="test", roles=ALL_ROLES)
ADDRESS = "blake3:" + "ab" * 32
STAT = Request(op="stat_objects", args={"content_addresses": [ADDRESS]})
HEALTH = Request(op="backend_health")
ANSWER = encode_frame(Ok(result={"objects": [], "quick": True}).to_wire())


class Answers:
    """What a lobby asks, with answers that a test chooses.

    Attributes:
        calls: What was asked.
        waiting: What is to be called with an answer later, if `is_slow`.
    """

    def __init__(self):
        self.calls = []
        self.waiting = []
        self.is_slow = False
        self.answer = (ANSWER,)

    def __call__(self, _, call, done):
        self.calls.append(call)
        if self.is_slow:
            self.waiting.append(done)
        elif self.answer is None:
            return False
        else:
            done(self.answer)
        return True


class Caller:
    """The client's end of a connection whose session waits in the lobby."""

    def __init__(self, ours):
        self.socket = ours
        self.connection = Connection(Side.CLIENT)
        self.is_over = trio.Event()

    async def send(self, data):
        while data:
            data = data[await self.socket.send(data) :]

    async def call(self, request):
        await self.send(self.connection.send(request))
        return await self.receive()

    async def receive(self):
        while (event := self.connection.next_event()) is None:
            data = await self.socket.recv(65_536)
            if data:
                self.connection.receive(data)
            else:
                self.connection.receive_eof()
        return event

    async def assert_closed(self):
        with trio.fail_after(5):
            with suppress(ConnectionResetError):  # something of ours was left unread
                assert await self.socket.recv(1) == b""
        await self.is_over.wait()


class House:
    """A lobby at work, and connections that wait in it."""

    def __init__(self, nursery):
        self.answers = Answers()
        self.lobby = Lobby(self.answers)
        self.plane = LocalDataPlane({"m": MemoryBackend("m")})
        self.nursery = nursery
        self.lobby_scope = trio.CancelScope()
        self.sessions = []
        self.callers = []

    async def run(self):
        with self.lobby_scope:
            await self.lobby.run()

    async def caller(self, send_buffer=None):
        ours, theirs = socket.socketpair()
        peer = Peer(theirs, BufferPool())
        if send_buffer is not None:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        session = Session(peer, Roster(DaemonConfig()).admit(CALLER), self.plane, lobby=self.lobby)
        self.sessions.append(session)
        caller = Caller(trio.socket.from_stdlib_socket(ours))
        self.callers.append(caller)

        async def attend():
            await session.run()
            caller.is_over.set()

        self.nursery.start_soon(attend)
        assert isinstance(await caller.call(Hello()), Hello)
        await trio.testing.wait_all_tasks_blocked()
        return caller


@asynccontextmanager
async def open_house():
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            house = House(nursery)
            nursery.start_soon(house.run)
            yield house
            nursery.cancel_scope.cancel()
    assert house.lobby._guests == {}
    house.lobby.close()
    for caller in house.callers:
        caller.socket.close()


@pytest.fixture
async def house():
    async with open_house() as house:
        yield house


@pytest.mark.trio
async def test_a_usual_call_is_answered_without_its_task(house):
    caller = await house.caller()
    for _ in range(3):
        assert (await caller.call(STAT)).result["quick"]
    assert house.answers.calls == [UsualStat((ADDRESS,), None)] * 3


@pytest.mark.trio
async def test_what_is_declined_goes_the_ordinary_way_and_the_next_call_is_quick_again(house):
    caller = await house.caller()
    house.answers.answer = None
    assert await caller.call(STAT) == Ok(result={"objects": []})
    house.answers.answer = (ANSWER,)
    assert (await caller.call(STAT)).result["quick"]


@pytest.mark.trio
async def test_what_was_taken_and_then_declined_goes_the_ordinary_way(house):
    caller = await house.caller()
    house.answers.is_slow = True
    await caller.send(caller.connection.send(STAT))
    await trio.testing.wait_all_tasks_blocked()
    house.answers.waiting.pop()(None)
    assert await caller.receive() == Ok(result={"objects": []})


@pytest.mark.trio
@pytest.mark.parametrize("is_answered_first", [False, True])
async def test_an_answering_that_fails_costs_nobody_anything(house, is_answered_first):
    caller = await house.caller()
    answer = house.answers.__call__

    def fail(seat, call, done):
        if is_answered_first:
            answer(seat, call, done)
        raise ZeroDivisionError

    house.lobby._answer = fail
    with structlog.testing.capture_logs() as logs:
        answered = await caller.call(STAT)
    assert ("quick" in answered.result) == is_answered_first
    assert [line["event"] for line in logs] == ["quick_call_failed"]
    house.lobby._answer = house.answers
    assert (await caller.call(STAT)).result["quick"]


@pytest.mark.trio
async def test_a_call_of_another_shape_is_not_asked_about(house):
    caller = await house.caller()
    assert (await caller.call(HEALTH)).result["backend_id"] == "m"
    assert house.answers.calls == []


@pytest.mark.trio
@pytest.mark.parametrize("cut", [1, 4, 5, 20, -1])
async def test_a_call_that_comes_in_two_pieces_goes_the_ordinary_way(house, cut):
    caller = await house.caller()
    frame = caller.connection.send(STAT)
    await caller.send(frame[:cut])
    await trio.testing.wait_all_tasks_blocked()
    await caller.send(frame[cut:])
    assert await caller.receive() == Ok(result={"objects": []})
    assert house.answers.calls == []


@pytest.mark.trio
async def test_an_ingest_is_asked_about_whole_and_ingested_if_declined(house):
    caller = await house.caller()
    house.answers.answer = None
    request = Request(op="ingest_stream", body=BodyKind.STREAM)
    frames = caller.connection.send(request) + caller.connection.send_data(5) + b"hello"
    await caller.send(frames + caller.connection.send(End(size_bytes=5)))
    assert (await caller.receive()).result["size_bytes"] == 5
    assert house.answers.calls == [UsualIngest(b"hello", None, None, None, None)]


@pytest.mark.trio
async def test_garbage_is_answered_and_the_connection_closed(house):
    caller = await house.caller()
    await caller.send(b"GET / HTTP/1.1\r\n\r\n")
    caller.connection.send(HEALTH)
    failure = await caller.receive()
    assert isinstance(failure, Failure)
    assert failure.code == "protocol"
    await caller.assert_closed()


@pytest.mark.trio
async def test_two_calls_at_once_are_what_they_always_were(house):
    caller = await house.caller()
    frame = encode_frame(STAT.to_wire())
    caller.connection.send(STAT)
    await caller.send(frame + frame)
    # Answered one after the other, as without a lobby: a server need not notice.
    assert await caller.receive() == Ok(result={"objects": []})


@pytest.mark.trio
async def test_a_connection_that_ends_is_let_go(house):
    caller = await house.caller()
    caller.socket.close()
    await caller.is_over.wait()
    assert house.lobby._guests == {}


@pytest.mark.trio
async def test_a_call_as_long_as_the_buffer_goes_the_ordinary_way(house):
    caller = await house.caller()
    content = bytes(100_000)
    request = Request(op="ingest_stream", body=BodyKind.STREAM)
    frames = caller.connection.send(request) + caller.connection.send_data(len(content)) + content
    await caller.send(frames + caller.connection.send(End(size_bytes=len(content))))
    assert (await caller.receive()).result["size_bytes"] == len(content)
    assert house.answers.calls == []


@pytest.mark.trio
async def test_an_answer_that_the_socket_does_not_take_at_once_arrives_whole(house):
    caller = await house.caller(send_buffer=4096)
    house.answers.answer = (encode_frame(Ok(result={"long": "x" * 60_000}).to_wire()),)
    for _ in range(20):
        assert (await caller.call(STAT)).result == {"long": "x" * 60_000}


@pytest.mark.trio
async def test_an_answer_that_nobody_reads_is_finished_before_a_drain_ends_the_connection(house):
    caller = await house.caller(send_buffer=4096)
    house.answers.answer = (encode_frame(Ok(result={"long": "x" * 60_000}).to_wire()),)
    await caller.send(caller.connection.send(STAT))
    await trio.testing.wait_all_tasks_blocked()
    house.sessions[0].drain()
    await trio.testing.wait_all_tasks_blocked()
    assert not caller.is_over.is_set()
    assert (await caller.receive()).result == {"long": "x" * 60_000}
    await caller.assert_closed()


@pytest.mark.trio
async def test_draining_ends_whoever_waits(house):
    caller = await house.caller()
    house.sessions[0].drain()
    await caller.assert_closed()


@pytest.mark.trio
@pytest.mark.parametrize("has_lobby_ended", [False, True])
async def test_a_call_that_is_worked_on_is_answered_before_a_drain_ends_it(house, has_lobby_ended):
    caller = await house.caller()
    house.answers.is_slow = True
    await caller.send(caller.connection.send(STAT))
    await trio.testing.wait_all_tasks_blocked()
    house.sessions[0].drain()
    if has_lobby_ended:
        house.lobby_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert not caller.is_over.is_set()
    house.answers.waiting.pop()((ANSWER,))
    assert (await caller.receive()).result["quick"]
    await caller.assert_closed()


@pytest.mark.trio
async def test_cancelling_waits_for_a_call_that_is_worked_on():
    answered = []
    async with open_house() as house:
        caller = await house.caller()
        house.answers.is_slow = True
        await caller.send(caller.connection.send(STAT))
        await trio.testing.wait_all_tasks_blocked()

        def finish():
            answered.append(True)
            house.answers.waiting.pop()((ANSWER,))

        token = trio.lowlevel.current_trio_token()
        house.nursery.cancel_scope.cancel()
        token.run_sync_soon(lambda: token.run_sync_soon(finish))
        with trio.CancelScope(shield=True):
            assert await caller.socket.recv(65_536) == ANSWER
    assert answered


@pytest.mark.trio
@pytest.mark.parametrize("is_end", [True, False])
async def test_what_comes_while_a_call_is_worked_on_is_looked_at_afterwards(house, is_end):
    caller = await house.caller()
    house.answers.is_slow = True
    await caller.send(caller.connection.send(STAT))
    await trio.testing.wait_all_tasks_blocked()
    if is_end:
        caller.socket.shutdown(socket.SHUT_WR)
    else:
        await caller.send(b"garbage garbage garbage")
    await trio.testing.wait_all_tasks_blocked()
    assert len(house.answers.calls) == 1
    house.answers.waiting.pop()((ANSWER,))
    assert (await caller.receive()).result["quick"]
    if not is_end:
        caller.connection.send(HEALTH)
        assert (await caller.receive()).code == "protocol"
    await caller.assert_closed()


@pytest.mark.trio
async def test_many_connections_are_told_apart_also_when_numbers_are_used_again(house):
    for _ in range(3):
        callers = [await house.caller() for _ in range(10)]
        for caller in callers:
            assert (await caller.call(STAT)).result["quick"]
        for caller in callers:
            caller.socket.close()
            await caller.is_over.wait()
    assert len(house.answers.calls) == 30
