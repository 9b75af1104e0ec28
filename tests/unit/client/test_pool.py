"""The pool: how many, which one, whose turn, and what happens to stale connections."""

import contextlib
import threading

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from dataplane_client import connect
from dataplane_client._pool import Places
from dataplane_protocol import DATA_SIZE, DataPlaneError, End, Failure, UnavailableError


def answering(sample, count=None, served=None):
    """A script that answers `count` health calls, or all that come."""

    def script(peer):
        done = 0
        while count is None or done < count:
            event = peer.receive()
            if not hasattr(event, "op"):
                return
            if served is not None:
                served.append(peer)
            peer.send(sample.health)
            done += 1

    return script


def closing(peer):
    peer.expect_closed()


@pytest.mark.anyio
async def test_calls_in_a_row_share_one_connection(daemon, sample):
    daemon.run(answering(sample))
    async with connect(daemon.path) as client:
        for _ in range(5):
            await client.backend_health()
    assert daemon.accepted == 1


@pytest.mark.anyio
async def test_no_more_connections_than_the_pool_allows(daemon, sample):
    daemon.run(answering(sample), answering(sample), answering(sample))
    async with connect(daemon.path, pool_size=3) as client, anyio.create_task_group() as tasks:
        for _ in range(30):
            tasks.start_soon(client.backend_health)
    assert daemon.accepted == 3


@pytest.mark.anyio
async def test_the_connection_used_last_is_used_next(daemon, sample, make_flag):
    served = []
    both = threading.Barrier(2)

    def script(peer):
        peer.request()
        both.wait(20)
        peer.send(sample.health)
        answering(sample, served=served)(peer)

    daemon.run(script, script)
    async with connect(daemon.path) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.backend_health)
            tasks.start_soon(client.backend_health)
        for _ in range(4):
            await client.backend_health()
    assert len(set(served)) == 1


@pytest.mark.anyio
async def test_waiters_get_their_turn_in_order(daemon, sample, make_flag):
    first, go = make_flag(), threading.Event()

    def script(peer):
        peer.request()
        first.set()
        assert go.wait(20)
        peer.send(sample.health)
        answering(sample)(peer)

    daemon.run(script)
    order = []
    async with connect(daemon.path, pool_size=1) as client, anyio.create_task_group() as tasks:

        async def ask(number):
            await client.backend_health()
            order.append(number)

        tasks.start_soon(ask, 0)
        await first.wait()
        for number in (1, 2, 3):
            tasks.start_soon(ask, number)
            await wait_all_tasks_blocked()
        go.set()
    assert order == [0, 1, 2, 3]


@pytest.mark.anyio
async def test_a_waiter_that_is_cancelled_leaves_its_turn_to_the_next(daemon, sample, make_flag):
    first, go = make_flag(), threading.Event()

    def script(peer):
        peer.request()
        first.set()
        assert go.wait(20)
        peer.send(sample.health)
        answering(sample)(peer)

    daemon.run(script)
    async with connect(daemon.path, pool_size=1) as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.backend_health)
        await first.wait()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(client.backend_health)
                await wait_all_tasks_blocked()
                scope.cancel()
        tasks.start_soon(client.backend_health)
        await wait_all_tasks_blocked()
        go.set()


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["refused", "lost", "cancelled"])
async def test_a_call_that_fails_leaves_its_place_to_a_waiter(daemon, sample, make_flag, how):
    first, go = make_flag(), threading.Event()

    def failing(peer):
        peer.request()
        first.set()
        assert go.wait(20)
        if how == "refused":
            peer.send(Failure(code="internal"))
            answering(sample)(peer)

    daemon.run(*([failing] if how == "refused" else [failing, answering(sample)]))
    async with connect(daemon.path, pool_size=1) as client, anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def fail():
            with scope, contextlib.suppress(DataPlaneError):
                await client.backend_health()

        tasks.start_soon(fail)
        await first.wait()
        tasks.start_soon(client.backend_health)
        await wait_all_tasks_blocked()
        if how == "cancelled":
            scope.cancel()
        go.set()


@pytest.mark.anyio
async def test_nobody_listening_leaves_the_place_to_a_waiter(tmp_path):
    async with connect(tmp_path / "nobody", pool_size=1) as client:
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await client.backend_health()


# Places, apart from connections.


class FakeTurn:
    def __init__(self):
        self.granted = False
        self.on_wait = None

    async def wait(self):
        if self.on_wait is not None:
            self.on_wait()
        while not self.granted:
            await anyio.lowlevel.checkpoint()

    def grant(self):
        self.granted = True

    def soon(self, callback):
        callback()


class FakeWaiting:
    def __init__(self):
        self.turns = []
        self.prepare = lambda turn: None

    def turn(self):
        turn = FakeTurn()
        self.turns.append(turn)
        self.prepare(turn)
        return turn


@pytest.mark.anyio
async def test_a_place_granted_to_a_waiter_that_was_cancelled_is_passed_on():
    waiting = FakeWaiting()
    places = Places(1, waiting)
    await places.take()
    with anyio.CancelScope() as scope:

        def give_and_cancel():
            places.give_back()
            waiting.turns[0].granted = False
            scope.cancel()

        waiting.prepare = lambda turn: setattr(turn, "on_wait", give_and_cancel)
        await places.take()
    assert scope.cancelled_caught
    # There is one free place again, and only one.
    waiting.prepare = lambda turn: None
    await places.take()
    assert len(waiting.turns) == 1
    with anyio.CancelScope() as scope:
        waiting.prepare = lambda turn: setattr(turn, "on_wait", scope.cancel)
        await places.take()
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_a_place_given_back_while_a_waiter_lines_up_is_not_missed():
    # The finalizer of a forgotten body may run at any point.
    waiting = FakeWaiting()
    places = Places(1, waiting)
    await places.take()
    waiting.prepare = lambda turn: places.give_back_in_finalizer()
    await places.take()
    assert waiting.turns[0].granted


@pytest.mark.anyio
async def test_a_finalizer_hands_the_place_to_the_first_waiter():
    waiting = FakeWaiting()
    places = Places(1, waiting)
    await places.take()
    waiting.prepare = lambda turn: setattr(turn, "on_wait", places.give_back_in_finalizer)
    await places.take()
    assert waiting.turns[0].granted


@pytest.mark.anyio
async def test_after_opening_all_nobody_waits():
    places = Places(1, FakeWaiting())
    places.open_all()
    for _ in range(3):
        await places.take()


@pytest.mark.parametrize("free", [0, 1])
def test_a_waiter_that_leaves_while_a_place_is_in_hand_loses_no_place(free):
    places = Places(free, FakeWaiting())
    places._is_open = free > 0
    turn = FakeTurn()
    places._turns.append(turn)
    take = places._take_free

    def take_and_lose_the_waiter():
        places._turns.clear()
        return take()

    places._take_free = take_and_lose_the_waiter
    places._match()
    assert len(places._free) == free
    assert not turn.granted


# Stale connections.


@pytest.mark.anyio
async def test_a_connection_closed_while_idle_is_not_used_again(daemon, sample, make_flag):
    closed = make_flag()

    def once(peer):
        answering(sample, 1)(peer)
        peer.sock.close()
        closed.set()

    daemon.run(once, answering(sample))
    async with connect(daemon.path) as client:
        await client.backend_health()
        await closed.wait()
        await client.backend_health()
    assert daemon.accepted == 2


@pytest.mark.anyio
async def test_a_connection_on_which_something_was_said_unasked_is_not_used_again(
    daemon, sample, make_flag
):
    said = make_flag()

    def chatty(peer):
        answering(sample, 1)(peer)
        peer.sock.sendall(b"psst")
        said.set()
        peer.expect_closed()

    daemon.run(chatty, answering(sample))
    async with connect(daemon.path) as client:
        await client.backend_health()
        await said.wait()
        await client.backend_health()


def leaving(sample):
    """Answers one call and, in the middle of the next, closes without an answer."""

    def script(peer):
        answering(sample, 1)(peer)
        peer.receive()

    return script


@pytest.mark.anyio
async def test_a_stale_connection_is_replaced_once(daemon, sample):
    daemon.run(leaving(sample), answering(sample))
    async with connect(daemon.path) as client:
        await client.backend_health()
        await client.backend_health()
        await client.backend_health()
    assert daemon.accepted == 2


@pytest.mark.anyio
async def test_a_stale_connection_is_not_replaced_twice(daemon, sample):
    daemon.run(leaving(sample), lambda peer: peer.request())
    async with connect(daemon.path) as client:
        await client.backend_health()
        with pytest.raises(UnavailableError):
            await client.backend_health()
    assert daemon.accepted == 2


@pytest.mark.anyio
async def test_a_stale_connection_is_not_replaced_for_a_private_call(daemon, sample):
    # It may do something else the second time, and the daemon may have begun.
    daemon.run(leaving(sample))
    async with connect(daemon.path) as client:
        await client.backend_health()
        with pytest.raises(UnavailableError):
            await client.call_private("org.example.compact")
    assert daemon.accepted == 1


@pytest.mark.anyio
async def test_a_fresh_connection_is_not_replaced(daemon):
    daemon.run(lambda peer: peer.request())
    async with connect(daemon.path) as client:
        with pytest.raises(UnavailableError):
            await client.backend_health()
    assert daemon.accepted == 1


@pytest.mark.anyio
async def test_a_connection_that_broke_after_a_byte_of_the_answer_is_not_replaced(daemon, sample):
    def torn(peer):
        answering(sample, 1)(peer)
        peer.request()
        peer.sock.sendall(b"\x00")

    daemon.run(torn)
    async with connect(daemon.path) as client:
        await client.backend_health()
        with pytest.raises(UnavailableError):
            await client.backend_health()
    assert daemon.accepted == 1


class Pieces:
    def __init__(self, *pieces):
        self.pieces = iter(pieces)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for piece in self.pieces:
            if not hasattr(piece, "wait"):
                return piece
            await piece.wait()
        raise StopAsyncIteration


@pytest.mark.anyio
@pytest.mark.parametrize("reads", [False, True])
async def test_a_body_still_in_hand_is_sent_again(daemon, sample, reads):
    def leaving_later(peer):
        answering(sample, 1)(peer)
        if reads:
            peer.request()
            peer.body()
        else:
            peer.sock.recv(1)

    def storing(peer):
        peer.request()
        assert peer.body() == (sample.data, End(size_bytes=12))
        peer.send(sample.stored(12))
        peer.expect_closed()

    daemon.run(leaving_later, storing)
    async with connect(daemon.path) as client:
        await client.backend_health()
        assert await client.ingest_stream(Pieces(b"hello ", b"world\n")) == sample.ingested(12)


@pytest.mark.anyio
async def test_a_body_that_has_gone_on_is_not_sent_again(daemon, sample, make_flag):
    asked, left = threading.Event(), make_flag()

    class Parting:
        async def wait(self):
            asked.set()
            await left.wait()

    def leaving_in_the_body(peer):
        answering(sample, 1)(peer)
        peer.request()
        received = 0
        while received < DATA_SIZE:
            received += len(peer.receive())
        assert asked.wait(20)
        peer.sock.close()
        left.set()

    daemon.run(leaving_in_the_body)
    async with connect(daemon.path) as client:
        await client.backend_health()
        with pytest.raises(UnavailableError):
            await client.ingest_stream(Pieces(bytes(DATA_SIZE), Parting(), b"more"))
    assert daemon.accepted == 1


@pytest.mark.anyio
async def test_a_stale_connection_is_found_before_a_slow_body_goes_on(daemon, sample, make_flag):
    # The first piece is awaited with the connection in hand, which the daemon closes.
    asked, closed = make_flag(), make_flag()

    def idle(peer):
        answering(sample, 1)(peer)
        anyio.from_thread.run(asked.wait, token=token)
        peer.sock.close()
        closed.set()

    def storing(peer):
        peer.request()
        assert peer.body() == (b"slow", End(size_bytes=4))
        peer.send(sample.stored(4))
        peer.expect_closed()

    class Slow(Pieces):
        async def __anext__(self):
            asked._event.set()
            return await super().__anext__()

    token = anyio.lowlevel.current_token()
    daemon.run(idle, storing)
    async with connect(daemon.path) as client:
        await client.backend_health()
        await client.ingest_stream(Slow(closed, b"slow"))


# Closing.


@pytest.mark.anyio
async def test_closing_fails_calls_that_run_and_calls_that_wait(daemon, make_flag):
    arrived = make_flag()

    def silent(peer):
        peer.request()
        arrived.set()
        peer.expect_closed()

    daemon.run(silent)
    client = connect(daemon.path, pool_size=1)
    failed = []

    async def ask():
        with pytest.raises(UnavailableError) as caught:
            await client.backend_health()
        failed.append(caught.value.message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await arrived.wait()
        tasks.start_soon(ask)
        tasks.start_soon(ask)
        await wait_all_tasks_blocked()
        await client.aclose()
    assert sorted(failed) == [
        "the client is closed",
        "the client is closed",
        "the connection was closed on this side",
    ]


@pytest.mark.anyio
async def test_closing_fails_a_body_between_two_pieces(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(sample.serving(12), b"hello ")
        peer.expect_closed()

    daemon.run(script)
    client = connect(daemon.path)
    served = await client.serve_object(sample.address)
    assert await anext(served) == b"hello "
    await client.aclose()
    with pytest.raises(UnavailableError):
        await anext(served)


@pytest.mark.anyio
async def test_closing_fails_a_call_that_is_sending(daemon, make_flag):
    arrived, closed = make_flag(), threading.Event()

    def full(peer):
        peer.request()
        peer.receive()
        arrived.set()
        assert closed.wait(20)
        peer.expect_closed()

    daemon.run(full)
    client = connect(daemon.path)

    async def send():
        with pytest.raises(UnavailableError):
            await client.ingest_stream(Pieces(*[bytes(DATA_SIZE)] * 100))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await arrived.wait()
        await wait_all_tasks_blocked()
        await client.aclose()
        closed.set()


@pytest.mark.anyio
async def test_closing_while_connecting(daemon, make_flag):
    arrived = make_flag()

    def mute(peer):
        peer.receive()
        arrived.set()
        peer.expect_closed()

    daemon.run(mute, greets=False)
    client = connect(daemon.path)

    async def ask():
        with pytest.raises(UnavailableError):
            await client.backend_health()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await arrived.wait()
        await client.aclose()


@pytest.mark.anyio
async def test_a_stale_connection_is_not_replaced_in_a_closed_client(daemon, sample, make_flag):
    def script(peer):
        answering(sample, 1)(peer)
        peer.request()
        peer.sock.close()

    daemon.run(script)
    client = connect(daemon.path)
    await client.backend_health()
    pool = client._pool
    dial = pool.dial

    async def close_first():
        pool.close()
        return await dial()

    pool.dial = close_first
    with pytest.raises(UnavailableError, match="client is closed"):
        await client.backend_health()


@pytest.mark.anyio
async def test_a_connection_put_back_while_the_client_closes_is_closed(daemon, sample):
    class Closing(list):
        def append(self, connection):
            client._pool.close()
            super().append(connection)

    daemon.run(answering(sample, 1, []))
    client = connect(daemon.path)
    client._pool._idle = Closing()
    await client.backend_health()
    assert client._pool._idle == []
    assert client._pool._all == set()


def test_event_loops_in_several_threads_share_a_client(daemon, sample):
    # Not a thing to do on purpose, but nobody waits for ever who does.
    waiting = threading.Event()

    def script(peer):
        peer.request()
        assert waiting.wait(20)
        peer.send(sample.health)
        answering(sample)(peer)

    daemon.run(script)
    client = connect(daemon.path, pool_size=1)

    async def hold():
        served.set()
        await client.backend_health()

    async def wait():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.backend_health)
            await wait_all_tasks_blocked()
            waiting.set()

    served = threading.Event()
    holder = threading.Thread(target=anyio.run, args=(hold,))
    holder.start()
    assert served.wait(20)
    anyio.run(wait, backend="trio")
    holder.join()
    anyio.run(client.aclose)
