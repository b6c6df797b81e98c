"""Which currency pairs the server tracks, and the topics and rooms of each. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

DEFAULT_PAIRS: Final = (
    "EUR_USD", "GBP_USD", "USD_JPY", "USD_CHF", "AUD_USD", "USD_CAD", "NZD_USD",
    "EUR_GBP", "EUR_JPY", "EUR_CHF", "EUR_AUD", "EUR_CAD",
    "GBP_JPY", "GBP_CHF", "GBP_AUD",
    "AUD_JPY", "AUD_NZD", "CAD_JPY", "CHF_JPY", "NZD_JPY",
)  # fmt: skip
"""The seven majors and thirteen crosses."""
MAX_PAIRS = 500

_is_pair = re.compile(r"[A-Z0-9]{2,10}_[A-Z0-9]{2,10}").fullmatch


def pairs(options: Mapping[str, Any]) -> tuple[str, ...]:
    """``options["pairs"]``, :data:`DEFAULT_PAIRS` without it.

    Raises:
        ValueError: names the option and what is wrong with it.
    """
    found = options.get("pairs", DEFAULT_PAIRS)
    if not isinstance(found, (list, tuple)) or not 0 < len(found) <= MAX_PAIRS:
        raise ValueError(f"pairs: a list of 1 to {MAX_PAIRS} names like EUR_USD, not {found!r:.100}")
    for i, pair in enumerate(found):
        if not isinstance(pair, str) or not _is_pair(pair):
            raise ValueError(f"pairs[{i}]: {pair!r:.100} is no name like EUR_USD")
        if pair in found[:i]:
            raise ValueError(f"pairs[{i}]: {pair} is there twice")
    return tuple(found)


def price_topic(pair: str) -> str:
    """Where the prices of a pair are published."""
    return f"price.{pair}"


def volatility_topic(pair: str) -> str:
    """Where the volatility alerts of a pair are published."""
    return f"alert.volatility.{pair}"


def room(pair: str) -> str:
    """The name that clients know: ``price_EUR_USD``."""
    return f"price_{pair}"
