from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx.pairs import DEFAULT_PAIRS, pairs, price_topic, room, volatility_topic
from fx.prices import MAX_DIGITS, BadPrice, Price, between, timestamp

NOON = datetime(2025, 11, 18, 12, tzinfo=UTC)
BID, ASK = Decimal("1.121340"), Decimal("1.121720")

quotes = st.decimals("0.000001", "1000000", allow_nan=False, places=6)


def price(**data: Any) -> Price:
    return Price.of("EUR_USD", {"bid": BID, "ask": ASK} | data, NOON.timestamp())


def test_digits_stay_and_the_mid_is_exact() -> None:
    assert price().update() == {
        "instrument": "EUR_USD",
        "price": {"bid": BID, "ask": ASK, "mid": Decimal("1.121530")},
        "time": "2025-11-18T12:00:00Z",
    }
    assert str(price().bid) == "1.121340"


def test_a_response_has_the_price_in_both_forms() -> None:
    response = price().response()
    assert response["price"]["mid"] == response["mid"] == Decimal("1.12153")
    assert (response["bid"], response["ask"], response["time"]) == (BID, ASK, "2025-11-18T12:00:00Z")


@given(quotes, quotes)
def test_mid_is_between(bid: Decimal, ask: Decimal) -> None:
    assert Fraction(between(bid, ask)) == (Fraction(bid) + Fraction(ask)) / 2


def test_a_mid_of_the_longest_prices_is_exact() -> None:
    bid, ask = Decimal("9" * MAX_DIGITS), Decimal("1e-30")
    assert Fraction(between(bid, ask)) == (Fraction(bid) + Fraction(ask)) / 2


@pytest.mark.parametrize(
    "data",
    [
        {"bid": BID, "ask": ASK},
        {"instrument": "EUR_USD", "bid": "1.121340", "ask": "1.121720"},
        {"instrument": "EUR_USD", "price": {"bid": 1.12134, "ask": 1.12172, "mid": 1.12153}},
        {"price": {"bid": BID, "ask": ASK}, "mid": 7, "more": [1, 2]},
    ],
)
def test_forms_of_a_price(data: Any) -> None:
    assert Price.of("EUR_USD", data, 0)[:4] == ("EUR_USD", BID, ASK, Decimal("1.12153"))


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (None, "2025-11-18T12:00:00Z"),
        ("2025-11-18T10:00:00.123456789Z", "2025-11-18T10:00:00.123456Z"),
        ("2025-11-18T10:00:00+02:00", "2025-11-18T08:00:00Z"),
        ("2025-11-18 10:00", "2025-11-18T10:00:00Z"),
        (1_763_467_200, "2025-11-18T12:00:00Z"),
        (Decimal("1763467200.5"), "2025-11-18T12:00:00.500000Z"),
        (1_763_467_200_500, "2025-11-18T12:00:00.500000Z"),
    ],
)
def test_times(time: Any, shown: str) -> None:
    assert timestamp(price(time=time).time) == shown


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([1, 2], "data"),
        ({"ask": ASK}, "bid"),
        ({"bid": BID, "ask": None}, "ask"),
        ({"bid": BID, "ask": True}, "ask"),
        ({"bid": "1,12", "ask": ASK}, "bid"),
        ({"bid": 0, "ask": ASK}, "bid"),
        ({"bid": float("inf"), "ask": ASK}, "bid"),
        ({"bid": Decimal("1e99"), "ask": ASK}, "bid"),
        ({"bid": 10**4000, "ask": ASK}, "bid"),
        ({"bid": BID, "ask": ASK, "mid": [1]}, "mid"),
        ({"price": 1.12}, "price"),
        ({"instrument": "GBP_USD", "bid": BID, "ask": ASK}, "instrument"),
        ({"bid": BID, "ask": ASK, "time": "yesterday"}, "time"),
        ({"bid": BID, "ask": ASK, "time": 1e300}, "time"),
        ({"bid": BID, "ask": ASK, "time": True}, "time"),
    ],
)
def test_what_is_no_price_is_named(data: Any, field: str) -> None:
    with pytest.raises(BadPrice, match=f"^{field}: ") as caught:
        Price.of("EUR_USD", data, 0)
    assert caught.value.field == field


def test_twenty_pairs() -> None:
    assert pairs({}) == DEFAULT_PAIRS
    assert len(set(DEFAULT_PAIRS)) == 20
    assert pairs({"pairs": ["XAU_USD"]}) == ("XAU_USD",)
    assert (price_topic("EUR_USD"), volatility_topic("EUR_USD")) == ("price.EUR_USD", "alert.volatility.EUR_USD")
    assert room("EUR_USD") == "price_EUR_USD"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "pairs: "),
        ("EUR_USD", "pairs: "),
        (["EUR_USD", "EUR/USD"], r"pairs\[1\]: 'EUR/USD'"),
        ([7], r"pairs\[0\]: 7"),
        (["EUR_USD", "EUR_USD"], r"pairs\[1\]: EUR_USD is there twice"),
    ],
)
def test_pairs_that_cannot_be_are_named(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pairs({"pairs": given})
