"""Every input of the corpus is played again, with and without atheris."""

import importlib
import itertools

import pytest

from .seeds import CORPUS, TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_breaks_no_promise(target: str) -> None:
    check = importlib.import_module(f"tests.fuzz.{target}_target").check
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    for path in inputs:
        try:
            check(path.read_bytes())
        except Exception as exc:
            raise AssertionError(path.name) from exc


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.slow
def test_the_vectors_break_no_promise(target: str) -> None:
    check = importlib.import_module(f"tests.fuzz.{target}_target").check
    for seed in seeds(target):
        check(seed)


def test_the_corpus_stays_small() -> None:
    files = list(itertools.chain(*((CORPUS / target).iterdir() for target in TARGETS)))
    assert len(files) <= 300
    assert sum(path.stat().st_size for path in files) < 1_000_000
