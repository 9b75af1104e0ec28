"""`dataplaned copy`: give one backend what another one has."""

import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from .exits import HOPELESS, CommandError, ExitCode, Failures, code_of, explain
from .options import (
    json_option,
    open_client,
    parse_address,
    parse_size,
    socket_option,
)
from .output import emit, emit_json, format_size
from .progress import show_progress

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient
    from dataplane_protocol import ContentAddress

#: Addresses that are looked up in one call.
_BATCH: Final = 500

#: Stands for the lines of standard input.
_STDIN: Final = "-"


@click.command()
@click.argument("addresses", metavar="[ADDRESS...|-]", nargs=-1)
@click.option("--from", "source", metavar="ID", required=True, help="Backend to read from.")
@click.option("--to", "target", metavar="ID", required=True, help="Backend to store in.")
@click.option("--all", "is_all", is_flag=True, help="Copy every object of the first backend.")
@click.option(
    "--rate", metavar="SIZE", type=parse_size, help="Bytes a second at most, such as 50MiB."
)
@click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(1, 32),
    default=4,
    show_default=True,
    help="Objects that are copied at a time.",
)
@click.option("-n", "--dry-run", "is_dry", is_flag=True, help="Only say what would be copied.")
@socket_option
@json_option
def copy(
    addresses: tuple[str, ...],
    source: str,
    target: str,
    is_all: bool,
    rate: int | None,
    jobs: int,
    is_dry: bool,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Copy objects from one backend of the daemon to another, while it serves.

    Addresses are arguments, or with - lines of standard input. What the other backend has in
    good order is left out, so that a copy that was interrupted goes on where it was when it is
    started again. Every object is compared with its address on the way. An object that cannot
    be copied is told on standard error, and the others go on; the exit code is that of the
    first failure. Nothing is removed.
    """
    if is_all == bool(addresses):
        raise click.UsageError("name ADDRESS..., - or --all", click.get_current_context())
    if source == target:
        raise click.UsageError("--from and --to are the same", click.get_current_context())
    # Each job reads and writes at the same time, and somebody looks up what comes next.
    with open_client(socket_path, pool_size=2 * jobs + 2) as client:
        wanted = _everything(client, source) if is_all else _named(addresses)
        with show_progress(f"{source} to {target}", None) as advance:
            work = _Work(client, source, target, is_all, _Rate(rate), advance)
            if is_dry:
                for address in work.missing(wanted):
                    emit(str(address))
                return work.failures.code
            work.copy(wanted, jobs)
    _tell(work, as_json)
    return work.failures.code


class _Rate:
    """Keeps bytes from moving faster than a number a second, whoever moves them."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._free_at = 0.0

    def wait(self, count: int) -> None:
        """Wait until so many bytes may have moved."""
        if self._limit is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + count / self._limit
            pause = self._free_at - now
        time.sleep(pause)


@dataclass
class _Work:
    """A copy under way, and what has come of it."""

    client: "BlockingDataPlaneClient"
    source: str
    target: str
    is_all: bool
    rate: _Rate
    advance: Callable[[int], None]
    failures: Failures = field(default_factory=Failures)
    copied: int = 0
    copied_bytes: int = 0
    present: int = 0
    failed: int = 0

    def missing(self, addresses: "Iterable[ContentAddress]") -> "Iterator[ContentAddress]":
        """Give the addresses of which the target has no good copy."""
        remaining = iter(addresses)
        while batch := list(itertools.islice(remaining, _BATCH)):
            there = self.client.stat_objects(batch, backend_id=self.target)
            good = [status for status in there if status.state == "ok"]
            for address in batch:
                if any(status.is_named(address) for status in good):
                    self.present += 1
                else:
                    yield address

    def copy(self, addresses: "Iterable[ContentAddress]", jobs: int) -> None:
        """Copy what is missing, some objects at a time."""
        pending: dict[Future[int], ContentAddress] = {}
        with ThreadPoolExecutor(jobs) as pool:
            try:
                for address in self.missing(addresses):
                    pending[pool.submit(self._copy_one, address)] = address
                    if len(pending) == jobs:
                        self._note(pending)
                while pending:
                    self._note(pending)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _note(self, pending: "dict[Future[int], ContentAddress]") -> None:
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in done:
            address = pending.pop(future)
            error = future.exception()
            if error is None:
                self.copied += 1
                self.copied_bytes += future.result()
            elif code_of(error) == ExitCode.NOT_FOUND and self.is_all:
                continue  # deleted since it was listed
            elif isinstance(error, Exception):
                self.failed += 1
                if self.failures.add(error, str(address)) in HOPELESS:
                    raise CommandError(f"given up: {explain(error)}", code_of(error))
            else:
                raise error

    def _copy_one(self, address: "ContentAddress") -> int:
        from dataplane_protocol import IngestHints

        with self.client.serve_object(address, backend_id=self.source) as body:
            hints = IngestHints(size_hint=body.size, backend_id=self.target)
            result = self.client.ingest_stream(
                self._paced(body), hints=hints, expected_digest=address.to_digest()
            )
        return result.size_bytes

    def _paced(self, body: "Iterable[bytes]") -> "Iterator[bytes]":
        for piece in body:
            self.rate.wait(len(piece))
            self.advance(len(piece))
            yield piece


def _named(addresses: tuple[str, ...]) -> "Iterator[ContentAddress]":
    for text in addresses:
        if text != _STDIN:
            yield parse_address(text)
            continue
        for line in sys.stdin:
            if line.strip():
                yield parse_address(line.split()[0])


def _everything(client: "BlockingDataPlaneClient", backend_id: str) -> "Iterator[ContentAddress]":
    for page in client.list_objects(backend_id=backend_id):
        for status in page:
            yield status.content_address


def _tell(work: _Work, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "copied": work.copied,
                "copied_bytes": work.copied_bytes,
                "present": work.present,
                "failed": work.failed,
            }
        )
        return
    emit(
        f"copied {work.copied} objects ({format_size(work.copied_bytes)}), "
        f"{work.present} were there, {work.failed} failed"
    )
