"""`dataplaned scrub`: the check of everything stored that the daemon makes by itself."""

from typing import TYPE_CHECKING

import click

from .exits import ExitCode, complain
from .options import backend_option, json_option, open_client, socket_option
from .output import emit, emit_json
from .records import scrub_lines, scrub_record

if TYPE_CHECKING:
    from ..backends.maintenance import ScrubStatus


@click.group()
def scrub() -> None:
    """Watch and steer the scrub.

    The daemon reads everything that it stores again from time to time, and puts copies that
    have become bad into quarantine (see quarantine).
    """


@scrub.command()
@backend_option
@socket_option
@json_option
def status(backend_id: str | None, socket_path: str | None, as_json: bool) -> int:
    """Tell what the scrub does and what is left to do.

    What was verified is counted from the start of the daemon.
    """
    from .maintenance import Maintenance

    with open_client(socket_path) as client:
        _tell(Maintenance(client, backend_id).scrub_status(), as_json)
    return ExitCode.OK


@scrub.command()
@backend_option
@socket_option
@json_option
def start(backend_id: str | None, socket_path: str | None, as_json: bool) -> int:
    """Have everything verified now, and go on if it was paused.

    It goes on after a restart of the daemon. Where the scrub is turned off by the
    configuration the exit code is 78.
    """
    from ..backends.maintenance import ScrubState
    from .maintenance import Maintenance

    with open_client(socket_path) as client:
        started = Maintenance(client, backend_id).start_scrub()
    _tell(started, as_json)
    if started.state == ScrubState.OFF:
        complain("the scrub is off: its rate is 0 bytes a second")
        return ExitCode.CONFIGURATION
    return ExitCode.OK


@scrub.command()
@backend_option
@socket_option
@json_option
def pause(backend_id: str | None, socket_path: str | None, as_json: bool) -> int:
    """Stop the scrub until it is started, also after a restart of the daemon."""
    from .maintenance import Maintenance

    with open_client(socket_path) as client:
        _tell(Maintenance(client, backend_id).pause_scrub(), as_json)
    return ExitCode.OK


def _tell(scrub_status: "ScrubStatus", as_json: bool) -> None:
    if as_json:
        emit_json(scrub_record(scrub_status))
    else:
        emit(scrub_lines(scrub_status))
