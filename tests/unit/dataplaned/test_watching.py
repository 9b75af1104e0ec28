import pytest
import trio
import trio.testing

from dataplane_protocol import InvalidRequestError, UnavailableError
from dataplaned import watching as module
from dataplaned.access import ALL_ROLES, Caller
from dataplaned.backends.memory import MemoryBackend
from dataplaned.config import DaemonConfig
from dataplaned.metrics import CallMeasures
from dataplaned.probing import Probes
from dataplaned.reports import ConnectionPage, DaemonReport, MetricsPiece
from dataplaned.roster import Roster
from dataplaned.telemetry import Audit
from dataplaned.watching import Watching

pytestmark = pytest.mark.trio

ALICE = Caller(pid=5, uid=1001, socket="clients", roles=ALL_ROLES)


@pytest.fixture
async def backend():
    backend = MemoryBackend("b")
    await backend.open()
    return backend


@pytest.fixture
def roster():
    return Roster(DaemonConfig())


@pytest.fixture
async def watching(backend, roster, nursery):
    probes = Probes({"b": backend})
    nursery.start_soon(probes.run)
    await trio.testing.wait_all_tasks_blocked()
    return Watching(probes, roster, ["clients", "admin"], CallMeasures(["b"]), Audit("off"))


async def test_the_daemon_is_described(watching, roster):
    seat = roster.admit(ALICE)
    seat.end(seat.begin("stat_objects"))
    report = DaemonReport.from_wire(await watching.status({}))
    assert (report.connections, report.calls_total, report.is_draining) == (1, 1, False)
    assert [(each.backend_id, each.state) for each in report.backends] == [("b", "ok")]


async def test_connections_come_in_pages(watching, roster, monkeypatch):
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    for _ in range(5):
        roster.admit(ALICE)
    numbers, after, more = [], 0, True
    while more:
        page = ConnectionPage.from_wire(await watching.connections({"after": after}))
        numbers.append([each.number for each in page.connections])
        after, more = numbers[-1][-1], page.more
    assert numbers == [[1, 2], [3, 4], [5]]
    with pytest.raises(InvalidRequestError):
        await watching.connections({"after": "x"})


async def test_metrics_come_in_pieces_of_one_moment(watching, roster, monkeypatch):
    monkeypatch.setattr(module, "METRICS_CHUNK", 1000)
    first = MetricsPiece.from_wire(await watching.metrics({}))
    text, more = first.text, first.more
    roster.admit(ALICE)
    while more:
        piece = await watching.metrics({"after": len(text), "of": first.of})
        more = MetricsPiece.from_wire(piece).more
        text += MetricsPiece.from_wire(piece).text
    assert 'dataplaned_connections{socket="clients"} 0.0' in text
    assert text.endswith("\n")
    for _ in range(4):
        await watching.metrics({})
    with pytest.raises(UnavailableError, match="no longer kept"):
        await watching.metrics({"after": 1000, "of": first.of})


async def test_whether_it_is_ready(watching, roster, backend):
    ready = watching.pages["/readyz"]
    assert (await ready("")).status == 200
    roster.is_draining = True
    answer = await ready("")
    assert (answer.status, answer.body) == (503, b"stopping\n")
    assert (await watching.pages["/healthz"]("")).status == 200


async def test_a_backend_that_is_unwell_is_named(watching, backend, monkeypatch):
    async def fail():
        raise UnavailableError("disk is gone")

    monkeypatch.setattr(backend, "health", fail)
    answer = await watching.pages["/readyz"]("")
    assert (answer.status, answer.body) == (503, b"backend b: down: disk is gone\n")


async def test_the_page_is_in_the_form_that_is_asked_for(watching):
    plain = await watching.pages["/metrics"]("")
    open_metrics = await watching.pages["/metrics"]("application/openmetrics-text; version=1.0.0")
    assert plain.content_type.startswith("text/plain")
    assert open_metrics.content_type.startswith("application/openmetrics-text")
    assert open_metrics.body.endswith(b"# EOF\n")


async def test_how_late_the_loop_is_is_measured(watching, nursery, autojump_clock):
    nursery.start_soon(watching.measure_lag)
    await trio.sleep(10.05)
    assert sum(watching._lag.counts) == 100
