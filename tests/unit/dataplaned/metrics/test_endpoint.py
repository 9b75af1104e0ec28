import os
import socket
import stat

import pytest
import structlog.testing
import trio
import trio.testing

from dataplaned.metrics.endpoint import Answer, open_endpoint, serve_pages

pytestmark = pytest.mark.trio


async def give_metrics(accept):
    return Answer(status=200, body=f"accepts {accept}\n".encode())


async def fail(_accept):
    raise ZeroDivisionError


async def unready(_accept):
    return Answer(status=503, body=b"stopping\n")


PAGES = {"/metrics": give_metrics, "/broken": fail, "/readyz": unready}


@pytest.fixture
async def address(nursery):
    with open_endpoint("127.0.0.1:0") as listener:
        nursery.start_soon(serve_pages, listener, PAGES)
        yield listener.getsockname()
        nursery.cancel_scope.cancel()


async def connect(address):
    return await trio.open_tcp_stream(*address)


async def talk(address, data, *, is_ended=False):
    """Send something, and give all that comes until the end."""
    async with await connect(address) as stream:
        await stream.send_all(data)
        if is_ended:
            await stream.send_eof()
        received = b""
        with trio.move_on_after(5):
            while piece := await stream.receive_some(65_536):
                received += piece
        return received


def request(target, method="GET", **headers):
    lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def test_a_page_is_given(address):
    answer = await talk(address, request("/metrics?x=1", Accept="text/plain"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b"accepts text/plain\n"
    assert f"Content-Length: {len(body)}".encode() in head


async def test_only_its_head_is_given_where_that_is_asked(address):
    answer = await talk(address, request("/metrics", "HEAD"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/nothing\x7f"), 400),
        (request("/nothing"), 404),
        (request("/metrics", "POST"), 405),
        (request("/metrics", "DELETE"), 405),
        (request("/readyz"), 503),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 5000, 431),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
    ],
)
async def test_everything_else_is_refused(address, sent, status):
    answer = await talk(address, sent)
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert b"nothing\x7f" not in answer


async def test_a_connection_may_be_used_again(address):
    async with await connect(address) as stream:
        for _ in range(3):
            await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")


async def test_a_page_that_fails_costs_its_connection_and_no_other(address):
    with structlog.testing.capture_logs() as logs:
        assert await talk(address, request("/broken")) == b""
    assert [line["event"] for line in logs] == ["metrics_failed"]
    assert (await talk(address, request("/metrics"))).startswith(b"HTTP/1.1 200")


async def test_readers_that_go_away_and_that_say_nothing_cost_nothing(address):
    await talk(address, b"GET /metr", is_ended=True)
    await talk(address, b"", is_ended=True)
    streams = [await connect(address) for _ in range(16)]
    await trio.testing.wait_all_tasks_blocked()
    assert await talk(address, request("/metrics")) == b""  # one too many
    for stream in streams:
        await stream.aclose()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (await talk(address, request("/metrics"))).startswith(b"HTTP/1.1 200")


async def test_whoever_takes_too_long_is_let_go(address, autojump_clock):
    async with await connect(address) as stream:
        await stream.send_all(b"GET /")
        assert await stream.receive_some(100) == b""
    assert trio.current_time() >= 10


async def test_a_unix_socket_is_for_the_user_and_its_group(nursery, short_path):
    path = str(short_path / "m")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with open_endpoint(path) as listener:
        nursery.start_soon(serve_pages, listener, PAGES)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request("/metrics"))
            assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 200")
        nursery.cancel_scope.cancel()
    assert not os.path.lexists(path)


async def test_what_cannot_be_listened_on_is_an_error(address):
    with pytest.raises(OSError, match="in use"):
        open_endpoint(f"127.0.0.1:{address[1]}").__enter__()
