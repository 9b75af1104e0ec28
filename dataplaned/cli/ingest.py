"""`dataplaned ingest`: store files."""

from typing import TYPE_CHECKING

import click

from .exits import HOPELESS, Failures
from .files import STDIN, open_source
from .options import (
    backend_option,
    json_option,
    open_client,
    parse_address,
    socket_option,
)
from .output import emit, emit_json, json_name, sum_line
from .progress import show_progress
from .records import ingest_record

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingDataPlaneClient
    from dataplane_protocol import ContentAddress, Digest, IngestResult


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--algorithm",
    type=click.Choice(["blake3", "sha256"]),
    help="Digest to name the objects by; both are always kept. Default: blake3.",
)
@click.option(
    "--expect",
    "expected",
    metavar="ADDRESS",
    type=parse_address,
    help="Store the one FILE only if it has this address.",
)
@backend_option
@socket_option
@json_option
def ingest(
    files: tuple[str, ...],
    algorithm: str | None,
    expected: "ContentAddress | None",
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Store files durably and print their addresses.

    The output is that of sha256sum: address and name. `-` is standard input. A file that
    cannot be stored is told on standard error and the others go on; the exit code is that of
    the first failure. With --json, each object stored is one line.
    """
    from dataplane_protocol import DataPlaneError

    _check(files, expected)
    digest = None if expected is None else expected.to_digest()
    if algorithm is None and digest is not None:
        algorithm = digest.algorithm
    failures = Failures()
    with open_client(socket_path) as client:
        for name in files:
            try:
                result = _ingest(client, name, algorithm, backend_id, digest)
            except OSError as error:
                failures.add(error)
            except DataPlaneError as error:
                if failures.add(error, name) in HOPELESS:
                    break
            else:
                _tell(name, result, as_json)
    return failures.code


def _check(files: tuple[str, ...], expected: "ContentAddress | None") -> None:
    if expected is not None and len(files) > 1:
        raise click.UsageError("--expect takes one FILE", click.get_current_context())
    if files.count(STDIN) > 1:
        raise click.UsageError("standard input can be read once", click.get_current_context())


def _ingest(
    client: "BlockingDataPlaneClient",
    name: str,
    algorithm: str | None,
    backend_id: str | None,
    digest: "Digest | None",
) -> "IngestResult":
    from dataplane_protocol import IngestHints

    with open_source(name) as source, show_progress(name, source.size_bytes) as advance:
        hints = IngestHints(
            size_hint=source.size_bytes, primary_algorithm=algorithm, backend_id=backend_id
        )
        return client.ingest_stream(source.pieces(advance), hints=hints, expected_digest=digest)


def _tell(name: str, result: "IngestResult", as_json: bool) -> None:
    if as_json:
        emit_json({"file": json_name(name), **ingest_record(result)})
    else:
        emit(sum_line(str(result.primary_digest), name))
