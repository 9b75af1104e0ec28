"""A power cut at any moment loses nothing acknowledged, tears nothing and brings nothing back.

A real daemon works on a disk that logs its writes. Then the power is cut hundreds of times, each
time at another moment and with other unflushed writes lost, and the store is opened on what is
left.
"""

import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .crashdisk import (
    FILESYSTEMS,
    CrashDisk,
    CrashState,
    WriteLog,
    why_not_here,
    work_directory,
)
from .examination import Examination, Wrong
from .history import History
from .workload import Work

pytestmark = [pytest.mark.powerloss, pytest.mark.slow, pytest.mark.timeout(900)]

STATES = 300
#: States of the time before the store is ready for its first object.
STARTING_STATES = 20
CONTROL_STATES = 150
PATIENCE_S = 60


@dataclass(frozen=True)
class Run:
    """A daemon's life on a crash disk.

    Attributes:
        ready: The mark at which the store was ready.
        worn_in: The one at which the work began.
    """

    history: History
    contents: Mapping[str, bytes]
    log: WriteLog
    ready: int
    worn_in: int

    def states(self, count: int, seed: int) -> list[CrashState]:
        """Choose power cuts during the work: half of them just after something was owed."""
        rng = random.Random(seed)
        begun = self.log.positions[self.worn_in]
        owed = [position + 1 for position in self.log.positions.values() if position > begun]
        others = rng.sample(range(begun + 1, self.log.size + 1), len(owed))
        return self.log.sample(owed + others, count, rng)

    def starting_states(self, count: int, seed: int) -> list[CrashState]:
        """Choose power cuts before the store was ready for the first time."""
        points = range(self.log.positions[0] + 1, self.log.positions[self.ready] + 1)
        return self.log.sample(points, count, random.Random(seed))


def work_on(
    filesystem: str,
    directory: Path,
    run_daemon: Callable[..., Any],
    work: Callable[[Work, Any, History], None],
    wrapper: Sequence[str] = (),
) -> Run:
    """Run a daemon on a new crash disk, wear its store in, and do some work with it."""
    with CrashDisk(directory, filesystem) as disk:
        history = History(disk.mark)
        disk.mark()
        root = disk.mountpoint / "store"
        with run_daemon(("--root", str(root))) as daemon:
            ready = disk.mark()
            if wrapper:
                assert daemon.stop() == 0
                daemon.start(wrapper=wrapper)
            workers = Work(daemon, root, history, seed=1)
            if FILESYSTEMS[filesystem].syncs_all_names:
                workers.wear_in()
            worn_in = disk.mark()
            work(workers, daemon, history)
            assert daemon.stop() == 0
    return Run(history, workers.contents, disk.read_log(), ready, worn_in)


def a_full_life(work: Work, daemon: Any, history: History) -> None:
    assert all(work.concurrently(8))
    work.heal()
    enough = history.acknowledged + 30

    def kill() -> None:
        assert history.wait_for(enough, PATIENCE_S)
        daemon.kill()

    assert not all(work.concurrently(8, kill))
    daemon.start()
    work.heal()
    assert all(work.concurrently(4))


def a_short_life(work: Work, daemon: Any, history: History) -> None:
    assert all(work.concurrently(6))


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where disks and their images are, in memory if possible."""
    with work_directory() as path:
        yield path


def require(filesystem: str) -> None:
    if reason := why_not_here(filesystem):
        pytest.skip(reason)


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_no_power_cut_breaks_a_promise(
    filesystem: str,
    directory: Path,
    daemon_process: Callable[..., Any],
) -> None:
    require(filesystem)
    run = work_on(filesystem, directory, daemon_process, a_full_life)
    states = [*run.starting_states(STARTING_STATES, seed=2), *run.states(STATES, seed=3)]
    examination = Examination(daemon_process, run.history, run.contents, run.log)
    verdict = examination.examine(states, directory, enough=50)
    print(f"{filesystem}, {run.history.acknowledged} acknowledged: {verdict}")
    assert not verdict.wrong, verdict
    assert not verdict.unsure, verdict
    assert verdict.states >= 300


@pytest.mark.parametrize("skipped", ["files", "directories"])
def test_a_daemon_that_does_not_sync_is_seen_to_lose_or_tear_objects(
    skipped: str, directory: Path, daemon_process: Callable[..., Any]
) -> None:
    """Without this, a simulator that never loses a write would pass the test above."""
    require("ext4")
    wrapper = [sys.executable, str(Path(__file__).with_name("unsynced.py")), skipped]
    run = work_on("ext4", directory, daemon_process, a_short_life, wrapper)
    examination = Examination(daemon_process, run.history, run.contents, run.log)
    verdict = examination.examine(run.states(CONTROL_STATES, seed=4), directory, enough=5)
    print(f"no sync of {skipped}: {verdict}")
    assert verdict.wrong[Wrong.LOST] + verdict.wrong[Wrong.TORN] > 0
