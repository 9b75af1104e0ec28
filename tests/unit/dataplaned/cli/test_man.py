import re
import shutil
import subprocess

import click

from dataplaned.cli.man import _escaped, _paragraphs
from dataplaned.cli.program import program


def commands(group, name="dataplaned"):
    yield name
    for each, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{name}-{each}")
        else:
            yield f"{name}-{each}"


def test_every_command_and_the_configuration_have_a_page(cli, tmp_path, monkeypatch):
    def pages():
        return {
            path.relative_to(tmp_path / "m").as_posix(): path.read_text()
            for path in (tmp_path / "m").rglob("*.[15]")
        }

    context = program.main(["man", str(tmp_path / "m")], standalone_mode=False)
    assert context == 0
    first = pages()
    wanted = {f"man1/{name}.1" for name in commands(program)} | {"man5/dataplaned.toml.5"}
    assert set(first) == wanted
    assert "--if-generation" in first["man1/dataplaned-delete.1"].replace("\\", "") or (
        "OPTIONS" in first["man1/dataplaned-delete.1"]
    )
    assert "max_connections" in first["man5/dataplaned.toml.5"]
    program.main(["man", str(tmp_path / "m")], standalone_mode=False)
    assert pages() == first


def test_the_pages_are_well_formed(require, tmp_path):
    require(shutil.which("mandoc") is not None, "mandoc")
    program.main(["man", str(tmp_path)], standalone_mode=False)
    paths = sorted(map(str, tmp_path.rglob("*.[15]")))
    done = subprocess.run(
        ["mandoc", "-Tlint", "-Wwarning", *paths], capture_output=True, text=True, check=False
    )
    # They have no date, so that the same commands give the same pages.
    others = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert others == []
    shown = subprocess.run(
        ["mandoc", "-Tascii", paths[0]], capture_output=True, text=True, check=True
    ).stdout
    assert "SEE ALSO" in re.sub(r".\x08", "", shown)


def test_text_is_shown_as_it_is():
    assert _escaped(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert _escaped("'a -- \\b") == "\\&'a \\-\\- \\eb"
    assert list(_paragraphs("one\ntwo\n\n\b\n  kept\n as is")) == [
        "one", "two", ".PP", ".nf", "  kept", " as is", ".fi",
    ]  # fmt: skip
