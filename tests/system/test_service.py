"""The daemon as a service of a real systemd, installed by the README's own commands."""

import json
import subprocess
from collections import Counter
from typing import Self

import pytest

from .container import Container

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SOCKET = "/run/dataplaned/dataplaned.sock"
ADMIN = "/run/dataplaned/admin.sock"
CONFIG = "/etc/dataplaned/dataplaned.toml"
CLIENTS = 16


class Load:
    """Clients that ingest and read for as long as this is open."""

    def __init__(self, machine: Container, name: str) -> None:
        self._machine = machine
        self._directory = f"/home/alice/{name}"
        # However often the tests before have started it.
        machine.run("systemctl", "reset-failed", "dataplaned.service", check=False)
        machine.run("mkdir", self._directory, user="alice")
        self._process = subprocess.Popen(
            machine.command(
                "/opt/dataplaned/bin/python", "/srv/load.py", SOCKET, str(CLIENTS),
                self._directory, user="alice",
            ),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def notes(self) -> list[list[str]]:
        path = self._machine.root / self._directory.lstrip("/")
        return [
            line.split(" ", 2)
            for file in sorted(path.glob("client-*"))
            for line in file.read_text().splitlines()
        ]

    def _unusual(self) -> list[list[str]]:
        return [note for note in self.notes() if note[0] in ("refused", "wrong")][:20]

    def has_stored(self, number: int) -> bool:
        """Whether so many more objects were acknowledged; waits for them."""
        wanted = len(self.stored()) + number
        return self._machine.becomes(lambda: len(self.stored()) >= wanted)

    def stored(self) -> list[str]:
        return [note[1] for note in self.notes() if note[0] == "stored"]

    def __enter__(self) -> Self:
        assert self.has_stored(CLIENTS)
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.run("touch", f"{self._directory}/stop", user="alice")
        assert self._process.wait(60) == 0
        kinds = Counter(note[0] for note in self.notes())
        print(dict(kinds))
        assert kinds["refused"] == kinds["wrong"] == 0, self._unusual()


def verify_all(machine: Container, load: Load) -> None:
    """Have the daemon read everything that was acknowledged."""
    addresses = set(load.stored())
    listed = set(machine.run("dataplaned", "ls", user="alice").stdout.split())
    assert addresses <= listed
    done = machine.run("dataplaned", "verify", "--all", user="alice", timeout=300)
    assert "damaged" not in done.stdout


def restarts(machine: Container) -> int:
    return int(machine.property("NRestarts"))


def ready(machine: Container) -> bool:
    return machine.property("ActiveState") == "active"


def test_the_first_caller_starts_it(machine):
    machine.run("systemctl", "stop", "dataplaned.service")
    assert machine.property("ActiveState") == "inactive"
    assert "answered in" in machine.run("dataplaned", "ping", user="alice").stdout
    assert machine.property("ActiveState") == "active"
    machine.run("systemctl", "stop", "dataplaned.service")
    machine.run("dataplaned", "ping", "--socket", ADMIN, user="olga")
    assert machine.property("ActiveState") == "active"


def test_the_kernel_refuses_who_is_in_no_group(machine):
    for user, socket in (("mallory", SOCKET), ("mallory", ADMIN), ("alice", ADMIN)):
        done = machine.run("dataplaned", "ping", "--socket", socket, user=user, check=False)
        assert done.returncode == 77
        assert "Permission denied" in done.stderr


def test_each_group_may_do_what_is_its_own(machine):
    store = "head -c 5000 /dev/urandom | dataplaned ingest -"
    address = machine.run("sh", "-c", store, user="alice").stdout.split()[0]
    machine.run("dataplaned", "verify", address, user="alice")
    for command in (("delete", "--yes", address), ("scrub", "start"), ("connections",)):
        done = machine.run("dataplaned", *command, user="alice", check=False)
        assert (done.returncode, "lacks the role" in done.stderr) == (77, True), command
    for command in (("connections",), ("scrub", "start"), ("delete", "--yes", address)):
        machine.run("dataplaned", *command, "--socket", ADMIN, user="olga")
    assert address not in machine.run("dataplaned", "ls", user="alice").stdout


def test_the_journal_has_the_fields(machine):
    store = "head -c 70000 /dev/urandom | dataplaned ingest -"
    address = machine.run("sh", "-c", store, user="alice").stdout.split()[0]
    machine.run("dataplaned", "delete", "--yes", address, user="alice", check=False)
    matches = ("-o", "json", f"DATAPLANED_OBJECT={address}", "DATAPLANED_EVENT=audit")

    def records():
        return [json.loads(line) for line in machine.journal(*matches)]

    assert machine.becomes(lambda: len(records()) == 2)
    stored, denied = records()
    uid = machine.run("id", "-u", "alice").stdout.strip()
    assert stored["DATAPLANED_OP"] == "ingest_stream"
    assert stored["DATAPLANED_OUTCOME"] == "created"
    assert stored["DATAPLANED_UID"] == denied["DATAPLANED_UID"] == uid
    assert stored["DATAPLANED_SOCKET"] == "clients"
    assert stored["SYSLOG_IDENTIFIER"] == "dataplaned"
    assert stored["_SYSTEMD_UNIT"] == "dataplaned.service"
    assert (denied["DATAPLANED_OP"], denied["DATAPLANED_CODE"]) == ("delete_object", "denied")
    first, second = (int(each["DATAPLANED_AUDIT_SEQ"]) for each in (stored, denied))
    assert second == first + 1


def test_restarts_under_load_refuse_nobody_and_lose_nothing(machine):
    with Load(machine, "restarts") as load:
        for _ in range(3):
            before = machine.property("MainPID")
            machine.run("systemctl", "restart", "dataplaned.service")
            assert machine.property("MainPID") != before
            assert load.has_stored(2 * CLIENTS)
    verify_all(machine, load)


def test_kills_under_load_refuse_nobody_and_lose_nothing(machine):
    with Load(machine, "kills") as load:
        for _ in range(3):
            before = restarts(machine)
            machine.run("systemctl", "kill", "-s", "KILL", "dataplaned.service")
            assert machine.becomes(lambda before=before: restarts(machine) > before)
            assert load.has_stored(2 * CLIENTS)
    verify_all(machine, load)


def test_a_reload_under_load_takes_effect_and_costs_no_call(machine):
    config = machine.root / CONFIG.lstrip("/")
    before = config.read_text()
    pid = machine.property("MainPID")
    with Load(machine, "reloads") as load:
        config.write_text(before + '\n[access.users]\nalice = ["delete"]\n')
        machine.run("systemctl", "reload", "dataplaned.service")
        assert load.has_stored(CLIENTS)
        store = "head -c 100 /dev/urandom | dataplaned ingest -"
        address = machine.run("sh", "-c", store, user="alice").stdout.split()[0]
        machine.run("dataplaned", "delete", "--yes", address, user="alice")
        config.write_text(before + "\n[daemon]\nmax_conections = 5\n")
        refused = machine.run("systemctl", "reload", "dataplaned.service", check=False)
        assert refused.returncode != 0
        assert any("did you mean 'max_connections'" in line for line in machine.journal())
        assert load.has_stored(CLIENTS)
        config.write_text(before.replace("/var/lib/dataplaned/store", "/var/lib/dataplaned/other"))
        machine.run("systemctl", "reload", "dataplaned.service")
        assert machine.becomes(
            lambda: any(
                "reload_needs_restart keys=('backend.local.root',)" in line
                or "backend.local.root" in line
                for line in machine.journal("DATAPLANED_EVENT=reload_needs_restart")
            )
        )
        config.write_text(before)
        machine.run("systemctl", "reload", "dataplaned.service")
    assert machine.property("MainPID") == pid
    assert not [note for note in load.notes() if note[0] == "again"]


def test_the_watchdog_restarts_a_daemon_that_does_not_turn(machine):
    drop_in = machine.root / "etc/systemd/system/dataplaned.service.d/watchdog.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text("[Service]\nWatchdogSec=2\n")
    try:
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "dataplaned.service")
        before, pid = restarts(machine), machine.property("MainPID")
        fed: set[str] = set()
        # For longer than the watchdog waits, a daemon that is well is left alone.
        assert machine.becomes(
            lambda: fed.add(machine.property("WatchdogTimestampMonotonic")) or len(fed) > 6
        )
        assert (restarts(machine), machine.property("MainPID")) == (before, pid)
        machine.run("kill", "-STOP", pid)
        assert machine.becomes(lambda: restarts(machine) > before)
        assert machine.becomes(lambda: ready(machine))
        assert machine.property("MainPID") != pid
        machine.run("dataplaned", "ping", user="alice")
    finally:
        drop_in.unlink()
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", "dataplaned.service")


def test_a_configuration_that_is_wrong_ends_the_start_with_its_own_code(machine):
    config = machine.root / CONFIG.lstrip("/")
    before = config.read_text()
    machine.run("systemctl", "stop", "dataplaned.service")
    try:
        config.write_text('[access.users]\nnot-there = ["read"]\n' + before)
        assert machine.run("systemctl", "start", "dataplaned.service", check=False).returncode
        assert machine.property("ExecMainStatus") == "78"
        assert machine.property("NRestarts") == "0"
        assert machine.property("ActiveState") == "failed"
        assert any("no user has the name 'not-there'" in line for line in machine.journal())
    finally:
        config.write_text(before)
        machine.run("systemctl", "reset-failed")
        sockets = ("dataplaned.socket", "dataplaned-admin.socket")
        machine.run("systemctl", "restart", *sockets)
        machine.run("dataplaned", "ping", user="alice")


def test_a_second_daemon_is_refused_with_the_first_ones_process(machine):
    pid = machine.property("MainPID")
    done = machine.run(
        "dataplaned", "serve", "--socket", "/run/other", "--root", "/var/lib/dataplaned/store",
        check=False,
    )  # fmt: skip
    assert (done.returncode, f"in use by process {pid}" in done.stderr) == (75, True)
    done = machine.run(
        "dataplaned", "serve", "--socket", SOCKET, "--root", "/tmp/other", check=False
    )
    assert done.returncode == 75
    assert f"{SOCKET} is in use by process" in done.stderr


def test_the_doctor_finds_it_well(machine):
    done = machine.run("dataplaned", "doctor", "--config", CONFIG, "--socket", ADMIN)
    print(done.stdout)
    assert "fail" not in done.stdout


def test_the_units_are_right_and_shut_off(machine):
    units = [
        f"/etc/systemd/system/dataplaned{end}" for end in (".service", ".socket", "-admin.socket")
    ]
    verified = machine.run("systemd-analyze", "verify", *units)
    assert verified.stdout + verified.stderr == ""
    analysed = machine.run("systemd-analyze", "security", "--no-pager", "dataplaned.service")
    line = analysed.stdout.strip().splitlines()[-1]
    print(line)
    score = float(line.partition("dataplaned.service:")[2].split()[0])
    assert score <= 1.0
    pid = machine.property("MainPID")
    facts = dict(
        line.split(":\t", 1)
        for line in machine.run("cat", f"/proc/{pid}/status").stdout.splitlines()
        if ":\t" in line
    )
    assert (facts["CapEff"], facts["NoNewPrivs"], facts["Seccomp"]) == ("0" * 16, "1", "2")
