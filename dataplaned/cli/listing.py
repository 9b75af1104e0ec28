"""`dataplaned stat` and `dataplaned ls`: what is stored."""

from typing import TYPE_CHECKING

import click

from .exits import ExitCode, Failures
from .options import (
    backend_option,
    json_option,
    open_client,
    parse_address,
    socket_option,
)
from .output import emit, emit_json
from .records import object_lines, object_record, object_row

if TYPE_CHECKING:
    from dataplane_protocol import ContentAddress, ObjectStatus


@click.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True, type=parse_address)
@backend_option
@socket_option
@json_option
def stat(
    addresses: "tuple[ContentAddress, ...]",
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Describe objects: size, both names, generation, times and state.

    Objects come in the order asked for; with --json, each is one line. Addresses that name
    nothing are told on standard error, and the exit code is 66.
    """
    with open_client(socket_path) as client:
        found = client.stat_objects(addresses, backend_id=backend_id)
    for status in found:
        if as_json:
            emit_json(object_record(status))
        else:
            emit(object_lines(status))
    failures = Failures()
    for address in addresses:
        if not any(status.is_named(address) for status in found):
            failures.note(f"no such object: {address}", ExitCode.NOT_FOUND)
    return failures.code


@click.command(name="ls")
@click.option("-l", "--long", "is_long", is_flag=True, help="Size, time and state, too.")
@click.option(
    "--after",
    metavar="ADDRESS",
    type=parse_address,
    help="Begin after this blake3 address, present or not.",
)
@backend_option
@socket_option
@json_option
def list_objects(
    is_long: bool,
    after: "ContentAddress | None",
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """List all objects, ordered by their blake3 addresses."""
    with open_client(socket_path) as client:
        for page in client.list_objects(after=after, backend_id=backend_id):
            lines = [_line(status, is_long, as_json) for status in page]
            if lines:
                emit("\n".join(lines))
    return ExitCode.OK


def _line(status: "ObjectStatus", is_long: bool, as_json: bool) -> str:
    if as_json:
        from json import dumps

        return dumps(object_record(status))
    return object_row(status) if is_long else str(status.content_address)
