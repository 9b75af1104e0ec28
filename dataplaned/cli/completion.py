"""`dataplaned completion`: what a shell has to know to complete command lines."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from .exits import ExitCode
from .output import emit

SHELLS: Final = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
bash:  dataplaned completion bash > ~/.local/share/bash-completion/completions/dataplaned
zsh:   dataplaned completion zsh > _dataplaned, in a directory of $fpath
fish:  dataplaned completion fish > ~/.config/fish/completions/dataplaned.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print what makes a shell complete commands and options."""
    program = context.find_root().command
    kind = get_completion_class(shell)
    assert kind is not None
    emit(kind(program, {}, "dataplaned", "_DATAPLANED_COMPLETE").source().strip("\n"))
    return ExitCode.OK
