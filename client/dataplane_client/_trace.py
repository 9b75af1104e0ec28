"""The `traceparent` that a call takes with it (`SPEC.md` 2.3-6)."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from dataplane_protocol import Request

#: Gives the caller's `traceparent` (W3C Trace Context), or `None`. Asked once for each call,
#: where that is made, so that context variables have the caller's values.
Trace: TypeAlias = Callable[[], str | None]

#: Of any version: later ones may go on after the flags.
_FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x20-\x7e]{0,200})?")


def traced(request: Request, trace: Trace | None) -> Request:
    """Give a request with the caller's `traceparent`; what has not its form is left out."""
    text = None if trace is None else trace()
    if text is None or not _FORM.fullmatch(text):
        return request
    return replace(request, trace=text)
