"""Control frames as values: hello, request, ok, error and end (`SPEC.md` 2.3)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final, Self, TypeAlias

from ._errors import BodyMismatchError, DataPlaneError, RemoteProtocolError, error_from_code
from ._fields import Fields
from ._identity import Digest
from ._limits import PROTOCOL_VERSION


class BodyKind(StrEnum):
    """What follows a request or an `ok`. Another word is a violation, not an extension."""

    STREAM = "stream"
    FD = "fd"


#: Features of version 1: bodies by descriptor, of `serve_object` and of `ingest_stream`.
SERVE_FD: Final = "serve_fd"
INGEST_FD: Final = "ingest_fd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame of each side.

    Attributes:
        version: The version of the contract.
        features: What the sender offers (client) or has enabled (server).
        agent: Name and version of the software, for logs.
    """

    KEY: ClassVar[str] = "hello"

    version: int = PROTOCOL_VERSION
    features: tuple[str, ...] = ()
    agent: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the control map."""
        hello: dict[str, object] = {"version": self.version, "features": list(self.features)}
        if self.agent is not None:
            hello["agent"] = self.agent
        return {self.KEY: hello}

    @classmethod
    def from_wire(cls, message: Mapping[str, object]) -> Self:
        """Read the control map."""
        hello = _fields(message, cls.KEY)
        return cls(
            version=hello.size("version"),
            features=hello.texts("features"),
            agent=hello.optional_text("agent"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The start of a call.

    Attributes:
        op: The operation's name; known or not.
        args: Its arguments, not yet looked at.
        body: What follows; `None` when nothing does.
        accept_fd: Whether the answer's body may be a descriptor.
        trace: A W3C `traceparent`.
    """

    KEY: ClassVar[str] = "op"

    op: str
    args: Mapping[str, object] = field(default_factory=dict[str, object])
    body: BodyKind | None = None
    accept_fd: bool = False
    trace: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the control map."""
        message: dict[str, object] = {"op": self.op, "args": self.args}
        if self.body is not None:
            message["body"] = self.body.value
        if self.accept_fd:
            message["accept_fd"] = True
        if self.trace is not None:
            message["trace"] = self.trace
        return message

    @classmethod
    def from_wire(cls, message: Mapping[str, object]) -> Self:
        """Read the control map."""
        request = Fields(message, "request", RemoteProtocolError)
        return cls(
            op=request.text("op"),
            args=request.map("args").raw(),
            body=_body(request),
            accept_fd=request.optional_boolean("accept_fd"),
            trace=request.optional_text("trace"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ok:
    """The answer of a call that succeeded so far.

    Attributes:
        result: The operation's result, not yet looked at.
        body: What follows; `None` when nothing does.
    """

    KEY: ClassVar[str] = "ok"

    result: Mapping[str, object] = field(default_factory=dict[str, object])
    body: BodyKind | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the control map."""
        message: dict[str, object] = {self.KEY: self.result}
        if self.body is not None:
            message["body"] = self.body.value
        return message

    @classmethod
    def from_wire(cls, message: Mapping[str, object]) -> Self:
        """Read the control map."""
        answer = Fields(message, "answer", RemoteProtocolError)
        return cls(result=answer.map("ok").raw(), body=_body(answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An `error` frame: a refusal, or the bad end of a body.

    Attributes:
        code: What went wrong, for programs.
        message: What went wrong, for people.
        retry: Whether the same call, unchanged, may succeed later.
        details: What `SPEC.md` 8 lists for the code.
    """

    KEY: ClassVar[str] = "error"

    code: str
    message: str = ""
    retry: bool = False
    details: Mapping[str, object] = field(default_factory=dict[str, object])

    def to_wire(self) -> dict[str, object]:
        """Give the control map."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.retry:
            error["retry"] = True
        if self.details:
            error["details"] = self.details
        return {self.KEY: error}

    @classmethod
    def from_wire(cls, message: Mapping[str, object]) -> Self:
        """Read the control map."""
        error = _fields(message, cls.KEY)
        details = error.optional_map("details")
        return cls(
            code=error.text("code"),
            message=error.text("message"),
            retry=error.optional_boolean("retry"),
            details={} if details is None else details.raw(),
        )

    @classmethod
    def from_error(cls, error: DataPlaneError) -> Self:
        """Give the frame that tells a peer of `error`."""
        return cls(code=error.code, message=error.message, retry=error.retry, details=error.details)

    def to_error(self) -> DataPlaneError:
        """Give the exception that this frame stands for."""
        return error_from_code(self.code, self.message, retry=self.retry, details=self.details)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The good end of a body.

    Attributes:
        size_bytes: The payload bytes of the body.
        digest: The digest of exactly these bytes.
    """

    KEY: ClassVar[str] = "end"

    size_bytes: int
    digest: Digest | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the control map."""
        end: dict[str, object] = {"size_bytes": self.size_bytes}
        if self.digest is not None:
            end["digest"] = str(self.digest)
        return {self.KEY: end}

    @classmethod
    def from_wire(cls, message: Mapping[str, object]) -> Self:
        """Read the control map."""
        end = _fields(message, cls.KEY)
        return cls(size_bytes=end.size("size_bytes"), digest=end.optional_digest("digest"))

    def check_size(self, received: int) -> None:
        """Compare with the number of bytes that came.

        Raises:
            BodyMismatchError: They differ.
        """
        if received != self.size_bytes:
            raise BodyMismatchError(
                f"body has {received} bytes, its end states {self.size_bytes}",
                details={"size_bytes": received},
            )


Message: TypeAlias = Hello | Request | Ok | Failure | End

_READERS: Final[Mapping[str, Callable[[Mapping[str, object]], Message]]] = {
    Hello.KEY: Hello.from_wire,
    Request.KEY: Request.from_wire,
    Ok.KEY: Ok.from_wire,
    Failure.KEY: Failure.from_wire,
    End.KEY: End.from_wire,
}


def message_from_wire(message: Mapping[str, object]) -> Message:
    """Read a control map, which must have exactly one of the keys that name a kind.

    Raises:
        RemoteProtocolError: It has none or several, or a known key of the wrong type.
    """
    kinds = [key for key in _READERS if key in message]
    if len(kinds) != 1:
        raise RemoteProtocolError(
            f"control frame has {len(kinds)} of the keys {', '.join(_READERS)}, must have one"
        )
    return _READERS[kinds[0]](message)


def _fields(message: Mapping[str, object], key: str) -> Fields:
    return Fields(message[key], key, RemoteProtocolError)


def _body(frame: Fields) -> BodyKind | None:
    word = frame.optional_text("body")
    try:
        return None if word is None else BodyKind(word)
    except ValueError:
        raise RemoteProtocolError("body is of an unknown kind, must be stream or fd") from None
