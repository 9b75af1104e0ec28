"""The native protocol of systemd's journal, which keeps fields apart (systemd-journald(8))."""

import array
import errno
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping
from typing import Final

#: Where the journal listens.
JOURNAL_PATH: Final = "/run/systemd/journal/socket"

#: What names of fields begin with that are the daemon's own.
_PREFIX: Final = "DATAPLANED_"

#: syslog(3)'s numbers for levels.
_PRIORITIES: Final[Mapping[str, int]] = {
    "debug": 7,
    "info": 6,
    "warning": 4,
    "error": 3,
    "critical": 2,
}

#: fcntl(2), of memfd_create(2): nobody can change or shrink the file any more.
_ALL_SEALS: Final = 0xF


class Journal:
    """Sends entries. Never waits, and never fails: what is lost is counted.

    Args:
        path: The journal's socket.

    Attributes:
        lost: Entries that the journal did not take.
    """

    def __init__(self, path: str = JOURNAL_PATH) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self.lost = 0

    def close(self) -> None:
        """Send nothing any more."""
        self._socket.close()

    def send(self, entry: bytes) -> bool:
        """Send one entry, as `entry_of` gives it.

        Returns:
            False when no journal is there at all, so that the entry should go elsewhere.
        """
        try:
            self._socket.sendto(entry, self._path)
        except OSError as exc:
            if exc.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                return False
            if exc.errno not in (errno.EMSGSIZE, errno.ENOBUFS) or not self._send_as_file(entry):
                self.lost += 1
        return True

    def _send_as_file(self, entry: bytes) -> bool:
        """Send what is too large for a datagram in a sealed file of memory."""
        try:
            fd = os.memfd_create("dataplaned-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            os.write(fd, entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._socket.sendmsg([b""], rights, 0, self._path)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True


def is_standard_error() -> bool:
    """Whether standard error leads to the journal (systemd.exec(5), `JOURNAL_STREAM`)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def entry_of(level: str, message: str, fields: Mapping[str, object]) -> bytes:
    """Write an entry: a line for people, and every field for searching.

    Args:
        level: Of the line.
        message: The line.
        fields: By names of letters, digits and underscores.
    """
    parts = [
        _assignment("MESSAGE", message),
        _assignment("PRIORITY", str(_PRIORITIES.get(level, 6))),
        _assignment("SYSLOG_IDENTIFIER", "dataplaned"),
    ]
    parts += [
        _assignment(_PREFIX + name.upper(), value if isinstance(value, str) else _as_text(value))
        for name, value in fields.items()
        if value is not None
    ]
    return b"".join(parts)


def _as_text(value: object) -> str:
    return json.dumps(value, default=repr)


def _assignment(name: str, value: str) -> bytes:
    data = value.encode(errors="backslashreplace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)
    return b"%b=%b\n" % (name.encode(), data)
