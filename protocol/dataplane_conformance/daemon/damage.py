"""What becomes of an object that was damaged where it is stored (`SPEC.md` 5.5, 7.1 to 7.3).

Only whoever runs the daemon can damage an object, by the command of `--tamper`.
"""

from typing import Final, cast

from ..frames import Control
from ..vectors import KnownObject
from ..verdicts import FailedError, Group
from ..wire import Wire
from .subject import Daemon, check, expect, expect_error

GROUP: Final = Group[Daemon]()


def _damaged(daemon: Daemon) -> tuple[Wire, KnownObject]:
    """Give a connection and an object that was ingested and then damaged."""
    daemon.require_tamper()
    large = daemon.large()
    wire = daemon.greet()
    daemon.ingest(wire, large.data)
    daemon.damage(large)
    return wire, large


def _serve_to_its_bad_end(wire: Wire, large: KnownObject, byte_range: Control | None) -> None:
    args: Control = {"content_address": large.blake3}
    offset = 0
    if byte_range is not None:
        args["byte_range"] = byte_range
        offset = cast("int", byte_range["offset"])
    wire.send({"op": "serve_object", "args": args})
    served = b""
    frame = wire.receive()
    if isinstance(frame, dict) and "ok" in frame:
        frame = wire.receive()
        while isinstance(frame, bytes):
            served += frame
            frame = wire.receive()
    error = frame.get("error") if isinstance(frame, dict) else None
    is_corrupt = isinstance(error, dict) and cast("Control", error)["code"] == "corrupt"
    check(is_corrupt, "error corrupt in place of the end", frame)
    is_prefix = large.data[offset : offset + len(served)] == served
    check(is_prefix, "only bytes that are right before the error", "bytes that are not")


@GROUP.must("7.2")
def damaged_object_is_not_served(daemon: Daemon) -> None:
    """A bad byte is never sent: the serve ends in `corrupt` and the connection stays in use."""
    wire, large = _damaged(daemon)
    _serve_to_its_bad_end(wire, large, None)
    daemon.call(wire, "list_backends")
    _serve_to_its_bad_end(wire, large, None)


@GROUP.must("7.2")
def damaged_range_is_not_served(daemon: Daemon) -> None:
    """Every byte of the object as a range is checked too."""
    wire, large = _damaged(daemon)
    _serve_to_its_bad_end(wire, large, {"offset": 0, "length": len(large.data)})
    daemon.call(wire, "list_backends")


@GROUP.must("7.3")
def damaged_object_is_not_verified(daemon: Daemon) -> None:
    """A verify says false and what it read; the object is then known to be bad."""
    wire, large = _damaged(daemon)
    for address in (large.blake3, large.sha256):
        result = daemon.call(wire, "verify_object", content_address=address)
        check(result["verified"] is False, "verified false", result)
        check(bool(result.get("mismatch")), "a mismatch in words", result)
        is_other = result["actual_primary_digest"] != address
        check(is_other, "the digest of what was read", result["actual_primary_digest"])
    (entry,) = daemon.stat(wire, [large.blake3]) or [{}]
    check(entry.get("state") == "quarantined", "state quarantined", entry)
    wire.send({"op": "serve_object", "args": {"content_address": large.sha256}})
    expect_error(wire, "corrupt")


@GROUP.must("7.1")
def damaged_object_is_healed(daemon: Daemon) -> None:
    """An ingest replaces a copy that is known to be bad, and says so."""
    wire, large = _damaged(daemon)
    before = daemon.stat(wire, [large.blake3])[0]
    daemon.call(wire, "verify_object", content_address=large.blake3)
    stored = daemon.ingest(wire, large.data)
    check(stored.outcome == "healed", "outcome healed", stored.outcome)
    grown = stored.generation > cast("int", before["generation"])
    check(grown, "a greater generation", stored.generation)
    if daemon.serve(wire, large.blake3) != large.data:
        raise FailedError("the object", "other bytes")
    result = daemon.call(wire, "verify_object", content_address=large.blake3)
    check(result["verified"] is True, "verified true", result)
    entry = daemon.stat(wire, [large.blake3])[0]
    check(entry.get("state", "ok") == "ok", "state ok", entry)
    expect_idle(daemon, wire)


def expect_idle(daemon: Daemon, wire: Wire) -> None:
    """Check that the connection carries further calls."""
    daemon.call(wire, "delete_object", content_address=str(f"sha256:{'0' * 64}"))
    check(wire.halves.are_ready, "both halves ready", wire.halves.states)


@GROUP.must("7.4")
def damaged_object_is_deleted(daemon: Daemon) -> None:
    """A bad object can be deleted, and ingested anew."""
    wire, large = _damaged(daemon)
    daemon.call(wire, "verify_object", content_address=large.blake3)
    result = daemon.call(wire, "delete_object", content_address=large.blake3)
    check(result["deleted"] is True, "deleted", result)
    stored = daemon.ingest(wire, large.data)
    check(stored.outcome == "created", "outcome created", stored.outcome)
    wire.send({"op": "serve_object", "args": {"content_address": large.sha256}})
    expect(wire, {"ok": {}, "body": "stream"})
