"""Thresholds and who holds them, against a plain dict."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pyroaring import BitMap

from actors import bounds
from actors.bounds import Bounds


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees of several levels from a few ids on."""
    monkeypatch.setattr(bounds, "LEAF", 4)
    monkeypatch.setattr(bounds, "FAN", 3)


class Churn(RuleBasedStateMachine):
    @initialize(above=st.booleans(), words=st.booleans())
    def begin(self, above: bool, words: bool) -> None:
        self.above = above
        self.of: Callable[[int], Any] = (lambda n: "x" * n) if words else float
        self.bounds: Bounds[Any] = Bounds(str if words else float, above=above)
        self.held: dict[int, Any] = {}

    @rule(steps=st.lists(st.integers(0, 12), min_size=1, max_size=30))
    def add(self, steps: list[int]) -> None:
        for n in steps:
            member = min(set(range(len(self.held) + 1)) - self.held.keys())
            self.held[member] = self.of(n)
            self.bounds.add(self.of(n), member)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        for member in data.draw(st.lists(st.sampled_from(sorted(self.held)), unique=True)):
            self.bounds.remove(self.held.pop(member), member)

    @rule(n=st.integers(0, 13))
    def ask(self, n: int) -> None:
        value = self.of(n)
        cut = {m for m, threshold in self.held.items() if (threshold > value) is self.above}
        assert set(BitMap().union(*self.bounds.cut(value))) == cut
        assert self.bounds.floor(value) == max((t for t in self.held.values() if t <= value), default=None)

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "bounds"):
            self.bounds.check()
            assert self.bounds.size == len(self.held)
            assert set(self.bounds.all) == self.held.keys()
            assert sorted(self.bounds) == sorted((threshold, member) for member, threshold in self.held.items())


Churn.TestCase.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


class TestChurn(Churn.TestCase):
    @pytest.fixture(autouse=True)
    def _small(self, small: None) -> None: ...


@pytest.mark.parametrize("above", [True, False])
def test_orders_of_arrival(above: bool) -> None:
    """Rising, falling, one value, a few: the tree grows, shrinks and is empty at the end."""
    crowds = [value for value in (7, 9, 11, 13, 5, 3, 8) for _ in range(9)]
    for values in (range(200), range(200, 0, -1), [7] * 200, [7, 3] * 100, crowds, [*crowds, 1, 1, 0, 10, 2]):
        tree: Bounds[float] = Bounds(float, above=above)
        for member, value in enumerate(values):
            tree.add(float(value), member)
            tree.check()
        order = list(enumerate(values))
        random.Random(1).shuffle(order)
        for member, value in order:
            tree.remove(float(value), member)
        tree.check()
        assert (tree.size, tree.cut(1.0), tree.floor(1e9), len(tree.all)) == (0, [], None, 0)
        assert not tree._root.children


def test_falling_values_beside_one_that_is_alone_fill_leaves() -> None:
    tree: Bounds[float] = Bounds(float, above=True)
    for member in range(10):
        tree.add(0.0, member)
    for member in range(10, 14):
        tree.add(100.0 - member, member)
    assert len(list(tree._leaves(tree._root))) == 2


def test_a_tree_of_few_is_flat_again() -> None:
    tree: Bounds[float] = Bounds(float, above=True)
    for member in range(200):
        tree.add(float(member), member)
    assert len(tree._way(0.0)) > 2
    for member in range(199):
        tree.remove(float(member), member)
    assert len(tree._way(0.0)) == 1
    tree.check()


@pytest.mark.parametrize(("value", "member"), [(1.0, 9), (2.0, 1)])
def test_what_is_not_there_cannot_be_removed(value: float, member: int) -> None:
    tree: Bounds[float] = Bounds(float, above=True)
    with pytest.raises(LookupError):
        tree.remove(value, member)
    tree.add(1.0, 1)
    with pytest.raises((LookupError, ValueError)):
        tree.remove(value, member)
    tree.check()
    assert tree.size == 1
