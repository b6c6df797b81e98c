"""The jobs' commands: results in the store and at the clients, output for programs and people, exit codes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fx.analytics_options import AnalyticsOptions
from fx.by_hand import BAD_USAGE, FAILED, Hand, command, settings
from fx.daily import daily
from fx.hourly import hourly
from fx.load import main as load
from fx.sqlite_store import SqliteStore
from fx.store import JobRun, VolatilityMetric
from heliograph import Client, Engine, Event
from tests.fx.analytics_fakes import candles, hour
from transport.errors import ConfigError

ACTOR = "fx.analytics:AnalyticsService"
TICKS = "timestamp,bid,ask\n" + "".join(
    f"2026-03-02 {number:02}:30:00+00:00,{1.1 + number % 2 / 50:.5f},{1.1002 + number % 2 / 50:.5f}\n"
    for number in range(6)
)
DEADLINE_S = 20.0


class Place:
    """A configuration, whose engine is not running, and its database."""

    def __init__(self, directory: Path, port: int) -> None:
        self.config, self._path, self._ticks = directory / "engine.toml", directory / "fx.db", directory / "ticks.csv"
        self.config.write_text(
            f'[server]\nport = {port}\n[services.numbers]\nactor = "{ACTOR}"\n'
            f'options.dsn = "sqlite:///{self._path}"\noptions.pairs = ["EUR_USD", "GBP_USD"]\n'
            "options.volatility.periods = 5\noptions.correlation.least = 5\n"
        )
        self._ticks.write_text(TICKS)

    def load(self, until: str | None = None) -> None:
        load([str(self._ticks)], "EUR_USD", until, self.config)

    def store(self) -> SqliteStore:
        return SqliteStore(self._path)

    def stored(self) -> tuple[list[VolatilityMetric], list[JobRun]]:
        async def read() -> tuple[list[VolatilityMetric], list[JobRun]]:
            store = self.store()
            await store.open()
            found = await store.last_volatility("H1"), await store.jobs()
            await store.close()
            return found

        return asyncio.run(read())

    def command(self, work: Callable[[Hand], Any], at: str | None = None, as_json: bool = False) -> int:
        return command(work, self.config, at, None, as_json)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen: refused, and nobody else gets the port
        yield Place(tmp_path, nobody.getsockname()[1])


async def without_prices(hand: Hand) -> Any:
    return await hourly(hand, with_prices=False)


async def with_prices(hand: Hand) -> Any:
    return await hourly(hand, with_prices=True)


def test_clients_of_the_engine_get_prices_alerts_and_news(place: Place) -> None:
    place.load()

    async def test() -> None:
        options, store = AnalyticsOptions.of(settings(ACTOR, place.config).options), place.store()
        await store.open()
        async with (
            Engine(workers=0, port=0, admin_port=0) as engine,
            Client(engine.url) as client,
            client.subscribe("price.>", "alert.>", "data.>") as events,
        ):
            hand = Hand(options, store, client, None, hour(6))
            result = await with_prices(hand)
            assert result.errors == []
            found: dict[str, Event] = {}
            async with asyncio.timeout(DEADLINE_S):
                while len(found) < 3:
                    event = await anext(events)
                    found[event.topic] = event
            assert set(found) == {"price.EUR_USD", "alert.volatility.EUR_USD", "data.ready"}
            price = found["price.EUR_USD"]
            assert (price.type, price.key) == ("price_update", "EUR_USD")
            assert price.exact == {
                "instrument": "EUR_USD",
                "price": {"bid": Decimal("1.12000"), "ask": Decimal("1.12020"), "mid": Decimal("1.12010")},
                "time": "2026-03-02T05:30:00Z",
            }
            assert found["alert.volatility.EUR_USD"].data == msgspec.to_builtins(result.json["alerts"][0])

            # Once more tells the same price; one that is newer in the engine is not replaced by an older one.
            assert len((await with_prices(hand)).json["prices"]) == 1
            newer = {"bid": "1.2", "ask": "1.3", "time": "2026-03-02T05:30:01Z"}
            await client.publish("price.EUR_USD", newer, type="price_update")
            assert (await with_prices(hand)).json["prices"] == []
            await client.publish("price.EUR_USD", {"bid": "none"}, type="price_update")
            assert len((await with_prices(hand)).json["prices"]) == 1
        await store.close()

    asyncio.run(test())


def test_without_the_engine_results_are_stored_all_the_same(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.load()
    assert "EUR_USD: 6 of 6 prices were new" in capsys.readouterr().out
    assert place.command(with_prices, at="2026-03-02T06:00:00Z") == FAILED
    captured = capsys.readouterr()
    assert "is the engine running? `heliograph run --config" in captured.err
    assert "EUR_USD" in captured.out
    assert "too few candles of GBP_USD" in captured.out
    (metric,), (run,) = place.stored()
    assert (metric.time, metric.periods, metric.regime) == (hour(6), 5, "normal")  # nobody has been told yet
    assert (run.job, run.status, run.rows) == ("hourly_volatility", "failed", 1)


def test_programs_get_one_json_object(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        store = place.store()
        await store.open()
        for pair, step in (("EUR_USD", 2), ("GBP_USD", 3)):
            await store.put_candles(candles(pair, [1 + number % step / 100 for number in range(9)]))
        await store.close()

    asyncio.run(fill())
    place.command(daily, at="2026-03-02T09:00", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["job"], found["at"], found["rows"]) == ("daily_correlation", "2026-03-02T09:00:00Z", 1)
    (row,) = found["matrix"]
    assert (row["instrument_a"], row["instrument_b"], row["observations"]) == ("EUR_USD", "GBP_USD", 8)
    place.command(without_prices, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [metric["instrument"] for metric in found["metrics"]] == ["EUR_USD", "GBP_USD"]
    assert found["error"].startswith("stored, but not published: ")


@pytest.mark.parametrize("work", [without_prices, with_prices, daily])
def test_without_data_it_says_how_to_get_some(
    place: Place, capsys: pytest.CaptureFixture[str], work: Callable[[Hand], Any]
) -> None:
    assert place.command(work) == FAILED
    assert "python -m fx.load" in capsys.readouterr().err


def test_recorded_prices_can_end_now(place: Place) -> None:
    place.load(until="now")
    assert place.command(without_prices) == FAILED  # only the engine is missing
    (metric,), _ = place.stored()
    assert timedelta(0) <= datetime.now(UTC) - metric.time < timedelta(hours=1, minutes=2)


def test_what_is_loaded_again_is_stored_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.load()
    place.load()
    assert capsys.readouterr().out.splitlines()[1:] == ["EUR_USD: 0 of 6 prices were new"]


def test_bad_usage(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for at in ("yesterday", "0001-01-01T00:00:00+01:00", "0001-01-01", "9999-12-31T23:59:59.999999Z"):
        assert place.command(daily, at=at) == BAD_USAGE
        assert "--at" in capsys.readouterr().err
    place.config.write_text(
        place.config.read_text() + "options.volatility.periods = 0\n".replace("periods = 0", "x = 1")
    )
    assert place.command(daily) == BAD_USAGE
    assert "options.volatility" in capsys.readouterr().err
    place.config.write_text("")
    assert place.command(daily) == BAD_USAGE
    assert ACTOR in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        load([str(place.config.parent / "missing.csv")], "EUR_USD", None, place.config)
    assert exit_.value.code == BAD_USAGE


def test_the_engine_is_where_the_configuration_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "engine.toml"
    file.write_text(f'[server]\nport = 5001\n[services.a]\nactor = "{ACTOR}"\n')
    assert settings(ACTOR, file).url == "ws://127.0.0.1:5001/ws"
    monkeypatch.setenv("HELIOGRAPH_SERVER__PORT", "5002")
    monkeypatch.setenv("HELIOGRAPH_CONFIG", str(file))
    assert settings(ACTOR).url == "ws://127.0.0.1:5002/ws"
    monkeypatch.setenv("HELIOGRAPH_URL", "wss://fx.example/ws")
    assert settings(ACTOR).url == "wss://fx.example/ws"
    with pytest.raises(ConfigError, match=r"nobody:Here"):
        settings("nobody:Here", file)
