"""A daemon of one's own: a subprocess with a new store in a temporary directory."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from dataplane_client.blocking import connect
from dataplane_protocol import UnavailableError

from .exits import CommandError, ExitCode

#: Seconds until it must answer. It takes a fraction of one; a busy machine more.
START_TIMEOUT: Final = 30.0

#: Seconds that it has to stop.
STOP_TIMEOUT: Final = 30.0

_ATTEMPT_INTERVAL: Final = 0.05
_LOG_LINES: Final = 10

#: Bytes of a socket's path that Linux takes, without the closing zero (unix(7)).
_MAX_SOCKET_PATH: Final = 107


@contextmanager
def private_daemon() -> Generator[str]:
    """Run a daemon and give the path of its socket; stop it and remove its store after.

    Raises:
        CommandError: It did not start, or did not stop well; the last lines of its log are
            in the message.
    """
    directory = _make_directory()
    try:
        log_path = os.path.join(directory, "log")
        socket_path = os.path.join(directory, "socket")
        process = _start(directory, socket_path, log_path)
        try:
            _await_answer(process, socket_path, log_path)
            yield socket_path
        finally:
            status = _stop(process)
        if status != 0:
            raise _failure(f"the daemon ended with status {status}", log_path)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make_directory() -> str:
    directory = tempfile.mkdtemp(prefix="dataplaned-selftest-")
    if len(os.fsencode(os.path.join(directory, "socket"))) <= _MAX_SOCKET_PATH:
        return directory
    os.rmdir(directory)
    return tempfile.mkdtemp(prefix="dataplaned-selftest-", dir="/tmp")


def _start(directory: str, socket_path: str, log_path: str) -> "subprocess.Popen[bytes]":
    # An empty configuration, so that the machine's own does not leak in.
    config_path = os.path.join(directory, "empty.toml")
    with open(config_path, "xb"), open(log_path, "xb") as log:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and our own paths
            [
                *(sys.executable, "-m", "dataplaned", "serve"),
                *("--config", config_path),
                *("--socket", socket_path),
                *("--root", os.path.join(directory, "store")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={key: value for key, value in os.environ.items() if not _is_ours(key)},
            # ^C is for the self-test, which then stops the daemon.
            start_new_session=True,
        )


def _is_ours(variable: str) -> bool:
    # Nor may a daemon run by systemd take the socket or tell that it is ready.
    return variable.startswith("DATAPLANED_") or variable in {
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PID",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }


def _await_answer(process: "subprocess.Popen[bytes]", socket_path: str, log_path: str) -> None:
    deadline = monotonic() + START_TIMEOUT
    while monotonic() < deadline:
        try:
            with connect(socket_path) as client:
                client.list_backends()
        except UnavailableError:
            # The pause before the next attempt ends early if the daemon does.
            if _wait(process, _ATTEMPT_INTERVAL) is not None:
                raise _failure("the daemon ended while starting", log_path) from None
        else:
            return
    raise _failure(f"the daemon did not answer within {START_TIMEOUT:.0f} s", log_path)


def _stop(process: "subprocess.Popen[bytes]") -> int | str:
    process.terminate()
    status = _wait(process, STOP_TIMEOUT)
    if status is not None:
        return status
    process.kill()
    process.wait()
    return f"killed: still there after {STOP_TIMEOUT:.0f} s"


def _wait(process: "subprocess.Popen[bytes]", timeout_s: float) -> int | None:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None


def _failure(message: str, log_path: str) -> CommandError:
    with open(log_path, errors="backslashreplace") as log:
        lines = log.read().splitlines()[-_LOG_LINES:]
    return CommandError("\n".join([message, *lines]), ExitCode.OTHER)
