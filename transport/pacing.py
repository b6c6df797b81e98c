"""Adaptive pacing of the flush: pure, the clock is the caller's.

Idle, a flush starts at once. After one that took T the next waits until T (capped) has passed, so that under load the
batches grow, the core stays about half busy and a delivery gets cheaper instead of queues longer.
"""

from __future__ import annotations

REST_CAP = 0.010  # s; measured: more adds latency and saves nothing


class Pacer:
    """When may the next flush start?

    Args:
        interval: seconds between flushes; 0 flushes every turn (greedy); ``None`` adapts.
        factor: rest as a multiple of the last flush's time, when adaptive.
    """

    __slots__ = ("_factor", "_interval", "_not_before")

    def __init__(self, interval: float | None = None, factor: float = 1.0) -> None:
        self._interval, self._factor = interval, factor
        self._not_before = 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next flush may start; 0 for at once."""
        return max(0.0, self._not_before - now)

    def flushed(self, began: float, ended: float) -> None:
        """A flush ran; ``ended`` includes the socket writes, which the loop does after the callback."""
        if self._interval is None:
            self._not_before = ended + min(REST_CAP, (ended - began) * self._factor)
        else:
            self._not_before = began + self._interval
