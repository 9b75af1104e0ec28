import hashlib
import os
from pathlib import Path

from blake3 import blake3

from dataplaned.cli.samples import (
    edge_samples,
    largest_installed_file,
    main_sample,
    make_sample,
    random_sample,
)


def test_a_sample_knows_both_names_of_its_file_and_tail(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    sample = make_sample("x", path=str(tmp_path / "file"), tail=b"tail", is_own=True)
    whole = content + b"tail"
    assert b"".join(sample.pieces()) == whole
    assert sample.size_bytes == len(whole)
    assert str(sample.blake3) == "blake3:" + blake3(whole).hexdigest()
    assert str(sample.sha256) == "sha256:" + hashlib.sha256(whole).hexdigest()


def test_ranges_are_read_from_file_and_tail(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    sample = make_sample("x", path=str(tmp_path / "file"), tail=b"tail", is_own=True)
    for first, last in ((0, 0), (262_143, 262_144), (299_999, 300_003), (0, 300_003)):
        assert sample.read(first, last) == (content + b"tail")[first : last + 1]


def test_only_bytes_that_nobody_else_can_have_are_ours() -> None:
    assert [(sample.size_bytes, sample.is_own) for sample in edge_samples()] == [
        (0, False),
        (1, False),
        (65_535, True),
        (65_536, True),
        (65_537, True),
    ]
    assert random_sample("x", 100).blake3 != random_sample("x", 100).blake3


def test_the_file_of_the_user_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"bytes")
    sample = main_sample(str(tmp_path / "file"))
    assert (b"".join(sample.pieces()), sample.is_own) == (b"bytes", False)


def test_without_a_file_a_salted_library_is_taken() -> None:
    path = largest_installed_file()
    sample = main_sample(None)
    assert sample.size_bytes == os.path.getsize(path) + 16
    assert sample.size_bytes > 100_000
    assert sample.is_own
