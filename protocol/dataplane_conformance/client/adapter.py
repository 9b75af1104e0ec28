"""The program between the kit and a client: what it is asked, and what it prints.

`README.md` describes it for whoever writes one.
"""

import contextlib
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from ..verdicts import FailedError, SkippedError, shown

#: Seconds that a program may take to start, which is not what is judged.
START_TIMEOUT: Final = 30.0

_LAST_WORDS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One thing to do with the client.

    Attributes:
        args: As on the wire.
        body: What to ingest.
        digest: What the body is expected to have.
        fail_after: Bytes of the body after which its source fails.
        read: Bytes of a served body after which to close it.
    """

    op: str
    args: Mapping[str, object] = field(default_factory=dict[str, object])
    body: bytes | None = None
    digest: str = ""
    fail_after: int | None = None
    read: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the adapter printed for one call: one of both, or the reason why it cannot."""

    ok: Mapping[str, object] | None
    error: Mapping[str, object] | None
    received: int | None

    def __str__(self) -> str:
        return shown({"ok": dict(self.ok or {})} if self.ok is not None else self.error)


class Adapter:
    """A running adapter, asked to make calls one after the other.

    Args:
        command: The program and its arguments; the request becomes the last one.
        path: The socket that the client is to connect to.
        calls: In order, on one client.
    """

    def __init__(self, command: Sequence[str], path: str, calls: Sequence[Call]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dataplane-conformance-")
        self._buffer = b""
        request = {"socket": path, "calls": [self._written(call) for call in calls]}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this
        self._process = subprocess.Popen(  # noqa: S603 - whoever runs the kit has named it
            [*command, json.dumps(request)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def fileno(self) -> int:
        """Give the descriptor that is readable when an outcome is coming."""
        return self._output.fileno()

    @property
    def has_spoken(self) -> bool:
        """Whether an outcome, or the end, is there without waiting."""
        return b"\n" in self._buffer or bool(select.select([self._output], [], [], 0)[0])

    def outcome(self, timeout: float) -> Outcome:
        """Wait for the outcome of the next call.

        Raises:
            FailedError: None came in time, or something that is none.
            SkippedError: The adapter says that it cannot do this with its client.
        """
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._output], [], [], left)[0]:
                raise FailedError("an outcome from the client", f"nothing for {timeout:g} s")
            data = os.read(self._output.fileno(), 65_536)
            if not data:
                raise FailedError("an outcome from the client", f"its end: {self._last_words()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return _parsed(line)

    def close(self) -> None:
        """End the program, if it has not ended, and clean up."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._errors.close()
        self._folder.cleanup()

    def _written(self, call: Call) -> dict[str, object]:
        request: dict[str, object] = {"op": call.op, "args": call.args}
        if call.body is not None:
            descriptor, path = tempfile.mkstemp(dir=self._folder.name)
            with open(descriptor, "wb") as file:
                file.write(call.body)
            request["body"] = path
        if call.digest:
            request["digest"] = call.digest
        if call.fail_after is not None:
            request["fail_after"] = call.fail_after
        if call.read is not None:
            request["read"] = call.read
        return request

    def _last_words(self) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _LAST_WORDS))
        return " ".join(self._errors.read().decode(errors="replace").split())


def _parsed(line: bytes) -> Outcome:
    try:
        document: Any = json.loads(line)
    except ValueError:
        raise FailedError("one JSON document for each call", shown(line)) from None
    entries = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    if "unsupported" in entries:
        raise SkippedError(f"the adapter says: {entries['unsupported']}")
    ok, error = entries.get("ok"), entries.get("error")
    if isinstance(ok, dict) == isinstance(error, dict):
        raise FailedError("an outcome with ok or error", shown(line.decode()))
    return Outcome(ok=ok, error=error, received=entries.get("received_bytes"))
