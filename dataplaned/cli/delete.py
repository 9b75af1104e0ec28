"""`dataplaned delete`: remove objects for good."""

import sys
from typing import TYPE_CHECKING

import click

from .exits import HOPELESS, CommandError, ExitCode, Failures
from .options import (
    backend_option,
    json_option,
    open_client,
    parse_address,
    socket_option,
)
from .output import emit, emit_json, format_size, is_terminal
from .records import deletion_record, object_record

if TYPE_CHECKING:
    from dataplane_protocol import ContentAddress, DeletionResult


@click.command()
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True, type=parse_address)
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed without a terminal.")
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what would be deleted.")
@click.option(
    "--if-generation",
    metavar="N",
    type=click.IntRange(min=0),
    help="Delete the one ADDRESS only if this is still its generation (see stat).",
)
@backend_option
@socket_option
@json_option
def delete(
    addresses: "tuple[ContentAddress, ...]",
    yes: bool,
    dry_run: bool,
    if_generation: int | None,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Remove objects for good, under both of their names.

    An address that names nothing is no error, as the object is as gone as it should be; the
    exit code is 66 only if none of the addresses named an object. With --json, each
    deletion is one line. Other failures are told, and the first one is the exit code.
    """
    from dataplane_protocol import DataPlaneError

    if if_generation is not None and len(addresses) > 1:
        raise click.UsageError("--if-generation takes one ADDRESS", click.get_current_context())
    if dry_run:
        return _look(addresses, backend_id, socket_path, as_json)
    if not yes:
        _ask(len(addresses))
    failures = Failures()
    deleted = 0
    with open_client(socket_path) as client:
        for address in addresses:
            try:
                result = client.delete_object(
                    address, backend_id=backend_id, if_generation=if_generation
                )
            except DataPlaneError as error:
                if failures.add(error, str(address)) in HOPELESS:
                    break
                continue
            deleted += result.deleted
            _tell(result, as_json)
    if not deleted and failures.code is ExitCode.OK:
        failures.note("no such object under any of the addresses", ExitCode.NOT_FOUND)
    return failures.code


def _look(
    addresses: "tuple[ContentAddress, ...]",
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Describe those that a delete would remove."""
    with open_client(socket_path) as client:
        found = client.stat_objects(addresses, backend_id=backend_id)
    for status in found:
        if as_json:
            emit_json(object_record(status))
        else:
            emit(f"would delete  {status.content_address}  {format_size(status.size_bytes)}")
    if found:
        return ExitCode.OK
    raise CommandError("no such object under any of the addresses", ExitCode.NOT_FOUND)


def _ask(count: int) -> None:
    if not is_terminal(sys.stdin):
        raise click.UsageError("--yes is needed without a terminal", click.get_current_context())
    what = "this object" if count == 1 else f"these {count} objects"
    if not click.confirm(f"Delete {what} for good?", err=True):
        raise CommandError("nothing was deleted", ExitCode.OTHER)


def _tell(result: "DeletionResult", as_json: bool) -> None:
    if as_json:
        emit_json(deletion_record(result))
    else:
        emit(f"{'deleted' if result.deleted else 'absent '}  {result.content_address}")
