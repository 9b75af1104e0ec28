"""moto's server: S3 in the memory of a process, from PyPI, where there is no real engine."""

import subprocess
import sys
import time
from typing import Final

from .ports import free_port, listens

ACCESS_KEY: Final = "anything"
SECRET_KEY: Final = "goes-here"


class Moto:
    """The process. `close` ends it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not listens(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError("moto does not start")
            time.sleep(0.05)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
