import errno
import sqlite3

import pytest

from dataplane_protocol import NoSpaceError, UnavailableError
from dataplaned.backends.filesystem.errors import describe, leaves_no_doubt, translated


def os_error(number):
    return OSError(number, "what it says", "/a/secret/path")


def catalog_error(name):
    error = sqlite3.OperationalError("what it says")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_on_the_disk_is_no_space(number):
    with pytest.raises(NoSpaceError, match="backend b has no space: what it says"), translated("b"):
        raise os_error(number)


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EMFILE, errno.EACCES])
def test_every_other_error_of_the_disk_is_unavailable(number):
    with pytest.raises(UnavailableError, match="backend b failed: what it says"), translated("b"):
        raise os_error(number)


def test_no_room_for_the_catalog_is_no_space():
    with pytest.raises(NoSpaceError, match="catalog"), translated("b"):
        raise catalog_error("SQLITE_FULL")


def test_every_other_error_of_the_catalog_is_unavailable_and_named():
    with (
        pytest.raises(UnavailableError, match="in its catalog: SQLITE_IOERR_FSYNC"),
        translated("b"),
    ):
        raise catalog_error("SQLITE_IOERR_FSYNC")
    with pytest.raises(UnavailableError, match="in its catalog: ProgrammingError"), translated("b"):
        raise sqlite3.ProgrammingError("Cannot operate on a closed database.")


def test_the_cause_is_kept_for_the_log():
    error = os_error(errno.EIO)
    with pytest.raises(UnavailableError) as caught, translated("b"):
        raise error
    assert caught.value.__cause__ is error


def test_a_path_is_never_told():
    assert describe(os_error(errno.EIO)) == "what it says"
    assert describe(OSError("plain words")) == "plain words"


def test_what_is_ours_or_unexpected_passes():
    for error in (NoSpaceError("ours"), ZeroDivisionError("unexpected")):
        with pytest.raises(type(error)) as caught, translated("b"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("error", "is_certain"),
    [
        (OSError(errno.ENOSPC, ""), True),
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.ENFILE, ""), True),
        (OSError(errno.EIO, ""), False),
        (OSError(errno.EROFS, ""), False),
        (catalog_error("SQLITE_FULL"), True),
        (catalog_error("SQLITE_BUSY"), True),
        (catalog_error("SQLITE_IOERR_FSYNC"), False),
        (sqlite3.OperationalError("unnamed"), False),
    ],
)
def test_only_errors_before_or_without_a_change_leave_no_doubt(error, is_certain):
    assert leaves_no_doubt(error) is is_certain
