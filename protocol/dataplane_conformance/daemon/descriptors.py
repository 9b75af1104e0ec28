"""Bodies by descriptor, where the feature `serve_fd` is offered (`SPEC.md` 5.11)."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Generator
from typing import Final, cast

from ..frames import Control
from ..verdicts import FailedError, Group, SkippedError, shown
from ..wire import Wire
from .subject import Daemon, check, expect, expect_body

GROUP: Final = Group[Daemon]()

_FEATURE: Final = "serve_fd"


def _agreed(daemon: Daemon) -> Wire:
    wire = daemon.greet([_FEATURE], takes_descriptors=True)
    if _FEATURE not in wire.features:
        raise SkippedError(f"the daemon does not offer {_FEATURE}")
    return wire


def _ask(wire: Wire, address: str, **args: object) -> Control:
    """Ask for a descriptor and give the result of the answer, which has some body."""
    wire.send(
        {
            "op": "serve_object",
            "args": {"content_address": address, **args},
            "accept_fd": True,
        }
    )
    frame = wire.receive()
    if not isinstance(frame, dict) or "ok" not in frame or "body" not in frame:
        raise FailedError("ok with a body", shown(frame))
    if frame["body"] != "fd":
        expect_body(wire)
        raise SkippedError("the daemon serves the object of this case as a stream")
    return cast("Control", frame["ok"])


@contextlib.contextmanager
def _descriptor(wire: Wire) -> Generator[int]:
    descriptor = wire.take_descriptor()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    """Give the whole content of a file, wherever its position is."""
    return _read(descriptor, 0, 2**31)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    pieces: list[bytes] = []
    while length and (piece := os.pread(descriptor, length, offset)):
        pieces.append(piece)
        offset, length = offset + len(piece), length - len(piece)
    return b"".join(pieces)


@GROUP.must("5.11")
def descriptor_of_a_whole_object(daemon: Daemon) -> None:
    """The descriptor is read-only, of a regular file, and holds the object from offset 0."""
    large = daemon.large()
    wire = _agreed(daemon)
    daemon.ingest(wire, large.data)
    for address in (large.blake3, large.sha256):
        result = _ask(wire, address)
        size = len(large.data)
        wanted = {"size_bytes": size, "offset": 0, "length": size}
        check({key: result[key] for key in wanted} == wanted, f"{wanted}", result)
        with _descriptor(wire) as descriptor:
            expect(wire, {"end": {"size_bytes": size}})
            check_file(descriptor, size)
            check(_read(descriptor, 0, size) == large.data, "the object", "other bytes")
            past = os.pread(descriptor, 1, size)
            check(past == b"", "nothing past the object", past)


def check_file(descriptor: int, size: int) -> None:
    """Check that a descriptor is what a server may pass: regular, whole, and read-only."""
    status = os.fstat(descriptor)
    check(stat.S_ISREG(status.st_mode), "a regular file", f"mode {status.st_mode:o}")
    check(status.st_size == size, f"a file of {size} bytes", status.st_size)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    is_read_only = flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_PATH
    check(is_read_only, "a descriptor to read from only", f"flags {flags:o}")
    try:
        os.pwrite(descriptor, b"x", 0)
    except OSError:
        return
    raise FailedError("a descriptor that cannot be written to", "one that can")


@GROUP.must("5.11")
def descriptor_of_a_range(daemon: Daemon) -> None:
    """With a range the descriptor is still of the whole object, and the answer says where."""
    large = daemon.large()
    wire = _agreed(daemon)
    daemon.ingest(wire, large.data)
    size = len(large.data)
    served_by_descriptor = 0
    for offset, length, served in (
        (1_000_000, 700_000, 700_000),
        (65_535, 2**53 - 1, size - 65_535),
        (65_535, 3, 3),
    ):
        byte_range = {"offset": offset, "length": length}
        try:
            result = _ask(wire, large.blake3, byte_range=byte_range)
        except SkippedError:
            continue
        wanted = {"size_bytes": size, "offset": offset, "length": served}
        check({key: result[key] for key in wanted} == wanted, f"{wanted}", result)
        with _descriptor(wire) as descriptor:
            expect(wire, {"end": {"size_bytes": served}})
            got = _read(descriptor, offset, served)
            check(got == large.data[offset : offset + served], "the range", "other bytes")
            check_file(descriptor, size)
        served_by_descriptor += 1
    if not served_by_descriptor:
        raise SkippedError("the daemon serves the ranges of this case as streams")


@GROUP.must("5.11")
def descriptor_outlives_the_object(daemon: Daemon) -> None:
    """What the descriptor holds does not change, also when the object is deleted."""
    large = daemon.large()
    wire = _agreed(daemon)
    daemon.ingest(wire, large.data)
    _ask(wire, large.blake3)
    with _descriptor(wire) as descriptor:
        expect(wire, {"end": {}})
        daemon.call(wire, "delete_object", content_address=large.blake3)
        daemon.refused(wire, "serve_object", "not_found", content_address=large.blake3)
        got = _read(descriptor, 0, len(large.data))
        check(got == large.data, "the object", "other bytes")
        daemon.ingest(wire, large.data)
        check(_read(descriptor, 0, 100) == large.data[:100], "the object still", "other bytes")


@GROUP.must("5.11")
def descriptors_share_no_position(daemon: Daemon) -> None:
    """Each descriptor is an open file of its own."""
    large = daemon.large()
    wire, other = _agreed(daemon), _agreed(daemon)
    daemon.ingest(wire, large.data)
    _ask(wire, large.blake3)
    expect(wire, {"end": {}})
    _ask(other, large.blake3)
    expect(other, {"end": {}})
    with _descriptor(wire) as first, _descriptor(other) as second:
        os.lseek(first, 1000, os.SEEK_SET)
        position = os.lseek(second, 0, os.SEEK_CUR)
        check(position == 0, "a descriptor at position 0", position)


@GROUP.must("5.11")
def descriptors_one_after_the_other(daemon: Daemon) -> None:
    """Calls with and without descriptors follow each other on a connection."""
    large = daemon.large()
    wire = _agreed(daemon)
    daemon.ingest(wire, large.data)
    for _ in range(5):
        _ask(wire, large.blake3, byte_range={"offset": 1})
        with _descriptor(wire) as descriptor:
            expect(wire, {"end": {}})
            check(_read(descriptor, 1, 9) == large.data[1:10], "the object", "other bytes")
        daemon.call(wire, "list_backends")


@GROUP.must("5.11")
def no_descriptor_that_was_not_asked_for(daemon: Daemon) -> None:
    """Without `accept_fd`, or with false, the body is a stream."""
    large = daemon.large()
    wire = _agreed(daemon)
    daemon.ingest(wire, large.data)
    extras: tuple[Control, ...] = ({}, {"accept_fd": False})
    for extra in extras:
        wire.send({"op": "serve_object", "args": {"content_address": large.blake3}, **extra})
        expect(wire, {"ok": {}, "body": "stream"})
        check(expect_body(wire) == large.data, "the object", "other bytes")


@GROUP.must("5.11")
def refusals_and_small_objects_with_accept_fd(daemon: Daemon) -> None:
    """`accept_fd` changes neither refusals nor the bytes of small and empty objects."""
    wire = _agreed(daemon)
    empty = daemon.known("empty")
    small = daemon.fresh()
    daemon.ingest(wire, empty.data)
    address = daemon.ingest(wire, small).address
    for name, data in ((address, small), (empty.blake3, b"")):
        check(_serve_either_way(wire, name, len(data)) == data, "the object", "other bytes")
    for name, code in ((f"blake3:{'0' * 64}", "not_found"), ("blake3", "bad_request")):
        wire.send({"op": "serve_object", "args": {"content_address": name}, "accept_fd": True})
        expect(wire, {"error": {"code": code}})
    wire.send({"op": "list_backends", "args": {}, "accept_fd": True})
    expect(wire, {"ok": {}})


def _serve_either_way(wire: Wire, address: str, size: int) -> bytes:
    wire.send({"op": "serve_object", "args": {"content_address": address}, "accept_fd": True})
    frame = wire.receive()
    if isinstance(frame, dict) and frame.get("body") == "fd":
        with _descriptor(wire) as descriptor:
            expect(wire, {"end": {"size_bytes": size}})
            return _read(descriptor, 0, size + 1)
    if not isinstance(frame, dict) or "ok" not in frame:
        raise FailedError("ok with a body", shown(frame))
    return expect_body(wire)


@GROUP.must("5.11")
def descriptor_in_a_request(daemon: Daemon) -> None:
    """A request whose body is a descriptor is a violation where `ingest_fd` was not agreed."""
    greets: tuple[Callable[[], Wire], ...] = (
        daemon.greet,
        lambda: daemon.greet([_FEATURE], takes_descriptors=True),
    )
    for greet in greets:
        wire = greet()
        wire.send({"op": "ingest_stream", "args": {}, "body": "fd"})
        expect(wire, {"error": {"code": "protocol"}})
        check(wire.receive() is None, "the end of the connection", "more")
