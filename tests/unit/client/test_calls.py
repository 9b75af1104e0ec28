"""Each operation: the bytes of its request, and what its answer becomes."""

from contextlib import aclosing

import pytest

from dataplane_client import connect
from dataplane_protocol import (
    ERRORS_BY_CODE,
    BackendList,
    BackendStatus,
    BodyKind,
    ContentAddress,
    DataPlaneError,
    DeletionResult,
    Failure,
    InvalidRequestError,
    LocalProtocolError,
    ObjectPage,
    ObjectStatus,
    Ok,
    RangeNotSatisfiableError,
    RemoteProtocolError,
    Request,
    UnsupportedError,
    VerifyResult,
    backend_list_to_wire,
    deletion_result_to_wire,
    encode_frame,
    object_page_to_wire,
    stat_result_to_wire,
    verify_result_to_wire,
)


async def exchange(daemon, ask, answer):
    """Have one call; give the bytes of the request and what the call gave."""
    sent = []

    def script(peer):
        peer.request()
        sent.append(peer.raw)
        peer.send(answer)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        result = await ask(client)
    return sent[0], result


def frame(op, **args):
    return encode_frame(Request(op=op, args=args).to_wire())


@pytest.mark.anyio
async def test_health_asks_for_the_default_backend_in_the_fewest_bytes(daemon, sample):
    sent, result = await exchange(daemon, lambda c: c.backend_health(), sample.health)
    assert sent == bytes.fromhex(
        "00000019a2626f706e6261636b656e645f6865616c74686461726773a0",
    )
    assert result == BackendStatus("default", "ok", writable=True)


@pytest.mark.anyio
async def test_health_names_the_backend(daemon, sample):
    ask = lambda c: c.backend_health(backend_id="b")  # noqa: E731
    sent, _ = await exchange(daemon, ask, sample.health)
    assert sent == frame("backend_health", backend_id="b")


@pytest.mark.anyio
async def test_list_backends(daemon):
    backends = BackendList((BackendStatus("a", "down", writable=False, message="gone"),), "a")
    answer = Ok(result=backend_list_to_wire(backends))
    sent, result = await exchange(daemon, lambda c: c.list_backends(), answer)
    assert sent == frame("list_backends")
    assert result == backends


@pytest.mark.anyio
async def test_verify(daemon, sample):
    verified = VerifyResult(sample.address, True, sample.blake3, sample.sha256, 12)
    sent, result = await exchange(
        daemon,
        lambda c: c.verify_object(sample.address, backend_id="b"),
        Ok(result=verify_result_to_wire(verified)),
    )
    assert sent == frame("verify_object", content_address=str(sample.address), backend_id="b")
    assert result == verified


@pytest.mark.anyio
async def test_delete_with_a_generation(daemon, sample):
    deletion = DeletionResult(sample.address, "default", deleted=True)
    sent, result = await exchange(
        daemon,
        lambda c: c.delete_object(sample.address, if_generation=7),
        Ok(result=deletion_result_to_wire(deletion)),
    )
    assert sent == frame("delete_object", content_address=str(sample.address), if_generation=7)
    assert result == deletion


@pytest.mark.anyio
async def test_stat_of_a_few_is_one_call(daemon, sample):
    sent, result = await exchange(
        daemon,
        lambda c: c.stat_objects([sample.address]),
        Ok(result=stat_result_to_wire([sample.status])),
    )
    assert sent == frame("stat_objects", content_addresses=[str(sample.address)])
    assert result == (sample.status,)


def many(sample, count):
    return [
        ObjectStatus(
            ContentAddress(f"blake3:{number:064x}"), number, sample.sha256, 1, sample.moment
        )
        for number in range(count)
    ]


@pytest.mark.anyio
async def test_stat_of_many_is_batched_on_one_connection_and_keeps_the_order(daemon, sample):
    entries = many(sample, 300)
    asked = []

    def script(peer):
        for _ in range(3):
            names = peer.request().args["content_addresses"]
            asked.append(len(names))
            present = [entry for entry in entries if str(entry.content_address) in names]
            peer.send(Ok(result=stat_result_to_wire(present)))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        found = await client.stat_objects([entry.content_address for entry in entries])
    assert asked == [128, 128, 44]
    assert found == tuple(entries)


@pytest.mark.anyio
async def test_stat_of_nothing_needs_no_daemon(tmp_path):
    async with connect(tmp_path / "nobody") as client:
        assert await client.stat_objects([]) == ()


@pytest.mark.anyio
async def test_list_walks_from_page_to_page(daemon, sample):
    entries = many(sample, 5)
    pages = [ObjectPage(tuple(entries[:3]), True), ObjectPage(tuple(entries[3:]), False)]
    asked = []

    def script(peer):
        for page in pages:
            asked.append(dict(peer.request().args))
            peer.send(Ok(result=object_page_to_wire(page)))
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        walked = [page async for page in client.list_objects(page_size=3, backend_id="b")]
    assert walked == pages
    third = str(entries[2].content_address)
    assert asked == [
        {"limit": 3, "backend_id": "b"},
        {"limit": 3, "backend_id": "b", "after": third},
    ]


@pytest.mark.anyio
async def test_list_holds_no_connection_between_pages(daemon, sample):
    page = ObjectPage(tuple(many(sample, 1)), True)

    def script(peer):
        peer.request()
        peer.send(Ok(result=object_page_to_wire(page)))
        assert peer.request().op == "backend_health"
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with (
        connect(daemon.path, pool_size=1) as client,
        aclosing(client.list_objects()) as pages,
    ):
        assert await anext(pages) == page
        await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("numbers", "more"), [([], True), ([2, 1], False), ([1, 1], False)], ids=str
)
async def test_a_page_that_would_walk_in_a_circle_is_a_violation(daemon, sample, numbers, more):
    entries = many(sample, 3)
    page = ObjectPage(tuple(entries[number] for number in numbers), more)

    async def ask(client):
        with pytest.raises(RemoteProtocolError):
            await anext(client.list_objects())

    await exchange(daemon, ask, Ok(result=object_page_to_wire(page)))


@pytest.mark.anyio
async def test_a_page_that_starts_before_its_cursor_is_a_violation(daemon, sample):
    entries = many(sample, 3)

    async def ask(client):
        with pytest.raises(RemoteProtocolError, match="ascending"):
            await anext(client.list_objects(after=entries[1].content_address))

    page = ObjectPage((entries[1],), False)
    await exchange(daemon, ask, Ok(result=object_page_to_wire(page)))


@pytest.mark.anyio
async def test_a_private_call_sends_a_map_and_gives_one(daemon):
    ask = lambda c: c.call_private("org.example.compact", {"level": 3, "of": ["a", b"b"]})  # noqa: E731
    sent, result = await exchange(daemon, ask, Ok(result={"saved": [1, {"more": True}]}))
    assert sent == frame("org.example.compact", level=3, of=["a", b"b"])
    assert result == {"saved": [1, {"more": True}]}


@pytest.mark.anyio
async def test_a_private_call_may_have_no_arguments(daemon):
    sent, result = await exchange(daemon, lambda c: c.call_private("a.b"), Ok(result={}))
    assert sent == frame("a.b")
    assert result == {}


@pytest.mark.anyio
async def test_a_private_call_that_the_daemon_does_not_know_is_unsupported(daemon):
    async def ask(client):
        with pytest.raises(UnsupportedError):
            await client.call_private("org.example.compact")

    await exchange(daemon, ask, Failure(code="unsupported"))


@pytest.mark.anyio
async def test_a_private_call_with_a_body_is_a_violation(daemon):
    async def ask(client):
        with pytest.raises(RemoteProtocolError):
            await client.call_private("org.example.compact")

    await exchange(daemon, ask, Ok(result={}, body=BodyKind.STREAM))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("backend_health", {}),
        ("", {}),
        (None, {}),
        (b"a.b", {}),
        ("a.b", [1]),
        ("a.b", {"set": {1}}),
        ("a.b", {"number": 1.5}),
        ("a.b", {"number": 2**53}),
        ("a.b", {1: "key"}),
        ("a.b", {"long": "x" * 65_536}),
        ("a.\udcff", {}),
    ],
)
async def test_a_private_call_that_cannot_be_sent_is_refused_before(tmp_path, operation, arguments):
    async with connect(tmp_path / "nobody") as client:
        with pytest.raises(InvalidRequestError):
            await client.call_private(operation, arguments)


@pytest.mark.anyio
@pytest.mark.parametrize("code", [*ERRORS_BY_CODE, "no_such_code"])
async def test_every_code_becomes_its_error(daemon, sample, code):
    failure = Failure(code=code, message="why", retry=True, details={"limit_bytes": 1})

    async def ask(client):
        with pytest.raises(DataPlaneError) as caught:
            await client.verify_object(sample.address)
        return caught.value

    _, error = await exchange(daemon, ask, failure)
    assert type(error) is ERRORS_BY_CODE.get(code, DataPlaneError)
    assert (error.code, error.message, error.retry) == (code, "why", True)
    assert error.details == {"limit_bytes": 1}


@pytest.mark.anyio
async def test_an_error_leaves_the_connection_in_use(daemon, sample):
    def script(peer):
        peer.request()
        peer.send(Failure(code="not_found"))
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(script)
    async with connect(daemon.path) as client:
        with pytest.raises(LookupError):
            await client.verify_object(sample.address)
        await client.backend_health()


@pytest.mark.anyio
async def test_an_error_protocol_does_not(daemon, sample):
    def accuse(peer):
        peer.request()
        peer.send(Failure(code="protocol", message="you did"))
        peer.expect_closed()

    def answer(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(accuse, answer)
    async with connect(daemon.path) as client:
        with pytest.raises(LocalProtocolError, match="you did"):
            await client.backend_health()
        await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        Ok(result={"state": "ok"}),
        Ok(result={"backend_id": "default", "state": "ok", "writable": 1}),
        Ok(result={}, body=BodyKind.STREAM),
    ],
    ids=["field missing", "wrong type", "body unasked"],
)
async def test_an_answer_against_the_schema_costs_the_connection(daemon, sample, answer):
    def wrong(peer):
        peer.request()
        peer.send(answer)
        peer.expect_closed()

    def right(peer):
        peer.request()
        peer.send(sample.health)
        peer.expect_closed()

    daemon.run(wrong, right)
    async with connect(daemon.path) as client:
        with pytest.raises(RemoteProtocolError):
            await client.backend_health()
        await client.backend_health()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda c, a: c.serve_object(a, byte_range=(5, 4)), RangeNotSatisfiableError),
        (lambda c, a: c.serve_object(a, byte_range=(-1, 4)), RangeNotSatisfiableError),
        (lambda c, a: c.serve_object(a, byte_range=(0, 1.5)), InvalidRequestError),
        (lambda c, a: c.serve_object(str(a)), InvalidRequestError),
        (lambda c, a: c.verify_object(a.to_digest()), InvalidRequestError),
        (lambda c, a: c.delete_object(None), InvalidRequestError),
        (lambda c, a: c.delete_object(a, if_generation=-1), InvalidRequestError),
        (lambda c, a: c.stat_objects([a, str(a)]), InvalidRequestError),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_is_sent(tmp_path, sample, ask, error):
    async with connect(tmp_path / "nobody") as client:
        with pytest.raises(error):
            await ask(client, sample.address)


@pytest.mark.parametrize("page_size", [0, 129])
def test_a_page_size_out_of_range_is_refused_at_the_call(tmp_path, page_size):
    with pytest.raises(InvalidRequestError, match="limit"):
        connect(tmp_path / "nobody").list_objects(page_size=page_size)
