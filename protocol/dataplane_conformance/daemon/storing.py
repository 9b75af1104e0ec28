"""Bodies as they may arrive, and what an ingest promises (`SPEC.md` 2, 5.7 and 7.1)."""

from typing import Final, cast

from ..frames import Control, control_frame, data_frame
from ..verdicts import FailedError, Group
from ..wire import Wire
from .subject import (
    DATA_SIZE,
    Daemon,
    check,
    end_of,
    expect,
    expect_error,
    expect_ingested,
)

GROUP: Final = Group[Daemon]()

_INGEST: Final[Control] = {"op": "ingest_stream", "args": {}, "body": "stream"}
_MIB: Final = 1024 * 1024


@GROUP.must("2.1")
def frames_split_into_single_bytes(daemon: Daemon) -> None:
    """It means nothing where writes begin and end."""
    wire = daemon.dial()
    data = daemon.fresh(300)
    wire.send_apart(wire.made({"hello": {"version": 1, "features": []}}))
    expect(wire, {"hello": {"version": 1}})
    wire.send_apart(wire.made(_INGEST) + wire.made_data(data) + wire.made(end_of(data)))
    expect_ingested(wire)


@GROUP.must("2.1")
def a_whole_ingest_in_one_write(daemon: Daemon) -> None:
    """Request, body and end may come at once."""
    wire = daemon.greet()
    data = daemon.fresh()
    wire.send_bytes(wire.made(_INGEST) + wire.made_data(data) + wire.made(end_of(data)))
    expect_ingested(wire)


@GROUP.must("2.1")
def frames_cut_across_writes(daemon: Daemon) -> None:
    """Writes that end inside heads, lengths and payloads are put together again."""
    wire = daemon.greet()
    data = daemon.fresh(100_000)
    frames = b"".join(
        [
            wire.made(_INGEST),
            *(wire.made_data(data[at : at + 7001]) for at in range(0, len(data), 7001)),
            wire.made(end_of(data)),
        ]
    )
    wire.send_apart(frames, 7013)
    stored = expect_ingested(wire)
    check(daemon.serve(wire, stored.address) == data, "the bytes that were sent", "others")


@GROUP.must("2.2")
def data_frames_of_one_byte(daemon: Daemon) -> None:
    """A body may come byte by byte."""
    wire = daemon.greet()
    data = daemon.fresh(3000)
    stored = daemon.ingest(wire, data, piece=1)
    check(daemon.serve(wire, stored.address) == data, "the bytes that were sent", "others")


@GROUP.must("2.2")
def data_frames_of_1_mib(daemon: Daemon) -> None:
    """A data frame may have 1,048,576 bytes."""
    wire = daemon.greet()
    data = daemon.fresh(3 * _MIB)
    stored = daemon.ingest(wire, data, piece=_MIB)
    check(daemon.serve(wire, stored.sha256) == data, "the bytes that were sent", "others")


@GROUP.must("2.2")
def data_frames_around_every_length_of_head(daemon: Daemon) -> None:
    """The head of a data frame has four lengths, each used where it is the shortest."""
    wire = daemon.greet()
    sizes = (1, 23, 24, 255, 256, 65_535, 65_536, 262_144, 1_048_575, 1_048_576)
    data = daemon.fresh(sum(sizes))
    wire.send(_INGEST)
    start = 0
    for size in sizes:
        wire.send_data(data[start : start + size])
        start += size
    wire.send(end_of(data))
    expect_ingested(wire)


@GROUP.must("5.7")
def sizes_that_do_not_match(daemon: Daemon) -> None:
    """An `end` that states more or fewer bytes is `body_mismatch`, and nothing is stored."""
    wire = daemon.greet()
    data = daemon.fresh(1000)
    for size in (0, 999, 1001, 2**53 - 1):
        wire.send(_INGEST)
        wire.send_data(data)
        wire.send({"end": {"size_bytes": size}})
        error = expect_error(wire, "body_mismatch")
        details = error.get("details", {})
        check(details in ({}, {"size_bytes": 1000}), "details of the size received", details)
    check(daemon.stat(wire, [wire.own_body.sha256]) == [], "nothing stored", "the object")


@GROUP.must("5.7")
def digest_that_does_not_match(daemon: Daemon) -> None:
    """A wrong digest of either algorithm is `body_mismatch`, for a large body too."""
    wire = daemon.greet()
    for algorithm in ("blake3", "sha256"):
        for size in (50, 2 * _MIB):
            data = daemon.fresh(size)
            wire.send(_INGEST)
            for start in range(0, size, DATA_SIZE):
                wire.send_data(data[start : start + DATA_SIZE])
            wire.send(end_of(data, f"{algorithm}:{'5a' * 32}"))
            expect_error(wire, "body_mismatch")
            left = daemon.stat(wire, [wire.own_body.sha256, f"{algorithm}:{'5a' * 32}"])
            check(left == [], "nothing stored", left)


@GROUP.must("5.7")
def digest_that_matches(daemon: Daemon) -> None:
    """A right digest of either algorithm is accepted, whichever is primary."""
    large = daemon.large()
    wire = daemon.greet()
    for digest in (large.blake3, large.sha256):
        for primary in ("blake3", "sha256"):
            daemon.ingest(wire, large.data, digest=digest, primary_algorithm=primary)


@GROUP.must("5.7")
def digest_that_is_malformed(daemon: Daemon) -> None:
    """A digest in `end` is no argument: a malformed one is a violation."""
    data = b"hello world\n"
    for digest in (f"sha256:{'A' * 64}", f"sha256:{'a' * 63}", "sha256", 5):
        wire = daemon.greet()
        wire.send(_INGEST)
        wire.send_data(data)
        wire.send_raw(control_frame({"end": {"size_bytes": len(data), "digest": digest}}))
        expect_error(wire, "protocol")


@GROUP.must("7.1")
def both_digests_of_a_large_object(daemon: Daemon) -> None:
    """The result has the right BLAKE3 and SHA-256 digests, and the one asked for is primary."""
    large = daemon.large()
    wire = daemon.greet()
    by_blake3 = daemon.ingest(wire, large.data)
    check(by_blake3.address == large.blake3, large.blake3, by_blake3.address)
    by_sha256 = daemon.ingest(wire, large.data, primary_algorithm="sha256")
    check(by_sha256.address == large.sha256, large.sha256, by_sha256.address)
    again = daemon.ingest(wire, large.data, primary_algorithm="blake3")
    check(again.address == large.blake3, large.blake3, again.address)


@GROUP.must("7.1")
def unknown_primary_algorithm(daemon: Daemon) -> None:
    """Only `blake3` and `sha256` may be primary."""
    for name in ("md5", "", "BLAKE3", "blake3 ", "x" * 1000):
        wire = daemon.greet()
        wire.send({**_INGEST, "args": {"primary_algorithm": name}})
        expect_error(wire, "unsupported", "bad_request")


@GROUP.must("7.1")
def size_hints_change_nothing(daemon: Daemon) -> None:
    """A hint that is wrong does not harm."""
    wire = daemon.greet()
    for hint in (0, 1, 40, 41, 4000):
        data = daemon.fresh()
        check(daemon.ingest(wire, data, size_hint=hint).outcome == "created", "created", "another")


@GROUP.must("7.1")
def outcomes_of_repeats(daemon: Daemon) -> None:
    """The first ingest says `created`, the next `existed`, and after a delete `created`."""
    wire = daemon.greet()
    data = daemon.fresh()
    outcomes = [daemon.ingest(wire, data).outcome, daemon.ingest(wire, data).outcome]
    stored = daemon.ingest(wire, data, primary_algorithm="sha256")
    outcomes.append(stored.outcome)
    daemon.call(wire, "delete_object", content_address=stored.address)
    outcomes.append(daemon.ingest(wire, data).outcome)
    wanted = ["created", "existed", "existed", "created"]
    check(outcomes == wanted, ", ".join(wanted), ", ".join(outcomes))


@GROUP.must("7")
def generations_grow(daemon: Daemon) -> None:
    """Each acknowledged ingest gives a generation above all before; nothing else changes it."""
    wire = daemon.greet()
    data = daemon.fresh()
    stored = daemon.ingest(wire, data)
    last = stored.generation
    for content in (daemon.fresh(), data, data):
        stored = daemon.ingest(wire, content)
        check(stored.generation > last, f"a generation above {last}", stored.generation)
        last = stored.generation
    daemon.serve(wire, stored.address)
    daemon.call(wire, "verify_object", content_address=stored.address)
    (entry,) = daemon.stat(wire, [stored.address])
    check(entry["generation"] == last, f"generation {last} still", entry["generation"])
    daemon.call(wire, "delete_object", content_address=stored.address)
    again = daemon.ingest(wire, data)
    check(again.generation > last, f"a generation above {last}", again.generation)


@GROUP.must("7.1")
def object_is_seen_only_once_it_is_acknowledged(daemon: Daemon) -> None:
    """Nobody sees an object before its `ok`, and everybody after it."""
    wire, watcher = daemon.greet(), daemon.greet()
    data = daemon.fresh(2 * _MIB)
    wire.send(_INGEST)
    for start in range(0, len(data), DATA_SIZE):
        wire.send_data(data[start : start + DATA_SIZE])
    name = wire.own_body.sha256
    check(daemon.stat(watcher, [name]) == [], "no object yet", "the object")
    daemon.refused(watcher, "serve_object", "not_found", content_address=name)
    wire.send(end_of(data))
    stored = expect_ingested(wire)
    (entry,) = daemon.stat(watcher, [name]) or [{}]
    check(entry.get("content_address") == stored.address, "the object", entry)
    check(daemon.serve(watcher, name) == data, "the bytes that were sent", "others")


@GROUP.must("7.1")
def one_object_over_several_connections_at_once(daemon: Daemon) -> None:
    """Of several ingests of the same bytes at once one has `created` it, the others found it."""
    wires = [daemon.greet() for _ in range(4)]
    data = daemon.fresh(500_000)
    half = len(data) // 2
    for wire in wires:
        wire.send(_INGEST)
    for start in (0, half):
        for wire in wires:
            wire.send_bytes(_in_frames(wire, data[start : start + half]))
    for wire in wires:
        wire.send(end_of(data))
    stored = [expect_ingested(wire) for wire in wires]
    outcomes = sorted(one.outcome for one in stored)
    check(outcomes == ["created", *["existed"] * 3], "created once, existed 3 times", outcomes)
    check(len({one.address for one in stored}) == 1, "one address", stored[0].address)
    check(len({one.generation for one in stored}) == 4, "4 generations", "one of them twice")
    check(daemon.serve(wires[0], stored[0].address) == data, "the bytes that were sent", "others")


def _in_frames(wire: Wire, data: bytes) -> bytes:
    pieces = (data[at : at + DATA_SIZE] for at in range(0, len(data), DATA_SIZE))
    return b"".join(map(wire.made_data, pieces))


@GROUP.must("7.1")
def receipt_says_what_stat_says(daemon: Daemon) -> None:
    """The receipt and the entry of `stat_objects` agree."""
    wire = daemon.greet()
    data = daemon.fresh()
    stored = daemon.ingest(wire, data)
    receipt = cast("Control", stored.result["receipt"])
    (entry,) = daemon.stat(wire, [stored.address]) or [{}]
    wanted = {
        "content_address": stored.address,
        "sha256_digest": stored.sha256,
        "size_bytes": len(data),
        "generation": receipt["generation"],
        "stored_at_ms": receipt["stored_at_ms"],
    }
    got = {key: entry.get(key) for key in wanted}
    check(got == wanted, f"{wanted}", got)
    backend = daemon.call(wire, "list_backends")["default"]
    check(receipt["backend_id"] == backend, f"backend {backend}", receipt["backend_id"])


@GROUP.must("7.1")
def backend_that_is_named(daemon: Daemon) -> None:
    """The default backend may be named, and an unknown one is refused."""
    wire = daemon.greet()
    backend = str(daemon.call(wire, "list_backends")["default"])
    stored = daemon.ingest(wire, daemon.fresh(), backend_id=backend)
    receipt = cast("Control", stored.result["receipt"])
    check(receipt["backend_id"] == backend, f"backend {backend}", receipt["backend_id"])
    wire.send({**_INGEST, "args": {"backend_id": "no-such-backend"}})
    expect_error(wire, "unknown_backend")


@GROUP.must("7")
def body_where_none_belongs(daemon: Daemon) -> None:
    """An operation that takes no body refuses one with `bad_request` and discards it."""
    wire = daemon.greet()
    for op, args in (
        ("serve_object", {"content_address": f"blake3:{'0' * 64}"}),
        ("list_objects", {}),
        ("backend_health", {}),
    ):
        wire.send({"op": op, "args": args, "body": "stream"})
        wire.send_data(b"x" * 1000)
        wire.send({"end": {"size_bytes": 1000}})
        expect_error(wire, "bad_request")
    daemon.call(wire, "list_backends")


@GROUP.must("7")
def ingest_without_a_body(daemon: Daemon) -> None:
    """An ingest whose request announces no body is `bad_request`, and nothing is waited for."""
    wire = daemon.greet()
    daemon.refused(wire, "ingest_stream", "bad_request")
    daemon.call(wire, "list_backends")


@GROUP.must("2.2")
def empty_data_frame_after_others(daemon: Daemon) -> None:
    """Payload is never empty, also not behind some that is not."""
    wire = daemon.greet()
    wire.send(_INGEST)
    wire.send_data(daemon.fresh())
    wire.send_raw(data_frame(b""))
    try:
        expect_error(wire, "protocol")
    except FailedError as exc:
        raise FailedError("error protocol for an empty data frame", exc.got) from exc
