"""The hourly job: the volatility of each pair, and an alert for those where it has become high."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from fx.analytics_options import VolatilityOptions, step_s
from fx.bands import Bands
from fx.job import INSTANT, Announcer, Publish, Report
from fx.pairs import volatility_topic
from fx.store import Candle, Store, VolatilityMetric
from fx.volatility import Bar, volatility


@dataclass(frozen=True, kw_only=True)
class VolatilityReport(Report):
    """With the metrics of all pairs that have any, also those that were stored before."""

    metrics: list[VolatilityMetric] = field(default_factory=list)


class VolatilityJob:
    """Candles of ``store`` to rows of ``volatility_metrics``.

    A pair's regime goes on from its newest row, so restarts and repetitions tell nothing twice. The row gets the new
    regime only when its alert is published: an alert may come twice, where the process dies in between, but not never.
    """

    name: Final = "hourly_volatility"

    def __init__(self, store: Store, publish: Publish, pairs: tuple[str, ...], options: VolatilityOptions) -> None:
        self._store, self._publish, self._pairs, self._options = store, publish, pairs, options

    async def run(self, at: datetime) -> VolatilityReport:
        """See :class:`fx.job.Job`."""
        granularity = self._options.granularity
        last = await self._store.last_volatility(granularity, before=at + INSTANT)
        before = {metric.instrument: metric for metric in last}
        announcer = Announcer(self._publish)
        metrics, missing = [], []
        for pair in self._pairs:
            metric = await self._metric(pair, at, before.get(pair), announcer)
            if metric is None:
                missing.append(pair)
            else:
                metrics.append(metric)
        changed = [metric for metric in metrics if metric != before.get(metric.instrument)]
        if changed:
            await self._store.put_volatility(changed)
            newest = max(metric.time for metric in changed)
            pairs = [metric.instrument for metric in changed]
            await announcer.data_ready("volatility_metrics", granularity, newest, pairs, len(changed))
        return VolatilityReport(
            rows=len(changed), alerts=announcer.alerts, unpublished=announcer.failure, missing=missing, metrics=metrics
        )

    async def _metric(
        self, pair: str, at: datetime, before: VolatilityMetric | None, announcer: Announcer
    ) -> VolatilityMetric | None:
        options = self._options
        candles = await self._store.candles(pair, options.granularity, before=at, limit=options.periods + 1)
        found = volatility([_bar(candle) for candle in candles], step_s(options.granularity), options.periods)
        if found is None:
            return None
        threshold = options.thresholds.get(pair, options.threshold)
        bands = Bands.threshold(threshold, options.clear)
        was = bands.home if before is None else before.regime
        regime = bands.of(found.annualized, was)
        metric = VolatilityMetric(
            instrument=pair,
            granularity=options.granularity,
            time=datetime.fromtimestamp(found.time, UTC),
            periods=found.returns,
            volatility=found.per_candle,
            annualized=found.annualized,
            atr=found.atr,
            range_volatility=found.parkinson,
            regime=regime,
        )
        if regime != bands.home and regime != was:
            data = {
                "instrument": pair,
                "volatility": metric.annualized,
                "threshold": threshold,
                "regime": regime,
                "granularity": metric.granularity,
                "periods": metric.periods,
                "atr": metric.atr,
                "time": metric.time,
            }
            if not await announcer.alert(volatility_topic(pair), data, "volatility_alert", pair):
                return metric._replace(regime=was)
        return metric


def _bar(candle: Candle) -> Bar:
    return Bar(int(candle.time.timestamp()), float(candle.high), float(candle.low), float(candle.close))
