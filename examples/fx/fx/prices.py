"""The price in an event, whoever published it, and the maps that clients get. Pure; no digit is lost on the way.

What comes in is ``{"bid": 1.121340, "ask": 1.121720}``, by itself or as ``price``; numbers, or texts that are numbers.
``mid``, ``time`` and ``instrument`` may be there too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any, NamedTuple

MAX_DIGITS = 30
"""Of a price; more is nobody's price, and sums of them would be rounded."""
_MILLISECONDS_FROM = 1e11  # as seconds that is the year 5138
_TWO = Decimal(2)


class BadPrice(ValueError):
    """An event's data is no price; ``field`` says which part of it."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class Price(NamedTuple):
    """Bid and ask of a pair at a time.

    Attributes:
        instrument: the pair.
        bid, ask, mid: with the source's digits; ``mid`` is the source's own or exactly between the two.
        time: the source's, aware and UTC.
    """

    instrument: str
    bid: Decimal
    ask: Decimal
    mid: Decimal
    time: datetime

    @classmethod
    def of(cls, instrument: str, data: Any, ts: float) -> Price:
        """From an event's data, decoded with :class:`~decimal.Decimal` for fractions (``Event.exact``).

        Args:
            instrument: the pair that the event's topic names.
            ts: Unix seconds, the time of a price that does not tell its own.

        Raises:
            BadPrice: names the field.
        """
        if not isinstance(data, Mapping):
            raise BadPrice("data", f"a map with bid and ask, not {data!r:.100}")
        named = data.get("instrument", instrument)
        if named != instrument:
            raise BadPrice("instrument", f"{named!r:.100} was published as {instrument}")
        quote = data.get("price", data)
        if not isinstance(quote, Mapping):
            raise BadPrice("price", f"a map with bid and ask, not {quote!r:.100}")
        bid, ask = _number(quote, "bid"), _number(quote, "ask")
        mid = between(bid, ask) if quote.get("mid") is None else _number(quote, "mid")
        return cls(instrument, bid, ask, mid, _time(data.get("time"), ts))

    def quote(self) -> dict[str, Decimal]:
        """``bid``, ``ask`` and ``mid``."""
        return {"bid": self.bid, "ask": self.ask, "mid": self.mid}

    def update(self) -> dict[str, Any]:
        """A ``price_update``."""
        return {"instrument": self.instrument, "price": self.quote(), "time": timestamp(self.time)}

    def response(self) -> dict[str, Any]:
        """A ``price_response``: for who reads ``price.mid``, as in updates, and for who reads ``mid``."""
        return {**self.update(), **self.quote()}


def between(bid: Decimal, ask: Decimal) -> Decimal:
    """The mid, exactly: one digit more than the longer of the two at most."""
    with localcontext() as context:
        context.prec = 2 * MAX_DIGITS + 2
        return (bid + ask) / _TWO


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, microseconds where there are any."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _number(quote: Mapping[str, Any], field: str) -> Decimal:
    value = quote.get(field)
    if value is None:
        raise BadPrice(field, "is missing")
    if isinstance(value, bool) or not isinstance(value, (int, str, float, Decimal)):
        raise BadPrice(field, f"a number, not {value!r:.100}")
    try:
        number = Decimal(str(value)) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, ValueError):
        raise BadPrice(field, f"a number, not {value!r:.100}") from None
    if not number.is_finite() or number <= 0:
        raise BadPrice(field, f"a number above 0, not {number:.6g}")
    if len(number.as_tuple().digits) > MAX_DIGITS or abs(number.adjusted()) > MAX_DIGITS:
        raise BadPrice(field, f"a number of at most {MAX_DIGITS} digits, not {number:.6g}")
    return number


def _time(value: Any, ts: float) -> datetime:
    try:
        if value is None:
            return datetime.fromtimestamp(ts, UTC)
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            seconds = float(value)
            return datetime.fromtimestamp(seconds / 1_000 if seconds >= _MILLISECONDS_FROM else seconds, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise BadPrice("time", f"ISO 8601 or Unix seconds, not {value!r:.100}")
