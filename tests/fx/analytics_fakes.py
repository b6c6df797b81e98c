"""What the tests of the analytics share: an engine that remembers, and candles."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from fx.store import Candle
from transport.errors import ConnectionLost
from transport.event import to_json

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday


def hour(number: float) -> datetime:
    """The hour of that number since :data:`MIDNIGHT`."""
    return MIDNIGHT + timedelta(hours=number)


class FakeEngine:
    """Takes events while it is ``up``; they must be JSON that every client can read."""

    def __init__(self) -> None:
        self.up = True
        self.attempts = 0
        self.events: list[tuple[str, str, str | None, dict[str, Any]]] = []

    async def publish(self, topic: str, data: Any, /, *, type: str, key: str | None = None) -> None:
        self.attempts += 1
        if not self.up:
            raise ConnectionLost("nobody there")
        to_json(data)
        self.events.append((topic, type, key, data))

    def take(self) -> list[str]:
        """The topics since the last call."""
        topics = [topic for topic, *_ in self.events]
        self.events.clear()
        return topics


def candles(
    instrument: str, closes: Iterable[float], first: datetime = MIDNIGHT, granularity: str = "H1"
) -> list[Candle]:
    """One after the other, each an hour long, as high and low as it closes."""
    found = []
    for number, close in enumerate(closes):
        time, price = first + timedelta(hours=number), Decimal(str(close))
        found.append(Candle(instrument, "H1", time, price, price, price, price, 1, time, time, True))
    return found
