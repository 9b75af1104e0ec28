import pytest
import structlog.testing
import trio
import trio.testing

from dataplane_protocol import BackendState, UnavailableError
from dataplaned.backends.memory import MemoryBackend
from dataplaned.probing import Probes
from dataplaned.systemd import Notifier
from dataplaned.watchdog import feed_watchdog

pytestmark = pytest.mark.trio


class Patient(MemoryBackend):
    """A backend whose health a test decides.

    Attributes:
        asked: How often it was asked.
        hangs: What is waited for before the answer.
        error: What is raised instead.
    """

    def __init__(self, backend_id="b"):
        super().__init__(backend_id)
        self.asked = 0
        self.hangs = None
        self.error = None

    async def health(self):
        self.asked += 1
        if self.hangs is not None:
            await self.hangs.wait()
        if self.error is not None:
            raise self.error
        return await super().health()


@pytest.fixture
async def backend():
    backend = Patient()
    await backend.open()
    return backend


@pytest.fixture
async def probes(backend, nursery):
    probes = Probes({"b": backend})
    nursery.start_soon(probes.run)
    await trio.testing.wait_all_tasks_blocked()
    return probes


async def test_a_finding_is_good_for_some_seconds(probes, backend, autojump_clock):
    assert (await probes.findings())["b"].status.healthy
    assert (await probes.findings())["b"].status.healthy
    assert backend.asked == 1
    await trio.sleep(5)
    await probes.findings()
    assert backend.asked == 2


async def test_a_backend_that_hangs_holds_up_nobody_and_is_down(probes, backend, autojump_clock):
    backend.hangs = trio.Event()
    began = trio.current_time()
    status = (await probes.findings())["b"].status
    assert trio.current_time() - began == pytest.approx(2)
    assert (status.state, status.writable) == (BackendState.DOWN, False)
    assert status.message == "does not answer since 2 s"
    await trio.sleep(10)
    assert probes.hanging(10) == ["b"]
    assert probes.hanging(100) == []
    await probes.findings()
    assert backend.asked == 1
    backend.hangs.set()
    await trio.testing.wait_all_tasks_blocked()
    assert probes.hanging(0) == []
    assert (await probes.findings())["b"].status.healthy


@pytest.mark.parametrize(
    ("error", "message", "events"),
    [
        (UnavailableError("engine is away"), "engine is away", []),
        (ZeroDivisionError(), "probe failed", ["probe_failed"]),
    ],
)
async def test_a_probe_that_fails_is_an_answer(probes, backend, error, message, events):
    backend.error = error
    with structlog.testing.capture_logs() as logs:
        status = (await probes.findings())["b"].status
    assert (status.state, status.message) == (BackendState.DOWN, message)
    assert [line["event"] for line in logs] == events


async def test_what_a_backend_is_made_of_is_probed_too(nursery):
    outer, inner = MemoryBackend("outer"), MemoryBackend("outer.first")
    outer.inner = (inner,)
    probes = Probes({"outer": outer})
    nursery.start_soon(probes.run)
    await trio.testing.wait_all_tasks_blocked()
    assert list(await probes.findings()) == ["outer", "outer.first"]


class Told(Notifier):
    """Notes what systemd would be told."""

    def __init__(self, interval):
        super().__init__({})
        self.watchdog_interval_s = interval
        self.fed = []
        self.lines = []

    def watchdog(self):
        self.fed.append(trio.current_time())

    def status(self, text):
        self.lines.append(text)


async def test_the_watchdog_is_fed_three_times_within_its_time(probes, nursery, autojump_clock):
    told = Told(3.0)
    nursery.start_soon(feed_watchdog, told, probes, lambda: "well")
    await trio.sleep(9.5)
    assert len(told.fed) == 10
    assert set(told.lines) == {"well"}


async def test_a_backend_that_hangs_starves_it(probes, backend, nursery, autojump_clock):
    told = Told(3.0)
    with structlog.testing.capture_logs() as logs:
        nursery.start_soon(feed_watchdog, told, probes, lambda: "well")
        await trio.sleep(4.5)
        backend.hangs = trio.Event()
        await trio.sleep(10)
    last = told.fed[-1]
    assert trio.current_time() - last > 5
    assert [(line["event"], line["backends"]) for line in logs] == [("probe_hangs", ["b"])]
    backend.hangs.set()
    await trio.sleep(3)
    assert told.fed[-1] > last


async def test_a_backend_that_is_unwell_does_not(probes, backend, nursery, autojump_clock):
    backend.error = UnavailableError("disk is gone")
    told = Told(3.0)
    nursery.start_soon(feed_watchdog, told, probes, lambda: "well")
    await trio.sleep(9.5)
    assert len(told.fed) == 10


async def test_without_a_watchdog_only_the_status_is_told(probes, backend, nursery, autojump_clock):
    told = Told(None)
    nursery.start_soon(feed_watchdog, told, probes, lambda: "well")
    await trio.sleep(25)
    assert (told.fed, told.lines, backend.asked) == ([], ["well"] * 3, 0)
