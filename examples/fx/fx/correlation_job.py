"""The daily job: which pairs move together, and an alert for each two whose regime has changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from fx.analytics_options import CorrelationOptions, step_s
from fx.bands import Bands
from fx.correlation import correlations, stand_out
from fx.job import INSTANT, Announcer, Publish, Report
from fx.store import GRANULARITIES, BestPair, Candle, Correlation, Store


@dataclass(frozen=True, kw_only=True)
class CorrelationReport(Report):
    """With the matrix (its upper half) and the rankings, also where they were stored before."""

    matrix: list[Correlation] = field(default_factory=list)
    best: list[BestPair] = field(default_factory=list)


class CorrelationJob:
    """Candles of ``store`` to rows of ``correlation_matrix`` and ``best_pairs_tracker``.

    Regimes go on from the newest matrix; what is said of alerts in :class:`fx.volatility_job.VolatilityJob` holds here
    too. The first matrix has regimes, but no change of them.
    """

    name: Final = "daily_correlation"

    def __init__(self, store: Store, publish: Publish, pairs: tuple[str, ...], options: CorrelationOptions) -> None:
        self._store, self._publish, self._pairs, self._options = store, publish, pairs, options
        self._bands = Bands.symmetric(options.border, options.margin)

    async def run(self, at: datetime) -> CorrelationReport:
        """See :class:`fx.job.Job`."""
        granularity, step = self._options.granularity, GRANULARITIES[self._options.granularity]
        candles = await self._candles(at)
        missing = [pair for pair in self._pairs if pair not in candles]
        if not candles:
            return CorrelationReport(rows=0, missing=missing)
        end = max(series[-1].time for series in candles.values()) + step
        begin = end - timedelta(days=self._options.days) - step  # the first return needs the close before it
        closes = {
            pair: {int(one.time.timestamp()): float(one.close) for one in series if one.time >= begin}
            for pair, series in candles.items()
        }
        # A matrix is 0.1 s of computing; the loop may have other services.
        found = await asyncio.to_thread(correlations, closes, step_s(granularity), self._options.least)
        last = await self._store.last_correlations(granularity, before=at + INSTANT)
        before = {(one.instrument_a, one.instrument_b): one for one in last}
        announcer = Announcer(self._publish)
        matrix = []
        for first, second, value, observations in found:
            was = before.get((first, second))
            regime = self._bands.of(value, was and was.regime)
            row = Correlation(end, granularity, first, second, value, observations, regime)
            if was is not None and was.regime != regime and not await self._tell(row, was, announcer):
                row = row._replace(regime=was.regime)
            matrix.append(row)
        best = [
            BestPair(end, granularity, category, rank, one.first, one.second, one.value)
            for category, rank, one in stand_out(found, self._options.best)
        ]
        rows = 0
        if matrix and sorted(matrix) != sorted(last):
            rows = len(matrix)
            await self._store.put_correlations(matrix, best)
            named = sorted({name for row in matrix for name in (row.instrument_a, row.instrument_b)})
            await announcer.data_ready("correlation_matrix", granularity, end, named, rows)
        return CorrelationReport(
            rows=rows,
            alerts=announcer.alerts,
            unpublished=announcer.failure,
            missing=missing,
            matrix=matrix,
            best=best,
        )

    async def _candles(self, at: datetime) -> dict[str, list[Candle]]:
        options = self._options
        limit = options.days * 86_400 // step_s(options.granularity) + 1
        found = {
            pair: await self._store.candles(pair, options.granularity, before=at, limit=limit) for pair in self._pairs
        }
        return {pair: candles for pair, candles in found.items() if candles}

    async def _tell(self, now: Correlation, was: Correlation, announcer: Announcer) -> bool:
        data = {
            "pair1": now.instrument_a,
            "pair2": now.instrument_b,
            "correlation": now.correlation,
            "previous_correlation": was.correlation,
            "regime": now.regime,
            "previous_regime": was.regime,
            "granularity": now.granularity,
            "observations": now.observations,
            "time": now.time,
        }
        topic = f"alert.correlation.{now.instrument_a}.{now.instrument_b}"
        return await announcer.alert(topic, data, "correlation_alert", f"{now.instrument_a}.{now.instrument_b}")
