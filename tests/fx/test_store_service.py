"""Prices into a real SQLite file, fed as the engine would."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fx.sqlite_store import SqliteStore
from fx.store import Progress
from fx.store_service import FORGET_EVERY, ROWS, StoreService
from heliograph import ErrorCode, Event, Gap, RequestError

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Engine:
    """Keeps what is published.

    Attributes:
        away: refuse.
    """

    def __init__(self) -> None:
        self.published: list[tuple[str, str, Any]] = []
        self.away = False

    async def publish(self, topic: str, data: Any, *, type: str, key: str | None) -> None:
        if self.away:
            raise RequestError(ErrorCode.UNAVAILABLE, "no hub")
        self.published.append((topic, type, data))


class Bench:
    """A service with its store: ``with bench.life() as service``, and ``bench.run``."""

    def __init__(self, directory: Path, runner: asyncio.Runner) -> None:
        self.options: dict[str, Any] = {"dsn": f"sqlite:///{directory / 'fx.db'}"}
        self.engine = Engine()
        self.store = SqliteStore(directory / "fx.db")
        self.now = NOON
        self._runner = runner

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def begin(self) -> StoreService:
        service = StoreService(name="store", options=self.options, engine=self.engine, now=lambda: self.now)
        self.run(service.on_start())
        return service


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        bench = Bench(tmp_path, runner)
        bench.run(bench.store.open())
        yield bench
        bench.run(bench.store.close())


def price(offset: int, minutes: float = 0.0, pair: str = "EUR_USD", **data: Any) -> Event:
    ts = (NOON + timedelta(minutes=minutes)).timestamp()
    quote = {"bid": "1.1", "ask": "1.2", **data}
    return Event.of(f"price.{pair}", quote, type="price_update", epoch="e", offset=offset, ts=ts)


def test_prices_are_stored_once_also_in_another_life(bench: Bench) -> None:
    service = bench.begin()
    assert bench.run(service.position()) is None
    bench.run(service.on_position("log:0"))
    batch = [price(n, n / 60) for n in range(1, ROWS + 3)]
    bench.run(service.on_events(batch))
    bench.run(service.on_stop())
    service = bench.begin()
    assert bench.run(service.position()) == "log:0"
    bench.run(service.on_events([*batch[-5:], price(ROWS + 3, 20)]))
    bench.run(service.on_position("log:9"))
    bench.run(service.on_stop())
    assert bench.run(bench.store.count_prices()) == ROWS + 3
    assert sum(candle.volume for candle in bench.run(bench.store.candles("EUR_USD", "M1"))) == ROWS + 3
    assert bench.run(bench.store.progress("store")).position == "log:9"


def test_a_price_without_a_time_has_its_events(bench: Bench) -> None:
    service = bench.begin()
    at = NOON - timedelta(seconds=3)
    bench.run(
        service.on_events([msgspec.structs.replace(price(1), source_ts=at.timestamp()), price(2, pair="GBP_USD")])
    )
    assert [bench.run(bench.store.last_price(pair)).price.time for pair in ("EUR_USD", "GBP_USD")] == [at, NOON]
    bench.run(service.on_stop())


def test_an_option_that_there_is_not_is_named(bench: Bench) -> None:
    bench.options["retention"] = 3
    with pytest.raises(ValueError, match="retention: there is no such option"):
        bench.begin()


def test_complete_candles_are_announced(bench: Bench) -> None:
    service = bench.begin()
    bench.run(service.on_events([price(1), price(1, pair="GBP_USD")]))
    assert bench.engine.published == []
    bench.run(service.on_events([price(2, 1), price(2, 1, pair="GBP_USD")]))
    ready = {"granularity": "M1", "time": "2026-11-21T12:00:00Z", "pairs": ["EUR_USD", "GBP_USD"], "rows": 2}
    assert bench.engine.published == [("data.ready", "data_ready", ready)]
    assert bench.run(bench.store.progress("store")).pending == ()
    bench.run(service.on_events([price(2, 1)]))
    assert len(bench.engine.published) == 1
    bench.run(service.on_stop())


@pytest.mark.parametrize("dies", [False, True])
def test_what_could_not_be_announced_is_announced_later(bench: Bench, dies: bool) -> None:
    service = bench.begin()
    bench.engine.away = True
    bench.run(service.on_events([price(1), price(2, 1)]))
    if dies:
        bench.run(service.on_stop())
        service = bench.begin()
    bench.run(service.on_position("log:1"))
    assert bench.engine.published == []
    bench.engine.away = False
    bench.run(service.on_position("log:2"))
    assert [data["rows"] for _, _, data in bench.engine.published] == [1]
    bench.run(service.on_position("log:3"))
    assert len(bench.engine.published) == 1
    bench.run(service.on_stop())


def test_what_is_no_price_is_left_out_and_counted(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    service = bench.begin()
    wrong = [
        price(1, bid=None),
        price(2, bid="NaN"),
        price(3, time="yesterday"),
        price(4, time=(NOON + timedelta(days=2)).isoformat()),
        price(5, pair="XXX_YYY"),
        price(0),
        Event(topic="price.EUR_USD", payload=b"[1,2]", epoch="e", offset=6, ts=NOON.timestamp()),
    ]
    with caplog.at_level(logging.WARNING):
        bench.run(service.on_events([*wrong, price(7)]))
        bench.run(service.on_events([price(8, bid=-1)]))
    assert service.skipped == {"bid": 3, "time": 2, "pairs": 1, "offset": 1, "data": 1}
    assert len(caplog.records) == len(service.skipped), "the first of each kind"
    assert bench.run(bench.store.count_prices()) == 1
    bench.run(service.on_stop())


def test_gaps_are_counted_and_logged(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    service = bench.begin()
    with caplog.at_level(logging.WARNING):
        bench.run(service.on_gap(Gap("price.EUR_USD", "e", 5, 7, "history_expired")))
        bench.run(service.on_gap(Gap("price.EUR_USD", "e", 5, 4, "epoch_changed")))
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "3 prices are lost (5 to 7)",
        "0 prices are lost (5 to 4)",
    ]
    assert bench.run(bench.store.progress("store")) == Progress(None, 3, ())
    bench.run(service.on_stop())


def test_old_prices_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fx.store_service.FORGET_ROWS", 2)
    bench.options["retention_days"] = 1
    service = bench.begin()

    def left(*events: Event) -> int:
        bench.run(service.on_events(list(events)))
        count = bench.run(bench.store.count_prices())
        assert isinstance(count, int)
        return count

    assert left(*(price(n, n) for n in range(1, 6))) == 5
    bench.now = NOON + timedelta(days=1, minutes=4)  # the first three are too old
    assert [left(), left(), left()] == [3, 2, 2], "in bites"
    bench.now += FORGET_EVERY - timedelta(seconds=1)
    assert left() == 2, "it has looked a moment ago"
    bench.now += timedelta(seconds=1)
    assert left() == 1
    bench.run(service.on_stop())


@pytest.mark.parametrize("days", [-1, True, "30", 1e9])
def test_a_wrong_retention_is_refused(bench: Bench, days: object) -> None:
    bench.options["retention_days"] = days
    with pytest.raises(ValueError, match="retention_days"):
        bench.begin()


def test_without_retention_nothing_is_forgotten(bench: Bench) -> None:
    bench.options["retention_days"] = 0
    service = bench.begin()
    bench.now = NOON + timedelta(days=10_000)
    bench.run(service.on_events([price(1)]))
    assert bench.run(bench.store.count_prices()) == 1
    bench.run(service.on_stop())
