"""What the daemon says of itself: log lines, the audit, traces. Client text is never raw."""

from .audit import Audit as Audit
from .calllog import CallLog as CallLog
from .lines import (
    lines_lost as lines_lost,
    set_level as set_level,
    set_up_logging as set_up_logging,
)
from .traceparent import Traceparent as Traceparent, parse_traceparent as parse_traceparent
from .tracing import Tracing as Tracing, tracing_from as tracing_from
