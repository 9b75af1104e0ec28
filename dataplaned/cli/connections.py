"""`dataplaned connections`: who is connected, and what for."""

from typing import TYPE_CHECKING

import click

from .exits import ExitCode, printable
from .options import json_option, open_client, socket_option
from .output import emit, emit_json, format_size, format_time

if TYPE_CHECKING:
    from ..reports import ConnectionStatus


@click.command()
@socket_option
@json_option
def connections(socket_path: str | None, as_json: bool) -> int:
    """List the connections: number, user, process, socket, and the call that is open.

    Bytes are those of calls that have ended. With --json, a document a line.
    """
    from .reports import ask_connections

    with open_client(socket_path) as client:
        for connection in ask_connections(client):
            if as_json:
                emit_json(_record(connection))
            else:
                emit(_line(connection))
    return ExitCode.OK


def _line(connection: "ConnectionStatus") -> str:
    op = "idle" if connection.op is None else printable(connection.op)
    since = "" if connection.op_since is None else f" since {format_time(connection.op_since)}"
    return (
        f"{connection.number:>6}  uid {connection.uid}, process {connection.pid}, "
        f"{printable(connection.socket)} since {format_time(connection.since)}: "
        f"{connection.calls} calls, {format_size(connection.received_bytes)} received, "
        f"{format_size(connection.sent_bytes)} sent, {op}{since}"
    )


def _record(connection: "ConnectionStatus") -> dict[str, object]:
    return {
        "number": connection.number,
        "uid": connection.uid,
        "pid": connection.pid,
        "socket": connection.socket,
        "since": format_time(connection.since),
        "calls": connection.calls,
        "op": connection.op,
        "op_since": format_time(connection.op_since),
        "received_bytes": connection.received_bytes,
        "sent_bytes": connection.sent_bytes,
    }
