"""A client of the soak: `python -m tests.soak.worker SOCKET DIRECTORY NUMBER SEED`.

It has objects of its own, which only it deletes, so that its history alone says what has to be
there; and it ingests some that all others ingest too, which nobody deletes. Every call is noted
before it is made and when it was acknowledged; what is served is compared with what was ingested.
It ends when DIRECTORY has a file `stop`, and lets go of the daemon while there is a file `pause`.
"""

import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from dataplane_client.blocking import BlockingDataPlaneClient, connect
from dataplane_protocol import ContentAddress, DataPlaneError, ObjectCorruptError

#: Bytes of objects: rows of the catalog, files, and bodies that have threads of their own.
SIZES = (0, 1, 100, 4096, 20_000, 32_768, 32_769, 70_000, 300_000, 1_500_000, 6_000_000)

#: The more bytes, the rarer.
WEIGHTS = (1, 1, 8, 12, 8, 4, 4, 6, 4, 2, 1)

#: Objects of its own that it keeps at most, and those that all have.
KEPT = 60
SHARED = 12


class Worker:
    """The state of one client."""

    def __init__(self, socket_path: str, directory: Path, number: int, seed: int) -> None:
        self.socket_path = socket_path
        self.directory = directory
        self.number = number
        self.chance = random.Random(f"{seed} {number}")
        self.serial = 0
        #: What is stored for sure, by address: its content's seed and size.
        self.stored: dict[str, tuple[str, int]] = {}
        self.notes = (directory / f"history-{number}").open("a", buffering=1)

    def note(self, kind: str, **more: object) -> None:
        self.notes.write(json.dumps({"kind": kind, "at": time.monotonic(), **more}) + "\n")

    def run(self) -> None:
        while not (self.directory / "stop").exists():
            if (self.directory / "pause").exists():
                (self.directory / f"paused-{self.number}").touch()
                time.sleep(0.05)
                continue
            (self.directory / f"paused-{self.number}").unlink(missing_ok=True)
            with connect(self.socket_path, pool_size=2) as client:
                self.work(client)

    def work(self, client: BlockingDataPlaneClient) -> None:
        while not ((self.directory / "stop").exists() or (self.directory / "pause").exists()):
            act = self.chance.choices(
                (self.ingest, self.ingest_shared, self.serve, self.serve_range, self.verify,
                 self.delete, self.abort, self.look),
                (10, 2, 10, 10, 3, 4, 1, 2),
            )[0]  # fmt: skip
            try:
                act(client)
            except ObjectCorruptError as error:
                self.note("corrupt", reason=error.message)
            except DataPlaneError as error:
                self.note("failed", op=act.__name__, code=error.code, reason=error.message)
                time.sleep(0.02)  # the daemon may be away

    def content(self, name: str, size: int) -> bytes:
        return random.Random(name).randbytes(size)

    def ingest(self, client: BlockingDataPlaneClient) -> None:
        if len(self.stored) >= KEPT:
            self.delete(client)
            return
        self.serial += 1
        size = self.chance.choices(SIZES, WEIGHTS)[0]
        self.store(client, f"{self.number} {self.serial}", size, is_shared=False)

    def ingest_shared(self, client: BlockingDataPlaneClient) -> None:
        number = self.chance.randrange(SHARED)
        self.store(client, f"shared {number}", SIZES[number % len(SIZES)] + 7, is_shared=True)

    def store(
        self, client: BlockingDataPlaneClient, name: str, size: int, *, is_shared: bool
    ) -> None:
        content = self.content(name, size)
        digest = hashlib.sha256(content).hexdigest()
        self.note("ingest", sha256=digest, size=size)
        pieces = [content[start : start + 200_000] for start in range(0, size, 200_000)]
        receipt = client.ingest_stream(pieces).receipt
        address = str(receipt.content_address)
        self.note("stored", sha256=digest, address=address, outcome=str(receipt.outcome))
        if not is_shared and size > 1:
            self.stored[address] = (name, size)

    def choose(self) -> tuple[str, bytes] | None:
        if not self.stored:
            return None
        address = self.chance.choice(list(self.stored))
        return address, self.content(*self.stored[address])

    def serve(self, client: BlockingDataPlaneClient) -> None:
        if (chosen := self.choose()) is not None:
            address, content = chosen
            served = b"".join(client.serve_object(ContentAddress(address)))
            self.compare(address, served, content)

    def serve_range(self, client: BlockingDataPlaneClient) -> None:
        if (chosen := self.choose()) is not None:
            address, content = chosen
            first = self.chance.randrange(len(content))
            last = min(len(content) - 1, first + self.chance.choice((0, 100, 70_000)))
            served = client.serve_object(ContentAddress(address), byte_range=(first, last))
            self.compare(address, b"".join(served), content[first : last + 1])

    def compare(self, address: str, served: bytes, content: bytes) -> None:
        self.note("served" if served == content else "WRONG", address=address)

    def verify(self, client: BlockingDataPlaneClient) -> None:
        if (chosen := self.choose()) is not None:
            result = client.verify_object(ContentAddress(chosen[0]))
            self.note("verified", address=chosen[0], mismatch=result.mismatch)

    def delete(self, client: BlockingDataPlaneClient) -> None:
        if (chosen := self.choose()) is not None:
            address = chosen[0]
            del self.stored[address]
            self.note("delete", address=address)
            result = client.delete_object(ContentAddress(address))
            self.note("deleted", address=address, was_there=result.deleted)

    def abort(self, client: BlockingDataPlaneClient) -> None:
        class GivenUpError(Exception):
            pass

        def pieces() -> Any:
            yield bytes(self.chance.choice((10, 100_000, 2_000_000)))
            raise GivenUpError

        try:
            client.ingest_stream(pieces())
        except GivenUpError:
            self.note("aborted")

    def look(self, client: BlockingDataPlaneClient) -> None:
        addresses = [ContentAddress(each) for each in list(self.stored)[:20]]
        found = {str(each.content_address) for each in client.stat_objects(addresses)}
        missing = [str(each) for each in addresses if str(each) not in found]
        self.note("MISSING" if missing else "looked", addresses=missing)
        client.backend_health()


if __name__ == "__main__":
    Worker(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])).run()
