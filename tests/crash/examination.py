"""What is found on the disks that crashes leave, held against what is owed."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import mkdtemp
from typing import Any, Final

import trio

from dataplane_client import blocking
from dataplane_protocol import ContentAddress, DataPlaneError, ObjectCorruptError
from dataplaned.backends.base import BackendError
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.config import FilesystemConfig
from dataplaned.digests import count_blocks

from .crashdisk import CrashState, StateBuilder, WriteLog
from .history import History

#: Threads that look at states at the same time.
_WORKERS: Final = 2

#: Every so many states a daemon is started on the disk. Starting one takes longer than all the
#: rest; the others are opened in this process only.
_DAEMON_EVERY: Final = 16


class Wrong(StrEnum):
    """What a power cut must not do."""

    LOST = "an acknowledged object is missing, or answered with an error"
    TORN = "an object that is there is not whole"
    RESURRECTED = "an object whose delete was acknowledged is back"
    FOREIGN = "an object is there that nobody ingested"
    STAGED = "the staging is not empty after the sweep"
    CLOSED = "the disk cannot be mounted or the store cannot be opened and written to"


@dataclass(frozen=True, slots=True)
class Copy:
    """An object as a store gives it.

    Attributes:
        content: What it serves; `None` when it answers with an error.
        is_verified: Whether it finds the object right itself.
    """

    content: bytes | None
    is_verified: bool


@dataclass(slots=True)
class Verdict:
    """What was found in a sequence of crash states.

    Attributes:
        states: How many there were.
        daemons: On how many of them a real daemon was started, too.
        wrong: In how many each wrong was found, and found again on a new disk of the same state.
        examples: What was wrong with which.
        unsure: Those that were wrong only the first time.
    """

    states: int = 0
    daemons: int = 0
    wrong: Counter[Wrong] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)

    def __add__(self, other: "Verdict") -> "Verdict":
        return Verdict(
            states=self.states + other.states,
            daemons=self.daemons + other.daemons,
            wrong=self.wrong + other.wrong,
            examples=self.examples + other.examples,
            unsure=self.unsure + other.unsure,
        )

    def __str__(self) -> str:
        counts = ", ".join(f"{kind.name.lower()} {self.wrong[kind]}" for kind in Wrong)
        counts += f", not found again {len(self.unsure)}"
        head = f"{self.states} states, {self.daemons} of them with a daemon: {counts}"
        return "\n".join([head, *self.examples[:5]])


class Examination:
    """Holds what is found on crashed disks against what is owed.

    Args:
        run_daemon: A context manager that runs a daemon with some arguments.
        history: What was asked and answered.
        contents: The bytes of each object by digest.
        log: What the disk was told meanwhile.
    """

    def __init__(
        self,
        run_daemon: Callable[..., Any],
        history: History,
        contents: Mapping[str, bytes],
        log: WriteLog,
    ) -> None:
        self._run_daemon = run_daemon
        self._history = history
        self._contents = contents
        self._log = log

    def examine(self, states: Sequence[CrashState], directory: Path, *, enough: int) -> Verdict:
        """Look at all of the states, or until `enough` were found to be wrong."""
        workers = _WORKERS if self._log.filesystem.allows_twins else 1
        with ThreadPoolExecutor(workers) as pool:
            verdicts = [
                pool.submit(self._examine, states[first::workers], path, enough)
                for first, path in enumerate(
                    Path(mkdtemp(prefix="states-", dir=directory)) for _ in range(workers)
                )
            ]
            return sum((verdict.result() for verdict in verdicts), Verdict())

    def _examine(self, states: Sequence[CrashState], directory: Path, enough: int) -> Verdict:
        verdict = Verdict()
        builder = self._log.builder(directory)
        for number, state in enumerate(states):
            by_daemon = number % _DAEMON_EVERY == 0
            found = self._look(builder, state, by_daemon=by_daemon)
            verdict.states += 1
            verdict.daemons += by_daemon
            if not found:
                continue
            # What the simulator got wrong does not come twice; what a crash does, does.
            again = self._look(builder, state, by_daemon=by_daemon)
            wrong = found.keys() & again.keys()
            told = ", ".join(f"{kind}: {found[kind]}" for kind in sorted(found))
            (verdict.examples if wrong else verdict.unsure).append(f"{state}: {told}")
            verdict.wrong.update(wrong)
            if len(verdict.examples) >= enough:
                break
        return verdict

    def _look(
        self, builder: StateBuilder, state: CrashState, *, by_daemon: bool
    ) -> dict[Wrong, str]:
        """Give what is wrong with a state, and with which object."""
        found: dict[Wrong, str] = {}
        try:
            with builder.mounted(state) as mountpoint:
                root = mountpoint / "store"
                if by_daemon:
                    found |= self._compare(self._ask_daemon(root), root, state.point)
                return found | self._compare(trio.run(ask_backend, root), root, state.point)
        except (CalledProcessError, BackendError, DataPlaneError, AssertionError) as error:
            return found | {Wrong.CLOSED: str(error)}

    def _ask_daemon(self, root: Path) -> dict[str, Copy]:
        with self._run_daemon(("--root", str(root))) as daemon:
            assert daemon.wait_for("swept")
            with blocking.connect(daemon.socket_path, pool_size=1) as plane:
                pages = plane.list_objects()
                addresses = [entry.content_address for page in pages for entry in page]
                copies = {address.to_digest().hex: serve(plane, address) for address in addresses}
                new = plane.ingest_stream([b"after the crash"]).receipt.content_address
                plane.delete_object(new)
            assert daemon.stop() == 0
        return copies

    def _compare(self, copies: Mapping[str, Copy], root: Path, point: int) -> dict[Wrong, str]:
        found = {}
        if staged := [path.name for path in (root / "staging").rglob("*") if path.is_file()]:
            found[Wrong.STAGED] = staged[0]
        if foreign := copies.keys() - self._contents.keys():
            found[Wrong.FOREIGN] = min(foreign)
        for name in self._history.names:
            wrong = self._judge(name, copies.get(name), point)
            if wrong is not None:
                found[wrong] = name
        return found

    def _judge(self, name: str, copy: Copy | None, point: int) -> Wrong | None:
        outcomes = self._history.outcomes(name, self._log.positions, point)
        if copy is None:
            return None if False in outcomes else Wrong.LOST
        if True not in outcomes:
            return Wrong.RESURRECTED
        if copy == Copy(self._contents[name], is_verified=True):
            return None
        if copy.content is not None:
            return Wrong.TORN
        # A bad copy may be known for what it is, if it was not the daemon that spoiled it.
        if self._history.is_damaged(name, self._log.positions, point):
            return None
        return Wrong.TORN if False in outcomes else Wrong.LOST


async def ask_backend(root: Path) -> dict[str, Copy]:
    """Open a store without a daemon, sweep it, and read everything it says it has."""
    backend = FilesystemBackend("store", FilesystemConfig(root=str(root)))
    await backend.open()
    try:
        await backend.sweep()
        copies: dict[str, Copy] = {}
        page = await backend.list_page(None, 1_000)
        assert not page.more
        for status in page.objects:
            digest = status.content_address.to_digest()
            try:
                async with await backend.open_object(digest) as stored:
                    content = await stored.read(0, count_blocks(status.size_bytes))
            except ObjectCorruptError:
                content = None
            is_verified = (await backend.verify(digest)).mismatch is None
            copies[digest.hex] = Copy(content, is_verified)
        return copies
    finally:
        await backend.aclose()


def serve(plane: Any, address: ContentAddress) -> Copy:
    """Read an object through a client."""
    try:
        content = b"".join(plane.serve_object(address))
    except ObjectCorruptError:
        content = None
    return Copy(content, plane.verify_object(address).verified)
