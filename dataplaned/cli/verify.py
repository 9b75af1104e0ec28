"""`dataplaned verify`: have stored bytes read and compared."""

from typing import TYPE_CHECKING

import click

from .exits import ExitCode, Failures, printable
from .options import (
    backend_option,
    json_option,
    open_client,
    parse_address,
    socket_option,
)
from .output import emit, emit_json, format_size
from .records import verify_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dataplane_client.blocking import BlockingDataPlaneClient
    from dataplane_protocol import ContentAddress, VerifyResult


@click.command()
@click.argument("addresses", metavar="[ADDRESS...]", nargs=-1, type=parse_address)
@click.option("--all", "is_all", is_flag=True, help="Verify every object of the backend.")
@backend_option
@socket_option
@json_option
def verify(
    addresses: "tuple[ContentAddress, ...]",
    is_all: bool,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Read objects from the disk and check both digests.

    Goes on after a damaged or missing object; the exit code is that of the first: 65 for
    damage, 66 for an address that names nothing. With --json, each result is one line.
    """
    from dataplane_protocol import ObjectNotFoundError

    if is_all == bool(addresses):
        raise click.UsageError("name ADDRESS... or --all", click.get_current_context())
    failures = Failures()
    with open_client(socket_path) as client:
        targets: Iterable[ContentAddress] = _everything(client, backend_id) if is_all else addresses
        for address in targets:
            try:
                result = client.verify_object(address, backend_id=backend_id)
            except ObjectNotFoundError:
                # Of a listing, it was deleted since: nothing to complain about.
                if not is_all:
                    failures.note(f"no such object: {address}", ExitCode.NOT_FOUND)
                continue
            _tell(result, as_json)
            if not result.verified:
                failures.note(f"damaged: {address}", ExitCode.DAMAGED)
    return failures.code


def _everything(
    client: "BlockingDataPlaneClient", backend_id: str | None
) -> "Iterator[ContentAddress]":
    for page in client.list_objects(backend_id=backend_id):
        for status in page:
            yield status.content_address


def _tell(result: "VerifyResult", as_json: bool) -> None:
    if as_json:
        emit_json(verify_record(result))
    elif result.verified:
        emit(f"ok       {result.content_address}  {format_size(result.actual_size_bytes)}")
    else:
        reason = printable(result.mismatch or "differs")
        emit(f"DAMAGED  {result.content_address}  {reason}")
