"""What clients do to a daemon while its disk is about to lose its power."""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import blake3

from dataplane_client import blocking
from dataplane_protocol import ContentAddress, UnavailableError

from .history import History, Operation

CLIENTS: Final = 4
_PATIENCE_S: Final = 60


def digest_of(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


def address_of(data: bytes) -> ContentAddress:
    return ContentAddress(f"blake3:{digest_of(data)}")


class Work:
    """What clients do to one daemon, all of it told to the history.

    Attributes:
        contents: The bytes of each object by digest.
    """

    def __init__(self, daemon: Any, root: Path, history: History, seed: int) -> None:
        self._daemon = daemon
        self._root = root
        self._history = history
        self._rng = random.Random(seed)
        self._old: list[bytes] = []
        self.contents: dict[str, bytes] = {}

    def make(self, size: int) -> bytes:
        """Make up an object."""
        data = self._rng.randbytes(size)
        self.contents[digest_of(data)] = data
        return data

    def small(self) -> bytes:
        return self.make(self._rng.randrange(1, 2_000))

    def large(self) -> bytes:
        return self.make(self._rng.randrange(200_000, 400_000))

    def ingest(self, plane: Any, data: bytes) -> str:
        with self._asking(data, leaves_it=True):
            return str(plane.ingest_stream([data]).receipt.outcome)

    def delete(self, plane: Any, data: bytes) -> None:
        with self._asking(data, leaves_it=False):
            plane.delete_object(address_of(data))

    @contextlib.contextmanager
    def _asking(self, data: bytes, *, leaves_it: bool) -> Iterator[Operation]:
        operation = self._history.begin(digest_of(data), leaves_it=leaves_it)
        try:
            yield operation
        except UnavailableError:
            self._history.give_up(operation)
            raise
        self._history.acknowledge(operation)

    def wear_in(self) -> None:
        """Ingest and delete until the catalog's log is written over from its beginning.

        While it still grows, each of its syncs makes a journal commit all that was renamed, too,
        and a missing sync of a directory does no harm.
        """
        log = self._root / "catalog.sqlite3-wal"
        few = [self.make(1_000) for _ in range(4)]
        sizes: list[int] = []
        with blocking.connect(self._daemon.socket_path, pool_size=1) as plane:
            while len(sizes) < 300 and (len(sizes) < 8 or len(set(sizes[-8:])) > 1):
                for data in few:
                    self.ingest(plane, data)
                    self.delete(plane, data)
                sizes.append(log.stat().st_size)

    def heal(self) -> None:
        """Spoil the file of a large object and have the next ingest replace it."""
        data = self.large()
        with blocking.connect(self._daemon.socket_path, pool_size=1) as plane:
            self.ingest(plane, data)
            digest = digest_of(data)
            (file,) = (self._root / "objects").glob(f"*/{digest}*")
            damage = self._history.damage(digest)
            os.truncate(file, 100_000)
            with self._asking(data, leaves_it=True) as damage.heals:
                assert plane.ingest_stream([data]).receipt.outcome == "healed"

    def concurrently(
        self, rounds: int, meanwhile: Callable[[], object] = lambda: None
    ) -> list[bool]:
        """Let all clients work for some rounds, and say of each whether it came to its end.

        Args:
            rounds: How many; in each, all of them first ingest the same bytes at once.
            meanwhile: What happens beside them, such as the daemon's death.
        """
        plans = self._plans(rounds)
        together = threading.Barrier(CLIENTS, timeout=_PATIENCE_S)
        with ThreadPoolExecutor(CLIENTS) as pool:
            playing = [pool.submit(self._play, plan, together) for plan in plans]
            meanwhile()
            return [client.result() for client in playing]

    def _play(self, plan: list[tuple[str, bytes]], together: threading.Barrier) -> bool:
        try:
            with blocking.connect(self._daemon.socket_path, pool_size=1) as plane:
                for what, data in plan:
                    if what == "together":
                        together.wait()
                    elif what == "ingest":
                        self.ingest(plane, data)
                    else:
                        self.delete(plane, data)
        except (UnavailableError, threading.BrokenBarrierError):
            together.abort()
            return False
        return True

    def _plans(self, rounds: int) -> list[list[tuple[str, bytes]]]:
        plans: list[list[tuple[str, bytes]]] = [[] for _ in range(CLIENTS)]
        old, shared = self._old, list[bytes]()
        own: list[list[bytes]] = [[] for _ in range(CLIENTS)]
        for number in range(rounds):
            shared.append(self.large() if number % 2 else self.small())
            for client, plan in enumerate(plans):
                plan.append(("together", b""))
                plan.append(("ingest", shared[-1]))
                own[client].append(self.large() if (client + number) % 4 == 0 else self.small())
                plan.append(("ingest", own[client][-1]))
                if old:  # what has been on disk for long is what can come back
                    plan.append(("delete", old.pop(0)))
                if number >= 1 and client == number % CLIENTS:
                    plan.append(("delete", shared[-2]))
                if number >= 1 and client == (number + 1) % CLIENTS and number % 3:
                    plan.append(("ingest", shared[-2]))
                if number >= 1 and number % 2:
                    plan.append(("delete", own[client][-2]))
                if number >= 2 and not number % 2:
                    plan.append(("ingest", own[client][-3]))
                if number >= 3 and number % 2:
                    plan.append(("delete", own[client][-4]))
        self._old = [data for objects in own for data in objects]
        return plans
