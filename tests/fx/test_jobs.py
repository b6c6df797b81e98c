"""The jobs on a real store: rows, alerts once, an engine that is away, and that a repetition changes nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from engine.recording import instruments
from fx.analytics_options import AnalyticsOptions, CorrelationOptions, VolatilityOptions
from fx.correlation_job import CorrelationJob
from fx.job import Report, run_logged
from fx.load import load, survey
from fx.sqlite_store import SqliteStore
from fx.store import Store
from fx.volatility_job import VolatilityJob
from tests.fx.analytics_fakes import MIDNIGHT, FakeEngine, candles, hour
from tests.fx.recorded import bars
from transport.errors import ConfigError

CALM = [1.1, 1.1001] * 3
WILD = [1.1, 1.12] * 3
HOURLY = VolatilityOptions(periods=5, threshold=0.15, clear=0.8)
Test = Callable[[Store, FakeEngine], Awaitable[None]]


@pytest.fixture
def with_store(tmp_path: Path) -> Callable[[Test], None]:
    """Run a test with an empty store and an engine."""

    async def run(test: Test) -> None:
        store = SqliteStore(tmp_path / "fx.db")
        await store.open()
        try:
            await test(store, FakeEngine())
        finally:
            await store.close()

    return lambda test: asyncio.run(run(test))


async def put(store: Store, pair: str, closes: Sequence[float], first: datetime = MIDNIGHT) -> None:
    await store.put_candles(candles(pair, closes, first))


# Volatility ---------------------------------------------------------------------------------------------------------


def test_recorded_bars_have_numpys_volatility(with_store: Callable[[Test], None]) -> None:
    bid, ask = ({time: close for time, _, _, close in bars(f"gbpusd-m1-{side}")} for side in ("bid", "ask"))
    mids = np.array([(bid[time] + ask[time]) / 2 for time in sorted(bid.keys() & ask.keys())[-61:]])
    returns = np.diff(np.log(mids))

    async def test(store: Store, engine: FakeEngine) -> None:
        (recorded,) = (survey(one, None) for one in instruments() if one.symbol == "GBP_USD")
        assert recorded is not None
        with Progress(disable=True) as progress:
            assert await load(store, recorded, progress) == recorded.quotes == 3_000
            assert await load(store, recorded, progress) == 0
        options = VolatilityOptions(granularity="M1", periods=60, threshold=100.0)
        report = await VolatilityJob(store, engine.publish, ("GBP_USD", "EUR_USD"), options).run(MIDNIGHT)
        (metric,) = report.metrics
        assert report.missing == ["EUR_USD"]
        assert metric == (await store.last_volatility("M1"))[0]
        assert metric.periods == 60
        assert metric.volatility == pytest.approx(float(np.std(returns, ddof=1)), rel=1e-9)
        assert metric.annualized == pytest.approx(metric.volatility * math.sqrt(260 * 24 * 60))
        ((topic, kind, key, data),) = engine.events
        assert (topic, kind, key) == ("data.ready", "data_ready", None)
        assert data["dataset"] == "volatility_metrics"
        assert data["pairs"] == ["GBP_USD"]

    with_store(test)


def test_an_alert_is_told_once_until_the_pair_was_calm_again(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        job = VolatilityJob(store, engine.publish, ("EUR_USD", "USD_JPY"), HOURLY)
        found: list[tuple[list[str], str]] = []
        for number, closes in enumerate([CALM, WILD, WILD, CALM, WILD]):
            await put(store, "EUR_USD", closes, hour(6 * number))
            await put(store, "USD_JPY", CALM, hour(6 * number))
            report = await job.run(hour(6 * number + 6))
            assert report.rows == 2
            topics = engine.take()
            assert topics.pop() == "data.ready"
            found.append((topics, report.metrics[0].regime))
        alert = ["alert.volatility.EUR_USD"]
        assert found == [([], "normal"), (alert, "high"), ([], "high"), ([], "normal"), (alert, "high")]
        assert [metric.regime for metric in await store.last_volatility("H1")] == ["high", "normal"]

    with_store(test)


def test_what_an_alert_says(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        options = VolatilityOptions(periods=5, threshold=0.9, thresholds={"EUR_USD": 0.2})
        await put(store, "EUR_USD", WILD)
        await put(store, "USD_JPY", WILD)
        report = await VolatilityJob(store, engine.publish, ("EUR_USD", "USD_JPY"), options).run(hour(6))
        topic, kind, key, data = engine.events[0]
        assert (topic, kind, key) == ("alert.volatility.EUR_USD", "volatility_alert", "EUR_USD")
        assert data["volatility"] == report.metrics[0].annualized > 0.9
        assert (data["instrument"], data["threshold"], data["regime"]) == ("EUR_USD", 0.2, "high")
        assert (data["time"], data["periods"], data["granularity"]) == (hour(6), 5, "H1")
        assert report.alerts[0] == data

    with_store(test)


def test_again_with_the_same_candles_is_nothing_new(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        await put(store, "EUR_USD", WILD)
        job = VolatilityJob(store, engine.publish, ("EUR_USD",), HOURLY)
        first = await job.run(hour(6))
        engine.take()
        second = await job.run(hour(6.9))
        assert engine.attempts == 2  # the alert and data.ready of the first
        assert (first.status, second.status, second.rows) == ("ok", "nothing", 0)
        assert second.metrics == first.metrics
        await put(store, "EUR_USD", [1.2], hour(6))
        assert (await job.run(hour(7))).rows == 1
        assert (await job.run(hour(6))).rows == 0  # as it was at six: a later row does not change it

    with_store(test)


def test_an_alert_that_nobody_got_is_told_by_the_next_run(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        for pair in ("EUR_USD", "USD_JPY"):
            await put(store, pair, WILD)
        job = VolatilityJob(store, engine.publish, ("EUR_USD", "USD_JPY"), HOURLY)
        engine.up = False
        report = await run_logged(job, store, hour(6), lambda: hour(6))
        assert engine.attempts == 1  # not one for each pair
        assert (report.status, report.rows, report.alerts) == ("failed", 2, [])
        assert [metric.regime for metric in await store.last_volatility("H1")] == ["normal", "normal"]
        (run,) = await store.jobs()
        assert (run.job, run.status, run.rows) == ("hourly_volatility", "failed", 2)
        assert run.error is not None
        assert "not published: nobody there" in run.error
        engine.up = True
        report = await job.run(hour(6))
        assert engine.take() == ["alert.volatility.EUR_USD", "alert.volatility.USD_JPY", "data.ready"]
        assert [metric.regime for metric in await store.last_volatility("H1")] == ["high", "high"]

    with_store(test)


@pytest.mark.parametrize("closes", [[], [1.1], [1.1, 1.2]])
def test_too_few_candles_are_named_and_nothing_is_published(
    with_store: Callable[[Test], None], closes: list[float]
) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        await put(store, "EUR_USD", closes)
        report = await VolatilityJob(store, engine.publish, ("EUR_USD",), HOURLY).run(hour(6))
        assert (report.status, report.missing, report.metrics) == ("nothing", ["EUR_USD"], [])
        assert engine.attempts == 0

    with_store(test)


def test_only_candles_that_have_ended_count(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        await put(store, "EUR_USD", [*CALM, 9.9])
        report = await VolatilityJob(store, engine.publish, ("EUR_USD",), HOURLY).run(hour(6.99))
        (metric,) = report.metrics
        assert metric.time == hour(6)
        assert metric.annualized < 0.1

    with_store(test)


# Correlation --------------------------------------------------------------------------------------------------------

DAILY = CorrelationOptions(days=1, least=5, border=0.5, margin=0.1, best=2)
PAIRS = ("EUR_USD", "GBP_USD", "USD_CHF")


def path(seed: int, weights: Sequence[float], noise: float, hours: int = 24) -> list[list[float]]:
    """Prices that follow one common walk by these weights, and walks of their own."""
    random = np.random.default_rng(seed)
    common = random.normal(0, 1e-3, hours)
    return [
        [float(round(close, 8)) for close in np.exp(np.cumsum(weight * common + random.normal(0, noise, hours)))]
        for weight in weights
    ]


async def day(store: Store, number: int, prices: list[list[float]]) -> None:
    for pair, closes in zip(PAIRS, prices, strict=True):
        await put(store, pair, closes, hour(48 * number))  # a day's hole: the jump between two walks is no return


def test_the_matrix_is_numpys_and_a_change_of_regime_is_told_once(with_store: Callable[[Test], None]) -> None:
    together, apart = path(1, (1, 1, -1), 1e-4), path(2, (1, -1, -1), 1e-4)

    async def test(store: Store, engine: FakeEngine) -> None:
        job = CorrelationJob(store, engine.publish, PAIRS, DAILY)
        await day(store, 0, together)
        first = await job.run(hour(24))
        assert engine.take() == ["data.ready"]  # the first matrix has nothing to differ from
        by_numpy = np.corrcoef(np.diff(np.log(together)))
        found = [one.correlation for one in first.matrix]
        assert found == pytest.approx([by_numpy[0, 1], by_numpy[0, 2], by_numpy[1, 2]], rel=1e-9)
        assert [one.regime for one in first.matrix] == ["positive", "negative", "negative"]
        assert await store.last_correlations("H1") == first.matrix

        await day(store, 1, apart)
        second = await job.run(hour(72))
        topics = ["alert.correlation.EUR_USD.GBP_USD", "alert.correlation.GBP_USD.USD_CHF"]
        _, kind, key, data = engine.events[0]
        assert engine.take() == [*topics, "data.ready"]
        assert (kind, key) == ("correlation_alert", "EUR_USD.GBP_USD")
        assert (data["pair1"], data["pair2"]) == ("EUR_USD", "GBP_USD")
        assert (data["regime"], data["previous_regime"]) == ("negative", "positive")
        assert data["correlation"] == second.matrix[0].correlation < -0.9
        assert data["previous_correlation"] == first.matrix[0].correlation > 0.9

        for at in (hour(72), hour(73)):
            again = await job.run(at)
            assert (again.status, again.matrix, engine.take()) == ("nothing", second.matrix, [])
        best = await store.last_best_pairs("H1")
        assert sorted(best) == sorted(second.best)
        assert [(one.category, one.rank) for one in second.best] == [
            ("most", 1), ("inverse", 1), ("inverse", 2), ("least", 1), ("least", 2),
        ]  # fmt: skip

    with_store(test)


def test_a_correlation_beside_the_border_changes_no_regime(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        pairs, found = PAIRS[:2], []
        job = CorrelationJob(store, engine.publish, pairs, DAILY)
        for number, noise in enumerate([1e-4, 9e-4, 1.05e-3, 5e-3]):
            await day(store, number, path(5, (1, 1, 1), noise))
            report = await job.run(hour(48 * number + 24))
            found.append((round(report.matrix[0].correlation, 2), report.matrix[0].regime, len(report.alerts)))
        inside = [value for value, _, _ in found[1:3]]
        assert all(0.4 <= value < 0.6 for value in inside), f"the walks must end up beside the border: {found}"
        assert [row[1:] for row in found] == [("positive", 0), ("positive", 0), ("positive", 0), ("weak", 1)]

    with_store(test)


def test_a_change_that_nobody_got_is_told_by_the_next_run(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        job = CorrelationJob(store, engine.publish, PAIRS, DAILY)
        await day(store, 0, path(1, (1, 1, -1), 1e-4))
        await job.run(hour(24))
        await day(store, 1, path(2, (1, -1, -1), 1e-4))
        engine.take()
        engine.up = False
        report = await job.run(hour(72))
        assert (report.status, report.rows) == ("failed", 3)
        assert [one.regime for one in await store.last_correlations("H1")] == ["positive", "negative", "negative"]
        engine.up = True
        await job.run(hour(72))
        assert len(engine.take()) == 3
        assert [one.regime for one in await store.last_correlations("H1")] == ["negative", "negative", "positive"]

    with_store(test)


def test_only_candles_of_the_last_days_count(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        for pair, closes in zip(PAIRS, path(3, (1, 1, 1), 1e-4, hours=30), strict=True):
            await put(store, pair, closes[:20])
            await put(store, pair, closes[20:], hour(48))
        report = await CorrelationJob(store, engine.publish, PAIRS, DAILY).run(hour(60))
        assert [one.observations for one in report.matrix] == [9, 9, 9]
        assert report.matrix[0].time == hour(58)

    with_store(test)


def test_without_common_candles_there_is_no_matrix(with_store: Callable[[Test], None]) -> None:
    async def test(store: Store, engine: FakeEngine) -> None:
        job = CorrelationJob(store, engine.publish, PAIRS, DAILY)
        assert (await job.run(hour(24))).missing == list(PAIRS)
        await put(store, "EUR_USD", CALM)
        await put(store, "GBP_USD", WILD, hour(100))
        report = await job.run(hour(200))
        assert (report.status, report.matrix, report.missing) == ("nothing", [], ["USD_CHF"])
        assert engine.attempts == 0

    with_store(test)


# Runs and options ---------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_in_the_log(with_store: Callable[[Test], None]) -> None:
    class Broken:
        name = "broken"

        async def run(self, at: datetime) -> Report:
            raise ZeroDivisionError("by zero")

    async def test(store: Store, engine: FakeEngine) -> None:
        times = iter([hour(1), hour(2), hour(3), hour(4)])
        with pytest.raises(ZeroDivisionError):
            await run_logged(Broken(), store, hour(0), lambda: next(times))
        await run_logged(VolatilityJob(store, engine.publish, (), HOURLY), store, hour(0), lambda: next(times))
        nothing, failed = await store.jobs()
        assert failed[1:] == ("broken", hour(1), hour(2), "failed", 0, "ZeroDivisionError: by zero")
        assert nothing[1:] == ("hourly_volatility", hour(3), hour(4), "nothing", 0, None)

    with_store(test)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pairs": ["nonsense!"]}, "pairs"),
        ({"colour": 1}, "colour"),
        ({"volatility": {"periods": 1}}, "options.volatility.periods"),
        ({"volatility": {"schedule": "0 * * * * *"}}, "options.volatility.schedule"),
        ({"volatility": {"schedule": "every hour"}}, "options.volatility.schedule"),
        ({"volatility": {"thresholds": {"ABC_DEF": 0.1}}}, "options.volatility.thresholds"),
        ({"volatility": {"granularity": "M2"}}, "options.volatility.granularity"),
        ({"correlation": {"schedule": "61 0 * * *"}}, "options.correlation.schedule"),
        ({"correlation": {"border": 0.95}}, "options.correlation"),
        ({"correlation": {"days": 366, "granularity": "M1"}}, "options.correlation.days"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        AnalyticsOptions.of(options)


def test_a_store_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="dsn"):
        AnalyticsOptions.of({"dsn": "mysql://somewhere"}).store()


def test_recordings_of_different_years_can_be_put_side_by_side() -> None:
    for one in instruments():
        found = survey(one, hour(5))
        if one.symbol == "XBT_USDT":
            assert found is None  # trades have no bid and ask
            continue
        assert found is not None
        *_, last = found.events(hour(9))
        assert hour(5).timestamp() - 60 < last.price.time.timestamp() <= hour(5).timestamp()
        assert (last.offset, last.topic) == (found.quotes, f"load.{one.symbol}")
