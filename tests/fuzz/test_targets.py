"""Whatever a stranger sends to a parser, only its documented errors come out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A seed of which a piece is replaced, by a little or by a piece of another."""

    def cut(first: bytes, second: bytes, at: int, size: int, piece: bytes) -> bytes:
        at %= len(first) + 1
        return first[:at] + (piece or second[size : size * 2]) + first[at + size :]

    seed = st.sampled_from(seeds)
    return st.builds(cut, seed, seed, st.integers(0, 400), st.integers(0, 20), st.binary(max_size=6))


@pytest.mark.parametrize("name", TARGETS)
def test_only_documented_errors_come_out(name: str) -> None:
    anything = st.binary(max_size=100) | mutated(SEEDS.get(name, [b""]))

    @settings(max_examples=150)
    @given(anything)
    def holds(data: bytes) -> None:
        TARGETS[name](data)

    holds()


@pytest.mark.parametrize(("name", "seed"), [(name, seed) for name, seeds in SEEDS.items() for seed in seeds])
def test_the_seeds_hold(name: str, seed: bytes) -> None:
    TARGETS[name](seed)
