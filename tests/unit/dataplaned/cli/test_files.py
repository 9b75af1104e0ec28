import errno
import os
from pathlib import Path

import pytest

from dataplaned.cli.files import open_destination, open_source


def write_and_raise(target: Path, error: type[BaseException]) -> None:
    with open_destination(str(target)) as write:
        write(b"half")
        raise error


def test_a_file_appears_whole_at_the_end_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with open_destination(str(target)) as write:
        write(b"one ")
        assert not target.exists()
        write(b"two")
    assert target.read_bytes() == b"one two"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_of_a_file_that_was_not_finished(
    tmp_path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        write_and_raise(tmp_path / "out", error)
    assert os.listdir(tmp_path) == []


def test_a_file_that_was_there_stays_until_it_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        write_and_raise(target, RuntimeError)
    assert target.read_bytes() == b"old"
    with open_destination(str(target)) as write:
        write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_a_file_gets_the_mode_of_any_new_file(tmp_path: Path) -> None:
    with open_destination(str(tmp_path / "out")) as write:
        write(b"")
    (tmp_path / "other").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_is_kept_and_what_it_names_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with open_destination(str(tmp_path / "link")) as write:
        write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_devices_pipes_and_directories_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/null", str(tmp_path / "pipe"), str(tmp_path)):
        with pytest.raises(OSError, match=name), open_destination(name):
            pass


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    name = "n" * 255
    with open_destination(str(tmp_path / name)) as write:
        write(b"x")
    assert os.listdir(tmp_path) == [name]


def test_errors_carry_the_name_that_the_user_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught, open_destination("none/out"):
        pass
    assert caught.value.filename == "none/out"
    with pytest.raises(FileNotFoundError) as caught, open_source("none"):
        pass
    assert caught.value.filename == "none"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dataplaned.cli.files.os.fsync", full)
    target = tmp_path / "out"
    with pytest.raises(OSError, match="out") as caught, open_destination(str(target)) as write:
        write(b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    assert os.listdir(tmp_path) == []


def test_a_source_knows_its_size_and_gives_its_bytes(tmp_path: Path) -> None:
    content = os.urandom(600_000)
    (tmp_path / "in").write_bytes(content)
    moved: list[int] = []
    with open_source(str(tmp_path / "in")) as source:
        assert source.size_bytes == len(content)
        assert b"".join(source.pieces(moved.append)) == content
    assert sum(moved) == len(content)


def test_a_pipe_has_no_size() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"bytes")
    os.close(writing)
    with open_source(f"/dev/fd/{reading}") as source:
        assert source.size_bytes is None
        assert list(source.pieces(lambda _: None)) == [b"bytes"]
    os.close(reading)


def test_a_directory_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as caught, open_source(str(tmp_path)):
        pass
    assert caught.value.filename == str(tmp_path)
