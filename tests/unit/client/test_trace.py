import contextvars

import anyio
import pytest
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider

from dataplane_client import blocking, connect
from dataplane_client._trace import traced
from dataplane_protocol import ContentAddress, Ok, Request

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOTHING = ContentAddress("blake3:" + "0" * 64)
STAT = Request(op="stat_objects")


@pytest.mark.parametrize("text", [TRACE, "cc" + TRACE[2:] + "-more of it"])
def test_a_traceparent_is_sent(text):
    assert traced(STAT, lambda: text).trace == text


@pytest.mark.parametrize(
    "text", [None, "", "x", TRACE.upper(), f"{TRACE}\n", TRACE + "x", TRACE + "-" + "x" * 300]
)
def test_what_is_none_is_not(text):
    assert traced(STAT, lambda: text) is STAT
    assert traced(STAT, None) is STAT


def traceparent():
    """As client/README.md has it."""
    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier.get("traceparent")


def answer_all(seen):
    """Serve connections, noting the trace of every request."""

    def script(peer):
        while isinstance(request := peer.receive(), Request):
            seen.append(request)
            if request.body is None:
                peer.send(Ok(result={"objects": []}))

    return script


@pytest.mark.anyio
async def test_each_call_has_its_callers_trace(daemon):
    seen: list[Request] = []
    daemon.run(*[answer_all(seen)] * 2)
    tracer = TracerProvider().get_tracer("test")
    expected = set()
    async with connect(daemon.path, pool_size=2, trace=traceparent) as client:

        async def call(name):
            with tracer.start_as_current_span(name):
                expected.add(traceparent())
                await anyio.lowlevel.checkpoint()
                await client.stat_objects([NOTHING])

        async with anyio.create_task_group() as group:
            group.start_soon(call, "one")
            group.start_soon(call, "two")
        await client.stat_objects([NOTHING])
    assert len(expected) == 2
    assert {request.trace for request in seen} == expected | {None}


def test_threads_have_theirs(daemon):
    seen: list[Request] = []
    daemon.run(answer_all(seen))
    current: contextvars.ContextVar[str | None] = contextvars.ContextVar("current", default=None)
    with blocking.connect(daemon.path, pool_size=1, trace=current.get) as client:
        client.stat_objects([NOTHING])
        current.set(TRACE)
        client.stat_objects([NOTHING])
        client.call_private("a.b")
    assert [request.trace for request in seen] == [None, TRACE, TRACE]
