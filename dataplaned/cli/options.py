"""Options and argument types that several commands share, and the way to the daemon."""

import os
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient
    from dataplane_protocol import ContentAddress

_Command = TypeVar("_Command", bound=Callable[..., Any])

_SIZE = re.compile(r"([0-9]{1,12})(?:([KMGT])iB)?")
_RANGE = re.compile(r"([0-9]{1,16})-([0-9]{1,16})?")


def parse_address(text: str) -> "ContentAddress":
    """Read `blake3:HEX` or `sha256:HEX`; whether it knows the algorithm, the daemon says.

    Raises:
        click.BadParameter: It is not of that form.
    """
    from dataplane_protocol import ContentAddress, InvalidRequestError

    try:
        return ContentAddress(text)
    except InvalidRequestError as error:
        raise click.BadParameter(str(error)) from None


def parse_range(text: str) -> tuple[int, int]:
    """Read `FIRST-LAST`, both included, or `FIRST-` for all that follows.

    An open end becomes the last possible byte, which is clamped to the object's last one.

    Raises:
        click.BadParameter: It is not of that form, or no object has such a range.
    """
    from dataplane_protocol import MAX_INTEGER

    match = _RANGE.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not FIRST-LAST or FIRST-, in bytes from 0")
    first = int(match[1])
    last = MAX_INTEGER - 1 if match[2] is None else int(match[2])
    if last >= MAX_INTEGER:
        raise click.BadParameter(f"{text!r} ends after {MAX_INTEGER - 1}, the last possible byte")
    if first > last:
        raise click.BadParameter(f"{text!r} ends before it starts")
    return first, last


def parse_size(text: str) -> int:
    """Read a number of bytes, such as `1000`, `64KiB` or `50MiB`.

    Raises:
        click.BadParameter: It is not of that form, or nothing.
    """
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise click.BadParameter(f"{text!r} is not a number of bytes like 1000, 64KiB or 50MiB")
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def socket_option(command: _Command) -> _Command:
    """Add `--socket`."""
    return click.option(
        "--socket",
        "socket_path",
        metavar="PATH",
        envvar="DATAPLANED_SOCKET",
        show_envvar=True,
        help="Socket of the daemon; by default that of this user's daemon, or the system's.",
    )(command)


def backend_option(command: _Command) -> _Command:
    """Add `--backend`."""
    return click.option(
        "--backend",
        "backend_id",
        metavar="ID",
        help="Backend to use instead of the default one.",
    )(command)


def json_option(command: _Command) -> _Command:
    """Add `--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Write JSON: exact bytes, times in UTC."
    )(command)


@contextmanager
def open_client(socket_path: str | None, **settings: int) -> "Generator[BlockingDataPlaneClient]":
    """Give a client of the daemon at `socket_path`, or at the default place.

    Further settings are those of `connect`. Calls are part of the trace of `$TRACEPARENT`.
    """
    from dataplane_client.blocking import connect

    if socket_path is None:
        from ..paths import default_socket_path

        socket_path = default_socket_path()
    trace = partial(os.environ.get, "TRACEPARENT")
    with connect(socket_path, trace=trace, **settings) as client:
        yield client
