"""The database is killed while prices come, for real: nothing is lost and nothing is stored twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import fx
from bench.postgres_process import PASSWORD, PostgresProcess
from fx.candles import of_prices
from fx.prices import Price, timestamp
from fx.store import LIVE, Candle, PriceEvent
from fx.stores import open_store
from heliograph import Client
from tests.fx.postgres import postgres_server as postgres_server
from tests.integration.conftest import engine_process as engine_process
from tests.integration.harness import EngineProcess

TIMEOUT = 30.0
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PAIRS = ("EUR_USD", "GBP_USD", "USD_JPY")
CONFIG = """
[services.store]
actor = "fx.store_service:StoreService"
topics = ["price.*"]
"""


def test_no_price_is_lost_while_the_database_is_away(
    engine_process: Callable[..., EngineProcess], postgres_server: PostgresProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgres_server.new_database()
    monkeypatch.setenv("FX_DSN", dsn)
    monkeypatch.setenv("PYTHONPATH", str(Path(fx.__file__).parents[1]))
    engine = engine_process(CONFIG)
    try:
        asyncio.run(asyncio.wait_for(_scenario(engine, postgres_server, dsn), 2 * TIMEOUT))
    finally:
        postgres_server.start()  # for other tests; without effect where it runs
    assert PASSWORD not in str(engine.log())


async def _scenario(engine: EngineProcess, server: PostgresProcess, dsn: str) -> None:
    published: set[tuple[str, int]] = set()
    numbers = itertools.count()
    store = open_store({"dsn": dsn})

    async def publish(count: int) -> None:
        for number in itertools.islice(numbers, count):
            pair, time = PAIRS[number % len(PAIRS)], NOON + timedelta(seconds=7 * number)
            data = {"bid": 1 + number / 1_000, "ask": 1 + number / 500, "time": timestamp(time)}
            position = await client.publish(f"price.{pair}", data, type="price_update", key=pair)
            assert position is not None
            published.add((f"price.{pair}", position.offset))

    async with Client(engine.url) as client:
        ready = client.subscribe("data.ready")
        async with ready:
            await _until(lambda: _says(engine, "ok"))
            await publish(50)
            await store.open()
            await _until(lambda: _stored(store, published))
            await asyncio.to_thread(server.stop)
            await publish(300)
            await _until(lambda: _says(engine, "degraded", f"127.0.0.1:{server.port}"))
            await publish(300)
            await asyncio.to_thread(server.start)
            await _until(lambda: _stored(store, published))
            await publish(50)
            await _until(lambda: _stored(store, published))
            await _until(lambda: _says(engine, "ok"))
            complete = await _check(store, dsn, published)
            announced = 0
            async with asyncio.timeout(TIMEOUT):
                async for event in ready:
                    assert event.type == "data_ready"
                    announced += event.data["rows"]
                    if announced == complete:
                        break
    await store.close()


async def _check(store: Any, dsn: str, published: set[tuple[str, int]]) -> int:
    """Every price is there once, and candles are those of all prices; how many of them are complete."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT * FROM real_time_prices_audit ORDER BY id")
    await connection.close()
    assert len(rows) == len(published)
    assert {(row["topic"], row["event_offset"]) for row in rows} == published
    wanted = of_prices(map(_price, rows))
    complete = 0
    for pair, granularity in itertools.product(PAIRS, LIVE):
        [*done, _] = expected = [wanted[key] for key in sorted(wanted) if key[:2] == (pair, granularity)]
        found: list[Candle] = await store.candles(pair, granularity)
        assert [candle._replace(complete=False) for candle in found] == expected
        assert [candle.complete for candle in found] == [True] * len(done) + [False]
        complete += len(done)
    assert (await store.progress("store")).missed == 0
    return complete


def _price(row: Any) -> PriceEvent:
    price = Price(row["instrument"], row["bid"], row["ask"], row["mid"], row["time"])
    return PriceEvent(row["topic"], row["epoch"], row["event_offset"], row["received_at"], price)


async def _stored(store: Any, published: set[tuple[str, int]]) -> bool:
    return bool(await store.count_prices() >= len(published))


async def _says(engine: EngineProcess, status: str, reason: str = "") -> bool:
    _, health = await asyncio.to_thread(engine.admin, "/health")
    found = health["components"]["services.store"]
    return found["status"] == status and reason in (found["reason"] or "")


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not await condition():
            await asyncio.sleep(0.05)
