"""A Debian 12 with systemd as its first process, in a container (systemd-nspawn(1))."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

#: What is there before anything is installed; `python3-venv` too, since a container without a
#: network cannot fetch what the README's first command asks for.
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv,procps,man-db"

TOP = Path(__file__).parents[2]


def make_root(root: Path) -> None:
    """Make the tree of a new machine."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)],
        check=True,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    (root / "etc/machine-id").write_text("")


def copy_checkout(to: Path) -> None:
    """Copy what a checkout has."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TOP,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and not name.startswith("tests/") and (TOP / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, to / name)


def download_wheels(to: Path) -> None:
    """Fetch what pip needs to build and install the checkout, for the container's Python."""
    subprocess.run(
        ["pip", "download", "-q", "-d", str(to), "hatchling", "editables",
         "--only-binary=:all:", "--python-version=3.11"],
        check=True,
    )  # fmt: skip
    wanted = subprocess.run(
        ["pip", "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
    ).stdout
    names = ("attrs", "blake3", "cattrs", "click", "h11", "prometheus", "rich", "structlog", "trio",
             "anyio", "cbor2")  # fmt: skip
    pinned = [line for line in wanted.splitlines() if line.lower().startswith(names)]
    subprocess.run(
        ["pip", "download", "-q", "-d", str(to), "--only-binary=:all:", "--python-version=3.11",
         *pinned],
        check=True,
    )  # fmt: skip


class Container:
    """One that runs until it is closed.

    Args:
        root: Its tree.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._log = (root.parent / "console.log").open("wb")
        script = (
            "mount --make-rprivate / && mount -t tmpfs none /run && exec systemd-nspawn "
            f"-D {root} --machine=dataplaned-{os.getpid()} --register=no --keep-unit "
            "--private-network --resolv-conf=off --timezone=off --boot --console=pipe"
        )
        self._process = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._first = 0
        try:
            self._await(self._find_first)
            self._await(self._is_running)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def command(self, *command: str, user: str | None = None) -> list[str]:
        """Give what runs a command inside, by a user with all of its groups."""
        if user is not None:
            command = ("runuser", "-u", user, "--", *command)
        inside = ("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                  *command)  # fmt: skip
        return ["nsenter", "-t", str(self._first), "-a", *inside]

    def run(
        self, *command: str, user: str | None = None, check: bool = True, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end."""
        done = subprocess.run(
            self.command(*command, user=user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def becomes(self, condition: Callable[[], bool], seconds: float = 60) -> bool:
        """Whether a condition comes true in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def property(self, name: str, unit: str = "dataplaned.service") -> str:
        """Give a property of a unit."""
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def journal(self, *matches: str) -> list[str]:
        """Give the messages of the journal that match."""
        done = self.run("journalctl", "-q", "-o", "cat", "--no-pager", *matches, check=False)
        return done.stdout.splitlines()

    def _await(self, condition: Callable[[], bool]) -> None:
        if not self.becomes(condition):
            console = (self.root.parent / "console.log").read_text(errors="replace")
            raise AssertionError(f"the container does not boot: {console[-2000:]}")

    def _find_first(self) -> bool:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids: Sequence[str] = children.read_text().split() if children.exists() else ()
        for pid in pids:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                self._first = int(pid)
                return True
        return False

    def _is_running(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")
