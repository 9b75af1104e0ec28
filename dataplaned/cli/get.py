"""`dataplaned get`: write an object, or a range of it."""

from typing import TYPE_CHECKING, Protocol

import click

from .exits import ExitCode
from .files import STDOUT, open_destination
from .options import (
    backend_option,
    json_option,
    open_client,
    parse_address,
    parse_range,
    socket_option,
)
from .output import emit_json, json_name
from .progress import show_progress

if TYPE_CHECKING:
    from dataplane_client.blocking import BlockingServedObject
    from dataplane_protocol import ContentAddress


@click.command()
@click.argument("address", metavar="ADDRESS", type=parse_address)
@click.option(
    "--range",
    "byte_range",
    metavar="FIRST-LAST",
    type=parse_range,
    help="Only these bytes, from 0, both included; `FIRST-` is all from FIRST on.",
)
@click.option(
    "-o",
    "--output",
    "destination",
    metavar="FILE",
    type=click.Path(),
    default=STDOUT,
    help="File to write; it appears only when it is whole and right.",
)
@backend_option
@socket_option
@json_option
def get(
    address: "ContentAddress",
    byte_range: tuple[int, int] | None,
    destination: str,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Write the bytes of an object, or of a range of it.

    They go to standard output, or to a file with -o. Every byte was checked before it is
    written, and a whole object is compared with its address once more at the end: a damaged
    one never ends with exit code 0. With --json, which needs -o, the transfer is described
    on standard output.
    """
    if as_json and destination == STDOUT:
        raise click.UsageError("--json needs --output FILE", click.get_current_context())
    with (
        open_client(socket_path) as client,
        client.serve_object(address, byte_range=byte_range, backend_id=backend_id) as served,
    ):
        _transfer(served, destination, None if byte_range else address)
        if as_json:
            emit_json(
                {
                    "content_address": str(address),
                    "file": json_name(destination),
                    "size_bytes": served.size,
                    "offset": served.offset,
                    "length": served.length,
                }
            )
    return ExitCode.OK


def _transfer(
    served: "BlockingServedObject", destination: str, address: "ContentAddress | None"
) -> None:
    title = "standard output" if destination == STDOUT else destination
    hasher = None if address is None else _hasher(address)
    with open_destination(destination) as write, show_progress(title, served.length) as advance:
        for piece in served:
            if hasher is not None:
                hasher.update(piece)
            write(piece)
            advance(len(piece))
        # Inside the block: a file must not appear before this.
        if hasher is not None and address is not None:
            _check(hasher, address)


class _Hasher(Protocol):
    """What hashlib's objects and blake3's have in common."""

    def update(self, data: bytes, /) -> object: ...

    def hexdigest(self) -> str: ...


def _hasher(address: "ContentAddress") -> _Hasher | None:
    match address.to_digest().algorithm:
        case "blake3":
            from blake3 import blake3

            return blake3()
        case "sha256":
            from hashlib import sha256

            return sha256()
        case _:
            # A later daemon may serve what this version cannot compute.
            return None


def _check(hasher: _Hasher, address: "ContentAddress") -> None:
    from dataplane_protocol import ObjectCorruptError

    actual = hasher.hexdigest()
    if actual != address.to_digest().hex:
        raise ObjectCorruptError(f"{address} arrived with the digest {actual}")
