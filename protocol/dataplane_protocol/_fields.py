"""Typed reading of decoded maps: the one place where `object` becomes a type.

Unknown keys are never looked at (`SPEC.md` 10). An optional field that is not meant is
absent; a null is a value of the wrong type like any other. Whoever has operations of their own
(`SPEC.md` 10-7) reads their arguments and results with it too.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

from ._errors import DataPlaneError
from ._identity import ContentAddress, Digest
from ._limits import MAX_INTEGER

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_milliseconds(moment: datetime) -> int:
    """Give the whole milliseconds since the Unix epoch, exactly."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def from_milliseconds(milliseconds: int) -> datetime:
    """Give the moment in UTC. At most the year 9999, which `Fields.moment` checks."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


_MAX_MILLISECONDS = to_milliseconds(datetime.max.replace(tzinfo=UTC))


class Fields:
    """The known keys of one decoded map.

    Args:
        value: What was decoded; anything but a map raises.
        name: What the map is called in messages.
        error: The class to raise: `InvalidRequestError` for the arguments of a request,
            `RemoteProtocolError` for everything else.
    """

    __slots__ = ("_error", "_map", "_name")

    def __init__(self, value: object, name: str, error: type[DataPlaneError]) -> None:
        if not isinstance(value, dict):
            raise error(f"{name} is not a map")
        self._map = cast("Mapping[str, object]", value)
        self._name = name
        self._error = error

    def text(self, key: str) -> str:
        """Give a required text."""
        value = self._required(key)
        if not isinstance(value, str):
            raise self._wrong(key, "text")
        return value

    def optional_text(self, key: str) -> str | None:
        """Give a text, or `None` when it is absent."""
        return self.text(key) if key in self._map else None

    def boolean(self, key: str) -> bool:
        """Give a required true or false."""
        value = self._required(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def optional_boolean(self, key: str) -> bool:
        """Give a true or false; false when it is absent."""
        return self.boolean(key) if key in self._map else False

    def size(self, key: str, *, least: int = 0, most: int = MAX_INTEGER) -> int:
        """Give a required integer within bounds, both included."""
        value = self._required(key)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(key, f"an integer from {least} to {most}")
        return value

    def optional_size(self, key: str, *, least: int = 0, most: int = MAX_INTEGER) -> int | None:
        """Give an integer within bounds, or `None` when it is absent."""
        return self.size(key, least=least, most=most) if key in self._map else None

    def moment(self, key: str) -> datetime:
        """Give a required time, sent as milliseconds since the epoch."""
        return from_milliseconds(self.size(key, most=_MAX_MILLISECONDS))

    def optional_moment(self, key: str) -> datetime | None:
        """Give a time, or `None` when it is absent."""
        return self.moment(key) if key in self._map else None

    def digest(self, key: str) -> Digest:
        """Give a required digest, sent as `algorithm:hex`."""
        text = self.text(key)
        try:
            return Digest.parse(text)
        except DataPlaneError as exc:
            raise self._error(f"{self._name}.{key}: {exc}") from None

    def optional_digest(self, key: str) -> Digest | None:
        """Give a digest, or `None` when it is absent."""
        return self.digest(key) if key in self._map else None

    def address(self, key: str) -> ContentAddress:
        """Give a required content address."""
        return ContentAddress.from_digest(self.digest(key))

    def optional_address(self, key: str) -> ContentAddress | None:
        """Give a content address, or `None` when it is absent."""
        return self.address(key) if key in self._map else None

    def texts(self, key: str) -> tuple[str, ...]:
        """Give a required list of texts."""
        items = self._list(key)
        if not all(isinstance(item, str) for item in items):
            raise self._wrong(key, "a list of texts")
        return cast("tuple[str, ...]", tuple(items))

    def addresses(self, key: str, *, most: int) -> tuple[ContentAddress, ...]:
        """Give a required list of 1 to `most` content addresses."""
        texts = self.texts(key)
        if not 1 <= len(texts) <= most:
            raise self._error(f"{self._name}.{key} has {len(texts)} entries, must have 1 to {most}")
        try:
            return tuple(ContentAddress(text) for text in texts)
        except DataPlaneError as exc:
            raise self._error(f"{self._name}.{key}: {exc}") from None

    def map(self, key: str) -> "Fields":
        """Give the fields of a required map."""
        return Fields(self._required(key), f"{self._name}.{key}", self._error)

    def optional_map(self, key: str) -> "Fields | None":
        """Give the fields of a map, or `None` when it is absent."""
        return self.map(key) if key in self._map else None

    def maps(self, key: str, *, most: int) -> Iterator["Fields"]:
        """Give the fields of each map in a required list of at most `most`."""
        items = self._list(key)
        if len(items) > most:
            raise self._error(f"{self._name}.{key} has {len(items)} entries, limit is {most}")
        for index, item in enumerate(items):
            yield Fields(item, f"{self._name}.{key}[{index}]", self._error)

    def raw(self) -> Mapping[str, object]:
        """Give the map itself, unknown keys included."""
        return self._map

    def _list(self, key: str) -> list[object]:
        value = self._required(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return cast("list[object]", value)

    def _required(self, key: str) -> object:
        try:
            return self._map[key]
        except KeyError:
            raise self._error(f"{self._name}.{key} is missing") from None

    def _wrong(self, key: str, wanted: str) -> DataPlaneError:
        return self._error(f"{self._name}.{key} must be {wanted}")
