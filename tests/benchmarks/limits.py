"""What the machine itself can do, each in a process of its own."""

import hashlib
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from blake3 import blake3

from .contestant import Pieces

_MIB: Final = 1024 * 1024
_PIECE: Final = 262_144


def sha256(_: Path, size: int) -> float:
    """SHA-256 in one thread, bytes a second."""
    return _hash(hashlib.sha256(), size)


def blake3_one_thread(_: Path, size: int) -> float:
    """BLAKE3 in one thread, bytes a second."""
    return _hash(blake3(), size)


def _hash(digest: "hashlib._Hash | blake3", size: int) -> float:
    data = os.urandom(_MIB)
    start = time.perf_counter()
    for _ in range(size // _MIB):
        digest.update(data)
    return size / (time.perf_counter() - start)


def socket_copy(_: Path, size: int) -> float:
    """Bytes a second through a Unix socket, from memory."""
    data = bytes(_PIECE)

    def send(connection: socket.socket) -> None:
        for _ in range(size // _PIECE):
            connection.sendall(data)

    return _receive(send, size)


def sendfile(directory: Path, size: int) -> float:
    """Bytes a second through a Unix socket, from a file in the kernel's cache, not looked at."""
    path = _large_file(directory, size)

    def send(connection: socket.socket) -> None:
        fd = os.open(path, os.O_RDONLY)
        sent = 0
        while sent < size:
            sent += os.sendfile(connection.fileno(), fd, sent, _MIB)

    return _receive(send, size)


def direct_read(directory: Path, size: int) -> float:
    """Bytes a second for who opens the cached file itself, in pieces of 1 MiB."""
    path = _large_file(directory, size)
    start = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    offset = 0
    while piece := os.pread(fd, _MIB, offset):
        offset += len(piece)
    os.close(fd)
    return offset / (time.perf_counter() - start)


def write_and_sync(directory: Path, size: int) -> float:
    """Bytes a second to a file, synced at the end."""
    path = directory / "written"
    pieces = Pieces(os.urandom(_MIB), size, 0)
    start = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)
        os.fsync(file.fileno())
    taken = time.perf_counter() - start
    path.unlink()
    return size / taken


def files_one_thread(directory: Path, count: int) -> float:
    """4 KiB files a second: write, fsync, rename, fsync of the directory."""
    return _files(directory, count, 1)


def files_32_threads(directory: Path, count: int) -> float:
    """The same from 32 threads at once."""
    return _files(directory, count, 32)


def _files(directory: Path, count: int, threads: int) -> float:
    place = directory / f"files-{threads}-{time.time_ns()}"
    place.mkdir()
    directory_fd = os.open(place, os.O_RDONLY)
    data = os.urandom(4096)

    def work(number: int) -> None:
        for index in range(count // threads):
            name = f"{place}/{number}-{index}"
            fd = os.open(f"{name}.new", os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(fd, data)
            os.fsync(fd)
            os.close(fd)
            os.rename(f"{name}.new", name)
            os.fsync(directory_fd)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return count // threads * threads / (time.perf_counter() - start)


def sqlite_commits(directory: Path, count: int) -> float:
    """4 KiB rows a second, one durable commit each."""
    path = directory / f"commits-{time.time_ns()}"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE objects (digest BLOB PRIMARY KEY, bytes BLOB)")
    rows = [(os.urandom(32), os.urandom(4096)) for _ in range(count)]
    start = time.perf_counter()
    for row in rows:
        connection.execute("INSERT INTO objects VALUES (?, ?)", row)
    taken = time.perf_counter() - start
    connection.close()
    return count / taken


#: By name; each takes a directory and the bytes of a large object.
OF_BYTES: Final[Mapping[str, Callable[[Path, int], float]]] = {
    "sha256": sha256,
    "blake3": blake3_one_thread,
    "socket copy": socket_copy,
    "sendfile": sendfile,
    "direct read": direct_read,
    "write + fsync": write_and_sync,
}

#: By name; each takes a directory and the number of small objects.
OF_OBJECTS: Final[Mapping[str, Callable[[Path, int], float]]] = {
    "one file each": files_one_thread,
    "one file each, 32 threads": files_32_threads,
    "one SQLite commit each": sqlite_commits,
}


def _receive(send: Callable[[socket.socket], None], size: int) -> float:
    receiving, sending = socket.socketpair()
    sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MIB)
    thread_free_sender = os.fork()
    if not thread_free_sender:
        receiving.close()
        send(sending)
        os._exit(0)
    sending.close()
    buffer = bytearray(_PIECE)
    received = 0
    start = time.perf_counter()
    while received < size and (count := receiving.recv_into(buffer)):
        received += count
    taken = time.perf_counter() - start
    os.waitpid(thread_free_sender, 0)
    return received / taken


def _large_file(directory: Path, size: int) -> Path:
    """Make a file once, and have all of it in the kernel's cache."""
    path = directory / "large"
    if not path.exists():
        with path.open("wb") as file:
            for piece in Pieces(os.urandom(_MIB), size, 1):
                file.write(piece)
    with path.open("rb", buffering=0) as file:
        while file.read(_MIB):
            pass
    return path
