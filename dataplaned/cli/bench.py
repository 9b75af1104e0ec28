"""`dataplaned bench`: how fast a running daemon is, with objects that are deleted again."""

import math
import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from .exits import CommandError, ExitCode, code_of, complain, explain
from .options import backend_option, json_option, open_client, parse_size, socket_option
from .output import emit, emit_json, format_size

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient
    from dataplane_protocol import ContentAddress

#: The share of a backend's free space that may be used.
_SHARE: Final = 4

#: Bytes of the largest object; each caller holds one.
_MAX_SIZE: Final = 1024**3

_PIECE: Final = 262_144


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """How one kind of call went: the times of all, and from the first one's start to the end."""

    name: str
    seconds: float
    times: Sequence[float]
    size: int

    def record(self) -> dict[str, object]:
        """Give the JSON document."""
        return {
            "call": self.name,
            "calls": len(self.times),
            "seconds": round(self.seconds, 6),
            "calls_per_second": round(len(self.times) / self.seconds, 1),
            "bytes_per_second": round(len(self.times) * self.size / self.seconds),
            "p50_seconds": round(_percentile(self.times, 50), 6),
            "p99_seconds": round(_percentile(self.times, 99), 6),
        }

    def line(self) -> str:
        """Give it for people."""
        rate = f"{format_size(int(len(self.times) * self.size / self.seconds))}/s"
        return (
            f"{self.name:<7} {len(self.times) / self.seconds:>10.1f}/s  {rate:>12}  "
            f"p50 {_percentile(self.times, 50) * 1000:9.3f} ms  "
            f"p99 {_percentile(self.times, 99) * 1000:9.3f} ms"
        )


@click.command()
@click.option("--size", default="4KiB", show_default=True, help="Bytes of each object.")
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="How many objects.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="How many callers at once.",
)
@backend_option
@socket_option
@json_option
def bench(
    size: str,
    count: int,
    jobs: int,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Measure ingest, stat, get, verify and delete with objects of random bytes.

    All of them are deleted again, also after ^C. Refused is what would take more than a quarter
    of the backend's free space.
    """
    length = parse_size(size)
    if length > _MAX_SIZE:
        raise click.UsageError(f"--size is {length} bytes, limit is {_MAX_SIZE}")
    with open_client(socket_path, pool_size=jobs) as client:
        _require_room(client, backend_id, length * count)
        trial = _Trial(client, backend_id, length, min(jobs, count))
        try:
            for result in (
                trial.ingest(count),
                trial.stat(),
                trial.get(),
                trial.verify(),
            ):
                _tell(result, as_json)
        except KeyboardInterrupt:
            complain(f"interrupted: deleting {len(trial.stored)} objects")
            trial.delete()
            raise
        except BaseException:
            trial.delete()
            raise
        _tell(trial.delete(), as_json)
    return ExitCode.OK


def _require_room(client: "BlockingDataPlaneClient", backend_id: str | None, wanted: int) -> None:
    status = client.backend_health(backend_id=backend_id)
    if status.free_bytes is not None and wanted > status.free_bytes // _SHARE:
        raise CommandError(
            f"{format_size(wanted)} would be stored, limit is a quarter of "
            f"{format_size(status.free_bytes)} that are free",
            ExitCode.USAGE,
        )


def _tell(result: _Result, as_json: bool) -> None:
    if as_json:
        emit_json(result.record())
    else:
        emit(result.line())


class _Trial:
    """Objects that were stored, and calls on them by several threads at once."""

    def __init__(
        self, client: "BlockingDataPlaneClient", backend_id: str | None, size: int, jobs: int
    ) -> None:
        self._client = client
        self._backend_id = backend_id
        self._size = size
        self._jobs = jobs
        #: Each with the generation that it was given, so that nobody else's is deleted.
        self.stored: list[tuple[ContentAddress, int]] = []

    def ingest(self, count: int) -> _Result:
        from dataplane_protocol import IngestHints

        hints = IngestHints(backend_id=self._backend_id, size_hint=self._size)
        # Of each object only its first bytes are its own: to make all of them would take longer
        # than to store them.
        rest = secrets.token_bytes(min(self._size, 16 * 1024**2))

        def call(_: int) -> None:
            content = _pieces(self._size, rest)
            receipt = self._client.ingest_stream(content, hints=hints).receipt
            self.stored.append((receipt.content_address, receipt.generation or 0))

        return self._measure("ingest", range(count), call)

    def stat(self) -> _Result:
        def call(index: int) -> None:
            address, _ = self.stored[index]
            self._client.stat_objects([address], backend_id=self._backend_id)

        return self._measure("stat", range(len(self.stored)), call, size=0)

    def get(self) -> _Result:
        def call(index: int) -> None:
            address, _ = self.stored[index]
            with self._client.serve_object(address, backend_id=self._backend_id) as body:
                for _piece in body:
                    pass

        return self._measure("get", range(len(self.stored)), call)

    def verify(self) -> _Result:
        def call(index: int) -> None:
            address, _ = self.stored[index]
            self._client.verify_object(address, backend_id=self._backend_id)

        return self._measure("verify", range(len(self.stored)), call)

    def delete(self) -> _Result:
        left, self.stored = self.stored, []

        def call(index: int) -> None:
            address, generation = left[index]
            self._client.delete_object(
                address, backend_id=self._backend_id, if_generation=generation
            )

        return self._measure("delete", range(len(left)), call, size=0)

    def _measure(
        self, name: str, indices: range, call: Callable[[int], None], size: int | None = None
    ) -> _Result:
        times: list[float] = []
        errors: list[Exception] = []
        stop = threading.Event()
        # To join a thread is no way to wait for its end: after an interrupt of that, it returns
        # while the thread still runs.
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()

        def work(own: range) -> None:
            try:
                for index in own:
                    if stop.is_set():
                        return
                    began = time.perf_counter()
                    call(index)
                    times.append(time.perf_counter() - began)
            except Exception as error:  # noqa: BLE001 - raised by whoever waits
                errors.append(error)
                stop.set()
            finally:
                ended.put(None)

        began = time.perf_counter()
        # An interrupt waits until all have started, and then comes to this thread.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        for job in range(self._jobs):
            threading.Thread(target=work, args=(indices[job :: self._jobs],)).start()
        running = self._jobs
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            while running:
                ended.get()
                running -= 1
        except KeyboardInterrupt:
            stop.set()
            for _ in range(running):
                ended.get()
            raise
        if errors:
            raise CommandError(f"{name}: {explain(errors[0])}", code_of(errors[0])) from errors[0]
        return _Result(
            name=name,
            seconds=max(time.perf_counter() - began, 1e-9),
            times=sorted(times),
            size=self._size if size is None else size,
        )


def _pieces(size: int, rest: bytes) -> list[bytes]:
    own = secrets.token_bytes(min(size, 16))
    pieces = [own]
    left = size - len(own)
    view = memoryview(rest)
    while left > 0:
        part = view[: min(left, len(rest))]
        pieces += [bytes(part[start : start + _PIECE]) for start in range(0, len(part), _PIECE)]
        left -= len(part)
    return pieces


def _percentile(times: Sequence[float], percent: int) -> float:
    return times[max(0, math.ceil(len(times) * percent / 100) - 1)] if times else 0.0
