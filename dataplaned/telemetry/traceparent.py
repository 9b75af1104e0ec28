"""The `traceparent` that a call may carry (W3C Trace Context, level 1)."""

import re
from dataclasses import dataclass
from typing import Final

#: Version, trace id, parent id and flags; a version to come may go on after them.
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

#: The version that there will never be.
_NO_VERSION: Final = "ff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traceparent:
    """A place in somebody's trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: 16 of them: the caller's span.
        is_sampled: Whether the caller records it.
    """

    trace_id: str
    parent_id: str
    is_sampled: bool


def parse_traceparent(text: str | None) -> Traceparent | None:
    """Read a `traceparent`; `None` for what is none (`SPEC.md` 2.3-6)."""
    match = None if text is None or len(text) > 512 else _FORM.fullmatch(text)
    if match is None:
        return None
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == _NO_VERSION or (version == "00" and rest is not None):
        return None
    if not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    return Traceparent(trace_id=trace_id, parent_id=parent_id, is_sampled=bool(int(flags, 16) & 1))
