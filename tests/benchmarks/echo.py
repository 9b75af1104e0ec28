"""The least that a trio server can do for a call: `python -m tests.benchmarks.echo SOCKET`.

One task a connection, its own recv and send around a wait, the library's codec without a look
at what is in the call.
"""

import socket
import sys

import cbor2
import trio

from dataplane_protocol import Hello, encode_frame


async def serve(path: str) -> None:
    """Answer for ever."""
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen(128)
        async with trio.open_nursery() as nursery:
            while True:
                accepted, _ = await listener.accept()
                nursery.start_soon(_answer, socket.socket(fileno=accepted.detach()))


async def _answer(connection: socket.socket) -> None:
    connection.setblocking(False)
    buffer = bytearray(65_536)
    view = memoryview(buffer)
    answer = {"hello": Hello().to_wire()["hello"]}
    with connection:
        while True:
            await trio.lowlevel.wait_readable(connection)
            size = connection.recv_into(buffer)
            if not size:
                return
            cbor2.loads(view[4:size])
            connection.send(encode_frame(answer) if "hello" in answer else _encoded(answer))
            answer = {"ok": {}}


def _encoded(answer: object) -> bytes:
    item = cbor2.dumps(answer)
    return len(item).to_bytes(4, "big") + item


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
