"""Candles out of prices: pure, and the same however the prices are cut into batches."""

from __future__ import annotations

from collections.abc import Iterable

from fx.store import LIVE, Candle, PriceEvent, bucket

Place = tuple[str, str, object]
"""Instrument, granularity and time."""


def place(candle: Candle) -> Place:
    """Where there is one candle only."""
    return candle[:3]


def of_prices(events: Iterable[PriceEvent]) -> dict[Place, Candle]:
    """The :data:`~fx.store.LIVE` candles of these prices alone, which come in the order of their arrival."""
    found: dict[Place, Candle] = {}
    for event in events:
        instrument, _, _, mid, time = event.price
        for granularity in LIVE:
            begin = bucket(time, granularity)
            key = (instrument, granularity, begin)
            one = Candle(instrument, granularity, begin, mid, mid, mid, mid, 1, time, time)
            known = found.get(key)
            found[key] = one if known is None else join(known, one)
    return found


def join(earlier: Candle, later: Candle) -> Candle:
    """Two parts of one candle. ``later`` arrived later, whatever the times of its prices are."""
    return earlier._replace(
        open=later.open if later.opened < earlier.opened else earlier.open,
        high=max(earlier.high, later.high),
        low=min(earlier.low, later.low),
        close=later.close if later.closed >= earlier.closed else earlier.close,
        volume=earlier.volume + later.volume,
        opened=min(earlier.opened, later.opened),
        closed=max(earlier.closed, later.closed),
    )
