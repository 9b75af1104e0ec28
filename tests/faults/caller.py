"""A client that keeps its own record of what it was told, and holds a daemon against it."""

import random
from collections.abc import Callable, Iterator
from typing import Any, Final, Self

import blake3
import pytest

from dataplane_client import blocking
from dataplane_protocol import (
    ContentAddress,
    DataPlaneError,
    IngestHints,
    UnavailableError,
)

#: Bytes of an object in the catalog, of one in a file, and of one that comes in many pieces.
SMALL: Final = 1_000
LARGE: Final = 200_000
HUGE: Final = 3_000_000


def content(size: int, name: object) -> bytes:
    return random.Random(f"{name} {size}").randbytes(size)


def address_of(data: bytes) -> ContentAddress:
    return ContentAddress(f"blake3:{blake3.blake3(data).hexdigest()}")


class Caller:
    """A client of one backend, and its own record of what it was told.

    Attributes:
        stored: What was acknowledged.
        doubtful: What was answered with an error: absent or whole, but never torn.
    """

    def __init__(self, daemon: Any, backend_id: str | None = None) -> None:
        self.daemon = daemon
        self.backend_id = backend_id
        self.plane = blocking.connect(daemon.socket_path, pool_size=2)
        self.stored: dict[ContentAddress, bytes] = {}
        self.doubtful: dict[ContentAddress, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.plane.close()

    def ingest(self, data: bytes, *, between: Callable[[], object] = lambda: None) -> None:
        """Ingest, and do something when most of it has arrived."""
        most = len(data) * 9 // 10

        def pieces() -> Iterator[bytes]:
            yield data[:most]
            between()
            yield data[most:]

        address = address_of(data)
        if address not in self.stored:
            self.doubtful[address] = data
        hints = IngestHints(backend_id=self.backend_id)
        receipt = self.plane.ingest_stream(pieces(), hints=hints).receipt
        assert receipt.content_address == address
        self.stored[address] = data
        self.doubtful.pop(address, None)

    def delete(self, data: bytes) -> None:
        address = address_of(data)
        self.doubtful[address] = self.stored.pop(address)
        assert self.plane.delete_object(address, backend_id=self.backend_id).deleted
        del self.doubtful[address]

    def failure(self, call: Callable[..., None], *args: Any, **kwargs: Any) -> DataPlaneError:
        """Make a call that has to fail."""
        with pytest.raises(DataPlaneError) as caught:
            call(*args, **kwargs)
        return caught.value

    def read(self, address: ContentAddress) -> bytes:
        with self.plane.serve_object(address, backend_id=self.backend_id) as body:
            return b"".join(body)

    def health(self) -> Any:
        return self.plane.backend_health(backend_id=self.backend_id)

    def listed(self) -> set[ContentAddress]:
        pages = self.plane.list_objects(backend_id=self.backend_id)
        return {entry.content_address for page in pages for entry in page}

    def check_reads(self) -> None:
        """What was acknowledged is served, and whatever else can be seen is whole."""
        listed = self.listed()
        assert set(self.stored) <= listed <= set(self.stored) | set(self.doubtful)
        for address in listed:
            assert self.read(address) == (self.stored | self.doubtful)[address]

    def check(self) -> None:
        """The same, from the disk."""
        self.check_reads()
        for address in self.listed():
            assert self.plane.verify_object(address, backend_id=self.backend_id).verified

    def check_refuses_writes(self) -> None:
        """It is read-only, says so and why, and takes nothing again by being asked again."""
        health = self.health()
        assert (health.state, health.writable) == ("degraded", False)
        assert health.message
        refused = [content(SMALL, "another"), content(LARGE, "another"), *self.doubtful.values()]
        for data in refused:
            error = self.failure(self.ingest, data)
            assert isinstance(error, UnavailableError)
            assert not error.retry
        for data in list(self.stored.values())[:1]:
            error = self.failure(self.delete, data)
            assert isinstance(error, UnavailableError)
            assert not error.retry
            self.stored[address_of(data)] = self.doubtful.pop(address_of(data))
        self.check_reads()

    def check_takes_writes(self) -> None:
        """It is well, and everything that went wrong goes right now."""
        assert self.health().state == "ok"
        assert self.health().writable
        for data in [content(SMALL, "more"), content(LARGE, "more"), *self.doubtful.values()]:
            self.ingest(data)
        self.check()

    def check_leaves_nothing(self) -> None:
        """Without objects there are no files."""
        for data in list(self.stored.values()):
            self.delete(data)
        assert self.listed() == set()
        assert self.daemon.becomes(lambda: self.daemon.files("objects") == [])
        assert self.daemon.files("staging") == []

    def check_after_restart(self) -> None:
        """Do all of this with a daemon that was started again."""
        assert self.daemon.wait_for("swept")
        assert self.daemon.files("staging") == []
        self.check()
        self.check_takes_writes()
        self.check_leaves_nothing()


def stored_before(daemon: Any, backend_id: str | None = None) -> Caller:
    caller = Caller(daemon, backend_id)
    for size in (SMALL, LARGE):
        caller.ingest(content(size, "before"))
    return caller
