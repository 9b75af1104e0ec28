"""Quick answers held against those of the ordinary way, for the same calls on the same store."""

import os
import re
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from dataplane_protocol import (
    BodyKind,
    Connection,
    Digest,
    End,
    Failure,
    Hello,
    Request,
    Side,
    read_usual,
)
from dataplaned.access import ALL_ROLES, Caller, Role
from dataplaned.backends.filesystem import FilesystemBackend
from dataplaned.backends.memory import MemoryBackend
from dataplaned.config import DaemonConfig, FilesystemConfig
from dataplaned.digests import BLOCK_SIZE, Digester
from dataplaned.peer import BufferPool, Peer
from dataplaned.plane import LocalDataPlane
from dataplaned.quick import QuickCalls
from dataplaned.roster import Roster
from dataplaned.server import Session

CALLER = Caller(pid=1, uid=0, socket="test", roles=ALL_ROLES)
SMALL, OTHER = b"a small object", b"another one"
LARGE = os.urandom(3 * BLOCK_SIZE + 1000)
ABSENT = b"not there"


def digests_of(content):
    digester = Digester()
    digester.update([content])
    return digester.finish()


def name(content, algorithm="blake3"):
    return str(digests_of(content).named(algorithm))


def request(op, **args):
    return (Request(op=op, args=args),)


def ingest(content, digest=None, **args):
    stated = None if digest is None else Digest.parse(digest)
    return (
        Request(op="ingest_stream", args=args, body=BodyKind.STREAM),
        content,
        End(size_bytes=len(content), digest=stated),
    )


def encoded(call):
    connection = greeted()
    frames = b""
    for message in call:
        if isinstance(message, bytes):
            frames += connection.send_data(len(message)) + message if message else b""
        else:
            frames += connection.send(message)
    return frames


def greeted():
    connection = Connection(Side.CLIENT)
    connection.send(Hello())
    server = Connection(Side.SERVER)
    server.receive(Connection(Side.CLIENT).send(Hello()))
    server.next_event()
    connection.receive(server.send(Hello()))
    connection.next_event()
    return connection


class Stores:
    """A store and a plane over it, asked in both ways."""

    def __init__(self, backend, **limits):
        self.backend = backend
        self.plane = LocalDataPlane({"b": backend}, **limits)
        self.quick = QuickCalls(self.plane)

    async def store(self, content):
        async def stream():
            yield content

        return await self.plane.ingest_stream(stream())

    async def quickly(self, call, seat=None):
        """Give the frames of the quick answer, or `None` if there is none."""
        seat = seat or Roster(DaemonConfig()).admit(CALLER)
        answers = []
        usual = read_usual(encoded(call))
        assert usual is not None
        answered = trio.Event()

        def done(answer):
            answers.append(answer if answer is None else b"".join(answer))
            answered.set()

        if not self.quick(seat, usual, done):
            assert not answers
            return None
        await answered.wait()
        assert len(answers) == 1
        return answers[0]

    async def ordinarily(self, call):
        """Give the frames of the ordinary answer."""
        ours, theirs = socket.socketpair()
        session = Session(
            Peer(theirs, BufferPool()), Roster(DaemonConfig()).admit(CALLER), self.plane
        )
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            await stream.send_all(Connection(Side.CLIENT).send(Hello()))
            greeting = await stream.receive_some(65_536)
            assert b"ehello" in greeting
            await stream.send_all(encoded(call))
            reader, frames = greeted(), b""
            for message in call:
                if isinstance(message, bytes):
                    reader.send_data(len(message))
                else:
                    reader.send(message)
            while not reader.is_reusable:
                data = await stream.receive_some(1_000_000)
                frames += data
                reader.receive(data)
                while (event := reader.next_event()) is not None:
                    if isinstance(event, Failure):
                        break
            nursery.cancel_scope.cancel()
        return frames


@asynccontextmanager
async def open_stores(path, config=None, **limits):
    config = config or FilesystemConfig(root=str(path), min_free_bytes=0)
    backend = FilesystemBackend("b", config)
    await backend.open()
    try:
        backend._store.catalog._residency.look()
        with trio.fail_after(30):
            yield Stores(backend, **limits)
    finally:
        with trio.CancelScope(shield=True):
            await backend.aclose()


@pytest.fixture
async def stores(tmp_path):
    async with open_stores(tmp_path / "store") as stores:
        for content in (SMALL, OTHER, LARGE):
            await stores.store(content)
        yield stores


def timeless(frames):
    """Give frames without what two ingests cannot have in common: their times, generations."""
    return re.sub(
        rb"(stored_at_ms|generation)(\x1b.{8}|\x1a.{4}|\x18?.)", rb"\1", frames, flags=re.DOTALL
    )


READS = {
    "stat": request("stat_objects", content_addresses=[name(SMALL)]),
    "stat several": request(
        "stat_objects",
        content_addresses=[name(LARGE), name(ABSENT), name(SMALL, "sha256"), name(LARGE)],
    ),
    "stat absent": request("stat_objects", content_addresses=[name(ABSENT)]),
    "stat by id": request("stat_objects", content_addresses=[name(SMALL)], backend_id="b"),
    "whole": request("serve_object", content_address=name(SMALL)),
    "whole by sha256": request("serve_object", content_address=name(OTHER, "sha256")),
    "range": request(
        "serve_object", content_address=name(SMALL), byte_range={"offset": 2, "length": 5}
    ),
    "range to the end": request(
        "serve_object", content_address=name(SMALL), byte_range={"offset": 2}
    ),
    "range of a file": request(
        "serve_object", content_address=name(LARGE), byte_range={"offset": 70_000, "length": 4096}
    ),
    "range over a bound": request(
        "serve_object",
        content_address=name(LARGE),
        byte_range={"offset": BLOCK_SIZE - 10, "length": 20},
    ),
    "largest range": request(
        "serve_object",
        content_address=name(LARGE),
        byte_range={"offset": 100, "length": BLOCK_SIZE},
    ),
    "end of a file": request(
        "serve_object", content_address=name(LARGE), byte_range={"offset": 3 * BLOCK_SIZE - 5}
    ),
}


@pytest.mark.trio
@pytest.mark.parametrize("call", READS.values(), ids=READS)
@pytest.mark.parametrize("is_kept", [False, True])
async def test_a_quick_read_is_as_an_ordinary_one(stores, call, is_kept):
    if not is_kept:
        stores.backend._store.catalog.hot.clear()
    ordinary = await stores.ordinarily(call)
    if not is_kept and b"serve" in encoded(call) and name(LARGE).encode() not in encoded(call):
        stores.backend._store.catalog.hot.clear()
    assert await stores.quickly(call) == ordinary


DECLINED = {
    "absent": request("serve_object", content_address=name(ABSENT)),
    "beyond the end": request(
        "serve_object", content_address=name(SMALL), byte_range={"offset": 100}
    ),
    "large": request("serve_object", content_address=name(LARGE)),
    "too long": request(
        "serve_object",
        content_address=name(LARGE),
        byte_range={"offset": 0, "length": BLOCK_SIZE + 1},
    ),
    "unknown backend": request("stat_objects", content_addresses=[name(SMALL)], backend_id="x"),
    "wrong digest": ingest(b"new", digest=name(b"other")),
    "large ingest": ingest(bytes(50_000)),
    "ingest elsewhere": ingest(b"new", backend_id="x"),
    "wrong generation": request("delete_object", content_address=name(SMALL), if_generation=99),
    "delete of a file": request("delete_object", content_address=name(LARGE)),
}


@pytest.mark.trio
@pytest.mark.parametrize("call", DECLINED.values(), ids=DECLINED)
async def test_what_is_not_plain_is_declined_and_has_changed_nothing(stores, call):
    before = await stores.backend.list_page(None, 100)
    assert await stores.quickly(call) is None
    assert await stores.backend.list_page(None, 100) == before


INGESTS = {
    "created": ingest(b"new"),
    "existed": ingest(SMALL),
    "stated": ingest(b"new", digest=name(b"new")),
    "stated by sha256": ingest(b"new", digest=name(b"new", "sha256")),
    "by sha256": ingest(b"new", primary_algorithm="sha256"),
    "hint": ingest(b"new", size_hint=3, backend_id="b"),
}


@pytest.mark.trio
@pytest.mark.parametrize("call", INGESTS.values(), ids=INGESTS)
async def test_a_quick_ingest_is_as_an_ordinary_one(stores, call, tmp_path):
    async with open_stores(tmp_path / "twin") as twin:
        for content in (SMALL, OTHER, LARGE):
            await twin.store(content)
        quick = await stores.quickly(call)
        assert timeless(quick) == timeless(await twin.ordinarily(call))
    read = request("serve_object", content_address=name(call[1]))
    assert call[1] in await stores.ordinarily(read)


@pytest.mark.trio
@pytest.mark.parametrize("content", [SMALL, ABSENT])
@pytest.mark.parametrize("algorithm", ["blake3", "sha256"])
async def test_a_quick_delete_is_as_an_ordinary_one(stores, content, algorithm, tmp_path):
    call = request("delete_object", content_address=name(content, algorithm))
    async with open_stores(tmp_path / "twin") as twin:
        await twin.store(SMALL)
        assert await stores.quickly(call) == await twin.ordinarily(call)
    found = await stores.quickly(request("stat_objects", content_addresses=[name(content)]))
    assert found.endswith(b"gobjects\x80")


@pytest.mark.trio
async def test_a_delete_of_the_right_generation_is_quick(stores):
    row = stores.backend._store.find(digests_of(SMALL).named("blake3"))
    call = request("delete_object", content_address=name(SMALL), if_generation=row.generation)
    assert b"gdeleted\xf5" in await stores.quickly(call)


@pytest.mark.trio
async def test_the_limit_of_an_object_holds(tmp_path):
    async with open_stores(tmp_path / "store", max_object_size=5) as stores:
        assert await stores.quickly(ingest(b"12345")) is not None
        assert await stores.quickly(ingest(b"123456")) is None
        assert await stores.quickly(ingest(b"1", size_hint=6)) is None


@pytest.mark.trio
async def test_a_backend_without_quick_calls_declines_all():
    plane = LocalDataPlane({"m": MemoryBackend("m")})
    for call in (READS["stat"], READS["whole"], INGESTS["created"]):
        assert not QuickCalls(plane)(
            Roster(DaemonConfig()).admit(CALLER), read_usual(encoded(call)), lambda _: None
        )


# Nothing stale, ever.


def stat(content):
    return request("stat_objects", content_addresses=[name(content)])


@pytest.mark.trio
@pytest.mark.parametrize("is_quick", [True, False])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
async def test_a_deleted_object_is_gone_for_every_way(stores, content, is_quick):
    read = request(
        "serve_object", content_address=name(content), byte_range={"offset": 0, "length": 5}
    )
    for _ in range(2):
        await stores.ordinarily(read)
        assert await stores.quickly(read) is not None
    delete = request("delete_object", content_address=name(content))
    if not (is_quick and await stores.quickly(delete)):
        await stores.ordinarily(delete)
    assert await stores.quickly(read) is None
    assert (await stores.quickly(stat(content))).endswith(b"gobjects\x80")
    await stores.store(content)
    await stores.ordinarily(read)
    assert await stores.quickly(read) == await stores.ordinarily(read)


@pytest.mark.trio
async def test_an_object_ingested_again_has_its_new_generation(stores):
    before = await stores.quickly(stat(SMALL))
    await stores.quickly(ingest(SMALL))
    between = await stores.quickly(stat(SMALL))
    await stores.store(SMALL)
    after = await stores.quickly(stat(SMALL))
    assert len({before, between, after}) == 3
    assert after == await stores.ordinarily(stat(SMALL))


@pytest.mark.trio
async def test_a_verified_object_has_its_new_time_and_a_bad_one_is_not_served(stores):
    store = stores.backend._store
    await stores.quickly(stat(SMALL))
    digest = digests_of(SMALL).named("blake3")
    await store.mark_good(store.find(digest), "")
    assert await stores.quickly(stat(SMALL)) == await stores.ordinarily(stat(SMALL))
    await store.mark_rotten(store.find(digest), "as a test has it")
    assert await stores.quickly(READS["whole"]) is None
    found = await stores.quickly(stat(SMALL))
    assert b"kquarantined" in found
    assert found == await stores.ordinarily(stat(SMALL))


@pytest.mark.trio
async def test_a_copy_condemned_without_a_note_is_not_served(stores):
    store = stores.backend._store
    assert await stores.quickly(READS["whole"]) is not None
    store._condemned.add(store.find(digests_of(SMALL).named("blake3")).copy)
    assert await stores.quickly(READS["whole"]) is None


@pytest.mark.trio
@pytest.mark.parametrize("offset", [0, BLOCK_SIZE, 3 * BLOCK_SIZE + 10])
async def test_a_bad_block_of_a_file_is_declined(stores, offset):
    read = request(
        "serve_object", content_address=name(LARGE), byte_range={"offset": offset, "length": 5}
    )
    await stores.ordinarily(read)
    store = stores.backend._store
    hot = store.catalog.hot.get(name(LARGE))
    path = os.path.join(store.config.root, "objects", hot.row.file[:2], hot.row.file)
    os.chmod(path, 0o600)
    status = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes([LARGE[offset] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    # Rot does not touch a file's times: have the one that is kept open believe in the new ones.
    hot.file.__init__(os.dup(hot.file.fd), os.fstat(hot.file.fd))
    assert await stores.quickly(read) is None
    assert b"jcorrupt" in await stores.ordinarily(read) or b"corrupt" in await stores.ordinarily(
        read
    )


@pytest.mark.trio
async def test_bytes_in_a_row_that_changed_are_declined(stores):
    assert await stores.quickly(READS["whole"]) is not None

    def change(connection):
        connection.execute("UPDATE contents SET bytes = zeroblob(length(bytes))")

    await stores.backend._store.commit(change)
    assert await stores.quickly(READS["whole"]) is None


@pytest.mark.trio
async def test_nobody_waits_for_a_catalog_that_is_on_the_disk(stores):
    catalog = stores.backend._store.catalog
    catalog.hot.clear()
    catalog.forget_cached()
    assert not catalog._residency.is_certain
    with catalog._read_lock:  # as if the disk were slow
        assert await stores.quickly(READS["stat"]) is None
        assert await stores.quickly(READS["whole"]) is None
    assert await stores.ordinarily(READS["stat"]) is not None


@pytest.mark.trio
async def test_a_store_that_takes_no_writes_declines_them(stores):
    stores.backend._store.stop_writing("a test")
    assert await stores.quickly(INGESTS["created"]) is None
    assert await stores.quickly(request("delete_object", content_address=name(SMALL))) is None
    assert await stores.quickly(READS["whole"]) is not None


# Callers.


@pytest.mark.trio
@pytest.mark.parametrize(
    ("call", "role"),
    [
        (READS["stat"], Role.READ),
        (READS["whole"], Role.READ),
        (INGESTS["created"], Role.INGEST),
        (request("delete_object", content_address=name(OTHER)), Role.DELETE),
    ],
    ids=["stat", "serve", "ingest", "delete"],
)
async def test_whoever_may_not_do_it_is_left_to_the_ordinary_way(stores, call, role):
    roster = Roster(DaemonConfig())
    others = roster.admit(replace(CALLER, roles=ALL_ROLES ^ role))
    assert await stores.quickly(call, others) is None
    entitled = roster.admit(replace(CALLER, roles=role))
    assert await stores.quickly(call, entitled) is not None
    assert (roster.calls_in_flight, roster.calls_total) == (0, 1)


@pytest.mark.trio
async def test_one_call_too_many_is_left_to_the_ordinary_way(stores):
    roster = Roster(DaemonConfig(max_calls=1))
    busy, waiting = roster.admit(CALLER), roster.admit(CALLER)
    call = busy.begin("verify_object")
    assert await stores.quickly(READS["stat"], waiting) is None
    busy.end(call)
    assert await stores.quickly(READS["stat"], waiting) is not None
    assert roster.calls_in_flight == 0


@pytest.mark.trio
async def test_what_is_known_of_a_call_is_told_once_it_is_answered(stores):
    told = []
    seat = Roster(DaemonConfig(), (told.append,)).admit(CALLER)
    await stores.quickly(READS["whole"], seat)
    await stores.quickly(INGESTS["created"], seat)
    await stores.quickly(request("delete_object", content_address=name(OTHER)), seat)
    assert [(each.op, each.outcome, each.code) for each in told] == [
        ("serve_object", None, "ok"),
        ("ingest_stream", "created", "ok"),
        ("delete_object", "deleted", "ok"),
    ]
    assert all(each.address and each.backend_id == "b" for each in told)
    assert told[0].sent_bytes > 0
    assert told[1].received_bytes > 0
