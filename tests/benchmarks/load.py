"""Clients that cost little: processes of their own, with one connection and one call at a time.

The same loop drives every contestant, so that what differs is the contestant. Requests are made
before the clock starts; of an answer only its end is looked for, and whether it is an error.
"""

import multiprocessing
import socket
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

#: What `Conversation.call` takes; made beforehand.
Request: TypeAlias = bytes


class Conversation(Protocol):
    """One connection to a contestant."""

    def call(self, request: Request) -> int:
        """Send a request and receive its answer.

        Returns:
            Bytes of payload in the answer.

        Raises:
            RuntimeError: The answer is an error.
        """
        ...


Connect: TypeAlias = Callable[[], Conversation]

fork = multiprocessing.get_context("fork")


class Load(NamedTuple):
    """What clients did: calls a second, and the CPU seconds of all of them."""

    rate: float
    cpu_s: float


def run(connect: Connect, requests: Sequence[Request], clients: int, payload: int = 0) -> Load:
    """Have clients make calls.

    Args:
        connect: Opens a connection.
        requests: Dealt out to the clients.
        clients: How many.
        payload: Bytes that every answer must carry.

    Returns:
        The rate is from the first one's start to the last one's end.
    """
    barrier = fork.Barrier(clients)
    times = fork.Array("d", 3 * clients)

    def client(number: int) -> None:
        conversation = connect()
        mine = requests[number::clients]
        barrier.wait()
        times[3 * number] = time.perf_counter()
        cpu_s = time.process_time()
        for request in mine:
            if conversation.call(request) != payload:
                raise RuntimeError("an answer has another payload than it should")
        times[3 * number + 1] = time.perf_counter()
        times[3 * number + 2] = time.process_time() - cpu_s

    processes = [fork.Process(target=client, args=(number,)) for number in range(clients)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a client ended with {process.exitcode}")
    taken_s = max(times[1::3]) - min(times[0::3])
    return Load(len(requests) / taken_s, sum(times[2::3]))


def dial(path: str) -> socket.socket:
    """Connect to a Unix socket."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


class Received:
    """What came over a socket and was not taken yet."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._data = b""

    def take(self, size: int) -> bytes:
        """Take so many bytes, and wait for them."""
        while len(self._data) < size:
            self.more()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def take_until(self, mark: bytes) -> bytes:
        """Take everything up to a mark, and the mark."""
        while (place := self._data.find(mark)) < 0:
            self.more()
        return self.take(place + len(mark))

    def skip(self, size: int) -> None:
        """Take so many bytes and forget them."""
        size -= len(self._data)
        if size < 0:
            self._data = self._data[size:]
            return
        self._data = b""
        buffer = bytearray(min(max(size, 1), 262_144))
        while size > 0:
            count = self._connection.recv_into(buffer, min(size, len(buffer)))
            if not count:
                raise RuntimeError("the contestant closed the connection")
            size -= count

    def more(self) -> None:
        """Wait for more."""
        data = self._connection.recv(262_144)
        if not data:
            raise RuntimeError("the contestant closed the connection")
        self._data += data
