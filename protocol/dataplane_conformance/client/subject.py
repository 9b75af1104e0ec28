"""The client under judgement: its adapter, its connections, and what it must make of answers."""

import contextlib
import os
import select
import socket
import stat
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Final, TypeAlias, cast

from ..frames import Control, Frame
from ..vectors import objects
from ..verdicts import Ending, FailedError, SkippedError, shown
from ..wire import Wire
from .adapter import START_TIMEOUT, Adapter, Call, Outcome

HEALTH: Final = Call(op="backend_health")
HEALTHY: Final[Control] = {"backend_id": "default", "state": "ok", "writable": True}

#: The object that most answers are about.
HELLO: Final = objects()["hello"]
SERVE_HELLO: Final = Call(op="serve_object", args={"content_address": HELLO.blake3})
SERVED_HELLO: Final[Control] = {"size_bytes": 12, "offset": 0, "length": 12}

#: Calls that one adapter makes for the cases that need no client of their own.
_BATCH: Final = 40

#: What an outcome has to tell at least, so that it can be held against the answer.
_TOLD: Final[Mapping[str, tuple[str, ...]]] = {
    "ingest_stream": ("primary_digest", "size_bytes"),
    "serve_object": ("body_digest",),
    "verify_object": ("verified",),
    "delete_object": ("deleted",),
    "backend_health": ("state", "writable"),
    "stat_objects": ("objects",),
    "list_objects": ("objects", "more"),
    "list_backends": ("backends", "default"),
}


#: What can be waited for.
_Source: TypeAlias = Wire | Adapter | socket.socket


class NoRequestError(Exception):
    """The client had an outcome without asking the server."""


class Session:
    """One run of the adapter, and the server that its client talks to.

    Args:
        adapter: Makes the calls.
        listener: Where its client connects.
        timeout: Seconds without progress after which the client has failed.
        features: What the server enables of what the client offers.

    Attributes:
        wires: Every connection that was accepted, in order.
    """

    def __init__(
        self,
        adapter: Adapter,
        listener: socket.socket,
        timeout: float,
        features: Sequence[str] = (),
    ) -> None:
        self.wires: list[Wire] = []
        self.features = features
        self._adapter = adapter
        self._listener = listener
        self._timeout = timeout
        self._spoiled: set[Wire] = set()
        self._waiting: tuple[Wire, Control] | None = None

    def accept(self) -> Wire:
        """Take the next connection, which has said nothing yet."""
        patience = self._timeout if self.wires else START_TIMEOUT
        sources: list[_Source] = [self._listener, self._adapter]
        ready = select.select(sources, [], [], patience)[0]
        if self._listener not in ready:
            if ready:
                raise NoRequestError
            raise FailedError("a connection", f"none for {patience:g} s")
        sock, _ = self._listener.accept()
        wire = Wire(sock, "server", self._timeout)
        self.wires.append(wire)
        return wire

    def greet(self, wire: Wire) -> None:
        """Exchange hellos on a connection."""
        hear_hello(wire)
        enabled = [name for name in self.features if name in wire.offered]
        wire.send({"hello": {"version": 1, "features": enabled}})

    def request(self) -> tuple[Wire, Control]:
        """Wait for the next request, on whichever connection it comes.

        Raises:
            NoRequestError: The adapter has an outcome without one.
        """
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return waiting
        deadline = time.monotonic() + (self._timeout if self.wires else START_TIMEOUT)
        while (left := deadline - time.monotonic()) > 0:
            sources: list[_Source] = [self._listener, self._adapter, *self._open_wires()]
            pending: list[_Source] = [wire for wire in self._open_wires() if wire.has_pending]
            ready = pending or select.select(sources, [], [], left)[0]
            if self._listener in ready:
                self.greet(self.accept())
                continue
            for wire in self._open_wires():
                if wire in ready and (request := self._request_on(wire)):
                    return wire, request
            if self._adapter in ready and self._adapter.has_spoken:
                raise NoRequestError
        raise FailedError("a request", f"none for {self._timeout:g} s")

    def spoil(self, wire: Wire) -> None:
        """Note that the client must not use a connection again."""
        self._spoiled.add(wire)

    def outcome(self) -> Outcome:
        """Wait for what the client made of the call."""
        return self._adapter.outcome(self._timeout)

    def expect_ok(self, op: str, result: Mapping[str, object]) -> Outcome:
        """Take an outcome that must be success, with this result."""
        outcome = self.outcome()
        if outcome.ok is None:
            raise FailedError(f"success of {op}", f"outcome {outcome}")
        for key in _TOLD[op]:
            if key not in outcome.ok:
                raise FailedError(f"an outcome of {op} that tells {key}", f"{outcome}")
        if not _agrees(dict(outcome.ok), dict(result)):
            raise FailedError(f"outcome {shown(dict(result))}", f"{outcome}")
        return outcome

    def expect_error(self, code: str | None = None, *, retry: bool | None = None) -> Outcome:
        """Take an outcome that must be an error, with this code and `retry` if given."""
        outcome = self.outcome()
        error = outcome.error
        wanted = f"error {code or 'of some code'}" + ("" if retry is None else f", retry {retry}")
        if error is None:
            raise FailedError(wanted, f"outcome {outcome}")
        if code is not None and error.get("code") != code:
            raise FailedError(wanted, f"{outcome}")
        if retry is not None and error.get("retry", False) is not retry:
            raise FailedError(wanted, f"{outcome}")
        return outcome

    def look_ahead(self) -> None:
        """Wait for the next request, which fails if it comes on a spoiled connection."""
        self._waiting = self.request()

    def close(self) -> None:
        """End the adapter and every connection."""
        for wire in self.wires:
            wire.close()
        self._adapter.close()

    def _open_wires(self) -> list[Wire]:
        return [wire for wire in self.wires if not wire.is_over]

    def _request_on(self, wire: Wire) -> Control | None:
        if wire in self._spoiled:
            frame = _last_words_of(wire)
            if frame is None:
                wire.close()
                return None
            raise FailedError("a connection that is not used again", shown(frame))
        frame = wire.receive()
        if frame is None:
            wire.close()
            return None
        if isinstance(frame, bytes) or "op" not in frame:
            raise FailedError("a request", shown(frame))
        return frame


def served_hello() -> Control:
    """Give what an adapter has to tell of the object `hello` served whole."""
    return {**SERVED_HELLO, "body_digest": HELLO.sha256}


def require_op(request: Control, op: str) -> None:
    """Fail unless a request is for this operation."""
    if request["op"] != op:
        raise FailedError(f"a request for {op}", shown(request))


def hear_hello(wire: Wire) -> Control:
    """Take the hello of the client, which must be its first frame and of version 1."""
    frame = wire.receive()
    if not isinstance(frame, dict) or "hello" not in frame:
        raise FailedError("a hello as the first frame", shown(frame))
    hello = cast("Control", frame["hello"])
    if hello["version"] != 1:
        raise FailedError("a hello of version 1", shown(frame))
    return hello


def _last_words_of(wire: Wire) -> Frame | None:
    """Give what a client says on a connection that it has to close, but for `error` itself."""
    frame = wire.receive()
    if isinstance(frame, dict) and "error" in frame:
        frame = wire.receive()
    return frame


class Client:
    """A client behind an adapter.

    Args:
        command: The adapter and its arguments.
        path: Where to listen.
        timeout: Seconds without progress after which it has failed.
        computes: Algorithms whose digests it computes of all that it is served.
    """

    def __init__(
        self, command: Sequence[str], path: str, timeout: float, *, computes: Sequence[str] = ()
    ) -> None:
        self.timeout = timeout
        self.computes = computes
        self._command = command
        self._path = path
        self._listener: socket.socket | None = None
        self._batch: Session | None = None
        self._batch_left = 0
        self._last: Session | None = None

    @property
    def ending(self) -> Ending:
        """How the connection that was opened last has ended."""
        wires = self._last.wires if self._last is not None else []
        return wires[-1].ending if wires else Ending.NONE

    def open(self) -> None:
        """Listen.

        Raises:
            OSError: The path is taken by something else than a socket, or cannot be used.
        """
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self._path).st_mode):
                os.unlink(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._path)
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def close(self) -> None:
        """End everything, and remove the socket."""
        self.end_batch()
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    @contextlib.contextmanager
    def session(self, *calls: Call, features: Sequence[str] = ()) -> Generator[Session]:
        """Run the adapter for these calls on a client of its own."""
        self.end_batch()
        session = self._start(calls, features)
        try:
            yield session
        except NoRequestError:
            raise FailedError("a request", f"outcome {session.outcome()} without one") from None
        finally:
            session.close()

    @contextlib.contextmanager
    def asked_to_serve(self) -> Generator[tuple[Session, Wire]]:
        """Have the object `hello` served, to a client that other cases may have used before."""
        if self._batch is None or not self._batch_left:
            self.end_batch()
            self._batch, self._batch_left = self._start([SERVE_HELLO] * _BATCH, ()), _BATCH
        session = self._last = self._batch
        self._batch_left -= 1
        try:
            wire, request = session.request()
            require_op(request, SERVE_HELLO.op)
            yield session, wire
            if self._batch_left:
                session.look_ahead()
        except NoRequestError:
            outcome = session.outcome()
            self.end_batch()
            raise FailedError("a request", f"outcome {outcome} without one") from None
        except (FailedError, SkippedError):
            # Who knows where it stands; the next case has a new one.
            self.end_batch()
            raise

    def end_batch(self) -> None:
        """End the adapter that several cases share."""
        if self._batch is not None:
            self._batch.close()
            self._batch = None

    def _start(self, calls: Sequence[Call], features: Sequence[str]) -> Session:
        assert self._listener is not None
        # What the client of the last session has left in the queue is not this one's.
        while select.select([self._listener], [], [], 0)[0]:
            self._listener.accept()[0].close()
        adapter = Adapter(self._command, self._path, calls)
        self._last = Session(adapter, self._listener, self.timeout, features)
        return self._last


def _agrees(told: object, sent: object) -> bool:
    """Whether all that was told is as it was sent, as far as it was."""
    if isinstance(told, dict):
        entries = cast("Control", told)
        if not isinstance(sent, dict):
            return False
        known = cast("Control", sent)
        return all(key not in known or _agrees(item, known[key]) for key, item in entries.items())
    if isinstance(told, list):
        items = cast("list[object]", told)
        if not isinstance(sent, list):
            return False
        others = cast("list[object]", sent)
        return len(items) == len(others) and all(map(_agrees, items, others))
    return type(told) is type(sent) and told == sent
