"""A token bucket: so many a second on average, a second's worth at once."""

from __future__ import annotations


class TokenBucket:
    """Filled at ``rate`` a second up to one second's worth, at least one token. Pure: the caller brings the clock."""

    __slots__ = ("_at", "_level")

    def __init__(self, rate: float, now: float) -> None:
        self._level, self._at = max(1.0, rate), now

    def take(self, rate: float, now: float) -> float:
        """Take one token if there is one: 0.0, or the seconds until there will be, and nothing was taken."""
        self._fill(rate, now)
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / rate

    def charge(self, rate: float, now: float) -> float:
        """Take one token even if that makes a debt: 0.0, or the seconds until the debt is paid."""
        self._fill(rate, now)
        self._level -= 1.0
        return max(0.0, -self._level / rate)

    def _fill(self, rate: float, now: float) -> None:
        self._level = min(max(1.0, rate), self._level + (now - self._at) * rate)
        self._at = now
