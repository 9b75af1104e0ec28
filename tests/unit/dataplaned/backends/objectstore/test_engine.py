"""Requests, and what becomes of those that fail."""

import functools
import hashlib
import traceback

import pytest
import trio

from dataplane_protocol import NoSpaceError, UnavailableError
from dataplaned.backends.base import BackendError
from dataplaned.backends.objectstore.engine import (
    Engine,
    KeyExistsError,
    NoSuchKeyError,
)
from dataplaned.config import CredentialSource

pytestmark = pytest.mark.trio


@pytest.fixture
async def make(engine, tmp_path):
    """Give a function that makes engines, by the settings of the bucket and others."""
    made = []

    def make_one(**settings):
        one = Engine("test", engine.config(tmp_path, **settings))
        one.open()
        made.append(one)
        return one

    yield make_one
    for one in made:
        await one.aclose()


async def waits(proxied, condition):
    await trio.to_thread.run_sync(functools.partial(proxied.wait_until, condition))


async def test_bytes_go_in_and_come_out(make):
    engine = make()
    tag = await engine.put("a/b", b"hello")
    assert await engine.get("a/b") == b"hello"
    assert await engine.start_get_range("a/b", 1, 3).result() == b"ell"
    entry = await engine.head("a/b")
    assert (entry.key, entry.size, entry.e_tag) == ("a/b", 5, tag)
    await engine.put("a/b", b"other")
    assert await engine.get("a/b") == b"other"


async def test_what_is_not_there_is_said_so(make):
    engine = make()
    for call in (engine.get, engine.head):
        with pytest.raises(NoSuchKeyError):
            await call("nothing/here")
    await engine.put("short", b"abc")
    for start, length in ((0, 4), (2, 2), (3, 1), (100, 1)):
        with pytest.raises(NoSuchKeyError):
            await engine.start_get_range("short", start, length).result()
    assert await engine.list_all("nothing") == []
    assert engine.circuit.lets_through()


async def test_creating_what_is_there_is_refused(make):
    engine = make()
    await engine.create("new", b"one")
    with pytest.raises(KeyExistsError):
        await engine.create("new", b"two")
    assert await engine.get("new") == b"one"


@pytest.mark.slow
async def test_keys_are_listed_in_order_and_by_the_page(make):
    engine = make()
    keys = [f"many/{number:04}" for number in range(1100)]

    async def put_every_tenth(first):
        for key in keys[first::10]:
            await engine.put(key, b"")

    async with trio.open_nursery() as nursery:
        for first in range(10):
            nursery.start_soon(put_every_tenth, first)
    await engine.put("many-others/0", b"")
    assert [entry.key for entry in await engine.list_all("many")] == keys
    page = await engine.list_some("many", None)
    assert [entry.key for entry in page] == keys[: len(page)]
    assert len(page) >= 1000
    page = await engine.list_some("many", keys[1049])
    assert [entry.key for entry in page] == keys[1050:]
    assert await engine.list_some("many", keys[-1]) == []
    await engine.delete(keys)
    assert await engine.list_all("many") == []


async def test_removing_what_is_not_there_is_no_error(make):
    engine = make()
    await engine.put("here", b"")
    await engine.delete(["not/here", "here", "nor/there"])
    assert await engine.list_all("here") == []
    await engine.delete(["here"])
    await engine.delete([])


async def test_a_missing_bucket_is_not_a_missing_key(make):
    engine = make(url="s3://no-such-bucket-anywhere/prefix")
    for call in (
        lambda: engine.put("a", b"b"),
        lambda: engine.get("a"),
        lambda: engine.list_all("a"),
        lambda: engine.delete(["a", "b"]),
    ):
        with pytest.raises(UnavailableError, match="bucket does not exist"):
            await call()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ceph"], indirect=True)  # moto lets anybody in
async def test_no_secret_is_in_errors_or_logs(make, tmp_path, capfd):
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong-secret-value\n")
    credentials = {
        **make()._config.credentials,
        "secret_access_key": CredentialSource(file=str(wrong)),
    }
    engine = make(credentials=credentials)
    with pytest.raises(UnavailableError, match="refuses the daemon's credentials") as caught:
        await engine.put("a", b"b")
    with pytest.raises(BackendError) as refused:
        make(credentials={**credentials, "nonsense": CredentialSource(file=str(wrong))})
    told = "".join(traceback.format_exception(caught.value))
    told += "".join(traceback.format_exception(refused.value))
    told += repr(engine) + repr(vars(engine)) + "".join(capfd.readouterr())
    assert "wrong-secret-value" not in told
    assert "not-much-of-a-secret" not in told


async def test_a_secret_that_cannot_be_read_is_named(make, tmp_path):
    missing = CredentialSource(file=str(tmp_path / "missing"))
    with pytest.raises(
        BackendError, match=r"credentials.secret_access_key: .*missing: No such file"
    ):
        make(credentials={"secret_access_key": missing})


@pytest.mark.parametrize("status", ["500 Oops", "503 Slow Down", "429 Too Many Requests"])
async def test_what_may_pass_is_tried_again(make, proxied, status):
    engine = make(endpoint=proxied.endpoint, retry_timeout_s=30.0)
    proxied.answer(status)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.put, "a", b"b")
        await waits(proxied, lambda: proxied.answered)
        proxied.pass_on()
    assert await engine.get("a") == b"b"


@pytest.mark.parametrize(
    ("status", "error"), [("400 Bad", UnavailableError), ("507 Full", NoSpaceError)]
)
async def test_what_will_not_pass_is_said_at_once(make, proxied, status, error):
    engine = make(endpoint=proxied.endpoint, retry_timeout_s=3000.0)
    proxied.answer(status)
    with trio.fail_after(60), pytest.raises(error):
        await engine.put("a", b"b")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ceph"], indirect=True)  # moto believes everything
async def test_a_body_that_changes_on_its_way_is_not_stored(make, proxied):
    engine = make(endpoint=proxied.endpoint)
    assert engine.signs_bodies
    data = bytes(1_000_000)
    proxied.garble(after=500_000)
    await engine.put("a", data)
    assert proxied.received > 2 * len(data)
    assert await engine.get("a") == data
    proxied.garble(after=500_000)
    engine = make(endpoint=proxied.endpoint, options={"unsigned_payload": "true"})
    assert not engine.signs_bodies
    tag = await engine.put("a", data)
    assert await engine.get("a") != data
    assert tag != hashlib.md5(data).hexdigest()


async def test_a_cancelled_request_ends_its_connection(make, proxied):
    engine = make(endpoint=proxied.endpoint, request_timeout_s=3000.0, retry_timeout_s=3000.0)
    await engine.put("a", b"b")
    proxied.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.get, "a")
        received = proxied.received
        await waits(proxied, lambda: proxied.received > received)
        nursery.cancel_scope.cancel()
    # Whoever still waited would get the answer now, and keep the connection.
    proxied.pass_on()
    await waits(proxied, lambda: not proxied.is_busy)
