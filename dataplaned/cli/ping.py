"""`dataplaned ping`: whether a daemon answers."""

import time

import click

from .exits import ExitCode
from .options import json_option, open_client, socket_option
from .output import emit, emit_json


@click.command()
@socket_option
@json_option
def ping(socket_path: str | None, as_json: bool) -> int:
    """Say how long a daemon takes to answer; the exit code is 69 when none does.

    No backend is asked: `dataplaned health` does that.
    """
    from dataplane_protocol import ContentAddress

    nothing = ContentAddress("blake3:" + "0" * 64)
    with open_client(socket_path) as client:
        # The first call connects, too.
        client.stat_objects([nothing])
        start = time.perf_counter()
        client.stat_objects([nothing])
        seconds = time.perf_counter() - start
    if as_json:
        emit_json({"seconds": seconds})
    else:
        emit(f"answered in {seconds * 1000:.2f} ms")
    return ExitCode.OK
