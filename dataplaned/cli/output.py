"""Standard output: bytes that all arrive or an error, and the formats that scripts rely on."""

import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from errno import EBADF
from typing import TextIO

import click

STANDARD_OUTPUT = "standard output"

#: What stands behind a backslash in a name, and what for.
_ESCAPES = {"\\": "\\", "n": "\n", "r": "\r"}


def emit(line: str | bytes) -> None:
    """Write a line, or several, to standard output.

    Raises:
        OSError: It was not written, with `standard output` as its filename.
    """
    data = os.fsencode(line) if isinstance(line, str) else line
    stream = _open_stdout()
    try:
        click.echo(data, file=stream)
    except OSError as error:
        raise _stdout_error(error) from None


def emit_json(value: Mapping[str, object]) -> None:
    """Write one JSON document as one line of ASCII."""
    emit(json.dumps(value))


def emit_piece(piece: bytes) -> None:
    """Write bytes to standard output past every buffer.

    Raises:
        OSError: As for `emit`.
    """
    descriptor = _open_stdout().fileno()
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError as error:
        raise _stdout_error(error) from None


def settle_stdout() -> None:
    """Keep the interpreter from failing at its end over output that could not be written.

    Raises:
        OSError: As for `emit`.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered would be tried once more, and fail with a traceback.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise _stdout_error(error) from None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is open, and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def sum_line(address: str, name: str) -> str:
    r"""Give `ADDRESS  NAME` as sha256sum(1) does.

    A line whose name has a backslash or a line end starts with a backslash, and those are
    written as `\\`, `\n` and `\r`.
    """
    escaped = name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    mark = "" if escaped == name else "\\"
    return f"{mark}{address}  {escaped}"


def parse_sum_line(line: str) -> tuple[str, str]:
    """Read what `sum_line` gives.

    Raises:
        ValueError: It is no such line.
    """
    mark = line.startswith("\\")
    address, separator, name = line[mark:].partition("  ")
    if not separator or not address or not name:
        raise ValueError("is not ADDRESS, two spaces, and a name")
    if not mark:
        return address, name
    return address, re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[0]), name)


def json_name(name: str) -> str:
    r"""Give a file name as text; bytes that are no UTF-8 become escapes such as `\xff`."""
    return os.fsencode(name).decode(errors="backslashreplace")


def format_time(moment: datetime | None) -> str | None:
    """Give a time in UTC as RFC 3339, to the millisecond."""
    if moment is None:
        return None
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def format_size(size: int) -> str:
    """Give a number of bytes for people, in binary units."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        # 1023.95 and more would be rounded to 1024.0.
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"


def _open_stdout() -> TextIO:
    # Without descriptor 1 the next file opened gets its number, and would get the output.
    if sys.stdout is None:
        raise OSError(EBADF, os.strerror(EBADF), STANDARD_OUTPUT)
    return sys.stdout


def _stdout_error(error: OSError) -> OSError:
    return OSError(error.errno, error.strerror, STANDARD_OUTPUT)
