"""One target under atheris: `python -m tests.fuzz.fuzzer TARGET [LIBFUZZER ARGUMENT ...]`.

The command of `__main__.py` runs this; run it by hand to give libFuzzer arguments of your own,
or the name of a file to play once.
"""

import importlib
import random
import sys
from collections.abc import Callable

import atheris
from atheris.import_hook import AtherisMetaPathFinder

# As `instrument_imports` does, but without tracing every comparison: that halves the speed,
# and the words of the contract are in the mutants' vocabulary anyway.
sys.meta_path.insert(
    0, AtherisMetaPathFinder({"dataplane_protocol"}, set(), False, trace_dataflow=False)
)

from . import mutants, seeds  # noqa: E402 - these import what is instrumented
from .feeding import SCRIPT_SIZE  # noqa: E402


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    target = sys.argv[1]
    check = importlib.import_module(f"tests.fuzz.{target}_target").check
    arguments = [sys.argv[0], *sys.argv[2:]]
    atheris.Setup(arguments, check, custom_mutator=_mutator(target))
    atheris.Fuzz()


def _mutator(target: str) -> Callable[[bytes, int, int], bytes]:
    """Give a mutator that keeps lengths right most of the time; few inputs get past them else."""
    vocabulary = [each for each in seeds.frames() if len(each) > 4]
    items = [each[4:] for each in vocabulary]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.2:
            # Another function than before `Fuzz` was called, which replaces it.
            return atheris.Mutate(data, max_size)
        if target == "control":
            return mutants.mutate_item(data, rng, items)[:max_size]
        script = data[:SCRIPT_SIZE].ljust(SCRIPT_SIZE, b"\0")
        if rng.random() < 0.1:
            script = rng.randbytes(SCRIPT_SIZE)
        stream = mutants.mutate_stream(data[SCRIPT_SIZE:], rng, vocabulary)
        return (script + stream)[:max_size]

    return mutate


if __name__ == "__main__":
    main()
