"""Faults planted in the client: each is caught by a case of the kit that is named beforehand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass(frozen=True)
class Fault:
    """What is replaced by what, and the cases of which at least one must then fail."""

    name: str
    changes: Sequence[tuple[str, str, str]]
    cases: Sequence[str]


def fault(name: str, module: str, old: str, new: str, *cases: str) -> Fault:
    return Fault(name, ((module, old, new),), cases)


BODY = "dataplane_client._body"
CALLS = "dataplane_client._calls"
CONNECTION = "dataplane_client._connection"
INGEST = "dataplane_client._ingest"
POOL = "dataplane_client._pool"
CODEC = "dataplane_protocol._codec"
ERRORS = "dataplane_protocol._errors"
FRAMES = "dataplane_protocol._frames"
MESSAGES = "dataplane_protocol._messages"

FAULTS = (
    fault(
        "a hello has version 2",
        CONNECTION,
        "_HELLO: Final = Hello(",
        "_HELLO: Final = Hello(version=2, ",
        "7.5/health",
    ),
    fault(
        "keys are sent in the order of insertion",
        CODEC,
        "item = cbor2.dumps(message, canonical=True)",
        "item = cbor2.dumps(dict(reversed(message.items())))",
        "7.1/ingest",
    ),
    fault(
        "the request does not wait for the hello",
        CONNECTION,
        "await self.send(self.protocol.send(_HELLO))",
        "await self.send(self.protocol.send(_HELLO), b'\\0')",
        "4/waits-for-the-hello-of-the-server",
    ),
    fault(
        "bytes behind an item are ignored",
        CODEC,
        "if respelled != item:",
        "if False:",
        "3/encodings-that-a-receiver-must-refuse",
    ),
    fault(
        "data frames may have long heads",
        FRAMES,
        "if size < least:",
        "if False:",
        "2.2/refuses-data-with-a-head-of-1-byte-too-many",
    ),
    fault(
        "the end of a body states another size than was sent",
        INGEST,
        "End(size_bytes=self._total + self._kept_size, digest=digest)",
        "End(size_bytes=self._total + self._kept_size + 1, digest=digest)",
        "7.1/ingest",
    ),
    fault(
        "the digest that the caller expects is not sent",
        INGEST,
        "End(size_bytes=self._total + self._kept_size, digest=digest)",
        "End(size_bytes=self._total + self._kept_size)",
        "7.1/ingest-with-the-expected-blake3-digest",
    ),
    fault(
        "data is sent in small frames",
        INGEST,
        "self._keep(self._rest[: DATA_SIZE - self._kept_size])\n"
        "            if self._kept_size == DATA_SIZE:",
        "self._keep(self._rest[: 4096 - self._kept_size])\n            if self._kept_size == 4096:",
        "2.2/data-frames-of-the-recommended-size",
    ),
    fault(
        "hints are not sent",
        INGEST,
        "request = connection.begin(self._request)",
        "from dataclasses import replace\n"
        "        request = connection.begin(replace(self._request, args={}))",
        "7.1/ingest-with-sha256-as-primary",
    ),
    fault(
        "nobody looks for an early refusal",
        INGEST,
        "            await _check_refusal(connection)\n",
        "",
        "5.3/gives-a-refused-body-up",
    ),
    fault(
        "the reason is not read after a broken pipe",
        CONNECTION,
        "                self.is_write_broken = True\n                return\n",
        "                self.is_lost = True\n"
        "                raise ConnectionLostError('broken pipe') from exc\n",
        "5.3/reason-is-read-after-a-broken-pipe",
    ),
    fault(
        "a body whose source fails is ended as if it were whole",
        INGEST,
        "        await connection.send(connection.protocol.send(_CALLED_OFF))\n"
        "        await connection.receive_answer(None)",
        "        await connection.send(connection.protocol.send(\n"
        "            End(size_bytes=connection.protocol.sent_bytes)))\n"
        "        await connection.receive_answer(None)",
        "12.5/own-body-that-fails",
    ),
    fault(
        "the failure of a source is told as cancelled",
        INGEST,
        "            await _call_off(connection)\n            raise\n",
        "            await _call_off(connection)\n"
        "            raise CallCancelledError('given up') from None\n",
        "12.5/own-body-that-fails",
    ),
    fault(
        "the size of a served body is not compared",
        BODY,
        "        last.check_size(self._received)\n",
        "",
        "5.7/sizes-of-the-end-that-do-not-match",
    ),
    fault(
        "an error in place of the end is taken for the end",
        BODY,
        "            raise last.to_error()\n",
        "            return\n",
        "5.5/errors-in-place-of-the-end",
    ),
    Fault(
        "the last piece does not wait for the end",
        (
            (BODY, "if self._check.is_all_here and not self._check.is_too_long:", "if False:"),
            (BODY, "memoryview) or self._check.is_all_here:", "memoryview):"),
        ),
        ["12.4/last-piece-waits-for-the-end"],
    ),
    fault(
        "a body that is too long is waited for to its end",
        BODY,
        "if self._check.is_all_here and not self._check.is_too_long:",
        "if self._check.is_all_here:",
        "12.4/serve-and-more-comes-than-was-announced",
    ),
    fault(
        "the connection of a bad body is used again",
        CALLS,
        "            if end.size_bytes != served.length:\n",
        "            if False:\n",
        "5.11/descriptor-with-another-size-in-its-end",
    ),
    fault(
        "a digest of the end is not compared",
        BODY,
        "        self._check_digest(last.digest)\n",
        "",
        "5.7/serve-and-the-end-has-another-digest",
        "5.7/sha256-digest-of-the-end-that-does-not-match",
    ),
    fault(
        "a range lacks its last byte",
        "dataplane_protocol._arguments",
        "length = min(last - first + 1, MAX_INTEGER)",
        "length = min(last - first, MAX_INTEGER)",
        "7.2/serve-a-range",
    ),
    fault(
        "what may be tried again is not told",
        MESSAGES,
        'retry=error.optional_boolean("retry")',
        "retry=False",
        "8.1/codes-and-retry-in-every-combination",
    ),
    fault(
        "a code that is not known becomes internal",
        ERRORS,
        "return kind(message, code=code, retry=retry, details=details)",
        "return kind(message, retry=retry, details=details)",
        "8.1/codes-and-retry-in-every-combination",
    ),
    fault(
        "an unknown word is refused",
        "dataplane_protocol._results",
        'state=fields.text("state"),',
        'state={"ok": "ok", "down": "down"}[fields.text("state")],',
        "10/unknown-words-are-passed-on",
    ),
    fault(
        "a lost connection is told as final",
        CONNECTION,
        'raise ConnectionLostError("the daemon closed the connection")',
        'raise ConnectionLostError("the daemon closed the connection", retry=False)',
        "12.3/lost-in-a-call",
    ),
    fault(
        "the end of a connection is taken for that of a body",
        BODY,
        "        event = await connection.receive()\n        piece = b",
        "        from ._connection import ConnectionLostError\n"
        "        try:\n            event = await connection.receive()\n"
        "        except ConnectionLostError:\n            self.is_ended = True\n"
        "            return b''\n        piece = b",
        "12.3/lost-in-a-call",
        "12.4/serve-cut-off-by-the-end-of-the-connection",
    ),
    fault(
        "a stale connection is not tried again",
        POOL,
        "if not (stale.is_reused and stale.is_lost and not stale.has_answer):",
        "if True:",
        "12.3/stale-connection-is-tried-once-more",
    ),
    fault(
        "a new connection is tried again",
        POOL,
        "if not (stale.is_reused and stale.is_lost and not stale.has_answer):",
        "if not (stale.is_lost and not stale.has_answer):",
        "12.3/new-connection-is-not-tried-twice",
    ),
    Fault(
        "a connection with unread bytes is used again",
        (
            (
                POOL,
                "if not connection.is_reusable:",
                "if connection.protocol.our_state != 'ready' and False:",
            ),
            (POOL, "if not connection.is_stale:", "if True:"),
        ),
        ["12.2/unasked-bytes-on-an-idle-connection"],
    ),
    fault(
        "every call has a connection of its own",
        POOL,
        "if not connection.is_reusable:",
        "if True:",
        "12.2/idle-connection-is-used-again",
    ),
    Fault(
        "accept_fd is said although the feature is not agreed",
        (
            (CALLS, "accepts_fd = self.accepts_fd and SERVE_FD in", "accepts_fd = bool("),
            (CALLS, "connection.protocol.features\n", "connection)\n"),
        ),
        ["4.1/no-offered-feature-is-enabled", "7.2/serve"],
    ),
    Fault(
        "a descriptor that does not come is not missed",
        (
            (
                "dataplane_client._descriptors",
                'raise RemoteProtocolError("the answer announced a descriptor that did not come")',
                "return os.open('/dev/null', os.O_RDONLY)",
            ),
            (CALLS, "            check_file(fd, served.size_bytes)\n", ""),
        ),
        ["5.11/descriptor-announced-and-none-comes"],
    ),
    fault(
        "the file of a descriptor is not looked at",
        CALLS,
        "            check_file(fd, served.size_bytes)\n",
        "",
        "5.11/descriptor-of-a-file-of-another-size",
    ),
    fault(
        "results of a wrong type are taken",
        "dataplane_protocol._fields",
        "        if not isinstance(value, bool):\n"
        '            raise self._wrong(key, "true or false")\n        return value',
        "        return bool(value)",
        "5.9/results-that-break-the-schema",
    ),
)

#: Planted in every run of the tests.
QUICK = ("keys are sent in the order of insertion", "a new connection is tried again")


def _marked(entry: Fault) -> Any:
    marks = [] if entry.name in QUICK else [pytest.mark.slow]
    return pytest.param(entry, id=entry.name, marks=marks)


@pytest.mark.parametrize("entry", [_marked(entry) for entry in FAULTS])
def test_a_fault_in_the_client_is_caught(
    entry: Fault,
    judge: Callable[..., Any],
    adapter: Callable[..., list[str]],
    socket_path: str,
) -> None:
    chosen = [argument for case in entry.cases for argument in ("--only", case)]
    options = ["--serve", socket_path, "--strict", "--timeout", "2", *chosen]
    judgement = judge(*options, "--", *adapter("blocking", entry.changes))
    assert len(judgement.cases) == len(entry.cases), "a case that is named is not there"
    assert judgement.failed
    assert not any("does not contain" in case["got"] for case in judgement.cases.values())
    assert judgement.code == 1


def test_faults_have_names_of_their_own() -> None:
    assert len({entry.name for entry in FAULTS}) == len(FAULTS)
