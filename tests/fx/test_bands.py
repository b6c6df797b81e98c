"""Which band a value is in: thresholds and borders that are crossed once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx.bands import Bands, Border

values = st.floats(-2, 2)
symmetric = Bands.symmetric(0.5, 0.1)
threshold = Bands.threshold(0.15, 0.8)


@pytest.mark.parametrize(
    ("values", "bands"),
    [
        ([0.1, 0.1499, 0.15, 0.3, 0.13, 0.12], ["normal", "normal", "high", "high", "high", "high"]),
        ([0.2, 0.1199, 0.14, 0.149, 0.15], ["high", "normal", "normal", "normal", "high"]),
    ],
)
def test_a_threshold_is_crossed_once_until_the_value_is_clearly_below(values: list[float], bands: list[str]) -> None:
    was, found = None, []
    for value in values:
        was = threshold.of(value, was)
        found.append(was)
    assert found == bands


def test_a_regime_changes_only_beyond_the_margin() -> None:
    was, found = None, []
    for value in (0.55, 0.6, 0.45, 0.4, 0.39, -0.59, -0.61, -0.41, 0.7):
        was = symmetric.of(value, was)
        found.append(was)
    assert found == [
        "weak", "positive", "positive", "positive", "weak", "weak", "negative", "negative", "positive",
    ]  # fmt: skip


@given(values, st.sampled_from([None, *symmetric.names, "a name of another configuration"]))
def test_what_is_repeated_changes_nothing(value: float, was: str | None) -> None:
    for bands in (symmetric, threshold):
        now = bands.of(value, was)
        assert bands.of(value, now) == now


@given(values, values, st.sampled_from(symmetric.names))
def test_more_is_never_a_lower_band(value: float, more: float, was: str) -> None:
    low, high = sorted((value, more))
    place = symmetric.names.index
    assert place(symmetric.of(low, was)) <= place(symmetric.of(high, was))


@pytest.mark.parametrize(
    ("names", "borders", "home"),
    [
        (("a", "b"), (), "a"),
        (("a", "b"), (Border(1.0, 0.0),), "c"),
        (("a", "b"), (Border(0.0, 1.0),), "a"),
        (("a", "b", "c"), (Border(1.0, 0.5), Border(0.9, 0.8)), "a"),
        (("a", "b"), (Border(float("nan"), 0.0),), "a"),
    ],
)
def test_borders_that_are_none_are_refused(names: tuple[str, ...], borders: tuple[Border, ...], home: str) -> None:
    with pytest.raises(ValueError):
        Bands(names, borders, home)
