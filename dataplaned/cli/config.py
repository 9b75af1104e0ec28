"""`dataplaned config`: an example, a check, and what a daemon would use."""

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
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
def check(files: tuple[str, ...]) -> int:
    """Say what is wrong with configurations: a line for each fault, and exit code 78.

    Only the files are looked at, not what they lead to: `dataplaned serve` does that.
    """
    from ..config import ConfigurationError, load_config

    problems: list[str] = []
    for name in files:
        try:
            load_config(name, socket=None, root=None)
        except ConfigurationError as error:
            problems.append(str(error))
        else:
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
def show(config_path: str | None, socket_path: str | None, root: str | None) -> int:
    """Print what `dataplaned serve` would use with the same options, defaults among it.

    Of secrets, it says where they are read from.
    """
    from ..config import ConfigurationError, load_config, to_toml

    try:
        loaded = load_config(config_path, socket=socket_path, root=root)
    except ConfigurationError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error
    emit(to_toml(loaded).rstrip("\n"))
    return ExitCode.OK
