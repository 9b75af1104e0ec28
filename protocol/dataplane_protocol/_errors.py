"""The errors of a data plane: one class for each thing that a caller can do about it.

    DataPlaneError               anything below, and any code that this version does not know
    +-- InvalidRequestError      mend the arguments (also a ValueError)
    +-- UnsupportedError         ask for something this daemon offers
    +-- AccessDeniedError        ask the operator for the right
    +-- ObjectNotFoundError      there is no such object (also a LookupError)
    +-- UnknownBackendError      name a configured backend
    +-- RangeNotSatisfiableError ask for bytes that the object has
    +-- ObjectTooLargeError      store something smaller
    +-- NoSpaceError             make space
    +-- ConflictError            look again: the object was ingested again meanwhile
    +-- BodyMismatchError        the bytes sent are not the bytes that were announced
    +-- ObjectCorruptError       ingest the object again
    +-- UnavailableError         try again later
    +-- CallCancelledError       nothing: the body was given up by its sender
    +-- ProtocolError            report a bug, or the wrong socket
    |   +-- LocalProtocolError   this side broke the contract
    |   +-- RemoteProtocolError  the peer did
    +-- InternalError            read the daemon's log

`code` is the word on the wire. `retry` says whether the same call, unchanged, may succeed
later, and decides for codes that a caller does not know (`SPEC.md` 8).
"""

from collections.abc import Mapping
from typing import ClassVar, Final


class DataPlaneError(Exception):
    """A call that did not succeed.

    Attributes:
        code: The wire code. Codes that this version does not know are kept as they came.
        message: One line for people: the fact and the limit. Programs never read it.
        retry: Whether the same call, unchanged, may succeed later.
        details: What `SPEC.md` 8 lists for the code; empty when there is nothing to add.
    """

    default_code: ClassVar[str] = "internal"
    default_retry: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        retry: bool | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message: str = message
        self.code: str = self.default_code if code is None else code
        self.retry: bool = self.default_retry if retry is None else retry
        self.details: dict[str, object] = dict(details or {})

    def __str__(self) -> str:
        return self.message or self.code


class InvalidRequestError(DataPlaneError, ValueError):
    """An argument is malformed or breaks the schema."""

    default_code = "bad_request"


class UnsupportedError(DataPlaneError):
    """An operation, algorithm, version or feature that the data plane does not have."""

    default_code = "unsupported"


class AccessDeniedError(DataPlaneError):
    """The peer's credentials do not entitle it to the call."""

    default_code = "denied"


class ObjectNotFoundError(DataPlaneError, LookupError):
    """No object has this content address."""

    default_code = "not_found"


class UnknownBackendError(DataPlaneError):
    """No backend with this id is configured."""

    default_code = "unknown_backend"


class RangeNotSatisfiableError(DataPlaneError):
    """A byte range that is inverted, negative, or starts past the last byte."""

    default_code = "out_of_range"


class ObjectTooLargeError(DataPlaneError):
    """The object exceeds the configured maximum."""

    default_code = "too_large"


class NoSpaceError(DataPlaneError):
    """The backend has no room for the object."""

    default_code = "no_space"


class ConflictError(DataPlaneError):
    """`if_generation` does not hold: the object was ingested again."""

    default_code = "conflict"


class BodyMismatchError(DataPlaneError):
    """A body's bytes differ from the size or digest that its `end` states."""

    default_code = "body_mismatch"


class ObjectCorruptError(DataPlaneError):
    """Stored bytes no longer match their digests, or are gone."""

    default_code = "corrupt"


class UnavailableError(DataPlaneError):
    """The daemon or the backend cannot do it now; the connection was lost."""

    default_code = "unavailable"
    default_retry = True


class CallCancelledError(DataPlaneError):
    """The sender of a body gave it up; nothing was stored."""

    default_code = "cancelled"


class ProtocolError(DataPlaneError):
    """Framing or order was violated; the connection is of no more use."""

    default_code = "protocol"


class LocalProtocolError(ProtocolError):
    """This side tried something that the contract does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the contract does not allow."""


class InternalError(DataPlaneError):
    """The daemon failed in a way that it did not foresee; its log says more."""

    default_code = "internal"


#: The class that a code on the wire becomes. `protocol` is told by the peer about us.
ERRORS_BY_CODE: Final[Mapping[str, type[DataPlaneError]]] = {
    kind.default_code: kind
    for kind in (
        InvalidRequestError,
        UnsupportedError,
        AccessDeniedError,
        ObjectNotFoundError,
        UnknownBackendError,
        RangeNotSatisfiableError,
        ObjectTooLargeError,
        NoSpaceError,
        ConflictError,
        BodyMismatchError,
        ObjectCorruptError,
        UnavailableError,
        CallCancelledError,
        LocalProtocolError,
        InternalError,
    )
}


def error_from_code(
    code: str, message: str, *, retry: bool, details: Mapping[str, object] | None = None
) -> DataPlaneError:
    """Make the exception that an `error` frame stands for.

    An unknown code gives a plain `DataPlaneError` that keeps it (`SPEC.md` 8.2).
    """
    kind = ERRORS_BY_CODE.get(code, DataPlaneError)
    return kind(message, code=code, retry=retry, details=details)
