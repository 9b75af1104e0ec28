"""One peer's calls, carried to a data plane (`SPEC.md` 5 and 7).

A session takes one call at a time from its connection. Whatever a peer sends is answered
with a frame, never with silence, and costs nobody else anything: memory is bounded by one
buffer, waiting by the stall timeout. It serves any `FullDataPlane`, also a client of another
daemon.
"""

import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Protocol, Self, TypeAlias, runtime_checkable

import structlog
import trio

from dataplane_protocol import (
    ARGUMENTS,
    DISCARD_TIMEOUT,
    MAX_DISCARD,
    PROTOCOL_VERSION,
    SERVE_FD,
    AccessDeniedError,
    Arguments,
    BodyKind,
    CallCancelledError,
    ConnectionClosed,
    DataPlaneError,
    DeleteArguments,
    Digest,
    End,
    Event,
    Failure,
    FullDataPlane,
    HealthArguments,
    Hello,
    IngestArguments,
    IngestHints,
    InternalError,
    InvalidRequestError,
    ListArguments,
    ListBackendsArguments,
    ObjectPage,
    ObjectStream,
    Ok,
    ProtocolError,
    Request,
    ServeArguments,
    ServeResult,
    StatArguments,
    State,
    UnavailableError,
    UnsupportedError,
    VerifyArguments,
    backend_list_to_wire,
    backend_status_to_wire,
    deletion_result_to_wire,
    ingest_result_to_wire,
    object_page_to_wire,
    stat_result_to_wire,
    verify_result_to_wire,
)

from . import __version__
from .calls import GONE, Call, outcome_of_delete, outcome_of_verify
from .lobby import Lobby
from .peer import Peer, PeerGoneError, PeerViolationError
from .roster import UNKNOWN_OPERATION, Seat, fail
from .telemetry import Tracing
from .threads import open_plain_nursery

_AGENT: Final = f"dataplaned/{__version__}"

#: Seconds that the last word to a peer that broke the contract may take.
_FAREWELL_TIMEOUT: Final = 1.0

#: Characters of an error's message that a peer is told.
_MAX_MESSAGE: Final = 1000

#: Bytes of a body below which a descriptor costs more than it saves: one block, which goes
#: out in one write with its answer and its end.
_MIN_FD_LENGTH: Final = 65_537

#: Bytes of a body from which on it is given out by threads of its own.
_MIN_LARGE_LENGTH: Final = 4 * 1024 * 1024

#: Every feature that this server has.
FEATURES: Final = (SERVE_FD,)

#: An operation beside the contract's (`SPEC.md` 10-7): takes the arguments, gives the result.
FurtherOperation: TypeAlias = Callable[[Mapping[str, object]], Awaitable[Mapping[str, object]]]

NO_OPERATIONS: Final[Mapping[str, FurtherOperation]] = MappingProxyType({})

_log = structlog.get_logger(__name__)


@runtime_checkable
class _FileBacked(Protocol):
    """A stream that may have a file with exactly its whole object."""

    def take_descriptor(self) -> int | None:
        """Give an open descriptor of the file, for the caller to close, or `None`."""
        ...


@runtime_checkable
class LargeObject(Protocol):
    """A stream that can be given out by threads."""

    async def give_out(self, send: Callable[[memoryview], None]) -> None:
        """Give as much as threads can; the iterator gives the rest.

        Args:
            send: Sends a piece; called in a thread that trio started.
        """
        ...


class Session:
    """Everything one peer asks for, from its hello to its end.

    Args:
        peer: The connection; closed when `run` returns.
        seat: The connection's place, whose caller's rights hold; left when `run` returns.
        plane: Where the calls go.
        features: What clients may have that ask for it.
        operations: What clients may call beside the contract's operations, by name.
        lobby: Where to wait between calls, if not here.
        idle_timeout_s: Seconds after which a connection without a call is closed.
        tracing: Makes spans of calls.
    """

    def __init__(
        self,
        peer: Peer,
        seat: Seat,
        plane: FullDataPlane,
        features: Sequence[str] = FEATURES,
        operations: Mapping[str, FurtherOperation] = NO_OPERATIONS,
        lobby: Lobby | None = None,
        idle_timeout_s: float = math.inf,
        tracing: Tracing | None = None,
    ) -> None:
        self._lobby = lobby
        self._seat = seat
        self._idle_timeout_s = idle_timeout_s
        self._tracing = tracing or Tracing()
        self._features = features
        self._operations = operations
        self._peer = peer
        self._plane = plane
        self._is_draining = False
        self._idle_scope: trio.CancelScope | None = None

    async def run(self) -> None:
        """Serve calls until the peer or `drain` ends the connection. Raises nothing."""
        try:
            if await self._greet():
                while (request := await self._next_request()) is not None:
                    await self._answer(request)
        except PeerGoneError as exc:
            _log.debug("peer_gone", reason=str(exc))
        except PeerViolationError as exc:
            _log.info("peer_violation", reason=str(exc))
            await self._break_off(str(exc))
        except Exception as exc:  # noqa: BLE001 - one peer must not end the daemon
            _log.error("session_failed", exc_info=exc)
        finally:
            self._peer.close()
            self._seat.leave()

    def drain(self) -> None:
        """End the connection as soon as no call is open; at once if it is idle."""
        self._is_draining = True
        if self._idle_scope is not None:
            self._idle_scope.cancel()

    async def _greet(self) -> bool:
        if not await self._is_spoken_to(self._peer.stall_timeout_s):
            if self._is_draining:
                await self._send_failure(UnavailableError("daemon is stopping"))
            return False
        hello = await self._peer.receive()
        if isinstance(hello, ConnectionClosed):
            return False
        assert isinstance(hello, Hello)  # the half-machines allow nothing else here
        if hello.version != PROTOCOL_VERSION:
            await self._send_failure(
                UnsupportedError(
                    f"version {hello.version} is not supported",
                    details={"versions": [PROTOCOL_VERSION]},
                )
            )
            return False
        features = tuple(name for name in self._features if name in hello.features)
        await self._peer.send(Hello(features=features, agent=_AGENT))
        return True

    async def _is_spoken_to(self, timeout_s: float) -> bool:
        """Wait for the peer to send something; false when `drain` or the time ended that."""
        connection = self._peer.connection
        with trio.move_on_after(timeout_s) as scope:
            self._idle_scope = scope
            is_idle = connection.is_reusable or connection.our_state is State.HELLO
            if is_idle and not self._is_draining:
                await self._wait()
        self._idle_scope = None
        return not (self._is_draining or scope.cancelled_caught)

    async def _wait(self) -> None:
        if self._lobby is None or self._peer.connection.our_state is State.HELLO:
            await self._peer.wait()
            return
        while not await self._lobby.wait(self._peer, self._seat):
            # The rest of an answer: no idleness that `drain` may end.
            scope, self._idle_scope = self._idle_scope, None
            await self._peer.flush()
            self._idle_scope = scope
            if self._is_draining:
                return

    async def _next_request(self) -> Request | None:
        if not await self._is_spoken_to(self._idle_timeout_s):
            return None
        event = await self._peer.receive()
        if isinstance(event, ConnectionClosed):
            return None
        assert isinstance(event, Request)  # the half-machines allow nothing else here
        return event

    async def _answer(self, request: Request) -> None:
        """Carry out one call to its end, whatever becomes of it."""
        is_known = request.op in ARGUMENTS or request.op in self._operations
        call = self._seat.begin(request.op if is_known else UNKNOWN_OPERATION, request.trace)
        with self._tracing.span(call):
            try:
                await self._carry_out_or_refuse(request, call)
            except (PeerGoneError, PeerViolationError) as exc:
                call.code = GONE
                call.reason = str(exc)
                raise
            except BaseException:
                call.code = GONE  # the daemon stops, and waits no longer
                raise
            finally:
                self._seat.end(call)
        await self._discard_body()

    async def _carry_out_or_refuse(self, request: Request, call: Call) -> None:
        try:
            self._seat.admit(call)
            await self._carry_out(request, call)
        except (PeerGoneError, PeerViolationError):
            raise
        except ProtocolError as exc:
            # Of a plane that is itself a client; our own peer has broken nothing.
            _log.error("plane_failed", op=call.op, exc_info=exc)
            await self._refuse(call, InternalError("the data plane behind this daemon failed"))
        except AccessDeniedError as exc:
            _note_denied(request, call)
            await self._refuse(call, exc)
        except DataPlaneError as exc:
            await self._refuse(call, exc)
        except Exception as exc:  # noqa: BLE001 - one call must not end the daemon
            _log.error("call_failed", op=call.op, exc_info=exc)
            await self._refuse(
                call, InternalError("unexpected failure, the daemon's log says more")
            )

    async def _carry_out(self, request: Request, call: Call) -> None:
        kind = ARGUMENTS.get(request.op)
        if kind is None:
            await self._carry_out_further(request, call)
            return
        arguments = kind.from_wire(request.args)
        _note(arguments, call)
        _require_body(request, is_needed=isinstance(arguments, IngestArguments))
        match arguments:
            case IngestArguments():
                await self._ingest(arguments, call)
            case ServeArguments():
                await self._serve(arguments, request, call)
            case VerifyArguments():
                # It may take minutes, and a peer that has gone must not keep the disk busy.
                result = await self._while_connected(lambda: self._result(arguments, call))
                await self._peer.send(Ok(result=result))
            case _:
                await self._peer.send(Ok(result=await self._result(arguments, call)))

    async def _carry_out_further(self, request: Request, call: Call) -> None:
        operation = self._operations.get(request.op)
        if operation is None:
            raise UnsupportedError("operation is not supported")
        _require_body(request, is_needed=False)
        # As for a verify: what it is, and how long it takes, is not known here.
        result = await self._while_connected(lambda: operation(request.args))
        _note_result(result, call)
        await self._peer.send(Ok(result=result))

    async def _result(self, arguments: Arguments, call: Call) -> Mapping[str, object]:
        """Carry out an operation without bodies."""
        plane = self._plane
        match arguments:
            case VerifyArguments(content_address=address, backend_id=backend):
                verified = await plane.verify_object(address, backend_id=backend)
                call.outcome = outcome_of_verify(verified=verified.verified)
                return verify_result_to_wire(verified)
            case DeleteArguments(content_address=address, backend_id=backend):
                deleted = await plane.delete_object(
                    address, backend_id=backend, if_generation=arguments.if_generation
                )
                call.backend_id = deleted.backend_id
                call.outcome = outcome_of_delete(deleted=deleted.deleted)
                return deletion_result_to_wire(deleted)
            case HealthArguments(backend_id=backend):
                return backend_status_to_wire(await plane.backend_health(backend_id=backend))
            case StatArguments(content_addresses=addresses, backend_id=backend):
                return stat_result_to_wire(await plane.stat_objects(addresses, backend_id=backend))
            case ListArguments():
                return object_page_to_wire(await self._first_page(arguments))
            case ListBackendsArguments():
                return backend_list_to_wire(await plane.list_backends())
            case _:
                raise AssertionError(f"{arguments.OPERATION} has a body")

    async def _first_page(self, arguments: ListArguments) -> ObjectPage:
        pages = self._plane.list_objects(
            after=arguments.after, page_size=arguments.limit, backend_id=arguments.backend_id
        )
        async with aclosing(pages):
            return await anext(pages)

    async def _ingest(self, arguments: IngestArguments, call: Call) -> None:
        body = _Body(self._peer, self._seat)
        try:
            result = await self._plane.ingest_stream(
                body,
                hints=IngestHints(
                    size_hint=arguments.size_hint,
                    primary_algorithm=arguments.primary_algorithm,
                    backend_id=arguments.backend_id,
                ),
                expected_digest=body.stated_digest,
            )
        finally:
            call.received_bytes = self._peer.connection.received_bytes
        receipt = result.receipt
        call.backend_id = receipt.backend_id
        call.address = str(receipt.content_address)
        call.outcome = receipt.outcome
        await self._peer.send(Ok(result=ingest_result_to_wire(result)))

    async def _serve(self, arguments: ServeArguments, request: Request, call: Call) -> None:
        address = arguments.content_address
        stream = await self._plane.serve_object(
            address, byte_range=arguments.byte_range, backend_id=arguments.backend_id
        )
        async with stream:
            self._seat.hold(stream.length)
            result = ServeResult(size_bytes=stream.size, offset=stream.offset, length=stream.length)
            digest = address.to_digest() if stream.length == stream.size else None
            end = End(size_bytes=stream.length, digest=digest)
            fd = self._descriptor_of(stream, request)
            if fd is not None:
                self._peer.queue_descriptor(Ok(result=result.to_wire(), body=BodyKind.FD), fd)
            else:
                self._peer.queue(Ok(result=result.to_wire(), body=BodyKind.STREAM))
                await self._give_out(stream, call)
        await self._peer.send(end)
        call.sent_bytes = stream.length

    async def _give_out(self, stream: ObjectStream, call: Call) -> None:
        if stream.length >= _MIN_LARGE_LENGTH and isinstance(stream, LargeObject):

            def send(piece: memoryview) -> None:
                self._peer.send_payload(piece)
                call.sent_bytes += len(piece)

            await self._peer.flush()
            await stream.give_out(send)
        async for piece in stream:
            await self._peer.send_data(piece)
            call.sent_bytes += len(piece)

    def _descriptor_of(self, stream: ObjectStream, request: Request) -> int | None:
        """Give the stream's file instead of its bytes, where that is agreed on and pays."""
        is_agreed = request.accept_fd and SERVE_FD in self._peer.connection.features
        if is_agreed and stream.length >= _MIN_FD_LENGTH and isinstance(stream, _FileBacked):
            return stream.take_descriptor()
        return None

    async def _while_connected(
        self, operation: Callable[[], Awaitable[Mapping[str, object]]]
    ) -> Mapping[str, object]:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(self._peer.raise_when_gone)
            result = await operation()
            nursery.cancel_scope.cancel()
        return result

    async def _refuse(self, call: Call, error: DataPlaneError) -> None:
        fail(call, error)
        await self._send_failure(error)

    async def _send_failure(self, error: DataPlaneError) -> None:
        failure = Failure.from_error(error)
        if len(failure.message) > _MAX_MESSAGE:
            failure = replace(failure, message=failure.message[:_MAX_MESSAGE])
        await self._peer.send(failure)

    async def _discard_body(self) -> None:
        """Skip the rest of a body that nobody wants, within bounds (`SPEC.md` 5.3)."""
        connection = self._peer.connection
        if connection.their_state is not State.BODY:
            return
        before = connection.received_bytes
        with trio.move_on_after(DISCARD_TIMEOUT):
            while connection.their_state is State.BODY:
                await self._peer.receive()
                if connection.received_bytes - before > MAX_DISCARD:
                    break
        if connection.their_state is State.BODY:
            raise PeerGoneError("peer goes on sending a body that was refused")

    async def _break_off(self, reason: str) -> None:
        with trio.move_on_after(_FAREWELL_TIMEOUT) as scope:
            scope.shield = True
            try:
                await self._peer.send(Failure(code=ProtocolError.default_code, message=reason))
            except (PeerGoneError, ProtocolError) as exc:
                _log.debug("peer_gone", reason=str(exc))


class _Body:
    """The body of an ingest as the plane reads it."""

    def __init__(self, peer: Peer, seat: Seat) -> None:
        self._peer = peer
        self._seat = seat
        self._end: End | None = None

    def stated_digest(self) -> Digest | None:
        """Give the digest that the body's `end` states, if it does."""
        return None if self._end is None else self._end.digest

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._end is not None:
            raise StopAsyncIteration
        event = await self._peer.receive()
        if isinstance(event, memoryview):
            # Whoever reads on in a thread has been reckoned with by then.
            self._seat.hold(self._peer.connection.received_bytes)
            return bytes(event)
        self._finish(event)
        raise StopAsyncIteration

    def read_into(self, buffer: memoryview) -> int:
        """See `BlockingSource`."""
        if self._end is not None:
            return 0
        count = self._peer.receive_payload(buffer)
        if isinstance(count, int):
            return count
        self._finish(count)
        return 0

    def _finish(self, event: Event) -> None:
        if isinstance(event, Failure):
            raise CallCancelledError("the body was given up by its sender")
        assert isinstance(event, End)  # the half-machines allow nothing else here
        event.check_size(self._peer.connection.received_bytes)
        self._end = event


def _note(arguments: Arguments, call: Call) -> None:
    """Note what a call is about."""
    call.backend_id = getattr(arguments, "backend_id", None)
    address = getattr(arguments, "content_address", None)
    call.address = None if address is None else str(address)


def _note_denied(request: Request, call: Call) -> None:
    """Note what a call that is denied was about, of which nothing else has been looked at."""
    kind = ARGUMENTS.get(request.op)
    if kind is not None:
        with contextlib.suppress(DataPlaneError):
            _note(kind.from_wire(request.args), call)


def _note_result(result: Mapping[str, object], call: Call) -> None:
    """Note what a call of this daemon's own was about, where its result says that."""
    backend_id, address = result.get("backend_id"), result.get("content_address")
    call.backend_id = backend_id if isinstance(backend_id, str) else None
    call.address = address if isinstance(address, str) else None


def _require_body(request: Request, *, is_needed: bool) -> None:
    if (request.body is not None) != is_needed:
        raise InvalidRequestError(
            f"{request.op} must come {'with' if is_needed else 'without'} a body"
        )


async def turn_away(peer: Peer, error: DataPlaneError) -> None:
    """Answer a connection that cannot be served with `error` in place of the hello."""
    try:
        with trio.move_on_after(_FAREWELL_TIMEOUT):
            await peer.send(Failure.from_error(error))
    except PeerGoneError as exc:
        _log.debug("peer_gone", reason=str(exc))
    finally:
        peer.close()
