"""Byte ranges: inclusive `(first, last)` for callers, `{offset, ?length}` on the wire."""

from ._errors import InvalidRequestError, RangeNotSatisfiableError


def check_range(byte_range: tuple[int, int]) -> None:
    """Refuse what no object can satisfy, whatever its size.

    Raises:
        RangeNotSatisfiableError: An end is negative, or the first is after the last.
        InvalidRequestError: It is not a pair of integers.
    """
    ends = tuple(byte_range)
    if [type(end) for end in ends] != [int, int]:
        raise InvalidRequestError("byte_range must be a pair of integers")
    first, last = ends
    if first < 0 or last < 0:
        raise RangeNotSatisfiableError(f"byte range ({first}, {last}) is negative")
    if first > last:
        raise RangeNotSatisfiableError(f"byte range ({first}, {last}) is inverted")


def resolve_range(byte_range: tuple[int, int] | None, size: int) -> tuple[int, int]:
    """Give the offset and length that a range means in an object of `size` bytes.

    No range means the whole object. The last byte is clamped to the object's.

    Raises:
        RangeNotSatisfiableError: It starts past the last byte, or no object satisfies it.
        InvalidRequestError: It is not a pair of integers.
    """
    if byte_range is None:
        return 0, size
    check_range(byte_range)
    first, last = byte_range
    if first >= size:
        raise RangeNotSatisfiableError(
            f"byte range starts at {first}, the object has {size} bytes",
            details={"size_bytes": size},
        )
    return first, min(last, size - 1) - first + 1
