"""`dataplaned metrics`: the page that Prometheus reads, for whoever brings it there otherwise."""

import click

from .exits import ExitCode
from .options import open_client, socket_option
from .output import emit


@click.command()
@socket_option
def metrics(socket_path: str | None) -> int:
    """Print the daemon's metrics as Prometheus reads them.

    For node_exporter's textfile collector: write them to a file beside, and rename that.
    """
    from .reports import ask_metrics

    with open_client(socket_path) as client:
        emit(ask_metrics(client).rstrip("\n"))
    return ExitCode.OK
