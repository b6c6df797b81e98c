"""Where a value stands on an axis, and which values are written beside it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

_STEPS: Final = (1.0, 2.0, 5.0, 10.0)
_FEW_DECADES: Final = 2.0  # up to here 2 and 5 have ticks, too
_ROOM: Final = 1.08  # above the greatest value
_LEAST: Final = 1e-6  # what is below is nothing
_MOST_DECADES: Final = 8  # with a tick each
_SLACK: Final = 1e-9  # of logarithms of round values


class Axis(NamedTuple):
    """From ``low`` to ``high``, which are the logarithms of the ends where ``log``."""

    low: float
    high: float
    ticks: tuple[float, ...]
    """Values, whether ``log`` or not."""
    log: bool = False

    def at(self, value: float) -> float:
        """Where ``value`` is: 0 at the low end, 1 at the high one; what is outside is at the end."""
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def linear(values: Iterable[float], ticks: int = 5, room: float = _ROOM) -> Axis:
    """From 0 to above the greatest value, with about ``ticks`` round ticks."""
    high = max(values, default=0.0) * room
    if not _LEAST < high < math.inf:
        high = 1.0
    step = _round_up(high / ticks)
    return Axis(0.0, high, tuple(step * n for n in range(math.floor(high / step) + 1)))


def logarithmic(values: Iterable[float]) -> Axis:
    """From a round value at or below the least one that is not 0 to one at or above the greatest; at least a decade."""
    seen = [math.log10(value) for value in values if _LEAST < value < math.inf] or [0.0]
    low, high = _below(min(seen)), -_below(-max(seen))
    if high - low < 1.0:  # noise shall not look like more than it is
        low = math.floor(low + _SLACK)
        high = max(high, low + 1.0)
    steps = _STEPS[:3] if high - low <= _FEW_DECADES else _STEPS[:1]
    decades = range(math.floor(low), math.ceil(high) + 1, max(1, math.ceil((high - low) / _MOST_DECADES)))
    ticks = (step * 10.0**decade for decade in decades for step in steps)
    shown = tuple(tick for tick in ticks if low - _SLACK <= math.log10(tick) <= high + _SLACK)
    return Axis(low, high, shown, log=True)


def _below(exponent: float) -> float:
    """The logarithm of the greatest of …, 1, 2, 5, 10, … at or below. As log 2 + log 5 = 1, -_below(-x) is above x."""
    decade = math.floor(exponent)
    steps = (math.log10(step) for step in _STEPS[:3])
    return decade + max(step for step in steps if step <= exponent - decade + _SLACK)


def _round_up(step: float) -> float:
    decade = 10.0 ** math.floor(math.log10(step))
    return next(each * decade for each in _STEPS if each * decade >= step * (1 - _SLACK))
