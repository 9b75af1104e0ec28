"""`dataplaned man`: manual pages, made from the commands themselves."""

import os
import re
from collections.abc import Iterator

import click

from .. import __version__
from .exits import ExitCode
from .output import emit

#: Section of commands, and of files.
_COMMANDS, _FILES = "1", "5"


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))
@click.pass_context
def man(context: click.Context, directory: str) -> int:
    """Write manual pages into a directory, and print their paths.

    DIR is made when it is missing: man1 and man5 below it, as in /usr/local/share/man. There is
    a page for every command, and one for the configuration.
    """
    pages = dict(_pages(context.find_root().command, "dataplaned", None))
    pages["dataplaned.toml", _FILES] = _configuration_page()
    for (name, section), text in pages.items():
        folder = os.path.join(directory, f"man{section}")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{name}.{section}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        emit(path)
    return ExitCode.OK


def _pages(
    command: click.Command, name: str, parent: click.Context | None
) -> Iterator[tuple[tuple[str, str], str]]:
    context = click.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    title = name.replace(" ", "-")
    yield (title, _COMMANDS), "\n".join(_command_page(command, context, title)) + "\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            if inner is not None and not inner.hidden:
                yield from _pages(inner, f"{name} {each}", context)


def _command_page(command: click.Command, context: click.Context, title: str) -> Iterator[str]:
    summary, _, rest = (command.help or "").strip().partition("\n\n")
    yield _head(title, _COMMANDS)
    yield ".SH NAME"
    yield f"{_escaped(title)} \\- {_escaped(' '.join(summary.split()).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {_escaped(context.command_path)}"
    yield _escaped(" ".join(command.collect_usage_pieces(context)))
    yield ".SH DESCRIPTION"
    yield from _paragraphs(f"{summary}\n\n{rest}" if rest else summary)
    yield from _options(command, context)
    if isinstance(command, click.Group):
        yield from _commands(command, context, title)
    if command.epilog:
        yield ".SH NOTES"
        yield from _paragraphs(command.epilog)
    yield ".SH SEE ALSO"
    parent = title.rpartition("-")[0]
    others = [
        f".BR {_escaped(each)} (1)," for each in (parent, "dataplaned") if each and each != title
    ]
    yield from dict.fromkeys(others)
    yield ".BR dataplaned.toml (5)"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [
        record for each in command.get_params(context) if (record := each.get_help_record(context))
    ]
    if records:
        yield ".SH OPTIONS"
    for form, text in records:
        yield ".TP"
        yield f".B {_escaped(form)}"
        yield _escaped(" ".join(text.split())) or "\\&"


def _commands(group: click.Group, context: click.Context, title: str) -> Iterator[str]:
    yield ".SH COMMANDS"
    for each in group.list_commands(context):
        inner = group.get_command(context, each)
        if inner is not None and not inner.hidden:
            yield ".TP"
            yield f".BR {_escaped(f'{title}-{each}')} (1)"
            yield _escaped(inner.get_short_help_str(limit=200))


def _configuration_page() -> str:
    from ..config import example

    lines = [
        _head("dataplaned.toml", _FILES),
        ".SH NAME",
        "dataplaned.toml \\- configuration of dataplaned",
        ".SH DESCRIPTION",
        "The file that",
        ".B dataplaned serve \\-\\-config",
        "reads. This is one with every key:",
        ".PP",
        ".nf",
        *map(_escaped, example().splitlines()),
        ".fi",
        ".SH SEE ALSO",
        ".BR dataplaned\\-config (1),",
        ".BR dataplaned\\-serve (1)",
    ]
    return "\n".join(lines) + "\n"


def _head(title: str, section: str) -> str:
    # Without a date, so that the same commands give the same pages.
    return f'.TH "{_escaped(title.upper())}" "{section}" "" "dataplaned {__version__}" "dataplaned"'


def _paragraphs(text: str) -> Iterator[str]:
    """Set a help text. A backspace, as for click, marks a paragraph whose lines stay."""
    for index, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if index:
            yield ".PP"
        lines = [line.strip() if "\b" not in paragraph else line for line in paragraph.split("\n")]
        if "\b" in paragraph:
            yield ".nf"
            yield from (_escaped(line) for line in lines if "\b" not in line)
            yield ".fi"
        else:
            yield from (_escaped(line) for line in lines if line)


def _escaped(text: str) -> str:
    """Give text that roff(7) prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("\b", "")
    return f"\\&{text}" if text[:1] in (".", "'") else text
