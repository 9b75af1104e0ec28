import errno

import click
import pytest

from dataplane_protocol import (
    AccessDeniedError,
    BodyMismatchError,
    ConflictError,
    InternalError,
    InvalidRequestError,
    NoSpaceError,
    ObjectCorruptError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    RangeNotSatisfiableError,
    RemoteProtocolError,
    UnavailableError,
    UnknownBackendError,
    UnsupportedError,
    error_from_code,
)
from dataplaned.cli.exits import CommandError, ExitCode, Failures, code_of, explain, printable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("x"), 2),
        (UnsupportedError("x"), 2),
        (RangeNotSatisfiableError("x"), 2),
        (AccessDeniedError("x"), 77),
        (ObjectNotFoundError("x"), 66),
        (UnknownBackendError("x"), 69),
        (ObjectTooLargeError("x"), 1),
        (NoSpaceError("x"), 75),
        (ConflictError("x"), 1),
        (BodyMismatchError("x"), 65),
        (ObjectCorruptError("x"), 65),
        (RemoteProtocolError("x"), 1),
        (InternalError("x"), 1),
        (UnavailableError("x"), 75),
        (UnavailableError("x", retry=False), 69),
        (error_from_code("from_the_future", "x", retry=True), 75),
        (error_from_code("from_the_future", "x", retry=False), 1),
        (click.UsageError("x"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "x"), 74),
        (PermissionError(errno.EACCES, "x"), 74),
        (OSError(errno.EPIPE, "x"), 141),
        (CommandError("x", ExitCode.CONFIGURATION), 78),
        (RuntimeError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert code_of(error) == code


def test_a_daemon_that_the_system_does_not_find_is_unreachable_and_not_busy() -> None:
    error = UnavailableError("cannot connect")
    error.__cause__ = FileNotFoundError(errno.ENOENT, "x")
    assert code_of(error) == ExitCode.UNAVAILABLE


def test_local_errors_name_the_file_and_the_reason() -> None:
    assert explain(OSError(errno.EISDIR, "Is a directory", "a/b")) == "a/b: Is a directory"
    assert explain(OSError(errno.EIO, "Input/output error")) == "Input/output error"


def test_errors_without_words_are_told_by_their_name() -> None:
    assert explain(RuntimeError()) == "RuntimeError"
    assert explain(ObjectNotFoundError()) == "not_found"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Grüße", "Grüße"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\udcff", r"\udcff"),
    ],
)
def test_text_of_others_cannot_break_the_line_or_command_the_terminal(
    text: str, shown: str
) -> None:
    assert printable(text) == shown


def test_the_first_failure_decides_and_each_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    failures = Failures()
    assert failures.code is ExitCode.OK
    failures.add(ObjectNotFoundError("no such object"), "a")
    failures.add(OSError(errno.EISDIR, "Is a directory", "b"))
    assert failures.code is ExitCode.NOT_FOUND
    assert capsys.readouterr().err == (
        "dataplaned: a: no such object\ndataplaned: b: Is a directory\n"
    )
