"""The soak: `python -m tests.soak [--seconds 600] [--seed N] [--keep]`.

A real daemon on a small filesystem of its own, several clients, and everything that goes wrong in
a year: kills, rot, a full disk, jumps of the clock, stopped clients, reloads, backups. In the
second half the daemon is not restarted, and its memory, descriptors and threads are looked at while
the clients pause. At the end histories, daemon, files and other tools must agree.

Needs root, for the filesystem; `mkfs.ext4`, `faketime` and `b3sum`.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dataplane_client.blocking import connect

from .torment import CLIENTS, Daemon, Torment
from .verdict import examine, expect, read_histories

DISK_BYTES = 400 * 1024 * 1024

#: The share of the time in which the daemon is killed and restarted too.
HARSH = 0.5

#: Growth of memory that is none: bytes a second, over the samples after the first quarter. SQLite's
#: caches fill with the catalog, up to some 100 MB; what goes on growing beyond that is over the
#: second limit within an hour.
FLAT = 250_000

MOST_RESIDENT = 300_000_000

#: Objects whose files the daemon keeps open.
MOST_FILES = 64

#: Descriptors and threads more than in the first half of the samples.
SPARE_DESCRIPTORS, SPARE_THREADS = 4, 6


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon while nobody is connected.

    Attributes:
        files: Descriptors of objects that were asked for lately, which it keeps.
        descriptors: All others.
    """

    at: float
    resident_bytes: int
    files: int
    descriptors: int
    threads: int
    borrowed: int


@contextlib.contextmanager
def small_disk(work: Path) -> Iterator[Path]:
    """Mount a filesystem of its own."""
    image, place = work / "disk.img", work / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def soak(work: Path, root: Path, seconds: float, seed: int) -> list[str]:
    """Do it, and give a line for everything that is wrong."""
    daemon = Daemon(work, root)
    workers: list[subprocess.Popen[bytes]] = []
    try:
        daemon.start()
        workers += [
            subprocess.Popen(
                [sys.executable, "-m", "tests.soak.worker", daemon.socket_path, str(work),
                 str(number), str(seed)],
                stdin=subprocess.DEVNULL,
            )
            for number in range(CLIENTS)
        ]  # fmt: skip
        torment = Torment(daemon, workers, seed)
        samples = run(daemon, torment, work, seconds)
        (work / "stop").touch()
        problems = [f"a client ended with {code}" for each in workers if (code := each.wait(60))]
        problems += not_flat(samples)
        problems += end(daemon, torment, work)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        daemon.close()
    return problems


def run(daemon: Daemon, torment: Torment, work: Path, seconds: float) -> list[Sample]:
    """Torment the daemon, and sample it when its restarts are over."""
    began = time.monotonic()
    harsh_until, until = began + HARSH * seconds, began + seconds
    between = max(3.0, (1 - HARSH) * seconds / 20)
    next_sample = harsh_until
    samples: list[Sample] = []
    while (now := time.monotonic()) < until:
        torment.act(may_restart=now < harsh_until)
        time.sleep(torment.chance.uniform(0.2, 1.5))
        if now >= next_sample:
            samples.append(sample(daemon, work))
            next_sample = now + between
    daemon.set_clock("+0")
    return samples


def sample(daemon: Daemon, work: Path) -> Sample:
    """Have the clients pause, wait until the daemon is at rest, and look at it."""
    (work / "pause").touch()
    paused = [work / f"paused-{number}" for number in range(CLIENTS)]
    _await("clients pause", lambda: all(path.exists() for path in paused))
    assert daemon.process is not None
    process = Path(f"/proc/{daemon.process.pid}")
    with connect(daemon.socket_path) as client:

        def is_alone() -> bool:
            status = client.call_private("dataplaned.status")
            return status["connections"] == status["calls_in_flight"] == 1

        _await("nobody is connected", is_alone)
        text = str(client.call_private("dataplaned.metrics")["text"])
        status = (process / "status").read_text()
        links = [os.readlink(path) for path in (process / "fd").iterdir()]
        found = Sample(
            at=time.monotonic(),
            resident_bytes=int(status.partition("VmRSS:")[2].split()[0]) * 1024,
            descriptors=len([link for link in links if "/objects/" not in link]),
            files=len([link for link in links if "/objects/" in link]),
            threads=int(status.partition("Threads:")[2].split()[0]),
            borrowed=sum(
                int(float(line.split()[-1]))
                for line in text.splitlines()
                if line.startswith("dataplaned_threads_borrowed{")
            ),
        )
    (work / "pause").unlink()
    return found


def _await(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in a minute: {what}")
        time.sleep(0.02)


def not_flat(samples: list[Sample]) -> list[str]:
    """Say what of the daemon has grown."""
    for each in samples:
        print(each)
    if len(samples) < 4:
        return [f"only {len(samples)} samples"]
    settled = samples[len(samples) // 4 :]
    slope, _ = statistics.linear_regression(
        [each.at for each in settled], [each.resident_bytes for each in settled]
    )
    print(f"memory grows by {slope:.0f} bytes a second")
    problems = []
    if slope > FLAT:
        problems.append(f"memory grows by {slope:.0f} bytes a second, limit is {FLAT}")
    if (most := max(each.resident_bytes for each in samples)) > MOST_RESIDENT:
        problems.append(f"memory was {most} bytes, limit is {MOST_RESIDENT}")
    before, after = samples[: len(samples) // 2], samples[len(samples) // 2 :]
    descriptors = max(each.descriptors for each in before)
    threads = max(each.threads for each in before)
    for each in after:
        if each.descriptors > descriptors + SPARE_DESCRIPTORS:
            problems.append(f"{each.descriptors} descriptors, {descriptors} before")
        if each.files > MOST_FILES:
            problems.append(f"{each.files} objects' files are open, limit is {MOST_FILES}")
        if each.threads > threads + SPARE_THREADS:
            problems.append(f"{each.threads} threads, {threads} before")
        if each.borrowed > 2:  # those of the scrub
            problems.append(f"{each.borrowed} threads borrowed while nobody calls")
    return problems


def end(daemon: Daemon, torment: Torment, work: Path) -> list[str]:
    """Start the daemon once more, and hold everything against everything."""
    assert daemon.process is not None
    problems = []
    if (code := daemon.end(15)) != 0:
        problems.append(f"the daemon ended with {code}")
    daemon.start()
    expected = expect(read_histories(work))
    served = work / "served"
    served.mkdir()
    problems += examine(daemon.socket_path, daemon.root, expected, torment.rotten, served)
    if left := os.listdir(daemon.root / "staging"):
        problems.append(f"left in staging: {left}")
    daemon.end(15)
    fsck = subprocess.run(
        [sys.executable, "-m", "dataplaned", "fsck", "--root", str(daemon.root)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if fsck.returncode not in (0, 65):
        problems.append(f"fsck: {fsck.returncode}: {fsck.stderr}")
    print(f"torment: {dict(torment.done)}; {len(torment.rotten)} objects made bad")
    print(f"clients: {dict(expected.events)}; {expected.healed} healed")
    print(f"{len(expected.stored)} have to be there, {len(expected.gone)} have to be gone")
    for kind in ("stored", "served", "deleted"):
        if not expected.events[kind]:
            problems.append(f"nothing was {kind}")
    return problems


def main() -> int:
    """Run one soak."""
    parser = argparse.ArgumentParser("python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep histories, logs and the disk")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="dp-soak-"))
    problems = ["it did not end"]
    try:
        with small_disk(work) as place:
            problems = soak(work, place / "store", options.seconds, options.seed)
    finally:
        if options.keep or problems:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work)
    print("\n".join(problems) or "0 lost, 0 wrong, 0 resurrected")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
