"""At most so many connections, the idle ones kept for the next call.

There are as many places as connections allowed. Whoever holds a place takes the connection
that was used last, or dials, so connections never outnumber places. Nothing here is locked:
single operations on deques and sets are atomic, and a finalizer may interrupt anything.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from dataplane_protocol import RemoteProtocolError, UnavailableError

from ._connection import ConnectionLostError, DaemonConnection
from ._waiting import Turn, Waiting

T = TypeVar("T")


class Places:
    """A number of places, given first come first served.

    Args:
        count: How many there are.
        waiting: How to wait for one.
    """

    def __init__(self, count: int, waiting: Waiting) -> None:
        self._waiting = waiting
        self._free = deque([None] * count)
        self._turns: deque[Turn] = deque()
        self._is_open = True

    async def take(self) -> None:
        """Take a place, or wait for one; after `open_all` without taking one."""
        if self._free and not self._turns and self._take_free():
            return
        turn = self._waiting.turn()
        self._turns.append(turn)
        # Only now: a place given back since the first look did not know of this turn.
        self._match()
        try:
            await turn.wait()
        except BaseException:
            self._leave(turn)
            raise

    def give_back(self) -> None:
        """Give a place back."""
        self._free.append(None)
        self._match()

    def give_back_in_finalizer(self) -> None:
        """Give a place back from within anything, in any thread."""
        self._free.append(None)
        try:
            first = self._turns[0]
        except IndexError:
            return
        first.soon(self._match)

    def open_all(self) -> None:
        """Let everybody in from now on, whether or not there is a place."""
        self._is_open = False
        self._match()

    def _match(self) -> None:
        while self._turns:
            took = self._take_free()
            if not took and self._is_open:
                return
            try:
                turn = self._turns.popleft()
            except IndexError:
                # The waiter left since. Look again: another one may have come, and found
                # the place in our hand.
                if took:
                    self._free.append(None)
            else:
                turn.grant()

    def _take_free(self) -> bool:
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def _leave(self, turn: Turn) -> None:
        try:
            self._turns.remove(turn)
        except ValueError:
            # A place was given to this turn meanwhile, and is passed on.
            self.give_back()


class Pool:
    """The connections of one client.

    Args:
        path: Where the daemon listens.
        size: The most connections at a time.
        waiting: How to wait.
    """

    def __init__(self, path: str, size: int, waiting: Waiting) -> None:
        self._path = path
        self._waiting = waiting
        self._places = Places(size, waiting)
        self._idle: list[DaemonConnection] = []
        self._all: set[DaemonConnection] = set()
        self._is_closed = False

    async def lease(self) -> "Lease":
        """Wait for a place and give a connection, which the caller releases.

        Raises:
            DataPlaneError: No connection could be opened, or the pool is closed.
        """
        await self._waiting.check_cancelled()
        self._check_open()
        await self._places.take()
        try:
            return Lease(self, self._take_idle() or await self.dial())
        except BaseException:
            self._places.give_back()
            raise

    async def dial(self) -> DaemonConnection:
        """Open a fresh connection, for a place that the caller holds."""
        try:
            connection = DaemonConnection(self._path, self._waiting)
        except OSError as exc:
            raise UnavailableError(f"cannot make a socket: {exc.strerror}") from exc
        self._all.add(connection)
        try:
            # Only now: whoever closes the pool from now on finds the connection.
            self._check_open()
            await connection.open()
        except BaseException:
            self.drop(connection)
            raise
        return connection

    def put_back(self, connection: DaemonConnection) -> None:
        """Keep a connection for the next call, or close it if it is of no more use."""
        if not connection.is_reusable:
            self.drop(connection)
            return
        connection.is_reused = True
        self._idle.append(connection)
        if self._is_closed:
            self._drop_idle()

    def drop(self, connection: DaemonConnection) -> None:
        """Close a connection for good."""
        self._all.discard(connection)
        connection.close()

    def give_back_place(self, *, in_finalizer: bool) -> None:
        """Let the next waiter have the place of a connection put back or dropped."""
        if in_finalizer:
            self._places.give_back_in_finalizer()
        else:
            self._places.give_back()

    def close(self) -> None:
        """Close the idle connections, break off the others, turn waiters away. Idempotent."""
        self._is_closed = True
        self._drop_idle()
        for connection in list(self._all):
            connection.abort()
        self._places.open_all()

    def _take_idle(self) -> DaemonConnection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not connection.is_stale:
                return connection
            self.drop(connection)

    def _drop_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self.drop(self._idle.pop())

    def _check_open(self) -> None:
        if self._is_closed:
            raise UnavailableError("the client is closed", retry=False)


class Lease:
    """A place in the pool and the connection that goes with it, for one call."""

    def __init__(self, pool: Pool, connection: DaemonConnection) -> None:
        self.connection = connection
        self._pool = pool
        self._is_released = False

    async def run(
        self,
        exchange: Callable[[DaemonConnection], Awaitable[T]],
        is_repeatable: Callable[[], bool] = lambda: True,
    ) -> T:
        """Have the exchange up to its answer; once more on a fresh connection if it was stale.

        A pooled connection is stale when the daemon closed it after the last look, which
        shows in that no byte of an answer came. Every operation is idempotent, so that it
        does no harm if the daemon had begun (`SPEC.md` 5).

        Args:
            exchange: Sends a request and receives its answer.
            is_repeatable: Whether the exchange still has all that it sent.
        """
        try:
            return await self._attempt(exchange)
        except ConnectionLostError:
            stale = self.connection
            if not (stale.is_reused and stale.is_lost and not stale.has_answer):
                raise
            if not is_repeatable():
                raise
        self._pool.drop(stale)
        self.connection = await self._pool.dial()
        return await self._attempt(exchange)

    def release(self, *, in_finalizer: bool = False) -> None:
        """Give both back. Idempotent."""
        if self._is_released:
            return
        self._is_released = True
        self._pool.put_back(self.connection)
        self._pool.give_back_place(in_finalizer=in_finalizer)

    async def _attempt(self, exchange: Callable[[DaemonConnection], Awaitable[T]]) -> T:
        try:
            return await exchange(self.connection)
        except RemoteProtocolError:
            # In step or not, a daemon that breaks the contract is not asked again here.
            self.connection.close()
            raise
