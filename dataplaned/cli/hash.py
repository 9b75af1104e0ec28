"""`dataplaned hash`: both addresses of files, without a daemon."""

import hashlib
from typing import TYPE_CHECKING, Final

import click

from .exits import ExitCode, Failures, printable
from .files import STDIN, open_source
from .options import json_option, parse_address
from .output import emit, emit_json, json_name, parse_sum_line, sum_line
from .progress import show_progress

if TYPE_CHECKING:
    from dataplane_protocol import ContentAddress

_ALGORITHMS: Final = ("blake3", "sha256")


@click.command(name="hash")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--algorithm",
    type=click.Choice(_ALGORITHMS),
    help="Only this one of the two digests.",
)
@click.option(
    "-c",
    "--check",
    "is_check",
    is_flag=True,
    help="Each FILE is a list of addresses and names, as ingest and hash write them: check them.",
)
@json_option
def hash_files(files: tuple[str, ...], algorithm: str | None, is_check: bool, as_json: bool) -> int:
    """Print the addresses that files would have, without a daemon.

    The output is that of sha256sum: address and name, a line for each digest. `-` is standard
    input. With --check, files are compared with a list, and the exit code is 65 when one is
    not as it says.
    """
    if files.count(STDIN) > 1:
        raise click.UsageError("standard input can be read once", click.get_current_context())
    if is_check:
        return _check(files, as_json)
    failures = Failures()
    for name in files:
        try:
            digests, size = _digest(name, _ALGORITHMS if algorithm is None else (algorithm,))
        except OSError as error:
            failures.add(error)
            continue
        if as_json:
            emit_json({"file": json_name(name), **digests, "size_bytes": size})
        else:
            emit("\n".join(sum_line(address, name) for address in digests.values()))
    return failures.code


def _digest(name: str, algorithms: tuple[str, ...]) -> tuple[dict[str, str], int]:
    """Read a file once; its addresses by algorithm, and its size."""
    from blake3 import blake3

    digesters = {one: blake3() if one == "blake3" else hashlib.sha256() for one in algorithms}
    size = 0
    with open_source(name) as source, show_progress(name, source.size_bytes) as advance:
        for piece in source.pieces(advance):
            size += len(piece)
            for digester in digesters.values():
                digester.update(piece)
    return {one: f"{one}:{digester.hexdigest()}" for one, digester in digesters.items()}, size


def _check(lists: tuple[str, ...], as_json: bool) -> int:
    failures = Failures()
    for list_name in lists:
        try:
            lines = _lines(list_name)
        except OSError as error:
            failures.add(error)
            continue
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            where = f"{list_name}:{number}"
            try:
                address, name = _parse(line)
            except (ValueError, click.BadParameter) as error:
                failures.note(f"{where}: {error}", ExitCode.USAGE)
                continue
            _check_one(address, name, failures, as_json)
    return failures.code


def _check_one(address: "ContentAddress", name: str, failures: Failures, as_json: bool) -> None:
    algorithm = address.to_digest().algorithm
    try:
        digests, _ = _digest(name, (algorithm,))
    except OSError as error:
        failures.add(error)
        return
    is_right = digests[algorithm] == str(address)
    if as_json:
        emit_json(
            {
                "file": json_name(name),
                "expected": str(address),
                "actual": digests[algorithm],
                "ok": is_right,
            }
        )
    else:
        emit(f"{printable(name)}: {'ok' if is_right else 'DIFFERS'}")
    if not is_right:
        failures.note(f"{name}: is not {address}", ExitCode.DAMAGED)


def _lines(name: str) -> list[str]:
    with open_source(name) as source:
        data = b"".join(source.pieces(lambda _: None))
    return data.decode(errors="surrogateescape").split("\n")


def _parse(line: str) -> "tuple[ContentAddress, str]":
    text, name = parse_sum_line(line)
    address = parse_address(text)
    if address.to_digest().algorithm not in _ALGORITHMS:
        raise ValueError(f"{address} has neither of the digests {', '.join(_ALGORITHMS)}")
    return address, name
