import pytest
import structlog

from dataplaned.access import ALL_ROLES, Caller
from dataplaned.calls import Call
from dataplaned.telemetry import lines

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _logging_as_before():
    yield
    structlog.reset_defaults()
    if (journal := getattr(lines._state.sink, "_journal", None)) is not None:
        journal.close()
    lines._state.sink = None
    lines._state.watcher = None


@pytest.fixture
def make_call():
    """Give a function that makes calls that have ended."""

    def make(op="ingest_stream", **more):
        caller = Caller(pid=7, uid=1001, socket="clients", roles=ALL_ROLES)
        return Call(op=op, caller=caller, connection=3, started=0.0, **more)

    return make
