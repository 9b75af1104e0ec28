"""`dataplaned health`: how the backends are."""

import click

from .exits import ExitCode
from .options import backend_option, json_option, open_client, socket_option
from .output import emit, emit_json
from .records import backend_line, backend_record


@click.command()
@backend_option
@socket_option
@json_option
def health(backend_id: str | None, socket_path: str | None, as_json: bool) -> int:
    """Probe the backends: each probe really writes and reads.

    The exit code is 69 unless all that were probed are ok. With --json, one document: the
    backend asked for, or `default` and `backends`.
    """
    with open_client(socket_path) as client:
        if backend_id is not None:
            status = client.backend_health(backend_id=backend_id)
            if as_json:
                emit_json(backend_record(status))
            else:
                emit(backend_line(status, is_default=False))
            return _code(status.healthy)
        listed = client.list_backends()
    if as_json:
        records = [backend_record(status) for status in listed.backends]
        emit_json({"default": listed.default, "backends": records})
    else:
        for status in listed.backends:
            emit(backend_line(status, is_default=status.backend_id == listed.default))
    return _code(all(status.healthy for status in listed.backends))


def _code(is_healthy: bool) -> ExitCode:
    return ExitCode.OK if is_healthy else ExitCode.UNAVAILABLE
