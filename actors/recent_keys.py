"""Idempotency keys of recent events, so that an event that is sent again is not another one. Pure."""

from __future__ import annotations

from collections import deque

from actors.history import KEY_LIFETIME

MAX_KEYS = 1_000_000
"""Keys that are remembered; the oldest are forgotten first."""


class RecentKeys:
    """By topic and key the place of an event, for :data:`~actors.history.KEY_LIFETIME` seconds. O(1) each."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], tuple[str, int, float]] = {}
        self._ages: deque[tuple[float, tuple[str, str]]] = deque()

    def __len__(self) -> int:
        return len(self._places)

    def find(self, topic: str, key: str, now: float) -> tuple[str, int] | None:
        """Epoch and offset of the event that came with this key. ``now``: Unix seconds."""
        while self._ages and (self._ages[0][0] <= now - KEY_LIFETIME or len(self._ages) > MAX_KEYS):
            ts, oldest = self._ages.popleft()
            if oldest in self._places and self._places[oldest][2] == ts:  # else it has come again
                del self._places[oldest]
        place = self._places.get((topic, key))
        return None if place is None or place[2] <= now - KEY_LIFETIME else place[:2]

    def put(self, topic: str, key: str, epoch: str, offset: int, ts: float) -> None:
        """Remember a key that :meth:`find` does not know; ``ts``: Unix seconds of its event."""
        self._places[topic, key] = (epoch, offset, ts)
        self._ages.append((ts, (topic, key)))

    def drop(self, topic: str, key: str) -> None:
        """Forget the newest key: its event was not kept after all."""
        del self._places[topic, key]
        self._ages.pop()
