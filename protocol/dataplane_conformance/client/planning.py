"""What a client is to be asked so that it plays its part of a conversation of `calls.json`.

A conversation is cut into exchanges, one for each request. A client that is asked for the
calls of a plan, in order, sends the requests of the conversation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Final, cast

from ..frames import Control, FrameError, FrameReader
from ..schema import ARGUMENTS, RESULTS
from ..vectors import Conversation, Step, example, objects
from .adapter import Call

#: Keys of `args` that a client has a way to say.
_KNOWN_ARGS: Final = {
    *("content_address", "content_addresses", "byte_range", "if_generation", "backend_id"),
    *("size_hint", "primary_algorithm", "after", "limit"),
}


class Wanted(Enum):
    """What the client must make of an exchange."""

    OK = "the result"
    ERROR = "the error that was sent"
    VIOLATION = "an error that says that the server broke the contract"
    FAILURE = "some error"
    LOSS = "an error to retry"
    EITHER = "anything"


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and what the server does about it.

    Attributes:
        request: The request, as the vectors have it.
        body: What the client sends behind it.
        digest: What the `end` of the body states.
        steps: The rest of the steps, in order, without the client's body.
        wanted: What the client must make of it.
        is_closing: Whether the client must not use the connection again.
        is_repeated: Whether it is the same call as the one before, on a new connection.
        is_tried_again: Whether the next one is, so that this one has no outcome.
        is_refused_early: Whether the server answers before the body has ended.
    """

    request: Control
    body: bytes | None = None
    digest: str = ""
    steps: list[Step] = field(default_factory=list[Step])
    wanted: Wanted = Wanted.OK
    is_closing: bool = False
    is_repeated: bool = False
    is_tried_again: bool = False
    is_refused_early: bool = False

    @property
    def op(self) -> str:
        """The operation."""
        return str(self.request["op"])

    @property
    def args(self) -> Control:
        """Its arguments."""
        return cast("Control", self.request["args"])

    def to_call(self) -> Call:
        """Give what the adapter is asked for."""
        return Call(op=self.op, args=self.args, body=self.body, digest=self.digest)


@dataclass(slots=True, kw_only=True)
class Greeting:
    """One connection of a conversation: its hellos, then its exchanges.

    Attributes:
        steps: What the server does in place of or behind the client's hello.
        is_closing: Whether the client must close instead of asking for anything.
        is_server_first: Whether the server does not wait for the client's hello.
    """

    steps: list[Step]
    is_closing: bool = False
    is_server_first: bool = False
    exchanges: list[Exchange] = field(default_factory=list[Exchange])


class UnplayableError(Exception):
    """No proper client can be brought to play its part."""


def plan(conversation: Conversation) -> list[Greeting]:
    """Give the connections of a conversation.

    Raises:
        UnplayableError: No proper client can be brought to play it; the message says why.
    """
    kinds = {step.kind for steps in conversation.connections for step in steps}
    if "client_close" in kinds and "server-role" not in conversation.needs:
        raise UnplayableError("a client cannot be brought to close where it has no reason to")
    connections = [_Planner(steps).plan() for steps in conversation.connections]
    exchanges = [one for connection in connections for one in connection.exchanges]
    for earlier, later in pairwise(exchanges):
        later.is_repeated = earlier.wanted is Wanted.LOSS and earlier.request == later.request
        earlier.is_tried_again = later.is_repeated
    return connections


class _Planner:
    def __init__(self, steps: Sequence[Step]) -> None:
        # What may be missing is left out, and what an answer is due to does not matter here.
        self._steps = [step for step in steps if not step.is_optional and step.kind != "tamper"]

    def plan(self) -> Greeting:
        steps = self._steps
        is_server_first = steps[0].kind.startswith("server")
        if not is_server_first:
            _require_plain_hello(steps.pop(0))
        greeting = Greeting(steps=self._take_while_serving(), is_server_first=is_server_first)
        greeting.is_closing = self._take_close()
        while steps:
            greeting.exchanges.append(self._exchange())
        return greeting

    def _take_while_serving(self) -> list[Step]:
        taken: list[Step] = []
        while self._steps and self._steps[0].kind.startswith("server"):
            taken.append(self._steps.pop(0))
        return taken

    def _take_close(self) -> bool:
        if self._steps and self._steps[0].kind == "client_close":
            self._steps.pop(0)
            return True
        return False

    def _exchange(self) -> Exchange:
        step = self._steps.pop(0)
        if step.kind != "client" or "op" not in step.control or step.fd is not None:
            raise UnplayableError(f"a client cannot be brought to {step.kind} here")
        exchange = Exchange(request=step.control)
        _require_proper(exchange)
        if "body" in step.control:
            self._take_body(exchange)
        exchange.steps += self._take_while_serving()
        if exchange.is_refused_early and self._steps:
            self._steps.pop(0)
        exchange.is_closing = self._take_close()
        exchange.wanted = _wanted(exchange)
        return exchange

    def _take_body(self, exchange: Exchange) -> None:
        pieces: list[bytes] = []
        while self._steps and self._steps[0].kind == "client_data":
            pieces.append(self._steps.pop(0).data)
        exchange.body = b"".join(pieces)
        if self._steps and self._steps[0].kind != "client":
            exchange.is_refused_early = True
            if "error" not in self._steps[0].control:
                raise UnplayableError("a client may have ended its body before it reads this")
            return
        end = self._steps.pop(0).control.get("end")
        if not isinstance(end, dict):
            raise UnplayableError("a client cannot be brought to give up a body")
        fields = cast("Control", end)
        if fields.get("size_bytes") != len(exchange.body) or set(fields) - {"size_bytes", "digest"}:
            raise UnplayableError("a proper client sends another end")
        exchange.digest = str(fields.get("digest", ""))


def _require_plain_hello(step: Step) -> None:
    hello = step.control.get("hello")
    if not isinstance(hello, dict) or cast("Control", hello)["version"] != 1:
        raise UnplayableError("a proper client says version 1")


def _require_proper(exchange: Exchange) -> None:
    request = exchange.request
    check = ARGUMENTS.get(exchange.op)
    if check is None or check(exchange.args) or set(exchange.args) - _KNOWN_ARGS:
        raise UnplayableError("a proper client does not send such a request")
    if set(request) - {"op", "args", "body", "accept_fd", "trace"}:
        raise UnplayableError("a client cannot be brought to send unknown keys")
    if ("body" in request) != (exchange.op == "ingest_stream"):
        raise UnplayableError("a proper client sends a body where one belongs, and only there")
    if request.get("body") == "fd" or ("accept_fd" in request and exchange.op != "serve_object"):
        raise UnplayableError("a client cannot be brought to this use of descriptors")


def _wanted(exchange: Exchange) -> Wanted:
    last = exchange.steps[-1] if exchange.steps else None
    if last is None:
        raise UnplayableError("the server says nothing")
    if last.kind == "server_close":
        return Wanted.OK if _is_answered(exchange) else Wanted.LOSS
    if last.kind == "server_raw":
        return Wanted.EITHER if _begins_with_answer(exchange, last.data) else Wanted.VIOLATION
    frame = cast("Control", example(last.control))
    if "error" in frame:
        return Wanted.ERROR
    if exchange.is_closing and "ok" in frame and "body" in frame:
        return Wanted.VIOLATION
    if exchange.is_closing:
        if "end" in frame and last.fd is not None:
            # The body has ended well; what comes with its end is one descriptor too many.
            return Wanted.EITHER
        is_whole = exchange.op != "serve_object" and _is_answered(exchange)
        return Wanted.EITHER if is_whole else Wanted.FAILURE
    return Wanted.OK if _is_genuine(exchange) else Wanted.EITHER


def _is_answered(exchange: Exchange) -> bool:
    first = exchange.steps[0]
    if first.kind != "server" or "ok" not in first.control:
        return False
    return "body" not in first.control or any("end" in step.control for step in exchange.steps)


def _begins_with_answer(exchange: Exchange, data: bytes) -> bool:
    """Whether raw bytes of the server begin with all that the client waits for."""
    reader = FrameReader()
    reader.receive(data)
    try:
        frame = reader.next()
    except FrameError:
        return False
    if not isinstance(frame, dict) or set(frame) != {"ok"} or exchange.body is not None:
        return False
    return exchange.op != "serve_object" and RESULTS[exchange.op](frame["ok"]) is None


def _is_genuine(exchange: Exchange) -> bool:
    """Whether what is served is the object; a client may compute its digest and find out."""
    address = exchange.args.get("content_address")
    for step in exchange.steps:
        if step.fd is not None and address in _names():
            return f"sha256:{hashlib.sha256(step.fd).hexdigest()}" == _names()[str(address)]
    return True


def _names() -> dict[str, str]:
    """Give the SHA-256 digest of each known object, by both of its names."""
    return {
        name: entry.sha256 for entry in objects().values() for name in (entry.blake3, entry.sha256)
    }
