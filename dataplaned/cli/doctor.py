"""`dataplaned doctor`: what is wrong with an installation, and what to do about it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from .. import __version__
from .exits import CommandError, ExitCode, printable
from .options import json_option, open_client, socket_option
from .output import emit, emit_json

if TYPE_CHECKING:
    from ..config import Config
    from .checks import Finding


@click.command()
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    envvar="DATAPLANED_CONFIG",
    show_envvar=True,
    help="Configuration of the daemon, whose stores are looked at.",
)
@socket_option
@json_option
def doctor(config_path: str | None, socket_path: str | None, as_json: bool) -> int:
    """Check an installation, and say of each thing wrong what to do.

    Looks at the socket, the daemon, the clock and limits, and at the stores of a configuration:
    permissions, space, kind of filesystem, whether fsync works there. Every backend is given
    an object of random bytes, which is read, verified and deleted again. The exit code is 1 when
    something fails.
    """
    from .checks import Verdict

    is_well = True
    for finding in _examine(config_path, socket_path):
        is_well = is_well and finding.verdict is not Verdict.FAILED
        if as_json:
            emit_json(_record(finding))
        else:
            emit(_lines(finding))
    return ExitCode.OK if is_well else ExitCode.OTHER


def _examine(config_path: str | None, socket_path: str | None) -> "Iterator[Finding]":
    from ..config import ConfigurationError, load_config
    from .checks import check_clock, check_stores, failed, ok

    config: Config | None = None
    if config_path is not None:
        try:
            config = load_config(config_path, socket=None, root=None)
        except ConfigurationError as error:
            for line in str(error).splitlines():
                yield failed(
                    "configuration", line, "mend it; dataplaned config example has every key"
                )
        else:
            yield ok("configuration", config_path)
    yield from _examine_daemon(config, socket_path)
    yield from check_clock()
    if config is not None:
        yield from check_stores(config)


def _examine_daemon(config: "Config | None", socket_path: str | None) -> "Iterator[Finding]":
    from dataplane_protocol import DataPlaneError

    from ..config import DaemonConfig
    from ..paths import default_socket_path
    from .checks import (
        Verdict,
        check_backend,
        check_descriptors,
        check_socket,
        check_versions,
        failed,
    )
    from .reports import ask_status

    if socket_path is None:
        socket_path = (config.daemon.socket if config else "") or default_socket_path()
    is_there = True
    for finding in check_socket(socket_path):
        is_there = is_there and finding.verdict is not Verdict.FAILED
        yield finding
    if not is_there:
        return
    limits = config.daemon if config else DaemonConfig()
    try:
        with open_client(socket_path) as client:
            report = ask_status(client)
            yield from check_versions(report, __version__)
            yield from check_descriptors(report, limits.max_connections)
            for backend in client.list_backends().backends:
                yield from check_backend(client, backend.backend_id)
    except (DataPlaneError, CommandError) as error:
        yield failed("daemon", str(error), "see its log: journalctl -u dataplaned")


def _lines(finding: "Finding") -> str:
    lines = f"{finding.verdict:<4}  {printable(finding.subject)}: {printable(finding.fact)}"
    return lines if finding.advice is None else f"{lines}\n      {printable(finding.advice)}"


def _record(finding: "Finding") -> dict[str, object]:
    return {
        "verdict": str(finding.verdict),
        "subject": finding.subject,
        "fact": finding.fact,
        "advice": finding.advice,
    }
