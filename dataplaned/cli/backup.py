"""`dataplaned backup`: have the daemon write a copy of its catalog."""

import click

from .exits import ExitCode, printable
from .options import backend_option, json_option, open_client, socket_option
from .output import emit, emit_json


@click.command()
@backend_option
@socket_option
@json_option
def backup(backend_id: str | None, socket_path: str | None, as_json: bool) -> int:
    """Write a copy of the catalog beside it, and print its path.

    The catalog is the one file of a store that says which objects exist; small ones are in it
    as a whole. If it is ever damaged or lost, `dataplaned fsck --repair` brings it back from
    the last copy. The copy is made while the daemon goes on, is on the disk when the path is
    printed, and takes the place of the one before. Copy it to another disk, too.
    """
    from .maintenance import Maintenance

    with open_client(socket_path) as client:
        written = Maintenance(client, backend_id).back_up()
    if as_json:
        emit_json({"backend_id": written.backend_id, "path": written.path})
    else:
        emit(printable(written.path))
    return ExitCode.OK
