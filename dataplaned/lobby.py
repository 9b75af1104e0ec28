"""Where connections wait between calls, and where a usual call is answered as it comes in.

Waking a task takes as long as a small call. So idle connections wait in one place, by one
epoll(7) for all of them, and whatever comes in is looked at here first: a whole call of the
usual shape that can be answered without waiting is answered without its connection's task.
Everything else, also whatever is odd, is handed to that task as it came, untouched.
"""

import select
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import structlog
import trio

from dataplane_protocol import Buffer, UsualCall, read_usual

from .peer import Peer
from .roster import Seat

#: Bytes of a call that is answered here, at most: what comes in more is a large body.
_BUFFER_SIZE: Final = 65_536

#: Calls that are looked at before other tasks have a turn.
_MOST_AT_ONCE: Final = 32

#: Frames that answer a call, or `None` when it has to go the ordinary way after all.
Answer: TypeAlias = Sequence[Buffer] | None


#: Answers a call of whoever has the seat, if that is possible at once: says whether it takes the
#: call, and calls the function with its answer then, once, in trio's thread, perhaps before it
#: returns. The frames are good until it is asked again.
Answering: TypeAlias = Callable[[Seat, UsualCall, Callable[[Answer], None]], bool]

_log = structlog.get_logger(__name__)


class _Guest:
    """A connection that waits here, and its task."""

    def __init__(self, peer: Peer, seat: Seat, task: trio.lowlevel.Task) -> None:
        self.peer = peer
        self.seat = seat
        self.task = task
        self.fd = peer.fileno()
        self.is_answered = True  # false while its call is worked on
        self.is_leaving = False  # its task was cancelled meanwhile
        self.has_news = False  # more came in meanwhile
        self.has_arrived = False  # something came in that its task has to see to


class Lobby:
    """All connections of a daemon that wait for a call.

    Args:
        answer: Answers what can be answered here.
    """

    def __init__(self, answer: Answering) -> None:
        self._answer = answer
        self._guests: dict[int, _Guest] = {}
        self._buffer = bytearray(_BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._epoll = select.epoll()

    async def run(self) -> None:
        """Look after whoever waits, until cancelled."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self._look_at_all()
        finally:
            trio.lowlevel.notify_closing(self._epoll.fileno())

    def close(self) -> None:
        """Let go. Nobody waits here any more."""
        self._epoll.close()

    async def wait(self, peer: Peer, seat: Seat) -> bool:
        """Wait until something comes in that is not answered here; it is in `peer.connection`.

        A call that is worked on goes on to its answer, cancelled or not.

        Returns:
            False when nothing came in but an answer did not go out as a whole: `flush` it, and
            come again.
        """
        peer.rest()
        guest = _Guest(peer, seat, trio.lowlevel.current_task())
        self._guests[guest.fd] = guest
        # Edge-triggered, since what is not read while a call is worked on would be told again
        # and again. Being added tells what is there already.
        self._epoll.register(guest.fd, select.EPOLLIN | select.EPOLLET)

        def abort(_: object) -> trio.lowlevel.Abort:
            if not guest.is_answered:
                guest.is_leaving = True
                return trio.lowlevel.Abort.FAILED
            self._remove(guest)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        return guest.has_arrived

    def _look_at_all(self) -> None:
        # Callers ask again as soon as they are answered, and to wait for them takes longer
        # than to look whether they have.
        left = _MOST_AT_ONCE
        while left > 0 and (events := self._epoll.poll(0, left)):
            left -= len(events)
            for fd, _ in events:
                guest = self._guests.get(fd)
                if guest is not None:
                    self._look(guest)

    def _look(self, guest: _Guest) -> None:
        if not guest.is_answered:
            guest.has_news = True
            return
        peer = guest.peer
        try:
            count = peer.receive_now(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0  # it is over all the same
        if not count:
            peer.connection.receive_eof()
            guest.has_arrived = True
            self._wake(guest)
            return
        data = bytes(self._view[:count])
        # A full buffer need not be all that has come.
        call = read_usual(data) if count < _BUFFER_SIZE else None
        if call is None:
            self._hand_over(guest, data)
        else:
            self._take(guest, call, data)

    def _take(self, guest: _Guest, call: UsualCall, data: bytes) -> None:
        guest.is_answered = False
        try:
            is_taken = self._answer(guest.seat, call, partial(self._finish, guest, data))
        except Exception as exc:  # noqa: BLE001 - one call must not end the daemon
            _log.error("quick_call_failed", exc_info=exc)
            is_taken = guest.is_answered
        if not is_taken:
            guest.is_answered = True
            self._hand_over(guest, data)

    def _finish(self, guest: _Guest, data: bytes, answer: Answer) -> None:
        guest.is_answered = True
        if answer is None:
            self._hand_over(guest, data)
        elif not guest.peer.send_now(answer) or guest.is_leaving:
            self._wake(guest)
        elif guest.has_news:
            guest.has_news = False
            self._look(guest)

    def _hand_over(self, guest: _Guest, data: bytes) -> None:
        guest.peer.connection.receive(data)
        guest.has_arrived = True
        self._wake(guest)

    def _wake(self, guest: _Guest) -> None:
        self._remove(guest)
        trio.lowlevel.reschedule(guest.task)

    def _remove(self, guest: _Guest) -> None:
        del self._guests[guest.fd]
        self._epoll.unregister(guest.fd)
