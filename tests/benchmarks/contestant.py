"""What is measured: a server that stores objects, set up by the benchmark itself."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from .load import Connect, Request

#: Seconds until a server must listen, and in which it must end.
_PATIENCE_S: Final = 30

_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Contestant:
    """A server. A context in which it runs.

    Attributes:
        NAME: For tables.
        PROGRAM: What must be installed.
        PROMISE: What it has done for durability when it answers an ingest.
        HAS_LARGE: Whether it stores large objects.
        HAS_RANGES: Whether it reads ranges of them.
        SMALL_ROWS: What it does with small ones.
    """

    NAME = ""
    PROGRAM = ""
    PROMISE = ""
    HAS_LARGE = True
    HAS_RANGES = True
    SMALL_ROWS: tuple[str, ...] = ("ingest", "stat", "read", "delete")

    def __init__(self, directory: Path) -> None:
        self.directory = directory / self.NAME
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the machine has it."""
        return shutil.which(cls.PROGRAM, path=f"{os.environ['PATH']}:/usr/sbin") is not None

    # What a contestant says of itself.

    def command(self) -> Sequence[str]:
        """Write its configuration, and give the command that starts it."""
        raise NotImplementedError

    def socket(self) -> str:
        """Give the socket that it listens at."""
        return str(self.directory / "s")

    def connection(self) -> Connect:
        """Give what opens a connection to it."""
        raise NotImplementedError

    def ingest(self, content: bytes) -> Request:
        """Make the request that stores a small object."""
        raise NotImplementedError

    def stat(self, content: bytes) -> Request:
        """Make the request that asks for an object's size."""
        raise NotImplementedError

    def read(self, content: bytes) -> Request:
        """Make the request that reads an object."""
        raise NotImplementedError

    def delete(self, content: bytes) -> Request:
        """Make the request that deletes an object."""
        raise NotImplementedError

    def ingest_large(self, pieces: "Pieces") -> str:
        """Store a large object; give its name."""
        raise NotImplementedError

    def serve_large(self, name: str, size: int) -> None:
        """Read a large object, and forget its bytes."""
        raise NotImplementedError

    def range(self, name: str, offset: int, size: int) -> Request:
        """Make the request that reads a range of a large object."""
        raise NotImplementedError

    def delete_large(self, name: str) -> None:
        """Delete a large object."""
        raise NotImplementedError

    # What all of them do.

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        log = (self.directory / "log").open("wb")
        with log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.directory, start_new_session=True
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (self.directory / "log").read_text()[-2000:]
                self.__exit__()
                raise RuntimeError(f"{self.NAME} did not start: {text}")
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def _listens(self) -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            self.connection()()
            return True
        return False

    def pids(self) -> Iterator[int]:
        """Give its processes."""
        assert self._process is not None
        yield self._process.pid
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                if int(fields[1]) == self._process.pid:
                    yield int(entry.parent.name)

    def cpu_s(self) -> float:
        """Give the CPU seconds that its processes have used."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))  # its own, and of children that ended
        return total / _TICKS

    def forget_peak(self) -> None:
        """Let `peak_mib` begin anew."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """Give the most memory that its processes have had, taken together."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        total += int(line.split()[1])
        return total / 1024


class Pieces:
    """The bytes of a large object, that no other has, in pieces of 1 MiB. Iterated more than once.

    Args:
        base: Random bytes that are given over and over, each time with a stamp of its own.
        size: Bytes in all, a multiple of 1 MiB.
        stamp: What tells this object from the others.
    """

    SIZE: Final = 1024 * 1024

    def __init__(self, base: bytes, size: int, stamp: int) -> None:
        self.size = size
        self._base = bytearray(base[: self.SIZE])
        self._stamp = stamp

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.size // self.SIZE):
            self._base[:16] = self._stamp.to_bytes(8, "big") + number.to_bytes(8, "big")
            yield bytes(self._base)
