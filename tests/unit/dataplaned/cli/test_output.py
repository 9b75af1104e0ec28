import hashlib
import shutil
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from dataplaned.cli.output import emit, format_size, format_time, json_name, sum_line


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (65_536, "64.0 KiB"),
        (1024 * 1024 - 1, "1.0 MiB"),
        (3 * 1024**3 // 2, "1.5 GiB"),
        (2**53 - 1, "8.0 PiB"),
    ],
)
def test_sizes_are_rounded_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_times_are_rfc_3339_in_utc_to_the_millisecond() -> None:
    east = timezone(timedelta(hours=2))
    assert format_time(datetime(2024, 5, 1, 0, 30, tzinfo=east)) == "2024-04-30T22:30:00.000Z"
    moment = datetime(2024, 5, 1, 12, 0, 0, 123_999, tzinfo=UTC)
    assert format_time(moment) == "2024-05-01T12:00:00.123Z"
    assert format_time(None) is None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("plain name", "A  plain name"),
        ("-", "A  -"),
        ("back\\slash", "\\A  back\\\\slash"),
        ("two\nlines", "\\A  two\\nlines"),
        ("carriage\rreturn", "\\A  carriage\\rreturn"),
    ],
)
def test_names_are_escaped_as_sha256sum_does(name: str, line: str) -> None:
    assert sum_line("A", name) == line


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="compares with sha256sum")
@pytest.mark.parametrize("name", ["plain", "back\\slash", "two\nlines", "\udcff\udcfe"])
def test_lines_are_those_of_sha256sum(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"bytes")
    theirs = subprocess.run(
        ["sha256sum", "--", name], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert sum_line(digest, name).encode(errors="surrogateescape") + b"\n" == theirs


def test_names_that_are_no_text_become_text_in_json() -> None:
    assert json_name("Grüße") == "Grüße"
    assert json_name("bad\udcff") == r"bad\xff"


def test_names_that_are_no_text_keep_their_bytes_on_output(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    emit("bad\udcff")
    assert capfdbinary.readouterr().out == b"bad\xff\n"
