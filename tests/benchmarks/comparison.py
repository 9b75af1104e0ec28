"""The comparison: every contestant has its turn in every round, and medians are what counts."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from . import limits, load
from .contestant import Contestant, Pieces
from .daemon import Daemon, DaemonByDescriptor, Echo
from .peers.containerd import Containerd
from .peers.http import Nginx
from .peers.nix import Nix
from .peers.registry import Registry
from .results import Results

#: Bytes of a small object and of a range.
SMALL: Final = 4096

#: How many clients at a time.
CLIENTS: Final = (1, 8, 32)

CONTESTANTS: Final[Sequence[type[Contestant]]] = (
    Daemon,
    DaemonByDescriptor,
    Echo,
    Containerd,
    Registry,
    Nix,
    Nginx,
)

#: Those that do some hundred ingests a second: they get a tenth of the calls.
_SLOW: Final = (Containerd, Registry)


class Comparison:
    """One run.

    Args:
        directory: On the disk that is measured.
        size: Bytes of the large object, in whole MiB.
        objects: Small objects for each number of clients.
        has_peers: Whether peers take part.
    """

    def __init__(self, directory: Path, *, size: int, objects: int, has_peers: bool) -> None:
        self._directory = directory
        self._size = size
        self._objects = objects
        self._kinds = [kind for kind in CONTESTANTS if has_peers or issubclass(kind, Daemon | Echo)]
        self._base = os.urandom(Pieces.SIZE)
        self.results = Results()

    def run(self, rounds: int) -> None:
        """Measure so many rounds."""
        with ExitStack() as stack:
            contestants = list(self._start(stack))
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", flush=True)
                self._measure_limits()
                for contestant in contestants:
                    self._measure_large(contestant, number)
                for clients in CLIENTS:
                    for contestant in contestants:
                        self._measure_small(contestant, clients)

    def _start(self, stack: ExitStack) -> Iterator[Contestant]:
        for kind in self._kinds:
            if kind.is_installed():
                yield stack.enter_context(kind(self._directory))
            else:
                print(f"{kind.NAME} is left out: no {kind.PROGRAM} on this machine")
                self.results.skipped[kind.NAME] = f"{kind.PROGRAM} is not installed"

    def _measure_limits(self) -> None:
        for name, limit in limits.OF_BYTES.items():
            self.results.add(name, "limit", rate=_apart(limit, self._directory, self._size))
        for name, limit in limits.OF_OBJECTS.items():
            count = max(64, self._objects // 4)
            self.results.add(name, "limit", rate=_apart(limit, self._directory, count))

    def _measure_large(self, contestant: Contestant, number: int) -> None:
        pieces = Pieces(self._base, self._size, number)
        if not contestant.HAS_LARGE:
            return
        name = self._transfer(contestant, "ingest", lambda: contestant.ingest_large(pieces))
        _apart(contestant.serve_large, name, self._size)  # into the kernel's cache
        self._transfer(contestant, "serve", lambda: contestant.serve_large(name, self._size))
        for clients in CLIENTS[:2] if contestant.HAS_RANGES else ():
            count = self._count(contestant)
            requests = [
                contestant.range(name, random.randrange(self._size - SMALL), SMALL)
                for _ in range(count)
            ]
            self._calls(contestant, f"4 KiB ranges, {clients}", requests, clients, SMALL)
        contestant.delete_large(name)

    def _measure_small(self, contestant: Contestant, clients: int) -> None:
        objects = [os.urandom(SMALL) for _ in range(self._count(contestant))]
        for row, make, payload in (
            ("ingest", contestant.ingest, 0),
            ("stat", contestant.stat, 0),
            ("read", contestant.read, SMALL),
            ("delete", contestant.delete, 0),
        ):
            if row in contestant.SMALL_ROWS:
                requests = [make(content) for content in objects]
                title = f"4 KiB objects, {row}, {clients}"
                self._calls(contestant, title, requests, clients, payload)

    def _count(self, contestant: Contestant) -> int:
        count = self._objects // (10 if isinstance(contestant, _SLOW) else 1)
        return max(count, max(CLIENTS))

    def _transfer(self, contestant: Contestant, row: str, work: Callable[[], Any]) -> Any:
        os.sync()  # or it would pay for what the one before it left to be written
        with _Meter(contestant) as meter:
            taken, client_cpu_s, result = _apart(_timed, work)
        gib = self._size / 2**30
        self.results.add(
            f"1 GiB {row}",
            contestant.NAME,
            rate=self._size / taken,
            cpu=meter.cpu_s / gib,
            client_cpu=client_cpu_s / gib,
            peak_mib=meter.peak_mib,
        )
        return result

    def _calls(
        self,
        contestant: Contestant,
        row: str,
        requests: Sequence[load.Request],
        clients: int,
        payload: int,
    ) -> None:
        with _Meter(contestant) as meter:
            done = load.run(contestant.connection(), requests, clients, payload)
        self.results.add(
            row,
            contestant.NAME,
            rate=done.rate,
            cpu=meter.cpu_s / len(requests),
            client_cpu=done.cpu_s / len(requests),
            peak_mib=meter.peak_mib,
        )


class _Meter:
    """What a contestant uses while this is open."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant
        self._began_with = 0.0
        self.cpu_s = self.peak_mib = 0.0

    def __enter__(self) -> Self:
        self._contestant.forget_peak()
        self._began_with = self._contestant.cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s = self._contestant.cpu_s() - self._began_with
        self.peak_mib = self._contestant.peak_mib()


def _timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - began, time.process_time() - cpu, result


def _apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Call something in a process of its own, so that nothing of it stays behind."""
    ours, theirs = load.fork.Pipe(duplex=False)

    def call() -> None:
        theirs.send(function(*arguments))

    process = load.fork.Process(target=call)
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{function} failed") from None
    finally:
        process.join()
