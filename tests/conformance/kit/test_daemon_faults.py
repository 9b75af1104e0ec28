"""Faults planted in the daemon: each is caught by a case of the kit that is named beforehand."""

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
    backend: str = "memory"


def fault(
    name: str, module: str, old: str, new: str, *cases: str, backend: str = "memory"
) -> Fault:
    return Fault(name, ((module, old, new),), cases, backend)


CODEC = "dataplane_protocol._codec"
FRAMES = "dataplane_protocol._frames"
HALVES = "dataplane_protocol._halves"
MESSAGES = "dataplane_protocol._messages"
FIELDS = "dataplane_protocol._fields"
SERVER = "dataplaned.server"
PEER = "dataplaned.peer"
PLANE = "dataplaned.plane"
MEMORY = "dataplaned.backends.memory"
READING = "dataplaned.backends.filesystem.reading"

#: Without it cbor2's own strictness is all there is.
NO_RESPELLING = (CODEC, "if respelled != item:", "if False:")

OUTPUT = (
    fault(
        "keys are sent in the order of insertion",
        CODEC,
        "item = cbor2.dumps(message, canonical=True)",
        "item = cbor2.dumps(message)",
        "7.1/ingest",
        "7.5/health",
    ),
    fault(
        "maps are sent with long heads",
        CODEC,
        "    return item\n",
        "    return bytes([0xB8, item[0] - 0xA0]) + item[1:]\n",
        "4/hello",
    ),
    fault(
        "data is sent with long heads",
        FRAMES,
        'return struct.pack(">IB", size + 1, 0x40 + size)',
        'return struct.pack(">IBB", size + 2, 0x58, size)',
        "7.2/serve",
    ),
    fault(
        "a body has no end",
        SERVER,
        "await self._peer.send(end)",
        "await self._peer.flush()",
        "7.2/serve",
    ),
    fault(
        "the end of a body has another size",
        SERVER,
        "end = End(size_bytes=stream.length, digest=digest)",
        "end = End(size_bytes=stream.length + 1, digest=digest)",
        "7.2/serve",
    ),
    fault(
        "the end of a body has another digest",
        SERVER,
        "digest = address.to_digest() if",
        'digest = Digest("sha256", "5a" * 32) if',
        "7.2/serve",
        "7.2/digest-in-the-end",
    ),
    fault(
        "a hello has no version",
        MESSAGES,
        'hello: dict[str, object] = {"version": self.version, "features"',
        'hello: dict[str, object] = {"features"',
        "4/hello",
    ),
    fault(
        "an error has no code",
        MESSAGES,
        '{"code": self.code, "message": self.message}',
        '{"message": self.message}',
        "7.2/serve-a-missing-object",
    ),
    fault(
        "an error that may be retried does not say so",
        MESSAGES,
        "if self.retry:",
        "if False:",
        "4/too-many-connections",
    ),
    fault(
        "absent fields are sent as null",
        "dataplane_protocol._results",
        "        if value is not None:\n            wire[key] = value",
        "        wire[key] = value",
        "7.5/health",
    ),
    fault(
        "data frames are cut small",
        PEER,
        "range(0, len(view), DATA_SIZE):\n"
        "            for part in self._data_frame(view[start : start + DATA_SIZE])",
        "range(0, len(view), 4096):\n"
        "            for part in self._data_frame(view[start : start + 4096])",
        "2.2/data-frames-of-the-recommended-size",
    ),
    fault(
        "a message has several lines",
        MESSAGES,
        "return cls(code=error.code, message=error.message,",
        'return cls(code=error.code, message="no\\n" + error.message,',
        "8/messages-are-one-line",
    ),
)

INPUT = (
    Fault(
        "bytes behind an item are ignored",
        (NO_RESPELLING,),
        ["3/encodings-that-a-receiver-must-refuse"],
    ),
    Fault(
        "of duplicate keys the last one counts",
        (NO_RESPELLING, (CODEC, "allow_duplicate_keys=False", "allow_duplicate_keys=True")),
        ["3/encodings-that-a-receiver-must-refuse"],
    ),
    Fault(
        "indefinite lengths are read",
        (NO_RESPELLING, (CODEC, "allow_indefinite=False", "allow_indefinite=True")),
        ["3/encodings-that-a-receiver-must-refuse"],
    ),
    Fault(
        "tags are read",
        (
            NO_RESPELLING,
            (CODEC, "semantic_decoders=dict.fromkeys(_BUILT_IN_TAGS, _refuse_tag),", ""),
            (CODEC, "tag_hook=_refuse_tag,", ""),
        ),
        ["3/encodings-that-a-receiver-must-refuse"],
    ),
    fault(
        "keys need not be text",
        CODEC,
        "object_hook=_require_text_keys,",
        "",
        "3/encodings-that-a-receiver-must-refuse",
    ),
    Fault(
        "nesting is not bounded",
        (
            (CODEC, "max_depth=MAX_DEPTH", "max_depth=300"),
            (CODEC, "if _is_deeper(message, MAX_DEPTH):", "if False:"),
        ),
        ["9/deepest-nesting"],
    ),
    fault(
        "empty containers do not count as nested",
        CODEC,
        "if _is_deeper(message, MAX_DEPTH):",
        "if False:",
        "3/encodings-that-a-receiver-must-refuse",
    ),
    fault(
        "empty data frames are read",
        FRAMES,
        "if not 1 <= size <= MAX_DATA_SIZE:\n            raise RemoteProtocolError(",
        "if not 0 <= size <= MAX_DATA_SIZE:\n            raise RemoteProtocolError(",
        "2.2/refuses-empty-data",
        "2.2/empty-data-frame-after-others",
    ),
    fault(
        "data frames may have 2 MiB",
        "dataplane_protocol._limits",
        "MAX_DATA_SIZE: Final = 1_048_576",
        "MAX_DATA_SIZE: Final = 2_097_152",
        "2.1/refuses-length-one-over-the-largest-frame",
    ),
    fault(
        "data frames may have 65,536 bytes only",
        "dataplane_protocol._limits",
        "MAX_DATA_SIZE: Final = 1_048_576",
        "MAX_DATA_SIZE: Final = 65_536",
        "2.2/data-frames-of-1-mib",
    ),
    fault(
        "data frames may have long heads",
        FRAMES,
        "if size < least:",
        "if False:",
        "2.2/refuses-data-with-a-head-of-1-byte-too-many",
    ),
    fault(
        "control frames may have any size",
        FRAMES,
        "if length > MAX_CONTROL_SIZE:",
        "if False:",
        "9/refuses-control-frame-one-over-the-limit",
        "9/largest-control-frame",
    ),
    fault(
        "of two kinds the first one counts",
        MESSAGES,
        "if len(kinds) != 1:",
        "if not kinds:",
        "3/encodings-that-a-receiver-must-refuse",
    ),
    fault(
        "true is an integer",
        FIELDS,
        "not isinstance(value, int) or isinstance(value, bool) or",
        "not isinstance(value, int) or",
        "2.3/refuses-end-with-a-size-that-is-true",
        "6.2/malformed-ranges",
    ),
    fault(
        "null is the same as absent",
        FIELDS,
        "return self.text(key) if key in self._map else None",
        "return self.text(key) if self._map.get(key) is not None else None",
        "2.3/null-is-not-absent",
    ),
    fault(
        "digests may be upper-case",
        "dataplane_protocol._identity",
        '_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")',
        '_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){1,64}")',
        "6.1/malformed-addresses",
    ),
    fault(
        "unknown keys are refused",
        "dataplane_protocol._arguments",
        'return Fields(args, "args", InvalidRequestError)',
        'return Fields(None if "later" in args else args, "args", InvalidRequestError)',
        "10/unknown-keys-everywhere",
    ),
    fault(
        "each frame has to come in one piece",
        FRAMES,
        "        missing = size - len(self._partial)\n",
        "        missing = size - len(self._partial)\n"
        "        if self._partial:\n            raise RemoteProtocolError('in pieces')\n",
        "2.1/frames-split-into-single-bytes",
    ),
)

ORDER = (
    fault(
        "version 2 is accepted",
        SERVER,
        "if hello.version != PROTOCOL_VERSION:",
        "if False:",
        "4/hello-of-another-version",
    ),
    fault(
        "features are enabled that were not offered",
        SERVER,
        "features = tuple(name for name in self._features if name in hello.features)",
        "features = tuple(self._features)",
        "4.1/features-are-those-that-were-offered",
    ),
    fault(
        "a violation is not told",
        SERVER,
        "await self._break_off(str(exc))",
        "pass",
        "5.9/garbage-after-the-hello",
    ),
    fault(
        "a connection stays open after a violation",
        SERVER,
        "await self._break_off(str(exc))",
        "await self._break_off(str(exc))\n            await trio.sleep_forever()",
        "5.9/garbage-after-the-hello",
    ),
    Fault(
        "an ingest is answered before its body has ended",
        (
            (
                SERVER,
                "            return bytes(event)\n",
                "            self._end = End(size_bytes=0)\n            return bytes(event)\n",
            ),
            (HALVES, "return client is State.DONE", "return True"),
        ),
        ["5.2/no-answer-before-the-end-of-the-body"],
    ),
    fault(
        "an abort is not answered",
        SERVER,
        "        except DataPlaneError as exc:\n            await self._refuse(call, exc)",
        "        except CallCancelledError:\n            pass\n"
        "        except DataPlaneError as exc:\n            await self._refuse(call, exc)",
        "5.4/ingest-aborted",
    ),
    fault(
        "an abort stores what has come",
        SERVER,
        'raise CallCancelledError("the body was given up by its sender")',
        "raise StopAsyncIteration",
        "5.4/ingest-aborted",
    ),
    fault(
        "the end of a connection is taken for that of the body",
        SERVER,
        "            raise StopAsyncIteration\n        event = await self._peer.receive()\n",
        "            raise StopAsyncIteration\n        try:\n"
        "            event = await self._peer.receive()\n        except PeerGoneError:\n"
        "            raise StopAsyncIteration from None\n",
        "5.6/end-of-the-connection-in-a-body",
    ),
    fault(
        "an unknown operation closes the connection",
        SERVER,
        'raise UnsupportedError("operation is not supported")',
        'raise PeerGoneError("operation is not supported")',
        "10/unknown-operation",
    ),
    fault(
        "a refused body is not discarded",
        SERVER,
        "        await self._discard_body()\n",
        "        pass\n",
        "5.3/early-refusal-then-the-body-is-given-up",
    ),
    fault(
        "a refusal waits for the end of the body",
        SERVER,
        "        failure = Failure.from_error(error)\n        if len",
        "        await self._discard_body()\n"
        "        failure = Failure.from_error(error)\n        if len",
        "5.3/refused-before-the-body",
    ),
    fault(
        "a refusal is answered twice",
        SERVER,
        "        await self._peer.send(failure)\n",
        "        await self._peer.send(failure)\n"
        "        from dataplane_protocol import encode_frame\n"
        "        self._peer._queue(encode_frame(failure.to_wire()))\n",
        "5.3/end-of-a-refused-body-is-not-judged",
    ),
    fault(
        "stray frames between calls are skipped",
        SERVER,
        "        event = await self._peer.receive()\n"
        "        if isinstance(event, ConnectionClosed):",
        "        try:\n            event = await self._peer.receive()\n"
        "        except PeerViolationError:\n            await trio.sleep_forever()\n"
        "        if isinstance(event, ConnectionClosed):",
        "5.9/stray-frames-while-no-call-is-open",
    ),
    fault(
        "a body is taken by operations that have none",
        SERVER,
        "if (request.body is not None) != is_needed:",
        "if request.body is None and is_needed:",
        "7/body-where-none-belongs",
    ),
)

OPERATIONS = (
    fault(
        "the size of a body is not compared",
        SERVER,
        "event.check_size(self._peer.connection.received_bytes)",
        "pass",
        "5.7/ingest-with-a-size-that-does-not-match",
    ),
    fault(
        "the digest of a body is not compared",
        PLANE,
        "            _compare(digests, expected_digest)\n",
        "            pass\n",
        "5.7/digest-that-does-not-match",
    ),
    fault(
        "the primary algorithm is ignored",
        PLANE,
        "digest = digests.named(primary)",
        "digest = digests.named(BLAKE3)",
        "7.1/ingest-with-sha256-as-primary",
    ),
    fault(
        "an object that was there is said to be created",
        MEMORY,
        "outcome = IngestOutcome.EXISTED",
        "outcome = IngestOutcome.CREATED",
        "7.1/outcomes-of-repeats",
    ),
    fault(
        "generations do not grow",
        MEMORY,
        "self._generation += 1",
        "self._generation = 1",
        "7/generations-grow",
    ),
    fault(
        "ranges lack their last byte",
        "dataplane_protocol._ranges",
        "return first, min(last, size - 1) - first + 1",
        "return first, min(last, size - 1) - first",
        "7.2/serve-a-range",
    ),
    fault(
        "ranges are not cut at the end",
        "dataplane_protocol._ranges",
        "if first >= size:",
        "if last >= size:",
        "7.2/serve-a-range-past-the-end",
    ),
    fault(
        "a range may start at the end",
        "dataplane_protocol._ranges",
        "if first >= size:",
        "if first > size:",
        "7.2/serve-a-range-out-of-bounds",
    ),
    fault(
        "ranges are wrong behind the first block",
        PLANE,
        "first_block, skip = divmod(self._position, BLOCK_SIZE)",
        "first_block, skip = divmod(self._position, BLOCK_SIZE)\n"
        "        skip = skip and skip - (first_block > 0)",
        "6.2/ranges-over-edges-of-blocks",
    ),
    fault(
        "a served object ends with its deletion",
        MEMORY,
        "entry = self._entries.pop(name)\n",
        "entry = self._entries.pop(name)\n        entry.data = b''\n",
        "7.2/object-deleted-while-it-is-served",
    ),
    fault(
        "a missing object is verified",
        SERVER,
        "                verified = await plane.verify_object(address, backend_id=backend)\n",
        "                try:\n"
        "                    verified = await plane.verify_object(address, backend_id=backend)\n"
        "                except LookupError:\n"
        "                    return {'content_address': str(address), 'verified': True,\n"
        "                            'actual_primary_digest': str(address),\n"
        "                            'actual_sha256_digest': 'sha256:' + '0' * 64,\n"
        "                            'actual_size_bytes': 0}\n",
        "7.3/verify-a-missing-object",
    ),
    fault(
        "a delete is always true",
        MEMORY,
        "            return False\n        generation",
        "            return True\n        generation",
        "7.4/delete-is-true-once",
    ),
    fault(
        "a delete removes one of two names",
        MEMORY,
        "        del self._blake3_names[entry.status.sha256_digest]\n",
        "",
        "7.4/delete-is-true-once",
    ),
    fault(
        "a delete ignores the generation",
        MEMORY,
        "if if_generation not in (None, generation):",
        "if False:",
        "7.4/delete-if-the-generation-does-not-hold",
    ),
    fault(
        "stat describes what is missing",
        MEMORY,
        "names = (self._blake3_names.get(digest) for digest in digests)",
        "names = (self._blake3_names.get(digest, next(iter(self._entries), None))"
        " for digest in digests)",
        "7.6/stat",
    ),
    fault(
        "stat answers in another order",
        MEMORY,
        "names = (self._blake3_names.get(digest) for digest in digests)",
        "names = reversed([self._blake3_names.get(digest) for digest in digests])",
        "7.6/stat",
    ),
    fault(
        "stat takes any number of addresses",
        FIELDS,
        "if not 1 <= len(texts) <= most:",
        "if not 1 <= len(texts):",
        "7.6/stat-of-a-full-batch",
    ),
    fault(
        "a listing is not in order",
        MEMORY,
        "names = sorted(name for",
        "names = list(name for",
        "7.7/walk-over-many-objects",
    ),
    fault(
        "a page repeats the last entry of the one before",
        MEMORY,
        "if after is None or name > after)",
        "if after is None or name >= after)",
        "7.7/walk-over-many-objects",
    ),
    fault(
        "a page skips the entry after the last one",
        MEMORY,
        "for name in names[:limit]),",
        "for name in names[after is not None :][:limit]),",
        "7.7/walk-over-many-objects",
    ),
    fault(
        "a full last page says that more follow",
        MEMORY,
        "more=len(names) > limit",
        "more=len(names) >= limit",
        "7.7/more-tells-whether-entries-follow",
    ),
    fault(
        "an unknown backend is the default one",
        PLANE,
        "return self._backends.get(self._default if backend_id is None else backend_id)",
        "return self._backends.get(backend_id or '', self._backends[self._default])",
        "7/unknown-backend-in-every-operation",
    ),
    fault(
        "an unknown algorithm is not found",
        PLANE,
        'raise UnsupportedError(f"algorithm must be',
        'raise UnknownBackendError(f"algorithm must be',
        "6.1/addresses-of-other-algorithms",
    ),
)

DESCRIPTORS = (
    fault(
        "a descriptor is announced and does not come",
        PEER,
        "ancillary = self._ancillary()",
        "ancillary: list[tuple[int, int, bytes]] = []",
        "5.11/descriptor-of-a-whole-object",
        backend="filesystem",
    ),
    fault(
        "a descriptor comes twice",
        PEER,
        'rights = struct.pack("i", self._descriptor)',
        'rights = struct.pack("2i", self._descriptor, self._descriptor)',
        "5.11/descriptor-of-a-whole-object",
        backend="filesystem",
    ),
    fault(
        "a descriptor is that of an empty pipe",
        SERVER,
        "return stream.take_descriptor()",
        "return __import__('os').pipe()[0]",
        "5.11/descriptor-of-a-whole-object",
        backend="filesystem",
    ),
    Fault(
        "a descriptor comes unasked",
        (
            (SERVER, "request.accept_fd and SERVE_FD in", "SERVE_FD in"),
            ("dataplane_protocol._connection", "not self._accepts_fd:", "False:"),
        ),
        ["5.11/no-descriptor-that-was-not-asked-for"],
        "filesystem",
    ),
    fault(
        "damaged blocks are served",
        READING,
        "bad = find_bad_block(data, digests)",
        "bad = None",
        "7.2/damaged-object-is-not-served",
        backend="filesystem",
    ),
)

FAULTS = (*OUTPUT, *INPUT, *ORDER, *OPERATIONS, *DESCRIPTORS)

#: One of each kind, which every run of the tests plants.
QUICK = ("keys are sent in the order of insertion", "an abort stores what has come")


def _marked(entry: Fault) -> Any:
    marks = [] if entry.name in QUICK else [pytest.mark.slow]
    return pytest.param(entry, id=entry.name, marks=marks)


@pytest.mark.parametrize("entry", [_marked(entry) for entry in FAULTS])
def test_a_fault_in_the_daemon_is_caught(
    entry: Fault, judge: Callable[..., Any], run_daemon: Callable[..., Any], memory_config: str
) -> None:
    config = memory_config if entry.backend == "memory" else None
    chosen = [argument for case in entry.cases for argument in ("--only", case)]
    with run_daemon(entry.changes, config=config) as daemon:
        options = ["--strict", "--timeout", "1", "--tamper", daemon.tamper]
        judgement = judge(daemon.socket, *options, *chosen)
    assert len(judgement.cases) == len(entry.cases), "a case that is named is not there"
    assert judgement.failed
    assert judgement.code == 1


def test_faults_have_names_of_their_own() -> None:
    assert len({entry.name for entry in FAULTS}) == len(FAULTS)
