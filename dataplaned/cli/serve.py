"""`dataplaned serve`: run the daemon."""

import click

from .exits import CommandError, ExitCode
from .options import socket_option


@click.command()
@socket_option
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
    help="Configuration in TOML; --socket and --root win over it.",
)
def serve(socket_path: str | None, root: str | None, config_path: str | None) -> int:
    """Run the daemon until SIGTERM or ^C.

    Calls in flight are then let finish. SIGHUP has the configuration read again.
    """
    from ..config import Config, ConfigurationError, load_config

    def load() -> Config:
        return load_config(config_path, socket=socket_path, root=root)

    try:
        config = load()
    except ConfigurationError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error

    from ..daemon import InUseError, MisconfiguredError, StartupError, run

    try:
        run(config, load)
    except InUseError as error:
        raise CommandError(str(error), ExitCode.BUSY) from error
    except MisconfiguredError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from error
    except StartupError as error:
        raise CommandError(str(error), ExitCode.OTHER) from error
    return ExitCode.OK
