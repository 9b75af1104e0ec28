"""The product's decoder of control frames against the conformance kit's, over mutants."""

import random
from collections import Counter

import pytest

from .control_target import compare
from .mutants import mutate_bytes, mutate_value
from .seeds import frames

_LENGTH_SIZE = 4


def compare_mutants(count: int, seed: int) -> Counter[str]:
    """Compare both decoders over so many mutants and give how often each outcome came."""
    rng = random.Random(seed)
    items = [frame[_LENGTH_SIZE:] for frame in frames() if len(frame) > _LENGTH_SIZE]
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        item = mutant = rng.choice(items)
        for _ in range(1 + (rng.random() < 0.3)):
            mutate = rng.random()
            mutant = mutate_value(mutant, rng) if mutate < 0.4 else mutate_bytes(mutant, rng, items)
        try:
            outcomes[compare(mutant)] += 1
        except Exception as exc:
            raise AssertionError(f"{mutant.hex()}, made of {item.hex()}") from exc
    return outcomes


def test_every_item_of_the_vectors_is_taken_alike() -> None:
    for frame in frames():
        compare(frame[_LENGTH_SIZE:])


def test_both_decoders_agree_over_mutants() -> None:
    outcomes = compare_mutants(4_000, seed=1)
    assert min(outcomes[outcome] for outcome in ("accepted", "refused", "lenient")) > 10, outcomes


@pytest.mark.slow
def test_both_decoders_agree_over_many_mutants() -> None:
    outcomes = compare_mutants(100_000, seed=2)
    assert outcomes.total() == 100_000
    assert min(outcomes[outcome] for outcome in ("accepted", "refused", "lenient")) > 500, outcomes
