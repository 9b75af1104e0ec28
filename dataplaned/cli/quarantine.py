"""`dataplaned quarantine`: the bad copies that were set aside."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .exits import HOPELESS, CommandError, ExitCode, Failures, complain
from .options import backend_option, json_option, open_client, socket_option
from .output import emit, emit_json, is_terminal
from .records import (
    purge_line,
    purge_record,
    quarantined_record,
    quarantined_row,
    restoration_line,
    restoration_record,
)

if TYPE_CHECKING:
    from ..backends.maintenance import QuarantinedCopy
    from .maintenance import Maintenance

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group()
def quarantine() -> None:
    """Look at copies that have become bad, and decide about them.

    They are never served. An object whose only copy is here is healed by ingesting it again;
    the bad copy then stays here until it is purged.
    """


def _numbers_argument(command: _Command) -> _Command:
    """Add `[NUMBER...]`."""
    return click.argument("numbers", metavar="[NUMBER...]", nargs=-1, type=click.IntRange(min=1))(
        command
    )


@quarantine.command(name="ls")
@backend_option
@socket_option
@json_option
def list_copies(backend_id: str | None, socket_path: str | None, as_json: bool) -> int:
    """List the copies: number, size, when it was found, address and reason.

    `only copy` is one whose object cannot be served until it is ingested again; `replaced`
    is one whose object has a good copy by now.
    """
    from .maintenance import Maintenance

    with open_client(socket_path) as client:
        for copy in Maintenance(client, backend_id).quarantined():
            if as_json:
                emit_json(quarantined_record(copy))
            else:
                emit(quarantined_row(copy))
    return ExitCode.OK


@quarantine.command()
@_numbers_argument
@click.option("--all", "is_all", is_flag=True, help="Every copy that is its object's only one.")
@backend_option
@socket_option
@json_option
def restore(
    numbers: tuple[int, ...],
    is_all: bool,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Read copies again, and take those out that are right after all.

    After a repair of the disk or its cable, say. Goes on after one that is still bad; the
    exit code is that of the first: 65 for such a one, 66 for a number that names nothing.
    With --json, each result is one line.
    """
    from .maintenance import Maintenance

    _require_some(numbers, is_all)
    failures = Failures()
    with open_client(socket_path) as client:
        maintenance = Maintenance(client, backend_id)
        if is_all:
            numbers = tuple(copy.number for copy in maintenance.quarantined() if copy.is_only_copy)

        def restore_one(number: int) -> None:
            restoration = maintenance.restore(number)
            if as_json:
                emit_json(restoration_record(restoration))
            else:
                emit(restoration_line(restoration))
            if restoration.mismatch is not None:
                failures.note(f"still damaged: copy {number}", ExitCode.DAMAGED)

        _do_each(numbers, restore_one, failures)
    return failures.code


@quarantine.command()
@_numbers_argument
@click.option("--all", "is_all", is_flag=True, help="Every copy.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed without a terminal.")
@click.option("-n", "--dry-run", is_flag=True, help="Only tell what would be removed.")
@backend_option
@socket_option
@json_option
def purge(
    numbers: tuple[int, ...],
    is_all: bool,
    yes: bool,
    dry_run: bool,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """Remove copies for good.

    An object whose only copy is removed goes with it. How many do is told first. The exit
    code is 66 for a number that names nothing. With --json, each copy removed is one line.
    """
    from .maintenance import Maintenance

    _require_some(numbers, is_all)
    if dry_run:
        return _look(numbers, is_all, backend_id, socket_path, as_json)
    if not yes and not is_terminal(sys.stdin):
        raise click.UsageError("--yes is needed without a terminal", click.get_current_context())
    failures = Failures()
    with open_client(socket_path) as client:
        maintenance = Maintenance(client, backend_id)
        numbers, lost = _chosen(maintenance, numbers, is_all)
        if numbers:
            _warn(len(numbers), lost, yes)

        def purge_one(number: int) -> None:
            purged = maintenance.purge(number)
            if as_json:
                emit_json(purge_record(purged))
            else:
                emit(purge_line(purged))

        _do_each(numbers, purge_one, failures)
    return failures.code


def _look(
    numbers: tuple[int, ...],
    is_all: bool,
    backend_id: str | None,
    socket_path: str | None,
    as_json: bool,
) -> int:
    """List the copies that a purge would remove."""
    from .maintenance import Maintenance

    failures = Failures()
    with open_client(socket_path) as client:
        copies = {copy.number: copy for copy in Maintenance(client, backend_id).quarantined()}
    for number in copies if is_all else dict.fromkeys(numbers):
        copy = copies.get(number)
        if copy is None:
            failures.note(f"copy {number}: no such copy", ExitCode.NOT_FOUND)
        elif as_json:
            emit_json(quarantined_record(copy))
        else:
            emit(quarantined_row(copy))
    return failures.code


def _require_some(numbers: tuple[int, ...], is_all: bool) -> None:
    if is_all == bool(numbers):
        raise click.UsageError("name NUMBER... or --all", click.get_current_context())


def _chosen(
    maintenance: "Maintenance", numbers: tuple[int, ...], is_all: bool
) -> tuple[tuple[int, ...], int]:
    """Give the numbers to purge, and how many of them are an object's only copy."""
    copies: list[QuarantinedCopy] = list(maintenance.quarantined())
    if is_all:
        numbers = tuple(copy.number for copy in copies)
    return numbers, sum(copy.is_only_copy for copy in copies if copy.number in set(numbers))


def _warn(count: int, lost: int, yes: bool) -> None:
    loss = f"{lost} {'object loses its' if lost == 1 else 'objects lose their'} only copy"
    if yes:
        if lost:
            complain(loss)
        return
    what = "this copy" if count == 1 else f"these {count} copies"
    question = f"Remove {what} for good?"
    if not click.confirm(f"{loss}. {question}" if lost else question, err=True):
        raise CommandError("nothing was removed", ExitCode.OTHER)


def _do_each(numbers: Sequence[int], action: Callable[[int], None], failures: Failures) -> None:
    """Do something to each copy, going on after one that fails."""
    from dataplane_protocol import DataPlaneError

    for number in dict.fromkeys(numbers):
        try:
            action(number)
        except DataPlaneError as error:
            if failures.add(error, f"copy {number}") in HOPELESS:
                break
