"""The alerts of a trading floor: a pattern was found in a market, something happened to a market."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from engine.alert import Alert
from transport.codes import Priority

HIGH_CONFIDENCE = 0.9  # from here on a pattern is urgent

Tier: TypeAlias = Literal["daily", "intraday", "combo"]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class MarketContext(msgspec.Struct, frozen=True, kw_only=True):
    """The market around an alert; ``None`` is unknown.

    Attributes:
        regime: e.g. ``"bull"``, ``"bear"``, ``"range"``.
        session: of the exchange.
        volatility: annualised, as a fraction.
        relative_volume: volume over what is usual at this time of day.
    """

    regime: str | None = None
    session: Literal["pre", "regular", "post"] | None = None
    volatility: Annotated[float, Meta(ge=0)] | None = None
    relative_volume: Annotated[float, Meta(ge=0)] | None = None


class PatternAlert(Alert, frozen=True, kw_only=True):
    """A pattern was found in a symbol's market; ``high`` from a confidence of 0.9 on.

    Attributes:
        tier: on which scale: ``daily``, ``intraday`` or both (``combo``).
        confidence: 0 to 1.
        price: the last one when the pattern was found, with the source's digits.
    """

    __topic__ = "alert.pattern.{tier}"
    __key__ = "{symbol}"

    pattern: Name
    symbol: Name
    tier: Tier
    confidence: Fraction
    price: Decimal | None = None
    context: MarketContext | None = None

    def urgency(self) -> Priority:
        """``high`` for what is almost certain."""
        return Priority.HIGH if self.confidence >= HIGH_CONFIDENCE else Priority.MEDIUM


_URGENCY = {
    "info": Priority.LOW,
    "notice": Priority.MEDIUM,
    "warning": Priority.HIGH,
    "emergency": Priority.CRITICAL,
}


class MarketAlert(Alert, frozen=True, kw_only=True):
    """Something happened to a whole market; its severity says how urgent it is.

    Attributes:
        kind: e.g. ``"halt"``, ``"regime_change"``, ``"volatility"``.
        severity: ``info`` is low, ``notice`` medium, ``warning`` high, ``emergency`` critical.
        symbols: which are affected; empty is all. A list, so filters cannot look into it.
    """

    __topic__ = "alert.market.{kind}"
    __key__ = "{kind}"

    kind: Name
    severity: Literal["info", "notice", "warning", "emergency"]
    message: str
    symbols: tuple[Name, ...] = ()
    context: MarketContext | None = None

    def urgency(self) -> Priority:
        """What the severity says."""
        return _URGENCY[self.severity]
