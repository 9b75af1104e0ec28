"""A daemon driven at random, killed, starved of room and lied to by its disk, against a model.

The daemon is a process of its own and dies by SIGKILL. So that a run has thousands of steps
and not dozens, it is forked off a process that has everything imported, and takes orders on a
second socket for what no client can ask: the scrub, the quarantine, a backup.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dataplane_client import blocking
from dataplane_protocol import (
    BodyKind,
    ConflictError,
    Connection,
    ContentAddress,
    End,
    Failure,
    Hello,
    IngestOutcome,
    NoSpaceError,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectState,
    Ok,
    Request,
    Side,
)
from dataplaned.digests import BLOCK_SIZE, Digester

#: Forks a daemon for each line of its input that tells of one, and waits for it at any other.
NURSERY = """
import contextlib, functools, json, os, sys
import blake3, cattrs, structlog, trio
from dataplane_protocol import DataPlaneError
from dataplaned import config, daemon, stores
from dataplaned.backends.filesystem import store

store._BUSY_S = 0.0  # the scrub begins at once

def tell(**what):
    os.write(1, json.dumps(what).encode() + b"\\n")

async def obey(order, backend):
    if order == "scrub":
        return await backend.start_scrub()
    if order == "due":
        return (await backend.scrub_status()).due_objects
    if order == "back up":
        return await backend.back_up()
    copies = await backend.list_quarantined(0, 1000)
    return sorted([str(one.content_address), one.is_only_copy] for one in copies)

async def main(sockets, root, options):
    made = []
    make = stores._make_backend
    stores._make_backend = lambda *args: made.append(make(*args)) or made[-1]
    settings = config.Config(
        daemon=config.DaemonConfig(socket=sockets[0], drain_timeout_s=0.0),
        log=config.LogConfig(audit="off"),
        backend={"local": config.FilesystemConfig(root=root, scrub_rate=2**40, **options)},
    )

    async def take_orders(stream):
        async for line in stream:
            try:
                answer = await obey(line.decode().strip(), made[0])
            except DataPlaneError as exc:
                answer = exc.code
            await stream.send_all(json.dumps(answer).encode() + b"\\n")

    async with trio.open_nursery() as nursery:
        async def serve(task_status):
            await daemon.serve(settings, task_status=task_status)
            nursery.cancel_scope.cancel()

        with contextlib.suppress(FileNotFoundError):
            os.unlink(sockets[1])
        listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await listener.bind(sockets[1])
        listener.listen()
        await nursery.start(serve)
        tell(ready=True)
        await trio.serve_listeners(take_orders, [trio.SocketListener(listener)])

child = 0
for line in sys.stdin:
    order = json.loads(line)
    if order is None:
        _, status = os.waitpid(child, 0)
        tell(ended=os.waitstatus_to_exitcode(status))
        continue
    child = os.fork()
    if child == 0:
        try:
            daemon.set_up_logging()
            trio.run(functools.partial(main, **order))
        except BaseException as exc:
            tell(failed=repr(exc))
            os._exit(1)
        os._exit(0)
    tell(pid=child)
"""


class Nursery:
    """The process that daemons are forked off."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, order: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=60)


class Daemon:
    """A store's daemon, running from the end of the constructor to `stop` or `kill`."""

    def __init__(self, nursery: Nursery, directory: Path) -> None:
        self.root = directory / "store"
        self.path = str(directory / "s")
        self._orders_path = str(directory / "orders")
        self._nursery = nursery
        self.start(min_free_bytes=0)

    def start(self, *, min_free_bytes: int) -> None:
        order = {
            "sockets": [self.path, self._orders_path],
            "root": str(self.root),
            "options": {"min_free_bytes": min_free_bytes},
        }
        self._pid = self._nursery.ask(order)["pid"]
        told = self._nursery.answer()
        assert told == {"ready": True}, told
        self.is_running = True
        self.plane = blocking.connect(self.path, pool_size=1)
        self._orders = socket.socket(socket.AF_UNIX)
        self._orders.settimeout(60)
        self._orders.connect(self._orders_path)
        self._answers = self._orders.makefile("r")

    def order(self, what: str) -> Any:
        """Have done what no client can ask for."""
        self._orders.sendall(what.encode() + b"\n")
        return json.loads(self._answers.readline())

    def end(self, number: int) -> int:
        """Send a signal and give the exit code."""
        self.is_running = False
        os.kill(self._pid, number)
        code: int = self._nursery.ask(None)["ended"]
        self.plane.close()
        self._answers.close()
        self._orders.close()
        return code


@dataclass
class Modelled:
    """What is known of one object.

    Attributes:
        generation: Of the last acknowledgement; `None` while the object is absent.
        bad_blocks: Those whose bytes are wrong on the disk or gone.
        is_missing: Whether the whole copy is gone.
        is_found: Whether anybody has come upon that.
        kept: Bad copies in quarantine that were replaced since.
    """

    content: bytes
    generation: int | None = None
    bad_blocks: frozenset[int] = frozenset()
    is_missing: bool = False
    is_found: bool = False
    kept: int = 0

    def __post_init__(self) -> None:
        digester = Digester()
        digester.update([self.content])
        self.blake3 = digester.finish().blake3
        self.address = ContentAddress(f"blake3:{self.blake3.hex()}")

    @property
    def is_small(self) -> bool:
        return len(self.content) <= 32 * 1024

    @property
    def is_present(self) -> bool:
        return self.generation is not None

    @property
    def is_rotten(self) -> bool:
        return bool(self.bad_blocks)

    def make_sound(self) -> None:
        self.bad_blocks, self.is_missing, self.is_found = frozenset(), False, False


def made(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


CONTENTS = (
    made(1, 1),
    made(2, 9000),
    made(3, 40_000),
    made(4, 3 * BLOCK_SIZE),
    made(5, 4 * BLOCK_SIZE + 1),
)

OBJECTS = st.integers(0, len(CONTENTS) - 1)

#: Those beyond the last mean one that is rotten unseen, if there is any.
RATHER_ROTTEN = st.integers(0, 2 * len(CONTENTS) - 1)
FRACTIONS = st.integers(0, 99)

#: Of the long run: about two minutes on two cores.
EXAMPLES = 100


class RawIngest:
    """An ingest under way on a connection of its own, half of its bytes sent."""

    def __init__(self, path: str, index: int) -> None:
        self.index = index
        self._content = CONTENTS[index]
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._connection = Connection(Side.CLIENT)
        self._socket.sendall(self._connection.send(Hello()))
        assert isinstance(self._event(), Hello)
        self._socket.sendall(
            self._connection.send(Request(op="ingest_stream", body=BodyKind.STREAM))
        )
        self._sent = 0
        self._send((len(self._content) + 1) // 2)

    def finish(self) -> Ok | Failure:
        self._send(len(self._content) - self._sent)
        self._socket.sendall(self._connection.send(End(size_bytes=len(self._content))))
        answer = self._event()
        assert isinstance(answer, Ok | Failure)
        self.close()
        return answer

    def close(self) -> None:
        self._socket.close()

    def _send(self, size: int) -> None:
        end = self._sent + size
        while self._sent < end:
            piece = self._content[self._sent : min(end, self._sent + 50_000)]
            self._socket.sendall(self._connection.send_data(len(piece)) + piece)
            self._sent += len(piece)

    def _event(self) -> object:
        while (event := self._connection.next_event()) is None:
            data = self._socket.recv(65_536)
            if data:
                self._connection.receive(data)
            else:
                self._connection.receive_eof()
        return event


class StoreMachine(RuleBasedStateMachine):
    nursery: ClassVar[Nursery]
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        # In memory where that can be had: no power is cut here, so nothing has to reach a disk.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="dp-", dir=memory))
        self.daemon = Daemon(self.nursery, self.directory)
        self.objects = [Modelled(content) for content in CONTENTS]
        self.generation = 0
        self.is_starved = False
        self.ingests: list[RawIngest] = []

    def teardown(self) -> None:
        self.drop_ingests()
        if self.daemon.is_running:
            self.daemon.end(signal.SIGKILL)
        shutil.rmtree(self.directory)

    # Taking in.

    @rule(index=OBJECTS, pieces=st.integers(1, 3))
    def ingest(self, index: int, pieces: int) -> None:
        content = CONTENTS[index]
        step = len(content) // pieces + 1
        stream = (content[at : at + step] for at in range(0, len(content), step))
        try:
            receipt = self.daemon.plane.ingest_stream(stream).receipt
        except NoSpaceError:
            stored = self.objects[index]
            assert self.is_starved
            assert not (stored.is_small and stored.is_present and not stored.is_found)
            return
        assert receipt.content_address == self.objects[index].address
        self.note_stored(index, receipt.outcome, receipt.generation)

    @rule(index=OBJECTS)
    @precondition(lambda self: len(self.ingests) < 2 and not self.is_starved)
    def begin_ingest(self, index: int) -> None:
        self.ingests.append(RawIngest(self.daemon.path, index))

    @rule()
    @precondition(lambda self: self.ingests)
    def finish_ingest(self) -> None:
        ingest = self.ingests.pop(0)
        answer = ingest.finish()
        assert isinstance(answer, Ok), answer
        receipt: Any = answer.result["receipt"]
        self.note_stored(ingest.index, receipt["outcome"], receipt["generation"])

    @rule()
    @precondition(lambda self: self.ingests)
    def abandon_ingest(self) -> None:
        self.ingests.pop().close()

    def note_stored(self, index: int, outcome: str, generation: int) -> None:
        stored = self.objects[index]
        # A small copy that is believed takes no room.
        assert not self.is_starved or (stored.is_small and outcome == IngestOutcome.EXISTED)
        assert generation > self.generation
        was_present = stored.is_present
        self.generation = stored.generation = generation
        # A small copy has no stamp: what nobody has read yet is believed.
        is_seen = stored.is_found or not stored.is_small
        if not was_present:
            assert outcome == IngestOutcome.CREATED
        elif stored.is_rotten and is_seen:
            assert outcome == IngestOutcome.HEALED
            stored.kept += stored.is_found and not stored.is_missing
            stored.make_sound()
        else:
            assert outcome == IngestOutcome.EXISTED

    # Giving out.

    @rule(index=RATHER_ROTTEN)
    def serve(self, index: int) -> None:
        self.check_serve(self.choose(index), None)

    @rule(index=RATHER_ROTTEN, start=FRACTIONS, length=FRACTIONS)
    def serve_a_range(self, index: int, start: int, length: int) -> None:
        index = self.choose(index)
        size = len(CONTENTS[index])
        first = size * start // 100
        self.check_serve(index, (first, min(size - 1, first + size * length // 300)))

    def choose(self, index: int) -> int:
        unseen = [at for at, one in enumerate(self.objects) if one.is_rotten and not one.is_found]
        if index >= len(self.objects) and unseen:
            return unseen[index % len(unseen)]
        return index % len(self.objects)

    def check_serve(self, index: int, byte_range: tuple[int, int] | None) -> None:
        stored = self.objects[index]
        first, last = byte_range or (0, len(stored.content) - 1)
        touched = range(first // BLOCK_SIZE, last // BLOCK_SIZE + 1)
        try:
            with self.daemon.plane.serve_object(stored.address, byte_range=byte_range) as served:
                got = b"".join(served)
        except ObjectNotFoundError:
            assert not stored.is_present
        except ObjectCorruptError:
            assert stored.is_found or stored.bad_blocks & set(touched)
            stored.is_found = True
        else:
            assert stored.is_present
            assert got == stored.content[first : last + 1]
            assert not stored.is_found
            assert not stored.bad_blocks & set(touched)

    @rule(index=OBJECTS)
    def verify(self, index: int) -> None:
        stored = self.objects[index]
        try:
            verified = self.daemon.plane.verify_object(stored.address).verified
        except ObjectNotFoundError:
            assert not stored.is_present
        else:
            assert stored.is_present
            assert verified != stored.is_rotten
            stored.is_found = stored.is_rotten

    @rule(index=OBJECTS, guess=st.sampled_from([None, 0, 1]))
    def delete(self, index: int, guess: int | None) -> None:
        stored = self.objects[index]
        expected = None if guess is None else (stored.generation or 0) + guess
        try:
            deleted = self.daemon.plane.delete_object(
                stored.address, if_generation=expected
            ).deleted
        except ConflictError:
            assert stored.is_present
            assert guess == 1
            return
        assert deleted == stored.is_present
        assert not (deleted and guess == 1)
        stored.generation, stored.kept = None, 0
        stored.make_sound()

    # What the disk does.

    @rule(index=OBJECTS, at=FRACTIONS, how=st.sampled_from(["flip", "cut", "remove"]))
    @precondition(lambda self: any(one.is_present and not one.is_rotten for one in self.objects))
    def damage(self, index: int, at: int, how: str) -> None:
        sound = [one for one in self.objects if one.is_present and not one.is_rotten]
        stored = sound[index % len(sound)]
        offset = len(stored.content) * at // 100
        blocks = -(-len(stored.content) // BLOCK_SIZE)
        if stored.is_small:
            self.stop(is_killed=True)
            self.damage_row(stored, offset, how)
            self.start()
        else:
            self.damage_file(stored, offset, how)
        first = 0 if how == "remove" else offset // BLOCK_SIZE
        stored.bad_blocks = frozenset(range(first, first + 1 if how == "flip" else blocks))
        stored.is_missing = how == "remove"

    def damage_file(self, stored: Modelled, offset: int, how: str) -> None:
        ((name,),) = self.query("SELECT file FROM objects WHERE blake3 = ?", stored.blake3)
        file = self.daemon.root / "objects" / name[:2] / name
        if how == "remove":
            file.unlink()
            return
        file.chmod(0o600)
        if how == "cut":
            os.truncate(file, offset)
        else:
            with file.open("r+b") as out:
                out.seek(offset)
                out.write(bytes([stored.content[offset] ^ 1]))
        os.utime(file, (0, 0))  # a clock with coarse ticks would leave the stamp as it was

    def damage_row(self, stored: Modelled, offset: int, how: str) -> None:
        """Change bytes in the catalog of a daemon that does not run."""
        content = stored.content[:offset]
        if how == "flip":
            content += bytes([stored.content[offset] ^ 1]) + stored.content[offset + 1 :]
        where = "WHERE id = (SELECT content FROM objects WHERE blake3 = ?)"
        if how == "remove":
            self.query(f"DELETE FROM contents {where}", stored.blake3)
        else:
            self.query(f"UPDATE contents SET bytes = ? {where}", content, stored.blake3)

    @rule()
    @precondition(lambda self: any(one.is_rotten and not one.is_found for one in self.objects))
    def scrub(self) -> None:
        ((newest,),) = self.query("SELECT max(verified_at_ms) FROM objects")
        # What was verified in the very millisecond of the request is not due.
        self.wait_until(lambda: time.time_ns() // 1_000_000 > newest)
        assert self.daemon.order("scrub") is None
        self.wait_until(lambda: self.daemon.order("due") == 0)
        for stored in self.objects:
            stored.is_found = stored.is_rotten

    # What happens to the daemon.

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        self.stop(is_killed=is_killed)
        self.start()

    @rule()
    def fill_or_empty_the_disk(self) -> None:
        """A disk without room is one on which everything has to stay free."""
        self.is_starved = not self.is_starved
        self.restart(is_killed=False)

    @rule()
    def back_up(self) -> None:
        path = self.daemon.order("back up")
        with contextlib.closing(sqlite3.connect(path)) as copy:
            rows = dict(copy.execute("SELECT blake3, generation FROM objects"))
        assert rows == {one.blake3: one.generation for one in self.objects if one.is_present}

    def start(self) -> None:
        self.daemon.start(min_free_bytes=2**53 if self.is_starved else 0)

    def stop(self, *, is_killed: bool) -> None:
        if is_killed:
            assert self.daemon.end(signal.SIGKILL) == -signal.SIGKILL
        else:
            assert self.daemon.end(signal.SIGTERM) == 0
        self.drop_ingests()

    def drop_ingests(self) -> None:
        while self.ingests:
            self.ingests.pop().close()

    # What always holds.

    @invariant()
    def the_list_is_as_the_model(self) -> None:
        type(self).steps += 1
        listed = {
            entry.content_address: (entry.generation, entry.size_bytes, entry.state)
            for page in self.daemon.plane.list_objects()
            for entry in page
        }
        assert listed == {
            one.address: (
                one.generation,
                len(one.content),
                ObjectState.QUARANTINED if one.is_found else ObjectState.OK,
            )
            for one in self.objects
            if one.is_present
        }
        statuses = self.daemon.plane.stat_objects([one.address for one in self.objects])
        assert {entry.content_address for entry in statuses} == set(listed)

    @invariant()
    def what_was_acknowledged_is_served_and_what_was_deleted_is_not(self) -> None:
        for index, stored in enumerate(self.objects):
            if stored.is_found or not stored.is_rotten:
                self.check_serve(index, None)

    @invariant()
    def the_quarantine_is_as_the_model(self) -> None:
        copies = [[str(one.address), False] for one in self.objects for _ in range(one.kept)]
        copies += [[str(one.address), True] for one in self.objects if one.is_found]
        assert self.daemon.order("quarantine") == sorted(copies)

    @invariant()
    def no_file_is_there_without_a_reason(self) -> None:
        """Each file is an object's or a bad copy's; of kills there may be more until a sweep."""
        files = sum(path.is_file() for path in (self.daemon.root / "objects").rglob("*"))
        assert files >= sum(
            one.kept + (one.is_present and not one.is_missing)
            for one in self.objects
            if not one.is_small
        )

    def query(self, statement: str, *values: object) -> list[Any]:
        path = self.daemon.root / "catalog.sqlite3"
        catalog = sqlite3.connect(path, isolation_level=None, timeout=30)
        with contextlib.closing(catalog):
            return catalog.execute(statement, values).fetchall()

    def wait_until(self, has_come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not has_come():
            assert time.monotonic() < deadline
            time.sleep(0.001)


@pytest.fixture
def nursery() -> Iterator[None]:
    StoreMachine.nursery = Nursery()
    yield
    StoreMachine.nursery.close()


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("nursery")
def test_a_daemon_does_as_its_model_in_a_few_lives() -> None:
    run(examples=5, steps=30)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # what is left for finding the shortest example of a failure
@pytest.mark.usefixtures("nursery")
def test_a_daemon_does_as_its_model_in_many_lives() -> None:
    run(examples=EXAMPLES, steps=40)
