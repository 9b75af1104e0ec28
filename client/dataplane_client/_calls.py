"""The operations without a body of their own: what is asked, and how the answer is read.

Arguments are checked here, before a connection is taken. Names of algorithms and backends
are left to the daemon, which may know more of them than this client.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, TypeVar, cast

from dataplane_protocol import (
    MAX_BATCH,
    SERVE_FD,
    Arguments,
    BackendList,
    BackendStatus,
    BodyKind,
    ContentAddress,
    DeleteArguments,
    DeletionResult,
    End,
    Failure,
    HealthArguments,
    IngestArguments,
    IngestHints,
    InvalidRequestError,
    ListArguments,
    ListBackendsArguments,
    LocalProtocolError,
    ObjectPage,
    ObjectStatus,
    RemoteProtocolError,
    Request,
    ServeArguments,
    ServeResult,
    StatArguments,
    VerifyArguments,
    VerifyResult,
    backend_list_from_wire,
    backend_status_from_wire,
    check_range,
    deletion_result_from_wire,
    encode_frame,
    object_page_from_wire,
    stat_result_from_wire,
    verify_result_from_wire,
)

from ._connection import DaemonConnection
from ._descriptors import check_file, close

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and the way to read its answer.

    Attributes:
        request: What is asked.
        parse: Reads the result; raises `RemoteProtocolError` where it breaks the contract.
        is_repeatable: Whether it does no harm if the daemon gets it twice.
    """

    request: Request
    parse: Callable[[Mapping[str, object]], T]
    is_repeatable: bool = True

    async def over(self, connection: DaemonConnection) -> T:
        """Ask over a connection, and read the answer."""
        await connection.send(connection.begin(self.request))
        answer = await connection.receive_answer(None)
        return self.parse(answer.result)


@dataclass(frozen=True, slots=True)
class Opened:
    """An object or a range of it that a daemon has begun to serve.

    Attributes:
        served: What it is.
        fd: A file with the whole object, to be closed; `None` when its bytes follow.
        end: The end of the body, when there is a file.
    """

    served: ServeResult
    fd: int | None = None
    end: End | None = None


@dataclass(frozen=True, slots=True)
class ServeCall:
    """`Call` for the one operation whose answer has a body.

    Attributes:
        accepts_fd: Whether the body may be a descriptor, if that was agreed on.
    """

    request: Request
    parse: Callable[[Mapping[str, object]], ServeResult]
    accepts_fd: bool = True

    async def over(self, connection: DaemonConnection) -> Opened:
        """Ask over a connection, and read the answer; all of it when it is a descriptor."""
        accepts_fd = self.accepts_fd and SERVE_FD in connection.protocol.features
        request = replace(self.request, accept_fd=accepts_fd)
        await connection.send(connection.begin(request))
        answer = await connection.receive_answer(BodyKind.STREAM, BodyKind.FD)
        if answer.body is BodyKind.STREAM:
            return Opened(self.parse(answer.result))
        fd = connection.take_descriptor()
        try:
            served = self.parse(answer.result)
            check_file(fd, served.size_bytes)
            end = await _end(connection)
            if end.size_bytes != served.length:
                # The body fails when it is read; its connection is of no more use now.
                connection.close()
            return Opened(served, fd, end)
        except BaseException:
            close(fd)
            raise


async def _end(connection: DaemonConnection) -> End:
    end = await connection.receive()
    if isinstance(end, Failure):
        raise end.to_error()
    assert isinstance(end, End)  # the half-machines allow nothing else here
    return end


def ingest_request(hints: IngestHints | None) -> Request:
    """Give the request of an ingest; its body follows."""
    hints = IngestHints() if hints is None else hints
    arguments = IngestArguments(
        size_hint=hints.size_hint,
        primary_algorithm=hints.primary_algorithm,
        backend_id=hints.backend_id,
    )
    return _request(arguments, BodyKind.STREAM)


def serve(
    address: ContentAddress, byte_range: tuple[int, int] | None, backend_id: str | None
) -> ServeCall:
    """Ask for an object or a range of it.

    Raises:
        RangeNotSatisfiableError: No object has such a range.
    """
    if byte_range is not None:
        check_range(byte_range)
    arguments = ServeArguments(
        content_address=_checked(address), byte_range=byte_range, backend_id=backend_id
    )

    def parse(result: Mapping[str, object]) -> ServeResult:
        served = ServeResult.from_wire(result)
        first, last = (0, served.size_bytes - 1) if byte_range is None else byte_range
        length = min(last, served.size_bytes - 1) - first + 1
        # A range names at least one byte, or is refused.
        is_empty = length < 1 and byte_range is not None
        if (served.offset, served.length) != (first, length) or is_empty:
            raise RemoteProtocolError(
                f"{served.length} bytes from {served.offset} were served, "
                f"{length} from {first} were asked for"
            )
        return served

    return ServeCall(_request(arguments), parse)


def verify(address: ContentAddress, backend_id: str | None) -> Call[VerifyResult]:
    """Ask for a verification."""
    arguments = VerifyArguments(content_address=_checked(address), backend_id=backend_id)
    return Call(_request(arguments), verify_result_from_wire)


def delete(
    address: ContentAddress, backend_id: str | None, if_generation: int | None
) -> Call[DeletionResult]:
    """Ask for a deletion."""
    arguments = DeleteArguments(
        content_address=_checked(address), backend_id=backend_id, if_generation=if_generation
    )
    return Call(_request(arguments), deletion_result_from_wire)


def health(backend_id: str | None) -> Call[BackendStatus]:
    """Ask how a backend is."""
    return Call(_request(HealthArguments(backend_id=backend_id)), backend_status_from_wire)


def list_backends() -> Call[BackendList]:
    """Ask how all backends are."""
    return Call(_request(ListBackendsArguments()), backend_list_from_wire)


def stats(
    addresses: Sequence[ContentAddress], backend_id: str | None
) -> list[Call[tuple[ObjectStatus, ...]]]:
    """Ask which of any number of addresses are present, `MAX_BATCH` at a time."""
    checked = tuple(_checked(address) for address in addresses)
    batches = [checked[start : start + MAX_BATCH] for start in range(0, len(checked), MAX_BATCH)]
    return [
        Call(
            _request(StatArguments(content_addresses=batch, backend_id=backend_id)),
            stat_result_from_wire,
        )
        for batch in batches
    ]


def page(after: ContentAddress | None, limit: int, backend_id: str | None) -> Call[ObjectPage]:
    """Ask for one page of a listing."""
    start = None if after is None else _checked(after)
    arguments = ListArguments(after=start, limit=limit, backend_id=backend_id)

    def parse(result: Mapping[str, object]) -> ObjectPage:
        objects = object_page_from_wire(result)
        names = [entry.content_address for entry in objects]
        previous = names if start is None else [start, *names]
        # A page that does not go forward would have the caller walk in a circle.
        if not all(name < following for name, following in pairwise(previous)):
            raise RemoteProtocolError("the entries of a page are not in ascending order")
        if objects.more and not names:
            raise RemoteProtocolError("a page without entries says that more follow")
        return objects

    return Call(_request(arguments), parse)


def private(operation: str, arguments: Mapping[str, object] | None) -> Call[Mapping[str, object]]:
    """Ask for an operation that the contract does not know (`SPEC.md` 10-7).

    Raises:
        InvalidRequestError: The name has no dot, or the arguments have no form on the wire.
    """
    # Callers without a type checker pass anything.
    if not isinstance(cast("object", operation), str) or "." not in operation:
        raise InvalidRequestError(f"operation is {operation!r}, must be a name with a dot")
    if not isinstance(cast("object", arguments), Mapping | None):
        raise InvalidRequestError(f"arguments are a {type(arguments).__name__}, must be a mapping")
    request = Request(op=operation, args=dict(arguments or {}))
    try:
        encode_frame(request.to_wire())
    except LocalProtocolError as exc:
        raise InvalidRequestError(exc.message) from None
    # Whether such an operation may be repeated, this client cannot know.
    return Call(request, lambda result: result, is_repeatable=False)


def _request(arguments: Arguments, body: BodyKind | None = None) -> Request:
    return Request(op=arguments.OPERATION.value, args=arguments.to_wire(), body=body)


def _checked(address: ContentAddress) -> ContentAddress:
    # Callers without a type checker pass text or a digest, which would do until it is odd.
    if not isinstance(cast("object", address), ContentAddress):
        raise InvalidRequestError(
            f"content address is a {type(address).__name__}, must be a ContentAddress"
        )
    return address
