"""What a soak does to a daemon, its disk, its clock and its clients, by chance from a seed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from dataplane_client.blocking import connect
from dataplane_protocol import DataPlaneError

#: What makes a process see another time than the machine's (libfaketime).
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")

#: Jumps of the clock, there and back.
JUMPS = ("+0", "+3h", "-2h", "+40d", "-40d", "+400d", "-3000d")

CLIENTS = 4

START_S = 60.0


class Daemon:
    """A `dataplaned serve` whose clock can be set."""

    def __init__(self, work: Path, root: Path) -> None:
        self.socket_path = str(work / "s")
        self.root = root
        self._clock = work / "clock"
        self._config = work / "c.toml"
        self._log = (work / "log").open("ab")
        self.set_clock("+0")
        self._config.write_text(
            f'[daemon]\nsocket = "{self.socket_path}"\ndrain_timeout_s = 10\n'
            f'[log]\naudit = "{work}/audit"\n'
            f'[backend.local]\ntype = "filesystem"\nroot = "{root}"\n'
            "min_free_bytes = 4194304\nscrub_interval_s = 30\nmax_verify_age_s = 60\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def set_clock(self, offset: str) -> None:
        beside = self._clock.with_suffix(".new")
        beside.write_text(offset)
        beside.rename(self._clock)

    def start(self) -> None:
        environment = os.environ | {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dataplaned", "serve", "--config", str(self._config)],
            env=environment, stdin=subprocess.DEVNULL, stderr=self._log,
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(DataPlaneError), connect(self.socket_path) as client:
                client.backend_health()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon did not start: {self.process.poll()}")
            time.sleep(0.05)

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._log.close()


class Torment:
    """Does one thing after the other.

    Attributes:
        done: How often each.
        rotten: Addresses of the objects that were made bad.
    """

    def __init__(self, daemon: Daemon, workers: list[subprocess.Popen[bytes]], seed: int) -> None:
        self.daemon = daemon
        self.workers = workers
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.rotten: set[str] = set()
        self._filler = daemon.root.parent / "filler"

    def act(self, *, may_restart: bool) -> None:
        """Do something."""
        gentle: list[Callable[[], None]] = [
            self.rot, self.rot, self.fill, self.jump, self.stop_a_client, self.reload, self.scrub,
            self.back_up,
        ]  # fmt: skip
        harsh: list[Callable[[], None]] = [self.kill, self.kill, self.restart]
        chosen = self.chance.choice(gentle + (harsh if may_restart else []))
        self.done[chosen.__name__] += 1
        chosen()

    def kill(self) -> None:
        assert self.daemon.end(signal.SIGKILL) == -signal.SIGKILL
        self.daemon.start()

    def restart(self) -> None:
        assert self.daemon.end(signal.SIGTERM) == 0
        self.daemon.start()

    def reload(self) -> None:
        assert self.daemon.process is not None
        self.daemon.process.send_signal(signal.SIGHUP)

    def rot(self) -> None:
        """Change a byte of a stored file, cut it short, or fill a part with zeroes."""
        files = [path for path in (self.daemon.root / "objects").rglob("*") if path.is_file()]
        if not files:
            return
        path = self.chance.choice(files)
        name = path.name.partition(".")[0]
        try:
            path.chmod(0o600)
            with path.open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                place = self.chance.randrange(size)
                # Before it is bad: whoever reads it from here on may be told so.
                self.rotten.add(f"blake3:{name}")
                match self.chance.choice(("flip", "cut", "zero")):
                    case "flip":
                        file.seek(place)
                        byte = file.read(1)
                        file.seek(place)
                        file.write(bytes([byte[0] ^ 1]))
                    case "cut":
                        file.truncate(place)
                    case "zero":
                        file.seek(place)
                        file.write(bytes(min(5000, size - place)))
        except FileNotFoundError:
            return  # deleted meanwhile

    def fill(self) -> None:
        """Leave the disk no room, for a moment."""
        try:
            with self._filler.open("wb") as file:
                while True:
                    file.write(bytes(1024 * 1024))
                    file.flush()
        except OSError:
            pass
        time.sleep(self.chance.uniform(0.2, 1.5))
        self._filler.unlink(missing_ok=True)

    def jump(self) -> None:
        self.daemon.set_clock(self.chance.choice(JUMPS))

    def stop_a_client(self) -> None:
        worker = self.chance.choice(self.workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.2, 1.0))
        worker.send_signal(signal.SIGCONT)

    def scrub(self) -> None:
        self._ask(f"dataplaned.scrub_{self.chance.choice(('start', 'pause', 'start'))}")

    def back_up(self) -> None:
        self._ask("dataplaned.back_up")

    def _ask(self, operation: str) -> None:
        # A full disk, say.
        with contextlib.suppress(DataPlaneError), connect(self.daemon.socket_path) as client:
            client.call_private(operation)
