"""A Ceph of one monitor, one OSD and one RADOS gateway, on loopback: a real S3 engine.

Debian's packages ceph-mon, ceph-osd, radosgw and ceph-common; no root. Objects are in the OSD's
memory, and gone with it.
"""

import json
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from .ports import free_port, listens

PROGRAMS: Final = ("ceph-mon", "ceph-osd", "radosgw", "ceph", "radosgw-admin", "monmaptool")

ACCESS_KEY: Final = "dataplaned-tests"
SECRET_KEY: Final = "not-much-of-a-secret"

_SETTINGS: Final = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{monitor_port}
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
# The gateway's own choice is "secure", for which there must be keys; it would wait for ever.
ms mon client mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
mon data avail warn = 1
# One monitor agrees with itself quickly.
paxos propose interval = 0.05
paxos min wait = 0.01
run dir = {directory}/run
admin socket = {directory}/run/$name.asok
log file = {directory}/log/$name.log
[mon.a]
mon data = {directory}/mon
[osd.0]
osd data = {directory}/osd
osd objectstore = memstore
memstore device bytes = {bytes}
# What a killed gateway watched is waited for so long before a bucket can be made again.
osd client watch timeout = 3
[client.rgw]
ms mon client mode = crc
rgw data = {directory}/rgw
# Without tcp_nodelay each request takes 40 ms more.
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
# Deleted bytes are given back soon and not after two hours: a full OSD hangs.
rgw gc obj min wait = 5
rgw gc processor period = 5
rgw gc processor max time = 5
"""


def is_installed() -> bool:
    """Whether every program is there."""
    return all(shutil.which(program) for program in PROGRAMS)


class Ceph:
    """The three processes, started one after the other. `close` ends them."""

    def __init__(self, directory: Path, *, gibibytes: int = 8) -> None:
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()
        monitor_port = free_port()
        for name in ("mon", "osd", "rgw", "log", "run"):
            (directory / name).mkdir()
        fsid = str(uuid.uuid4())
        self._settings = str(directory / "ceph.conf")
        Path(self._settings).write_text(
            _SETTINGS.format(
                fsid=fsid,
                directory=directory,
                port=self.port,
                monitor_port=monitor_port,
                bytes=gibibytes << 30,
            )
        )
        try:
            self._start_all(fsid, monitor_port)
        except BaseException:
            self.close()
            raise

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill_gateway(self) -> None:
        """End the gateway as a crash would; what it had stored is with the OSD."""
        self._end("gateway", signal.SIGKILL)

    def start_gateway(self) -> None:
        """Start the gateway, and wait until it listens."""
        self._start(
            "gateway",
            ["radosgw", "-f", "-n", "client.rgw"],
            lambda: listens(self.port),
        )

    def close(self) -> None:
        for name in ("gateway", "osd", "monitor"):
            self._end(name, signal.SIGTERM)

    def _start_all(self, fsid: str, monitor_port: int) -> None:
        monmap, keyring = str(self._directory / "monmap"), str(self._directory / "keyring")
        address = f"[v2:127.0.0.1:{monitor_port}]"
        self._run(["monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap])
        self._run(
            [
                "ceph-authtool",
                "--create-keyring",
                keyring,
                "--gen-key",
                "-n",
                "mon.",
                "--cap",
                "mon",
                "allow *",
            ]
        )
        self._run(
            [
                "ceph-mon",
                "--mkfs",
                "-i",
                "a",
                "--monmap",
                monmap,
                "--keyring",
                keyring,
                "-c",
                self._settings,
            ]
        )
        self._start("monitor", ["ceph-mon", "-f", "-i", "a"], self._has_monitor)
        osd = str(uuid.uuid4())
        self._ceph("osd", "new", osd)
        self._run(["ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "-c", self._settings])
        self._start("osd", ["ceph-osd", "-f", "-i", "0"], self._has_osd)
        self.start_gateway()
        self._run(
            [
                "radosgw-admin",
                "-c",
                self._settings,
                "user",
                "create",
                "--uid=tests",
                "--display-name=tests",
                f"--access-key={ACCESS_KEY}",
                f"--secret={SECRET_KEY}",
            ]
        )

    def _has_monitor(self) -> bool:
        return self._ceph("--connect-timeout", "2", "mon", "stat", check=False) is not None

    def _has_osd(self) -> bool:
        answer = self._ceph("osd", "stat", "-f", "json", check=False)
        return answer is not None and json.loads(answer)["num_up_osds"] == 1

    def _ceph(self, *arguments: str, check: bool = True) -> bytes | None:
        done = subprocess.run(
            ["ceph", "-c", self._settings, *arguments],
            capture_output=True,
            timeout=30,
            check=check,
        )
        return done.stdout if done.returncode == 0 else None

    def _run(self, command: Sequence[str]) -> None:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')}")

    def _start(self, name: str, command: Sequence[str], is_ready: Callable[[], bool]) -> None:
        log = (self._directory / "log" / f"{name}.out").open("ab")
        with log:
            process = subprocess.Popen(
                [*command, "-c", self._settings], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._processes[name] = process
        deadline = time.monotonic() + 60
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not start: see {log.name}")
            time.sleep(0.05)

    def _end(self, name: str, number: int) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
