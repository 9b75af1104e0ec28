"""A daemon whose object store is far away, slow, broken off, silent, full, or gone for a while."""

import contextlib
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataplane_protocol import DataPlaneError, NoSpaceError, UnavailableError

from ..engines.proxy import Proxy
from .caller import LARGE, SMALL, Caller, address_of, content

#: Bytes of an object of many parts.
MANY_PARTS = 9_000_000

#: Seconds in which the daemon has to know that there is no answer: a request may take 1 and all
#: attempts 4; the rest is for a machine that is busy.
BOUND = 20

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A daemon with a bucket behind a proxy, and a backend that has nothing to do with it."""

    daemon: Any
    proxy: Proxy
    caller: Caller
    neighbour: Caller


@pytest.fixture
def place(
    ceph: Callable[[], Any],
    ceph_process: Any,
    start_daemon: Callable[..., Any],
    tmp_path: Path,
) -> Generator[Place]:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(contextlib.closing(Proxy(ceph_process.port)))
        config = tmp_path / "dp.toml"
        config.write_text(
            ceph().toml(
                tmp_path,
                "bucket",
                endpoint=proxy.endpoint,
                part_size=1 << 20,
                request_timeout_s=1.0,
                retry_timeout_s=4.0,
            )
            + '[backend.other]\ntype = "memory"\n'
        )
        daemon = start_daemon(["--config", str(config)])
        caller = stack.enter_context(Caller(daemon, "bucket"))
        neighbour = stack.enter_context(Caller(daemon, "other"))
        for size in (SMALL, LARGE, MANY_PARTS):
            caller.ingest(content(size, "before"))
        neighbour.ingest(content(SMALL, "neighbour"))
        yield Place(daemon, proxy, caller, neighbour)
        secret = next(tmp_path.glob("secret-secret*")).read_text().strip()
        assert secret not in str(daemon.log)


def fails_in_time(place: Place, call: Callable[..., Any], *args: Any) -> DataPlaneError:
    """Make a call that fails, within bounds, while the other backend does not notice."""
    start = time.monotonic()
    with pytest.raises(DataPlaneError) as caught:
        call(*args)
    assert time.monotonic() - start < BOUND
    place.neighbour.check()
    return caught.value


def test_a_far_engine_is_only_slow(place: Place) -> None:
    place.proxy.delay(0.1)
    place.caller.ingest(content(MANY_PARTS, "far"))
    place.caller.check()


@pytest.mark.parametrize("with_reset", [True, False], ids=["reset", "ended"])
def test_answers_that_are_broken_off_are_asked_for_again(place: Place, with_reset: bool) -> None:
    place.proxy.cut(3, after=300_000, with_reset=with_reset)
    assert place.caller.read(address_of(content(MANY_PARTS, "before"))) == content(
        MANY_PARTS, "before"
    )
    assert place.proxy.cuts_left == 0
    place.proxy.cut(3, after=100, with_reset=with_reset)
    place.caller.ingest(content(MANY_PARTS, "broken off"))
    assert place.proxy.cuts_left == 0
    place.proxy.cut(3, after=100, with_reset=with_reset)
    place.caller.delete(content(SMALL, "before"))
    place.caller.check()


def test_answers_that_always_break_off_are_an_error_and_no_bytes(place: Place) -> None:
    place.proxy.cut(10**6, after=300_000)
    error = fails_in_time(place, place.caller.read, address_of(content(MANY_PARTS, "before")))
    assert isinstance(error, UnavailableError)
    place.proxy.pass_on()
    place.caller.check()


def test_a_silent_engine_is_an_error_in_time(place: Place) -> None:
    place.proxy.hold()
    for size in (SMALL, MANY_PARTS):
        error = fails_in_time(place, place.caller.ingest, content(size, "silence"))
        assert isinstance(error, UnavailableError)
        assert "no answer in time" in error.message
        assert error.retry
    fails_in_time(place, place.caller.read, address_of(content(MANY_PARTS, "before")))
    assert place.caller.health().state == "down"
    place.proxy.pass_on()
    assert place.daemon.becomes(lambda: place.caller.health().writable)
    place.caller.check()
    for data in list(place.caller.doubtful.values()):
        place.caller.ingest(data)
    place.caller.check()


def test_an_engine_that_is_down_is_left_alone_and_taken_back(place: Place) -> None:
    place.proxy.refuse()
    for number in range(6):
        fails_in_time(place, place.caller.ingest, content(SMALL, number))
    refused = place.proxy.refused
    error = fails_in_time(place, place.caller.ingest, content(SMALL, "at once"))
    assert "left alone" in error.message
    assert place.proxy.refused == refused
    place.proxy.pass_on()
    assert place.daemon.becomes(lambda: place.caller.health().writable)
    assert place.caller.health().state == "degraded"
    for data in list(place.caller.doubtful.values()):
        place.caller.ingest(data)
    place.caller.check()


def test_an_outage_in_mid_ingest_is_waited_out(place: Place) -> None:
    sent = place.proxy.sent

    def come_back() -> None:
        place.proxy.wait_until(lambda: place.proxy.sent > sent + 3_000_000)
        place.proxy.refuse()
        refused = place.proxy.refused
        place.proxy.wait_until(lambda: place.proxy.refused >= refused + 3)
        place.proxy.pass_on()

    helper = threading.Thread(target=come_back)
    helper.start()
    place.caller.ingest(content(MANY_PARTS, "outage"))
    helper.join()
    place.caller.check()


def test_an_outage_in_mid_serve_is_waited_out(place: Place) -> None:
    given = place.proxy.given

    def come_back() -> None:
        place.proxy.wait_until(lambda: place.proxy.given > given + 3_000_000)
        place.proxy.refuse()
        refused = place.proxy.refused
        place.proxy.wait_until(lambda: place.proxy.refused >= refused + 3)
        place.proxy.pass_on()

    helper = threading.Thread(target=come_back)
    helper.start()
    data = content(MANY_PARTS, "before")
    assert place.caller.read(address_of(data)) == data
    helper.join()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("503 Slow Down", "<Error><Code>SlowDown</Code></Error>", "503"),
        ("500 Internal Server Error", "", "500"),
        ("403 Forbidden", "<Error><Code>InvalidAccessKeyId</Code></Error>", "credentials"),
        ("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>", "bucket does not exist"),
        ("400 Bad Request", "<Error><Code>WhateverItIs</Code></Error>", "400"),
    ],
)
def test_what_an_engine_refuses_is_an_error_that_says_so(
    place: Place, status: str, body: str, words: str
) -> None:
    place.proxy.answer(status, body)
    missing = address_of(content(SMALL, "never stored"))
    for call, argument in (
        (place.caller.ingest, content(LARGE, "refused")),
        (place.caller.read, address_of(content(MANY_PARTS, "before"))),
        (place.caller.read, missing),
    ):
        error = fails_in_time(place, call, argument)
        assert isinstance(error, UnavailableError)
        assert words in error.message
    assert place.caller.health().state == "down"
    place.proxy.pass_on()
    assert place.daemon.becomes(lambda: place.caller.health().writable)
    place.caller.check()


def test_a_full_engine_has_no_space(place: Place) -> None:
    place.proxy.answer("403 Forbidden", "<Error><Code>QuotaExceeded</Code></Error>")
    error = fails_in_time(place, place.caller.ingest, content(LARGE, "too much"))
    assert isinstance(error, NoSpaceError)
    place.proxy.pass_on()
    place.caller.check()


def test_memory_stays_bounded_while_a_silent_engine_keeps_callers_waiting(place: Place) -> None:
    before = place.daemon.resident_bytes()
    place.proxy.hold()

    def wait_in_vain(number: int) -> None:
        with Caller(place.daemon, "bucket") as caller:
            caller.failure(caller.ingest, content(MANY_PARTS, number))

    threads = [threading.Thread(target=wait_in_vain, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.daemon.resident_bytes() - before < 150 * 1024 * 1024
    place.proxy.pass_on()
    assert place.daemon.becomes(lambda: place.caller.health().writable)
    place.caller.check()
