"""The options of the analytics, checked once: what is computed from which candles, when, and what is an alert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from apscheduler.triggers.cron import CronTrigger
from msgspec import Meta

from fx.pairs import DEFAULT_PAIRS, pairs
from fx.store import GRANULARITIES, Store
from fx.stores import open_store
from heliograph import ConfigError

Granularity: TypeAlias = Literal["M1", "M5", "M15", "M30", "H1", "H4", "D"]
Volatility: TypeAlias = Annotated[float, Meta(gt=0, le=100)]
TIMEZONE = "UTC"
SETTLED_S = 5
"""The last prices of a candle that has just ended are stored by then."""
_FIELDS = ("minute", "hour", "day", "month", "day_of_week")
MAX_CANDLES = 20_000
"""Of a pair, in memory for a correlation."""


class VolatilityOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``volatility``.

    Attributes:
        schedule: as in a crontab, in UTC; days of the week by name (``mon-fri``).
        granularity: of the candles; prices make M1 and H1.
        periods: returns that are looked back at.
        threshold: annualized volatility, as a fraction, from which on a pair is told to be high.
        thresholds: the same for single pairs.
        clear: fraction of the threshold below which it is no longer, and may be told again.
    """

    schedule: str = "0 * * * *"
    granularity: Granularity = "H1"
    periods: Annotated[int, Meta(ge=2, le=10_000)] = 24
    threshold: Volatility = 0.15
    thresholds: dict[str, Volatility] = {}
    clear: Annotated[float, Meta(gt=0, le=1)] = 0.8


class CorrelationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``correlation``.

    Attributes:
        schedule: as in a crontab, in UTC; days of the week by name (``mon-fri``).
        granularity: of the candles; prices make M1 and H1.
        days: that are looked back at, from the newest candle.
        least: common returns that a correlation needs.
        border: correlation from which on two pairs move together, or against each other below its negative.
        margin: how far beyond the border a correlation must be for a change of regime.
        best: places in each ranking.
    """

    schedule: str = "5 0 * * *"
    granularity: Granularity = "H1"
    days: Annotated[int, Meta(ge=1, le=366)] = 30
    least: Annotated[int, Meta(ge=2)] = 24
    border: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    margin: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    best: Annotated[int, Meta(ge=1, le=1_000)] = 5


class AnalyticsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[services.NAME.options]``; ``dsn`` and ``dsn_file`` as in :func:`fx.stores.open_store`."""

    dsn: str | None = None
    dsn_file: str | None = None
    pairs: tuple[str, ...] = DEFAULT_PAIRS
    volatility: VolatilityOptions = VolatilityOptions()
    correlation: CorrelationOptions = CorrelationOptions()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> AnalyticsOptions:
        """Checked, as they stand in the configuration.

        Raises:
            ConfigError: names the option.
        """
        try:
            found = msgspec.convert(dict(options), cls)
            pairs({"pairs": found.pairs})
        except msgspec.ValidationError as error:
            message, _, path = str(error).partition(" - at `$.")
            raise ConfigError(message, f"options.{path.rstrip('`')}" if path else "options") from None
        except ValueError as error:
            raise ConfigError(str(error), "options") from None
        found._check()
        return found

    def store(self) -> Store:
        """The one that is asked for; not connected yet.

        Raises:
            ConfigError: names the option.
        """
        try:
            return open_store({"dsn": self.dsn, "dsn_file": self.dsn_file})
        except ValueError as error:
            raise ConfigError(str(error), "options") from None

    def _check(self) -> None:
        for name, schedule in (("volatility", self.volatility.schedule), ("correlation", self.correlation.schedule)):
            try:
                trigger(schedule)
            except ValueError as error:
                raise ConfigError(
                    f'five fields as in a crontab, such as "5 0 * * mon-fri", not {schedule!r}: {error}',
                    f"options.{name}.schedule",
                ) from None
        for pair in self.volatility.thresholds:
            if pair not in self.pairs:
                raise ConfigError(f"{pair!r} is none of options.pairs", "options.volatility.thresholds")
        candles = self.correlation.days * 86_400 // step_s(self.correlation.granularity)
        if candles > MAX_CANDLES:
            text = f"{candles} candles of each pair, at most {MAX_CANDLES}: take fewer days or longer candles"
            raise ConfigError(text, "options.correlation.days")
        if not self.correlation.margin < min(self.correlation.border, 1 - self.correlation.border):
            raise ConfigError("border - margin must be above 0 and border + margin below 1", "options.correlation")


def trigger(schedule: str) -> CronTrigger:
    """When ``schedule`` is due: :data:`SETTLED_S` seconds into each of its minutes.

    Raises:
        ValueError: it is none.
    """
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        raise ValueError(f"these are {len(fields)}")
    return CronTrigger(second=SETTLED_S, timezone=TIMEZONE, **dict(zip(_FIELDS, fields, strict=True)))


def step_s(granularity: str) -> int:
    """The length of a candle, in seconds."""
    return int(GRANULARITIES[granularity].total_seconds())
