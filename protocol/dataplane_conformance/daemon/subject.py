"""The daemon under judgement: connections to it, calls, and what must be cleaned up."""

import contextlib
import functools
import itertools
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from ..frames import Control
from ..vectors import KnownObject, matches, objects
from ..verdicts import Ending, FailedError, SkippedError, shown
from ..wire import Wire

DATA_SIZE: Final = 262_144

#: Seconds that the command of `--tamper` may take.
_TAMPER_TIMEOUT: Final = 60

_FILLING: Final = b", an object of the conformance kit"
_NAMES: Final = ("content_address", "sha256_digest")

#: Words of 4 bytes that count up, so that no two parts of the large object are alike: more than
#: a socket holds, so that a daemon is still serving it when something else happens.
_LARGE_WORDS: Final = 1_100_000
_LARGE_BLAKE3: Final = "blake3:b71bd7b74ea4654dafc0799df14f3259442f1a213b3c3a067c0d1664f378facf"
_LARGE_SHA256: Final = "sha256:a4ff608634976defcd1cd51a088d97041dcd84dc643b7456751c1a682519d126"


@functools.cache
def large_object() -> KnownObject:
    """Give an object of several frames and blocks whose digests are known beforehand."""
    data = struct.pack(f">{_LARGE_WORDS}I", *range(_LARGE_WORDS))
    return KnownObject(name="counting", data=data, blake3=_LARGE_BLAKE3, sha256=_LARGE_SHA256)


class UnreachableError(FailedError):
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingest was answered."""

    address: str
    sha256: str
    outcome: str
    generation: int
    result: Control


class Daemon:
    """A daemon behind a socket.

    Args:
        path: Where it listens.
        timeout: Seconds without progress after which it has failed.
        tamper: A command that changes the first stored byte of the object whose address is
            its last argument.
        max_object_size: Bytes that an object may have, as far as the caller knows.

    Attributes:
        errors: Every error frame that it has sent, `error` map and whether it was in place
            of the hello.
        is_empty: Whether it held nothing before the run.
    """

    def __init__(
        self,
        path: str,
        timeout: float,
        *,
        tamper: Sequence[str] = (),
        max_object_size: int | None = None,
    ) -> None:
        self.path = path
        self.timeout = timeout
        self.max_object_size = max_object_size
        self._tamper = tamper
        self.errors: list[Control] = []
        self.is_empty = True
        self._wires: list[Wire] = []
        self._acknowledged: set[str] = set()
        self._created: set[str] = set()
        self._kept: set[str] = set()
        # What a run that was killed has left must not be taken for this one's.
        self._nonce = secrets.token_bytes(8)
        self._numbers = itertools.count()

    @property
    def ending(self) -> Ending:
        """How the connection that was opened last has ended."""
        return self._wires[-1].ending if self._wires else Ending.NONE

    def look(self) -> None:
        """Find out what is there before the first case, which is never deleted.

        Raises:
            UnreachableError: Nobody listens.
        """
        try:
            wire = self.greet()
            self.is_empty = not self.call(wire, "list_objects", limit=1)["objects"]
            known = [*objects().values(), large_object()]
            found = self.stat(wire, [entry.blake3 for entry in known])
            self._kept = {str(entry[key]) for entry in found for key in _NAMES}
        except UnreachableError:
            raise
        except FailedError:
            # One that cannot do this fails cases, which say what is wrong.
            self.is_empty = False
        finally:
            self.release()

    def dial(self, *, takes_descriptors: bool = False) -> Wire:
        """Connect and say nothing yet."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self.path)
        except OSError as exc:
            sock.close()
            raise UnreachableError("a daemon that accepts", f"{exc.strerror or exc}") from exc
        wire = Wire(sock, "client", self.timeout, self._hear)
        wire.takes_descriptors = takes_descriptors
        self._wires.append(wire)
        return wire

    def greet(self, features: Sequence[str] = (), *, takes_descriptors: bool = False) -> Wire:
        """Connect and exchange hellos."""
        wire = self.dial(takes_descriptors=takes_descriptors)
        wire.send({"hello": {"version": 1, "features": list(features)}})
        expect(wire, {"hello": {"version": 1}})
        return wire

    def call(self, wire: Wire, op: str, **args: object) -> Control:
        """Make a call without bodies that must succeed, and give its result."""
        wire.send({"op": op, "args": args})
        return cast("Control", expect(wire, {"ok": {}})["ok"])

    def refused(self, wire: Wire, op: str, code: str, **args: object) -> Control:
        """Make a call that must be refused with a code, and give the error."""
        wire.send({"op": op, "args": args})
        return expect_error(wire, code)

    def ingest(
        self, wire: Wire, data: bytes, *, piece: int = DATA_SIZE, digest: str = "", **args: object
    ) -> Ingested:
        """Ingest data in frames of `piece` bytes, and check the result."""
        wire.send({"op": "ingest_stream", "args": args, "body": "stream"})
        frames = (data[at : at + piece] for at in range(0, len(data), piece))
        wire.send_bytes(b"".join(map(wire.made_data, frames)))
        wire.send(end_of(data, digest))
        return expect_ingested(wire)

    def serve(self, wire: Wire, address: str, **args: object) -> bytes:
        """Have an object or a range served, and give the body."""
        wire.send({"op": "serve_object", "args": {"content_address": address, **args}})
        return expect_served(wire)

    def stat(self, wire: Wire, addresses: Sequence[str]) -> list[Control]:
        """Give the entries of those that are present."""
        return cast(
            "list[Control]",
            self.call(wire, "stat_objects", content_addresses=list(addresses))["objects"],
        )

    def is_alive(self) -> None:
        """Check that it still answers others."""
        self.call(self.greet(), "list_backends")

    def fresh(self, size: int = 40) -> bytes:
        """Give content that this run has not used before."""
        start = self._nonce + struct.pack(">I", next(self._numbers))
        return (start + _FILLING * (size // len(_FILLING) + 1))[:size]

    def known(self, name: str) -> KnownObject:
        """Give one of the objects of the vectors, unless the store held it before."""
        return self._unless_kept(objects()[name])

    def large(self) -> KnownObject:
        """Give the large object, unless the store held it before."""
        return self._unless_kept(large_object())

    def require_own(self, text: str) -> None:
        """Skip a case whose text names an object that the store held before."""
        if any(name in text for name in self._kept):
            raise SkippedError("the store held an object of this case before the run")

    def require_tamper(self) -> None:
        """Skip a case that needs a damaged object where there is no way to damage one."""
        if not self._tamper:
            raise SkippedError("needs --tamper, a command that damages a stored object")

    def damage(self, stored: KnownObject) -> None:
        """Change the first stored byte of an object."""
        command = [*self._tamper, stored.blake3]
        try:
            done = subprocess.run(  # noqa: S603 - whoever runs the kit has named the command
                command, capture_output=True, text=True, timeout=_TAMPER_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise SkippedError(f"the command of --tamper failed: {exc}") from exc
        if done.returncode:
            reason = shown(done.stderr.strip())
            raise SkippedError(f"the command of --tamper failed with {done.returncode}: {reason}")

    def require_empty(self) -> None:
        """Skip a case that only an empty store can play."""
        if not self.is_empty:
            raise SkippedError("the store was not empty before the run")

    def release(self) -> None:
        """Close every connection and delete every object of the last case."""
        sent: set[str] = set()
        for wire in self._wires:
            sent |= wire.sent_names
            wire.close()
        self._wires = []
        # What was there without this run having created it is somebody else's.
        self._kept |= self._acknowledged - self._created
        names, self._acknowledged = (sent | self._acknowledged) - self._kept, set()
        if not names:
            return
        # A daemon that cannot do this fails the next case, which says what is wrong.
        with contextlib.suppress(FailedError, OSError):
            wire = self.greet()
            for name in sorted(names):
                self.call(wire, "delete_object", content_address=name)
        for wire in self._wires:
            wire.close()
        self._wires = []

    def _unless_kept(self, entry: KnownObject) -> KnownObject:
        self.require_own(f"{entry.blake3} {entry.sha256}")
        return entry

    def _hear(self, control: Control) -> None:
        if isinstance(error := control.get("error"), dict):
            self.errors.append(cast("Control", error))
        if isinstance(result := control.get("ok"), dict):
            self._hear_receipt(cast("Control", result))

    def _hear_receipt(self, result: Control) -> None:
        receipt = result.get("receipt")
        if isinstance(receipt, dict):
            name = str(result.get("sha256_digest"))
            self._acknowledged.add(name)
            if cast("Control", receipt).get("outcome") == "created":
                self._created.add(name)


def expect(wire: Wire, pattern: Mapping[str, object]) -> Control:
    """Give the next frame, which must be a control frame that matches, with a body or not."""
    frame = wire.receive()
    if not isinstance(frame, dict) or not matches(pattern, frame):
        raise FailedError(shown(dict(pattern)), shown(frame))
    if ("body" in pattern) != ("body" in frame):
        raise FailedError(f"a body, or none, as in {shown(dict(pattern))}", shown(frame))
    return frame


def expect_error(wire: Wire, *codes: str) -> Control:
    """Give the next frame, which must be an error with one of the codes."""
    frame = wire.receive()
    error = frame.get("error") if isinstance(frame, dict) else None
    if not isinstance(error, dict) or cast("Control", error)["code"] not in codes:
        raise FailedError(f"error {' or '.join(codes)}", shown(frame))
    return cast("Control", error)


def expect_closed(wire: Wire) -> None:
    """Take the end of the connection, or a reset."""
    if (frame := wire.receive()) is not None:
        raise FailedError("the end of the connection", shown(frame))


def expect_violation(wire: Wire) -> None:
    """Take `error` with the code `protocol` and the end of the connection."""
    expect_error(wire, "protocol")
    expect_closed(wire)


def expect_ingested(wire: Wire) -> Ingested:
    """Take the answer of an ingest and hold it against the body that was sent."""
    result = cast("Control", expect(wire, {"ok": {}})["ok"])
    sent = wire.own_body
    if (result["size_bytes"], result["sha256_digest"]) != (sent.size, sent.sha256):
        raise FailedError(f"{sent.size} bytes with digest {sent.sha256}", shown(result))
    receipt = cast("Control", result["receipt"])
    return Ingested(
        address=str(result["primary_digest"]),
        sha256=str(result["sha256_digest"]),
        outcome=str(receipt["outcome"]),
        generation=cast("int", receipt["generation"]),
        result=result,
    )


def expect_served(wire: Wire) -> bytes:
    """Take `ok` and a streamed body to its good end, and give the body."""
    expect(wire, {"ok": {}, "body": "stream"})
    return expect_body(wire)


def expect_body(wire: Wire) -> bytes:
    """Take the data frames of a body and its `end`."""
    pieces = list(pieces_of(wire))
    return b"".join(pieces)


def pieces_of(wire: Wire) -> Iterator[bytes]:
    """Give the payloads of a body up to its `end`."""
    while isinstance(frame := wire.receive(), bytes):
        yield frame
    if frame is None or "end" not in frame:
        raise FailedError("data or end", shown(frame))


def end_of(data: bytes, digest: str = "") -> Control:
    """Give the `end` of a body."""
    end: Control = {"size_bytes": len(data)}
    if digest:
        end["digest"] = digest
    return {"end": end}


def check(condition: bool, expected: str, got: object) -> None:  # noqa: FBT001
    """Fail unless the condition holds."""
    if not condition:
        raise FailedError(expected, got if isinstance(got, str) else shown(got))
