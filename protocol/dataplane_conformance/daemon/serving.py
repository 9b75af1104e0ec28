"""Serving objects and ranges of them (`SPEC.md` 6.2 and 7.2)."""

from typing import Final, cast

from ..frames import Control
from ..verdicts import Group
from .subject import (
    DATA_SIZE,
    Daemon,
    check,
    expect,
    expect_body,
    pieces_of,
)

GROUP: Final = Group[Daemon]()

#: Sizes at which daemons are likely to cut an object.
_BLOCKS: Final = (1024, 16_384, 65_536, 262_144, 1_048_576)


@GROUP.must("7.2")
def whole_object_by_both_names(daemon: Daemon) -> None:
    """Either digest names the object."""
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    for address in (large.blake3, large.sha256):
        wire.send({"op": "serve_object", "args": {"content_address": address}})
        size = len(large.data)
        wanted = {"ok": {"size_bytes": size, "offset": 0, "length": size}, "body": "stream"}
        expect(wire, wanted)
        check(expect_body(wire) == large.data, "the object", "other bytes")


def _ranges(size: int) -> list[tuple[int, int | None]]:
    """Give ranges whose ends lie on, before and behind every likely edge."""
    ranges: list[tuple[int, int | None]] = [
        (0, 1),
        (0, size),
        (0, None),
        (0, 2**53 - 1),
        (size - 1, None),
        (size - 1, 1),
        (size - 1, 2**53 - 1),
        (size // 2, size),
        (1, size - 2),
    ]
    for block in _BLOCKS:
        ranges += [(block - 1, 1), (block, 1), (block - 1, 2), (block - 3, block + 7)]
        ranges += [(0, block), (block, block), (2 * block - 1, None)]
    return ranges


@GROUP.must("6.2")
def ranges_over_edges_of_blocks(daemon: Daemon) -> None:
    """A range gives exactly its bytes, wherever it begins and ends, and is cut at the end."""
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    size = len(large.data)
    for offset, length in _ranges(size):
        wanted = large.data[offset : None if length is None else offset + length]
        byte_range = {"offset": offset} | ({} if length is None else {"length": length})
        args = {"content_address": large.blake3, "byte_range": byte_range}
        wire.send({"op": "serve_object", "args": args})
        result = {"size_bytes": size, "offset": offset, "length": len(wanted)}
        expect(wire, {"ok": result, "body": "stream"})
        check(expect_body(wire) == wanted, f"the bytes of {byte_range}", "others")


@GROUP.must("6.2")
def ranges_of_a_small_object(daemon: Daemon) -> None:
    """Every range of an object of 13 bytes is as asked, or `out_of_range`."""
    wire = daemon.greet()
    data = daemon.fresh(13)
    address = daemon.ingest(wire, data).address
    for offset in range(15):
        for length in range(1, 15 - offset):
            args = {"byte_range": {"offset": offset, "length": length}}
            if offset >= len(data):
                error = daemon.refused(
                    wire, "serve_object", "out_of_range", content_address=address, **args
                )
                details = error.get("details")
                check(details == {"size_bytes": 13}, "details {'size_bytes': 13}", details)
            else:
                got = daemon.serve(wire, address, **args)
                check(got == data[offset : offset + length], "the range", got)


@GROUP.must("6.2")
def ranges_past_the_end(daemon: Daemon) -> None:
    """A range that starts at or past the end is `out_of_range`, with the size."""
    wire = daemon.greet()
    empty = daemon.known("empty")
    daemon.ingest(wire, empty.data)
    data = daemon.fresh()
    address = daemon.ingest(wire, data).address
    for name, size, offset in (
        (address, len(data), len(data)),
        (address, len(data), 2**53 - 1),
        (empty.blake3, 0, 0),
        (empty.sha256, 0, 1),
    ):
        for length in ({}, {"length": 1}, {"length": 2**53 - 1}):
            byte_range = {"offset": offset, **length}
            error = daemon.refused(
                wire, "serve_object", "out_of_range", content_address=name, byte_range=byte_range
            )
            details = cast("Control", error.get("details", {}))
            check(details.get("size_bytes") == size, f"details with size_bytes {size}", error)


@GROUP.must("6.2")
def malformed_ranges(daemon: Daemon) -> None:
    """A range that is none is `bad_request`, and costs only the call."""
    wire = daemon.greet()
    address = daemon.ingest(wire, daemon.fresh()).address
    for byte_range in (
        {},
        {"length": 1},
        {"offset": -1},
        {"offset": 0, "length": 0},
        {"offset": 0, "length": -1},
        {"offset": "0"},
        {"offset": True},
        {"offset": None},
        {"offset": 0, "length": None},
        [0, 1],
        0,
        None,
    ):
        daemon.refused(
            wire, "serve_object", "bad_request", content_address=address, byte_range=byte_range
        )
    daemon.call(wire, "list_backends")


@GROUP.must("7.2")
def empty_object(daemon: Daemon) -> None:
    """An empty object has a body without data frames."""
    empty = daemon.known("empty")
    wire = daemon.greet()
    daemon.ingest(wire, empty.data)
    wire.send({"op": "serve_object", "args": {"content_address": empty.blake3}})
    expect(wire, {"ok": {"size_bytes": 0, "offset": 0, "length": 0}, "body": "stream"})
    check(expect_body(wire) == b"", "no data", "some")


@GROUP.must("7.2")
def digest_in_the_end(daemon: Daemon) -> None:
    """A digest in the `end` of a served body is that of these bytes."""
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    for address in (large.blake3, large.sha256):
        wire.send({"op": "serve_object", "args": {"content_address": address}})
        expect(wire, {"ok": {}, "body": "stream"})
        frame = wire.receive()
        while isinstance(frame, bytes):
            frame = wire.receive()
        end = cast("Control", frame.get("end", {})) if frame else {}
        digest = end.get("digest")
        is_right = digest in (None, large.blake3, large.sha256)
        check(is_right, f"{large.blake3} or {large.sha256}, or none", digest)


@GROUP.should("2.2")
def data_frames_of_the_recommended_size(daemon: Daemon) -> None:
    """Served data frames have 262,144 bytes, but for the last."""
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    wire.send({"op": "serve_object", "args": {"content_address": large.blake3}})
    expect(wire, {"ok": {}, "body": "stream"})
    sizes = [len(piece) for piece in pieces_of(wire)]
    odd = [size for size in sizes[:-1] if size != DATA_SIZE]
    check(not odd, f"{DATA_SIZE} bytes in each data frame but the last", odd)


@GROUP.must("7.2")
def object_deleted_while_it_is_served(daemon: Daemon) -> None:
    """What is being served is served to its end."""
    large = daemon.large()
    wire, other = daemon.greet(), daemon.greet()
    daemon.ingest(wire, large.data)
    wire.send({"op": "serve_object", "args": {"content_address": large.blake3}})
    expect(wire, {"ok": {}, "body": "stream"})
    result = daemon.call(other, "delete_object", content_address=large.blake3)
    check(result["deleted"] is True, "deleted", result)
    check(expect_body(wire) == large.data, "the object to its end", "other bytes")
    daemon.refused(wire, "serve_object", "not_found", content_address=large.blake3)


@GROUP.must("7.2")
def several_served_at_once(daemon: Daemon) -> None:
    """Connections are served side by side, whichever reads first."""
    large = daemon.large()
    wires = [daemon.greet() for _ in range(3)]
    daemon.ingest(wires[0], large.data)
    for wire in wires:
        wire.send({"op": "serve_object", "args": {"content_address": large.sha256}})
    for wire in reversed(wires):
        expect(wire, {"ok": {}, "body": "stream"})
        check(expect_body(wire) == large.data, "the object", "other bytes")


@GROUP.must("7.2")
def missing_objects(daemon: Daemon) -> None:
    """What is not there is `not_found`, by either name, with a range or without."""
    wire = daemon.greet()
    stored = daemon.ingest(wire, daemon.fresh())
    daemon.call(wire, "delete_object", content_address=stored.address)
    for name in (stored.address, stored.sha256, f"blake3:{'0' * 64}", f"sha256:{'f' * 64}"):
        daemon.refused(wire, "serve_object", "not_found", content_address=name)
        daemon.refused(
            wire,
            "serve_object",
            "not_found",
            content_address=name,
            byte_range={"offset": 0},
        )


@GROUP.must("5.11")
def streamed_although_accept_fd_is_said(daemon: Daemon) -> None:
    """`accept_fd` means nothing where the feature was not agreed on."""
    wire = daemon.greet()
    data = daemon.fresh(100_000)
    address = daemon.ingest(wire, data).address
    for accepts in (True, False):
        request = {"op": "serve_object", "args": {"content_address": address}}
        wire.send({**request, "accept_fd": accepts})
        expect(wire, {"ok": {}, "body": "stream"})
        check(expect_body(wire) == data, "the object", "other bytes")
