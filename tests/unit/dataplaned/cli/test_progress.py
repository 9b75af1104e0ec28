import io
import sys

import pytest

from dataplaned.cli import progress
from dataplaned.cli.progress import LONG_TRANSFER, show_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # Not a fixture: pytest sets its own standard error between a test's setup and its call.
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    return screen


def test_a_pipe_stays_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress("file", LONG_TRANSFER * 2) as advance:
        advance(LONG_TRANSFER)
    assert capsys.readouterr() == ("", "")


def test_a_short_transfer_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    with show_progress("file", LONG_TRANSFER) as advance:
        advance(LONG_TRANSFER)
    assert terminal.getvalue() == ""


def test_a_long_transfer_shows_its_name_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = make_terminal(monkeypatch)
    with show_progress("[red]na\nme", LONG_TRANSFER * 2) as advance:
        advance(LONG_TRANSFER)
    assert r"[red]na\nme" in terminal.getvalue()


def test_a_transfer_of_unknown_size_shows_itself_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = make_terminal(monkeypatch)
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    with show_progress("-", None) as advance:
        advance(10)
        assert terminal.getvalue() == ""
        now[0] = 1.5
        advance(10)
    assert "20" in terminal.getvalue()
