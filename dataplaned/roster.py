"""Who is connected, what each of them has called, and how much of it there may be.

Limits are looked at when something begins: a connection, a call, the bytes of a body. What is
over one is refused with `unavailable` and may be tried again; nothing that has begun is ended
for it. Everything here is called on the event loop.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from dataplane_protocol import AccessDeniedError, DataPlaneError, UnavailableError

from .access import Access, Caller, Role, name_of, role_for
from .calls import Call, CallObserver
from .config import DaemonConfig
from .reports import ConnectionStatus

#: What a call is that this daemon does not have, in place of text that a caller chose.
UNKNOWN_OPERATION: Final = "unknown"

#: Bytes that are held for a body, at most: two batches of one that is taken in, and a buffer; a
#: piece of one that is given out, and what the kernel has taken of it. Those that have a ring of
#: areas hold more, and are few.
BODY_HOLD: Final = 3 * 1024 * 1024

#: Bytes of a body from which on it is reckoned with all that it may come to hold.
_LARGE: Final = 512 * 1024


class Roster:
    """Everybody who is connected.

    Args:
        limits: How many of what; another may be set at any time.
        observers: Told of every call at its end.

    Attributes:
        started_at: When this run began.
        calls_total: Calls that have ended.
        errors_total: Those that ended with an error.
        received_bytes_total: Bytes of bodies that callers have sent.
        sent_bytes_total: Bytes of bodies that they were given.
        calls_in_flight: Calls that are open.
        held_bytes: What is held for their bodies.
        is_draining: Whether the daemon is stopping.
    """

    def __init__(self, limits: DaemonConfig, observers: Sequence[CallObserver] = ()) -> None:
        self.limits = limits
        self.started_at = datetime.now(UTC)
        self.calls_total = 0
        self.errors_total = 0
        self.received_bytes_total = 0
        self.sent_bytes_total = 0
        self.calls_in_flight = 0
        self.held_bytes = 0
        self.is_draining = False
        self._observers = tuple(observers)
        self._seats: dict[int, Seat] = {}
        self._numbers = 0
        self._by_socket: Counter[str] = Counter()
        self._by_uid: Counter[int] = Counter()

    def connections(self) -> list[ConnectionStatus]:
        """Describe everybody, the longest connected first."""
        return [seat.status() for seat in self._seats.values()]

    def __len__(self) -> int:
        return len(self._seats)

    def admit(self, caller: Caller) -> "Seat":
        """Give a new connection its seat, which `leave` gives back.

        Each socket has `max_connections` of its own, so that whoever takes all of one's cannot
        keep an operator from another.

        Raises:
            AccessDeniedError: The caller may do nothing here.
            UnavailableError: There are too many, of all or of this user.
        """
        self._numbers += 1
        try:
            self._check(caller)
        except DataPlaneError as exc:
            call = Call(
                op="connect", caller=caller, connection=self._numbers, started=time.perf_counter()
            )
            self.tell(_failed(call, exc))
            raise
        seat = Seat(self, self._numbers, caller)
        self._seats[seat.number] = seat
        self._by_socket[caller.socket] += 1
        self._by_uid[caller.uid] += 1
        return seat

    def entitle(self, access: Mapping[str, Access]) -> None:
        """Give everybody the rights that they have by now, by the socket that they came by."""
        for seat in self._seats.values():
            roles = access[seat.caller.socket].roles_of(seat.caller)
            seat.caller = replace(seat.caller, roles=roles)

    def _check(self, caller: Caller) -> None:
        if not caller.roles:
            raise AccessDeniedError(f"user {caller.uid} has no role on this socket")
        limits = self.limits
        if self._by_socket[caller.socket] >= limits.max_connections:
            raise UnavailableError(f"daemon has {limits.max_connections} connections", retry=True)
        if self._by_uid[caller.uid] >= limits.max_connections_per_user:
            raise UnavailableError(
                f"user {caller.uid} has {limits.max_connections_per_user} connections", retry=True
            )

    def remove(self, seat: "Seat") -> None:
        """Take a seat away. Called by the seat."""
        del self._seats[seat.number]
        # Unlike a deduction, this drops what has come to nothing.
        self._by_socket -= Counter((seat.caller.socket,))
        self._by_uid -= Counter((seat.caller.uid,))

    def tell(self, call: Call) -> None:
        """Count a call that has ended, and tell the observers. Called by its seat."""
        self.calls_total += 1
        self.errors_total += call.code != "ok"
        self.received_bytes_total += call.received_bytes
        self.sent_bytes_total += call.sent_bytes
        for observe in self._observers:
            observe(call)


class Seat:
    """One connection's place: its caller's rights, and the call that is open on it.

    Attributes:
        number: As in `ConnectionStatus`.
    """

    def __init__(self, roster: Roster, number: int, caller: Caller) -> None:
        self.number = number
        self.caller = caller
        self._roster = roster
        self._since = time.perf_counter()
        self._call: Call | None = None
        self._held = 0
        self._calls = 0
        self._received_bytes = 0
        self._sent_bytes = 0

    def leave(self) -> None:
        """Give the place back. No call is open."""
        self._roster.remove(self)

    @property
    def caller(self) -> Caller:
        """Who is there, with the rights that it has now."""
        return self._caller

    @caller.setter
    def caller(self, caller: Caller) -> None:
        self._caller = caller
        # Of an enumeration's members, to look at their numbers takes a tenth of the time.
        self._rights: int = caller.roles.value

    @property
    def is_busy(self) -> bool:
        """Whether a call is open."""
        return self._call is not None

    def may(self, role: Role) -> bool:
        """Whether the caller has a role."""
        return bool(self._rights & role.value)

    def begin(self, op: str, trace: str | None = None) -> Call:
        """Note that a call has come in. `admit` says whether it may go on; `end` follows."""
        if self._call is not None:
            self.withdraw()  # the other way has failed half-way
        self._roster.calls_in_flight += 1
        call = self._call = Call(
            op=op,
            caller=self._caller,
            connection=self.number,
            started=time.perf_counter(),
            trace=trace,
        )
        return call

    def has_room(self) -> bool:
        """Whether the call that has begun is one of as many as there may be."""
        return self._roster.calls_in_flight <= self._roster.limits.max_calls

    def admit(self, call: Call) -> None:
        """Check the caller's rights, and whether there is room for one more call.

        Raises:
            AccessDeniedError: The caller may not do this.
            UnavailableError: There are too many calls.
        """
        role = role_for(call.op)
        if role is not None and not self._rights & role.value:
            raise AccessDeniedError(f"user {self._caller.uid} lacks the role {name_of(role)}")
        if not self.has_room():
            raise UnavailableError(
                f"daemon has {self._roster.limits.max_calls} calls open", retry=True
            )

    def hold(self, size: int) -> None:
        """Reckon the open call with the bytes of its body, all that were and will be seen so far.

        Raises:
            UnavailableError: So much is held already that there is no room for it.
        """
        wanted = BODY_HOLD if size >= _LARGE else size
        if wanted <= self._held:
            return
        limit = self._roster.limits.max_bytes_in_flight
        if self._roster.held_bytes + wanted - self._held > limit:
            raise UnavailableError(f"daemon holds {limit} bytes of bodies", retry=True)
        self._roster.held_bytes += wanted - self._held
        self._held = wanted

    def end(self, call: Call) -> None:
        """Note that the open call has ended, and tell the observers."""
        call.duration_s = time.perf_counter() - call.started
        self._roster.calls_in_flight -= 1
        self._roster.held_bytes -= self._held
        self._held = 0
        self._call = None
        self._calls += 1
        self._received_bytes += call.received_bytes
        self._sent_bytes += call.sent_bytes
        self._roster.tell(call)

    def withdraw(self) -> None:
        """Take back that a call has begun, which then begins again in another way."""
        self._roster.calls_in_flight -= 1
        self._call = None

    def status(self) -> ConnectionStatus:
        """Describe the connection."""
        call = self._call
        now = datetime.now(UTC)
        clock = time.perf_counter()
        return ConnectionStatus(
            number=self.number,
            uid=self.caller.uid,
            pid=self.caller.pid,
            socket=self.caller.socket,
            since=now - timedelta(seconds=clock - self._since),
            calls=self._calls,
            op=None if call is None else call.op,
            op_since=None if call is None else now - timedelta(seconds=clock - call.started),
            received_bytes=self._received_bytes,
            sent_bytes=self._sent_bytes,
        )


def fail(call: Call, error: DataPlaneError) -> None:
    """Note with which error a call has ended."""
    call.code = error.code
    call.reason = error.message


def _failed(call: Call, error: DataPlaneError) -> Call:
    fail(call, error)
    return call
