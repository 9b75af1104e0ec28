"""The two half-machines of a connection (`SPEC.md` 5).

A call is one client half and one server half, each self-delimiting:

    client half:  request [ body ]          body = ( data* | one descriptor ) ( end | error )
    server half:  ok [ body ]  |  error

Each half goes through the states of one table. This module does not know which side it runs
on: both sides advance both halves, one by what they send and the other by what they receive,
so a violation is found by whoever would commit it and again by whoever receives it.

Three joint rules go beyond the table:

    J0  the server says hello after the client; the client sends no request before that
    J1  the server sends `ok` once the client half is DONE, and `error` once it has left READY
    J2  when both halves are DONE the call is over, and both are READY for the next

An `error` with the code `protocol` breaks off the connection wherever it is, and so does an
`error` in place of the server's hello. After either, both halves are CLOSED.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from ._messages import BodyKind, Failure, Hello, Message, Ok, Request


class Side(Enum):
    """Whose half."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> "Side":
        """The peer."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class State(Enum):
    """Where a half is."""

    HELLO = "hello"
    READY = "ready"
    BODY = "body"
    DESCRIPTOR = "descriptor"
    DONE = "done"
    CLOSED = "closed"


class Step(Enum):
    """What is sent: a frame, with or without a body to follow."""

    HELLO = "hello"
    REQUEST = "request"
    REQUEST_WITH_BODY = "request with body"
    REQUEST_WITH_FD = "request with fd"
    OK = "ok"
    OK_WITH_BODY = "ok with body"
    OK_WITH_FD = "ok with fd"
    DATA = "data"
    END = "end"
    ERROR = "error"


TRANSITIONS: Final[Mapping[Side, Mapping[State, Mapping[Step, State]]]] = {
    Side.CLIENT: {
        State.HELLO: {Step.HELLO: State.READY},
        State.READY: {
            Step.REQUEST: State.DONE,
            Step.REQUEST_WITH_BODY: State.BODY,
            Step.REQUEST_WITH_FD: State.DESCRIPTOR,
        },
        State.BODY: {Step.DATA: State.BODY, Step.END: State.DONE, Step.ERROR: State.DONE},
        State.DESCRIPTOR: {Step.END: State.DONE, Step.ERROR: State.DONE},
        State.DONE: {},
        State.CLOSED: {},
    },
    Side.SERVER: {
        State.HELLO: {Step.HELLO: State.READY, Step.ERROR: State.CLOSED},
        State.READY: {
            Step.OK: State.DONE,
            Step.OK_WITH_BODY: State.BODY,
            Step.OK_WITH_FD: State.DESCRIPTOR,
            Step.ERROR: State.DONE,
        },
        State.BODY: {Step.DATA: State.BODY, Step.END: State.DONE, Step.ERROR: State.DONE},
        State.DESCRIPTOR: {Step.END: State.DONE, Step.ERROR: State.DONE},
        State.DONE: {},
        State.CLOSED: {},
    },
}


_REQUESTS: Final = (Step.REQUEST, Step.REQUEST_WITH_BODY, Step.REQUEST_WITH_FD)
_OKS: Final = (Step.OK, Step.OK_WITH_BODY, Step.OK_WITH_FD)

#: The step that each kind of body makes of a request and of an `ok`.
_REQUEST_BY_BODY: Final = dict(zip((None, BodyKind.STREAM, BodyKind.FD), _REQUESTS, strict=True))
_OK_BY_BODY: Final = dict(zip((None, BodyKind.STREAM, BodyKind.FD), _OKS, strict=True))


class OrderError(Exception):
    """A frame that the sender may not send now."""


class Halves:
    """Both halves of one connection, from its first byte on."""

    def __init__(self) -> None:
        self._states = {Side.CLIENT: State.HELLO, Side.SERVER: State.HELLO}

    def __getitem__(self, side: Side) -> State:
        return self._states[side]

    @property
    def are_ready(self) -> bool:
        """Whether no call is open, so that a request may follow or the connection may end."""
        return all(state is State.READY for state in self._states.values())

    @property
    def are_fresh(self) -> bool:
        """Whether neither side has said hello yet."""
        return all(state is State.HELLO for state in self._states.values())

    def advance(self, side: Side, step: Step, *, breaks_off: bool = False) -> None:
        """Take the step that `side` sends.

        Args:
            side: The sender.
            step: What it sends.
            breaks_off: Whether it is an `error` with the code `protocol`.

        Raises:
            OrderError: The table or a joint rule does not allow it; nothing has changed.
        """
        state = self._states[side]
        if breaks_off and state is not State.CLOSED:
            self._close()
            return
        following = TRANSITIONS[side][state].get(step)
        if following is None or not self._is_allowed(side, step):
            raise OrderError(
                f"{side.value} may not send {step.value} while its half is {state.value} and "
                f"the {side.other.value} half is {self._states[side.other].value}"
            )
        self._states[side] = following
        if following is State.CLOSED:
            self._close()
        elif all(state is State.DONE for state in self._states.values()):
            self._states = {Side.CLIENT: State.READY, Side.SERVER: State.READY}

    def _is_allowed(self, side: Side, step: Step) -> bool:
        if side is Side.CLIENT:
            return step not in _REQUESTS or self._states[Side.SERVER] is State.READY
        client = self._states[Side.CLIENT]
        if step is Step.HELLO:
            return client is State.READY
        if step in _OKS:
            return client is State.DONE
        # In place of the hello, at the end of a body, or as an answer.
        return client is not State.READY or self._states[Side.SERVER] is State.HELLO

    def _close(self) -> None:
        self._states = {Side.CLIENT: State.CLOSED, Side.SERVER: State.CLOSED}


def step_of(message: Message) -> Step:
    """Give the step that a control message takes."""
    if isinstance(message, Request):
        return _REQUEST_BY_BODY[message.body]
    if isinstance(message, Ok):
        return _OK_BY_BODY[message.body]
    if isinstance(message, Hello):
        return Step.HELLO
    return Step.ERROR if isinstance(message, Failure) else Step.END
