"""`dataplaned fsck`: check and repair a store whose daemon is stopped."""

from typing import TYPE_CHECKING

import click

from .exits import CommandError, ExitCode, complain, printable
from .options import json_option
from .output import emit, emit_json, format_size
from .progress import show_progress

if TYPE_CHECKING:
    from ..backends.filesystem.findings import Finding
    from ..backends.filesystem.fsck import Totals


@click.command()
@click.option(
    "--root",
    metavar="DIR",
    help="Directory of the store; by default this user's, or the system's.",
)
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="DATAPLANED_CONFIG",
    show_envvar=True,
    help="Configuration in TOML that names the store; --root wins over it.",
)
@click.option(
    "--backend",
    "backend_id",
    metavar="ID",
    help="Backend of the configuration to use instead of the default one.",
)
@click.option("--repair", "is_repairing", is_flag=True, help="Repair what is found.")
@click.option("--verify", "is_verifying", is_flag=True, help="Read all objects and compare.")
@click.option(
    "--adopt",
    "is_adopting",
    is_flag=True,
    help="Make objects of the files that no row names, whatever the catalog.",
)
@json_option
def fsck(
    root: str | None,
    config_path: str | None,
    backend_id: str | None,
    is_repairing: bool,
    is_verifying: bool,
    is_adopting: bool,
    as_json: bool,
) -> int:
    """Check a store whose daemon is stopped; with --repair, repair it.

    Nothing is changed without --repair. Each finding is a line on standard output, with what
    was done about it. The exit code is 0 when nothing was found or all is repaired, 65 when
    something is still to be repaired, 75 when a daemon has the store, and 78 when there is
    none. Names that are not the store's are told, never touched, and count for nothing.

    Copies that are missing, of the wrong size or, with --verify, of other bytes go into
    quarantine. Files that no row of the catalog names are removed, since a delete is final.
    When the catalog is a backup or older than the store, and with --adopt, they are read
    instead, and become objects if their bytes are what their name says.

    A catalog that is lost or damaged is set aside, and made anew from the last backup, from
    what can be read of the damaged one, and from all object files. Small objects that are in
    neither of the first two are lost. Of what was deleted since the backup, small objects that
    are in it come back, and large ones are listed as damaged: their files are gone, unless a
    crash came between the delete and its file. Times and the scrub's settings are those of the
    backup or of the files. Generations go on above all that were given before.
    """
    import sqlite3

    from ..backends.base import BackendError
    from ..backends.filesystem.fsck import Fsck, NotOwnerError
    from ..backends.filesystem.root import StoreInUseError

    path = _find_root(root, config_path, backend_id)
    try:
        with show_progress(path, None) as moved:
            check = Fsck(
                path,
                is_repairing=is_repairing,
                is_verifying=is_verifying,
                is_adopting=is_adopting,
                on_read=moved,
            )
            found = still_open = 0
            for finding in check.run():
                emit_json(_record(finding)) if as_json else emit(_line(finding))
                found += 1
                still_open += finding.is_open
    except StoreInUseError as error:
        raise CommandError(str(error), ExitCode.BUSY) from error
    except NotOwnerError as error:
        raise CommandError(str(error), ExitCode.DENIED) from error
    except BackendError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error
    except sqlite3.Error as error:
        raise CommandError(f"catalog of {path}: {error}", ExitCode.LOCAL_IO) from error
    if as_json:
        emit_json(_sum_record(check.totals, found, still_open))
    else:
        emit(_sum_line(check.totals))
    if still_open:
        complain(f"{still_open} of {found} findings are not repaired")
        return ExitCode.DAMAGED
    return ExitCode.OK


def _find_root(root: str | None, config_path: str | None, backend_id: str | None) -> str:
    if root is not None and backend_id is not None:
        raise click.UsageError(
            "--root and --backend name different stores", click.get_current_context()
        )

    from ..config import ConfigurationError, FilesystemConfig, load_config

    try:
        backends = load_config(config_path, socket=None, root=root).backend
    except ConfigurationError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error
    name = next(iter(backends)) if backend_id is None else backend_id
    if name not in backends:
        raise CommandError(f"no backend {name} is configured", ExitCode.UNAVAILABLE)
    backend = backends[name]
    if not isinstance(backend, FilesystemConfig):
        raise CommandError(f"backend {name} has no directory", ExitCode.CONFIGURATION)
    return backend.root


def _line(finding: "Finding") -> str:
    line = f"{finding.kind:<10}  {finding.subject}  {finding.detail}"
    return printable(line if finding.outcome is None else f"{line}: {finding.outcome}")


def _record(finding: "Finding") -> dict[str, object]:
    return {
        "kind": str(finding.kind),
        "subject": printable(finding.subject),
        "detail": finding.detail,
        "outcome": finding.outcome,
    }


def _sum_line(totals: "Totals") -> str:
    objects = "1 object" if totals.objects == 1 else f"{totals.objects} objects"
    copies = "1 copy" if totals.quarantined == 1 else f"{totals.quarantined} copies"
    return f"{objects}, {format_size(totals.size)}, {copies} in quarantine"


def _sum_record(totals: "Totals", found: int, still_open: int) -> dict[str, object]:
    return {
        "kind": "total",
        "objects": totals.objects,
        "size_bytes": totals.size,
        "quarantined": totals.quarantined,
        "findings": found,
        "not_repaired": still_open,
    }
