"""The corpus in the repository: the fewest inputs that reach what all known ones reach.

What an input reaches are the pairs of lines of the protocol package that ran one after the
other, and roughly how often. libFuzzer's own merge starts its program anew for every failure,
which a module run by `python -m` does not survive.
"""

import hashlib
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Final

import dataplane_protocol

from .seeds import CORPUS, MAX_SEED_SIZE, TARGETS, seeds

#: Files of each target, and how those begin that are kept whatever they reach.
MAX_FILES: Final = 90
KEPT: Final = "found-"

_PACKAGE: Final = str(Path(dataplane_protocol.__file__).parent)


def minimise(kept: Path | None) -> None:
    """Make the corpus of every target anew.

    Args:
        kept: Where a run kept what it found, a directory for each target.
    """
    for target in TARGETS:
        directory = CORPUS / target
        directory.mkdir(parents=True, exist_ok=True)
        older = [path for path in directory.iterdir() if not path.name.startswith(KEPT)]
        found = [*older, *((kept / target).iterdir() if kept else ())]
        inputs = {*seeds(target), *(path.read_bytes() for path in found)}
        check = importlib.import_module(f"tests.fuzz.{target}_target").check
        chosen = _cover(check, (each for each in inputs if len(each) <= MAX_SEED_SIZE))
        for path in older:
            path.unlink()
        for each in chosen[:MAX_FILES]:
            # The name that libFuzzer gives it.
            (directory / hashlib.sha1(each).hexdigest()).write_bytes(each)
        print(f"{target}: {len(chosen)} of {len(inputs)} inputs")


def _cover(check: Callable[[bytes], None], inputs: Iterable[bytes]) -> list[bytes]:
    """Choose inputs until they reach everything, those that reach most for their size first."""
    reached = {each: _reached_by(check, each) for each in sorted(inputs, key=lambda x: (len(x), x))}
    missing = set().union(*reached.values())
    chosen: list[bytes] = []
    while missing:
        best = max(reached, key=lambda each: len(reached[each] & missing) / (64 + len(each)))
        chosen.append(best)
        missing -= reached[best]
    return chosen


def _reached_by(check: Callable[[bytes], None], data: bytes) -> set[tuple[str, int, int, int]]:
    counts: Counter[tuple[str, int, int]] = Counter()

    def trace_call(frame: FrameType, _event: str, _argument: object) -> object:
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        before = frame.f_lineno

        def trace_line(frame: FrameType, _event: str, _argument: object) -> object:
            nonlocal before
            counts[frame.f_code.co_filename, before, frame.f_lineno] += 1
            before = frame.f_lineno
            return trace_line

        return trace_line

    sys.settrace(trace_call)
    try:
        check(data)
    finally:
        sys.settrace(None)
    return {(*pair, min(count.bit_length(), 4)) for pair, count in counts.items()}
