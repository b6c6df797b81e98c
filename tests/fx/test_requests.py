from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx.pairs import DEFAULT_PAIRS
from fx.requests import NAMES_MAX, SHOWN_MAX, BadRequest, chosen, instrument

KNOWN = ("EUR_USD", "GBP_USD", "USD_JPY")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("pairs", "valid", "invalid"),
    [
        (["EUR_USD"], ["EUR_USD"], []),
        (["USD_JPY", "EUR_USD", "USD_JPY"], ["USD_JPY", "EUR_USD"], []),
        ("*", list(KNOWN), []),
        (["INVALID_PAIR"], [], ["INVALID_PAIR"]),
        (
            ["EUR_USD", "X", "eur_usd", 7, None, ["EUR_USD"]],
            ["EUR_USD"],
            ["X", "eur_usd", "7", "nothing", "['EUR_USD']"],
        ),
        (["*"], [], ["*"]),
        (["x" * 100], [], ["x" * 40 + "…"]),
    ],
)
def test_pairs_of_a_request(pairs: Any, valid: list[str], invalid: list[str]) -> None:
    assert chosen({"pairs": pairs}, KNOWN) == (valid, invalid)


@pytest.mark.parametrize(
    "request_", [None, "EUR_USD", ["EUR_USD"], {}, {"pairs": None}, {"pairs": "EUR_USD"}, {"pairs": []}, {"pairs": {}}]
)
def test_what_names_no_pairs_is_told(request_: Any) -> None:
    with pytest.raises(BadRequest, match="pairs") as caught:
        chosen(request_, KNOWN)
    assert caught.value.field == "pairs"


def test_a_request_is_bounded_and_so_is_its_error() -> None:
    assert len(chosen({"pairs": [f"X_{i}" for i in range(NAMES_MAX)]}, KNOWN).invalid) == SHOWN_MAX
    with pytest.raises(BadRequest, match=f"1 to {NAMES_MAX}"):
        chosen({"pairs": ["EUR_USD"] * (NAMES_MAX + 1)}, KNOWN)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"instrument": "INVALID"}, "Invalid pair: INVALID"),
        ({"instrument": "y" * 99}, "Invalid pair: y{40}…"),
        ({"instrument": ["EUR_USD"]}, "is the name of a pair"),
        ({"pair": "EUR_USD"}, "not nothing"),
        ("EUR_USD", "a map like"),
    ],
)
def test_what_names_no_instrument_is_told(request_: Any, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        instrument(request_, KNOWN)


def test_an_instrument() -> None:
    assert instrument({"instrument": "NZD_JPY"}, DEFAULT_PAIRS) == "NZD_JPY"


@given(anything, st.sampled_from(["pairs", "instrument", ""]))
def test_strangers_get_an_answer_whatever_they_send(value: Any, field: str) -> None:
    request_ = {field: value} if field else value
    for check in (chosen, instrument):
        try:
            check(request_, KNOWN)
        except BadRequest as error:
            assert len(str(error)) < 200
