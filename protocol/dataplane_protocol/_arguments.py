"""The operations and their arguments (`SPEC.md` 7), one value for each."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final, Self

from ._errors import InvalidRequestError
from ._fields import Fields
from ._identity import ContentAddress
from ._limits import MAX_BATCH, MAX_INTEGER
from ._ranges import check_range


class Operation(StrEnum):
    """Every operation of version 1."""

    INGEST_STREAM = "ingest_stream"
    SERVE_OBJECT = "serve_object"
    VERIFY_OBJECT = "verify_object"
    DELETE_OBJECT = "delete_object"
    BACKEND_HEALTH = "backend_health"
    STAT_OBJECTS = "stat_objects"
    LIST_OBJECTS = "list_objects"
    LIST_BACKENDS = "list_backends"


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestArguments:
    """Arguments of `ingest_stream`, the hints of the SPI."""

    OPERATION: ClassVar = Operation.INGEST_STREAM

    size_hint: int | None = None
    primary_algorithm: str | None = None
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(
            size_hint=_size("size_hint", self.size_hint),
            primary_algorithm=self.primary_algorithm,
            backend_id=self.backend_id,
        )

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _fields(args)
        return cls(
            size_hint=fields.optional_size("size_hint"),
            primary_algorithm=fields.optional_text("primary_algorithm"),
            backend_id=fields.optional_text("backend_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeArguments:
    """Arguments of `serve_object`. `byte_range` is inclusive here, `{offset, length}` there."""

    OPERATION: ClassVar = Operation.SERVE_OBJECT

    content_address: ContentAddress
    byte_range: tuple[int, int] | None = None
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        wire_range: dict[str, object] | None = None
        if self.byte_range is not None:
            check_range(self.byte_range)
            first, last = (min(end, MAX_INTEGER) for end in self.byte_range)
            length = min(last - first + 1, MAX_INTEGER)
            wire_range = {"offset": first, "length": length}
        return _present(
            content_address=str(self.content_address),
            byte_range=wire_range,
            backend_id=self.backend_id,
        )

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _fields(args)
        wire_range = fields.optional_map("byte_range")
        byte_range: tuple[int, int] | None = None
        if wire_range is not None:
            offset = wire_range.size("offset")
            length = wire_range.optional_size("length", least=1)
            last = MAX_INTEGER if length is None else offset + length - 1
            byte_range = (offset, last)
        return cls(
            content_address=fields.address("content_address"),
            byte_range=byte_range,
            backend_id=fields.optional_text("backend_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyArguments:
    """Arguments of `verify_object`."""

    OPERATION: ClassVar = Operation.VERIFY_OBJECT

    content_address: ContentAddress
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(content_address=str(self.content_address), backend_id=self.backend_id)

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _fields(args)
        return cls(
            content_address=fields.address("content_address"),
            backend_id=fields.optional_text("backend_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteArguments:
    """Arguments of `delete_object`."""

    OPERATION: ClassVar = Operation.DELETE_OBJECT

    content_address: ContentAddress
    backend_id: str | None = None
    if_generation: int | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(
            content_address=str(self.content_address),
            backend_id=self.backend_id,
            if_generation=_size("if_generation", self.if_generation),
        )

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _fields(args)
        return cls(
            content_address=fields.address("content_address"),
            backend_id=fields.optional_text("backend_id"),
            if_generation=fields.optional_size("if_generation"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthArguments:
    """Arguments of `backend_health`."""

    OPERATION: ClassVar = Operation.BACKEND_HEALTH

    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(backend_id=self.backend_id)

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        return cls(backend_id=_fields(args).optional_text("backend_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatArguments:
    """Arguments of `stat_objects`: 1 to `MAX_BATCH` addresses."""

    OPERATION: ClassVar = Operation.STAT_OBJECTS

    content_addresses: tuple[ContentAddress, ...]
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(
            content_addresses=[str(address) for address in self.content_addresses],
            backend_id=self.backend_id,
        )

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _fields(args)
        return cls(
            content_addresses=fields.addresses("content_addresses", most=MAX_BATCH),
            backend_id=fields.optional_text("backend_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListArguments:
    """Arguments of `list_objects`: one page of at most `limit` entries after an address."""

    OPERATION: ClassVar = Operation.LIST_OBJECTS

    after: ContentAddress | None = None
    limit: int = MAX_BATCH
    backend_id: str | None = None

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return _present(
            after=None if self.after is None else str(self.after),
            limit=_size("limit", self.limit, least=1, most=MAX_BATCH),
            backend_id=self.backend_id,
        )

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        fields = _fields(args)
        limit = fields.optional_size("limit", least=1, most=MAX_BATCH)
        return cls(
            after=fields.optional_address("after"),
            limit=MAX_BATCH if limit is None else limit,
            backend_id=fields.optional_text("backend_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListBackendsArguments:
    """Arguments of `list_backends`: none."""

    OPERATION: ClassVar = Operation.LIST_BACKENDS

    def to_wire(self) -> dict[str, object]:
        """Give the `args` map."""
        return {}

    @classmethod
    def from_wire(cls, args: Mapping[str, object]) -> Self:
        """Read the `args` map."""
        _fields(args)
        return cls()


Arguments = (
    IngestArguments
    | ServeArguments
    | VerifyArguments
    | DeleteArguments
    | HealthArguments
    | StatArguments
    | ListArguments
    | ListBackendsArguments
)

#: How the arguments of each operation are read.
ARGUMENTS: Final[Mapping[str, type[Arguments]]] = {
    kind.OPERATION.value: kind
    for kind in (
        IngestArguments,
        ServeArguments,
        VerifyArguments,
        DeleteArguments,
        HealthArguments,
        StatArguments,
        ListArguments,
        ListBackendsArguments,
    )
}


def _fields(args: Mapping[str, object]) -> Fields:
    return Fields(args, "args", InvalidRequestError)


def _present(**values: object) -> dict[str, object]:
    return {key: value for key, value in values.items() if value is not None}


def _size(name: str, value: int | None, *, least: int = 0, most: int = MAX_INTEGER) -> int | None:
    if value is not None and not least <= value <= most:
        raise InvalidRequestError(f"{name} is {value}, must be from {least} to {most}")
    return value
