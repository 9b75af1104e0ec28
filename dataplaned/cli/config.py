"""`dataplaned config`: an example, a check, and what a daemon would use."""

import os

import click

from .exits import CommandError, ExitCode
from .options import socket_option
from .output import emit


@click.group()
def config() -> None:
    """Write and check the configuration of a daemon."""


@config.command()
def example() -> int:
    """Print a configuration with every key, what it is for, and its default."""
    from ..config import example as give_example

    emit(give_example().rstrip("\n"))
    return ExitCode.OK


@config.command()
@click.argument("files", metavar="[FILE...]", nargs=-1, type=click.Path())
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of what is right.")
def check(files: tuple[str, ...], quiet: bool) -> int:
    """Say what is wrong with configurations: a line for each fault, and exit code 78.

    Each is looked at with its drop-ins and the environment; not what it leads to, such as
    directories: `dataplaned serve` and `dataplaned doctor` do that. Without a FILE, the one of
    $DATAPLANED_CONFIG.
    """
    from ..config import ConfigurationError, load_config

    own = os.environ.get("DATAPLANED_CONFIG")
    if not files and own is None:
        raise click.UsageError("no FILE is given, and $DATAPLANED_CONFIG is not set")
    problems: list[str] = []
    for name in files or (own or "",):
        try:
            load_config(name, socket=None, root=None)
        except ConfigurationError as error:
            problems.append(str(error))
        else:
            if not quiet:
                emit(f"{name}: ok")
    if problems:
        raise CommandError("\n".join(problems), ExitCode.CONFIGURATION)
    return ExitCode.OK


@config.command()
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="DATAPLANED_CONFIG",
    show_envvar=True,
    help="Configuration in TOML; without it, defaults.",
)
@socket_option
@click.option("--root", metavar="DIR", help="As for serve.")
@click.option("--effective", is_flag=True, help="Give defaults too: all that holds.")
def show(
    config_path: str | None, socket_path: str | None, root: str | None, effective: bool
) -> int:
    """Print what `dataplaned serve` is told with the same options, and where each value is from.

    Of secrets, it says where they are read from.
    """
    from ..config import ConfigurationError, annotated, load

    try:
        loaded = load(config_path, socket=socket_path, root=root)
    except ConfigurationError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error
    emit(annotated(loaded, is_whole=effective).rstrip("\n"))
    return ExitCode.OK
