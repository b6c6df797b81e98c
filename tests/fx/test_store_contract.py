"""What every store keeps: the same tests for SQLite and for a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.postgres_process import PASSWORD, PostgresProcess
from fx.prices import Price, between
from fx.schema import MIGRATIONS, Migration, migrate
from fx.sql_store import SqlStore
from fx.sqlite_store import SqliteStore
from fx.store import (
    LIVE,
    BestPair,
    Candle,
    Correlation,
    MarketSession,
    PriceEvent,
    Progress,
    StoreError,
    StoreUnavailable,
    VolatilityMetric,
    bucket,
)
from fx.stores import open_store
from tests.fx.postgres import postgres_server as postgres_server

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TABLES = {
    "best_pairs_tracker",
    "correlation_matrix",
    "cron_job_log",
    "market_sessions",
    "oanda_candles",
    "real_time_prices_audit",
    "volatility_metrics",
}
GUIDE = """INSERT INTO market_sessions (session_name, start_time, end_time, timezone, description)
VALUES
  ('Tokyo', '00:00', '09:00', 'JST', 'Asian session'),
  ('London', '08:00', '17:00', 'GMT', 'European session'),
  ('New York', '13:00', '22:00', 'EST', 'American session'),
  ('Sydney', '22:00', '07:00', 'AEDT', 'Pacific session')
ON CONFLICT DO NOTHING;"""
SESSIONS = [
    MarketSession("Tokyo", "00:00", "09:00", "JST", "Asian session"),
    MarketSession("London", "08:00", "17:00", "GMT", "European session"),
    MarketSession("New York", "13:00", "22:00", "EST", "American session"),
    MarketSession("Sydney", "22:00", "07:00", "AEDT", "Pacific session"),
]


class Database:
    """An empty one: ``store()`` makes stores of it, ``run`` runs what is asynchronous."""

    def __init__(self, dsn: str, psql: Callable[[str], None], runner: asyncio.Runner) -> None:
        self.dsn, self.psql, self._runner = dsn, psql, runner
        self.run: Callable[[Coroutine[Any, Any, Any]], Any] = runner.run
        self._stores: list[SqlStore] = []

    def store(self) -> SqlStore:
        store = open_store({"dsn": self.dsn})
        assert isinstance(store, SqlStore)
        self._stores.append(store)
        return store

    def opened(self) -> SqlStore:
        store = self.store()
        self.run(store.open())
        return store

    def close(self) -> None:
        for store in self._stores:
            self.run(store.close())


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with asyncio.Runner() as runner:
        if request.param == "sqlite":
            path = tmp_path / "new" / "fx.db"
            database = Database(f"sqlite:///{path}", lambda text: _sqlite(path, text), runner)
        else:
            server: PostgresProcess = request.getfixturevalue("postgres_server")
            dsn = server.new_database()
            database = Database(dsn, lambda text: server.psql(text, dsn), runner)
        yield database
        database.close()


def _sqlite(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript(text)
    db.close()


def price(
    offset: int, mid: str = "1.10000", after: float = 0.0, pair: str = "EUR_USD", epoch: str = "e", minutes: int = 0
) -> PriceEvent:
    time = NOON + timedelta(minutes=minutes, seconds=after)
    middle = Decimal(mid)
    quote = Price(pair, middle - Decimal("0.0001"), middle + Decimal("0.0001"), middle, time)
    return PriceEvent(f"price.{pair}", epoch, offset, time + timedelta(milliseconds=3), quote)


# the schema -----------------------------------------------------------------------------------------------------------


def test_the_tables_of_the_guide_are_made_once(database: Database) -> None:
    store = database.store()
    applied = [f"{migration.version}: {migration.title}" for migration in MIGRATIONS]
    assert database.run(store.open()) == applied
    for table in TABLES:
        database.psql(f"SELECT * FROM {table}")
    assert database.run(store.sessions()) == SESSIONS
    database.psql(GUIDE)  # who follows the guide to the letter changes nothing
    again = database.store()
    assert database.run(again.open()) == []
    assert database.run(again.sessions()) == SESSIONS


def test_two_that_begin_at_once_make_them_once(database: Database) -> None:
    async def scenario() -> list[list[str]]:
        return await asyncio.gather(*(database.store().open() for _ in range(3)))

    applied = sorted(itertools.chain(*database.run(scenario())))
    assert applied == [f"{migration.version}: {migration.title}" for migration in MIGRATIONS]


def test_a_migration_that_fails_leaves_nothing(database: Database) -> None:
    store = database.opened()
    last = MIGRATIONS[-1].version
    wrong = Migration(last + 1, "half", ("CREATE TABLE half (id {id})", "CREATE TABLE market_sessions (id {id})"))
    with pytest.raises(StoreError):
        database.run(store.run(migrate((*MIGRATIONS, wrong))))
    right = Migration(last + 1, "whole", ("CREATE TABLE half (id {id})",))
    assert database.run(store.run(migrate((*MIGRATIONS, right)))) == f"{last + 1}: whole"
    assert database.run(store.run(migrate((*MIGRATIONS, right)))) is None
    with pytest.raises(StoreError, match="newer version"):
        database.run(database.store().open())


# prices and candles ---------------------------------------------------------------------------------------------------


def test_every_digit_and_microsecond_is_kept(database: Database) -> None:
    store = database.opened()
    bid, ask = Decimal("1.123456789012345678901234500"), Decimal("150")
    moment = NOON.replace(microsecond=123456)
    exact = PriceEvent("price.A_B", "e", 1, moment, Price("A_B", bid, ask, between(bid, ask), moment))
    assert database.run(store.add_prices([exact])).prices == 1
    found = database.run(store.last_price("A_B"))
    assert found == exact
    assert (str(found.price.bid), str(found.price.ask)) == (str(bid), str(ask))
    assert database.run(store.last_price("C_D")) is None
    assert database.run(store.candles("A_B", "H1"))[0].open == exact.price.mid


def test_a_repeated_price_is_stored_once(database: Database) -> None:
    store = database.opened()
    first, second = price(1), price(2, "1.2")
    assert database.run(store.add_prices([])).prices == 0
    assert database.run(store.add_prices([first, first])).prices == 1
    assert database.run(store.add_prices([first, second, price(1, epoch="f"), price(1, pair="A_B")])).prices == 3
    assert database.run(store.add_prices([second, first])).prices == 0
    assert database.run(store.count_prices()) == 4
    assert database.run(store.count_prices("EUR_USD")) == 3
    [candle] = database.run(store.candles("EUR_USD", "M1"))
    assert candle.volume == 3


def test_two_writers_of_the_same_prices_store_them_once(database: Database) -> None:
    stores = [database.opened(), database.opened()]
    prices = [price(offset, after=offset) for offset in range(1, 61)]

    async def scenario() -> list[int]:
        return [
            added.prices
            for added in await asyncio.gather(
                *(store.add_prices(prices[first : first + 30]) for first in range(0, 40, 10) for store in stores)
            )
        ]

    assert sum(database.run(scenario())) == 60
    assert sum(candle.volume for candle in database.run(stores[0].candles("EUR_USD", "M1"))) == 60


def test_a_candle_is_complete_when_a_later_one_begins(database: Database) -> None:
    store = database.opened()

    async def scenario() -> None:
        assert (await store.add_prices([price(1), price(2, "1.3", 59), price(3, "0.9", 30)])).completed == []
        added = await store.add_prices([price(4, "1.2", minutes=1), price(1, pair="GBP_USD")])
        [done] = added.completed
        minute = Candle(
            "EUR_USD", "M1", NOON, *map(Decimal, ("1.1", "1.3", "0.9", "1.3")), 3, NOON, price(2, "1", 59).price.time
        )
        assert done == minute._replace(complete=True)
        assert (await store.add_prices([price(4, "1.2", minutes=1)])).completed == []
        late = await store.add_prices([price(5, "1.05", minutes=-1)])
        assert [(one.time, one.complete) for one in late.completed] == [
            (NOON - timedelta(hours=1), True),
            (NOON - timedelta(minutes=1), True),
        ]
        again = await store.add_prices([price(6, "0.8", 58)])
        assert again.completed == [], "it was told already"
        [_, changed, _] = await store.candles("EUR_USD", "M1")
        assert (changed.low, changed.close, changed.volume) == (Decimal("0.8"), Decimal("1.3"), 4)

    database.run(scenario())


_times = st.integers(0, 3 * 3600).map(float)
_mids = st.integers(1, 99_999).map(lambda n: str(Decimal(n).scaleb(-4)))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_candles_are_those_of_all_prices_however_they_come(database: Database, data: st.DataObject) -> None:
    """Cut into batches anywhere, repeated, with times in any order."""
    _candles_agree(database, data)


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_candles_in_postgres(database: Database, data: st.DataObject) -> None:
    """The same there."""
    _candles_agree(database, data)


_pairs = (f"P{n}_USD" for n in itertools.count())


def _candles_agree(database: Database, data: st.DataObject) -> None:
    pair = next(_pairs)
    quotes = data.draw(st.lists(st.tuples(_mids, _times), min_size=1, max_size=30))
    prices = [price(n, mid, after, pair) for n, (mid, after) in enumerate(quotes, 1)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(prices)), max_size=4)))
    repeats = data.draw(st.integers(0, 5))
    store = database.store()

    async def scenario() -> None:
        await store.open()
        told: list[Candle] = []
        for first, last in itertools.pairwise([0, *cuts, len(prices)]):
            told += (await store.add_prices(prices[max(0, first - repeats) : last])).completed
        assert await store.count_prices(pair) == len(prices)
        for granularity in LIVE:
            wanted = _model(prices, granularity)
            assert await store.candles(pair, granularity) == wanted
            complete = [candle.time for candle in wanted if candle.complete]
            assert sorted(candle.time for candle in told if candle.granularity == granularity) == complete
        await store.close()

    database.run(scenario())


def _model(prices: list[PriceEvent], granularity: str) -> list[Candle]:
    """All at once, from the prices in the order of their times."""
    ordered = sorted(prices, key=lambda event: event.price.time)
    found = []
    for time, group in itertools.groupby(ordered, lambda event: bucket(event.price.time, granularity)):
        events = [event.price for event in group]
        mids = [event.mid for event in events]
        ends = mids[0], max(mids), min(mids), mids[-1]
        one = Candle(events[0].instrument, granularity, time, *ends, len(events), events[0].time, events[-1].time, True)
        found.append(one)
    found[-1] = found[-1]._replace(complete=False)
    return found


def test_whole_candles_replace_what_is_there(database: Database) -> None:
    store = database.opened()
    ends = map(Decimal, ("1.10", "1.30", "1.00", "1.20"))
    first = Candle("EUR_USD", "H1", NOON, *ends, 7, NOON, NOON + timedelta(minutes=59), True)
    day = [first._replace(time=NOON + timedelta(hours=n), volume=n) for n in range(5)]

    async def scenario() -> None:
        assert await store.put_candles([]) == 0
        assert await store.put_candles(day) == 5
        assert await store.put_candles([*day[:-1], day[-1]._replace(high=Decimal("1.4"))]) == 1
        assert [candle.volume for candle in await store.candles("EUR_USD", "H1")] == [0, 1, 2, 3, 4]
        assert [candle.volume for candle in await store.candles("EUR_USD", "H1", limit=2)] == [3, 4]
        ended = await store.candles("EUR_USD", "H1", NOON + timedelta(hours=3), 2)
        assert [candle.volume for candle in ended] == [1, 2], "the last of them ends then"
        assert await store.candles("EUR_USD", "M1") == []
        with pytest.raises(ValueError, match="granularity"):
            await store.candles("EUR_USD", "H7")

    database.run(scenario())


def test_old_prices_go_in_bites_and_candles_stay(database: Database) -> None:
    store = database.opened()

    async def scenario() -> None:
        await store.add_prices([price(n, after=n) for n in range(10)])
        limit = price(6, after=6).received
        assert [await store.forget_prices(limit, 4) for _ in range(3)] == [4, 2, 0]
        assert await store.count_prices() == 4
        assert [candle.volume for candle in await store.candles("EUR_USD", "H1")] == [10]

    database.run(scenario())


# analytics ------------------------------------------------------------------------------------------------------------


def test_metrics_are_replaced_at_their_place(database: Database) -> None:
    store = database.opened()
    one = VolatilityMetric("EUR_USD", "H1", NOON, 24, 0.1 + 0.2, 1 / 3, None, 2.5e-9, "normal")
    later = one._replace(time=NOON + timedelta(hours=1), regime="high", atr=0.5)
    other = one._replace(instrument="AUD_USD")

    async def scenario() -> None:
        await store.put_volatility([])
        await store.put_volatility([one._replace(periods=3), later, other])
        await store.put_volatility([one])
        assert await store.last_volatility("H1") == [other, later]
        assert await store.last_volatility("H1", later.time) == [other, one]
        assert await store.last_volatility("D") == []

    database.run(scenario())


def test_correlations_and_rankings_are_of_one_time(database: Database) -> None:
    store = database.opened()
    one = Correlation(NOON, "H1", "AUD_USD", "EUR_USD", 0.1 + 0.2, 99, "none")
    two = one._replace(instrument_b="GBP_USD", correlation=-1.0)
    best = [BestPair(NOON, "H1", "most", rank, "A_B", f"C_{rank}", 0.5) for rank in (1, 2, 3)]
    later = NOON + timedelta(days=1)

    async def scenario() -> None:
        await store.put_correlations([two, one], best)
        await store.put_correlations([one._replace(regime="positive")], best[:2])
        assert await store.last_correlations("H1") == [one._replace(regime="positive"), two]
        assert await store.last_best_pairs("H1") == best[:2]
        await store.put_correlations([two._replace(time=later)], [best[0]._replace(time=later)])
        assert await store.last_correlations("H1") == [two._replace(time=later)]
        assert await store.last_correlations("H1", later) == [one._replace(regime="positive"), two]
        assert await store.last_best_pairs("H1") == [best[0]._replace(time=later)]
        with pytest.raises(StoreError):
            await store.put_correlations([one._replace(correlation=1.5)])

    database.run(scenario())


def test_runs_of_jobs_are_logged(database: Database) -> None:
    store = database.opened()

    async def scenario() -> None:
        first = await store.job_started("hourly", NOON)
        second = await store.job_started("daily", NOON + timedelta(seconds=1))
        assert [(run.id, run.status, run.finished) for run in await store.jobs()] == [
            (second, "running", None),
            (first, "running", None),
        ]
        await store.job_finished(first, NOON + timedelta(seconds=2), "failed", error="no candles")
        await store.job_finished(second, NOON + timedelta(seconds=3), "ok", 20)
        [run] = await store.jobs("hourly")
        assert run == (first, "hourly", NOON, NOON + timedelta(seconds=2), "failed", 0, "no candles")
        assert [run.rows for run in await store.jobs(limit=1)] == [20]

    database.run(scenario())


# services -------------------------------------------------------------------------------------------------------------


def test_the_progress_of_a_service_is_kept(database: Database) -> None:
    store = database.opened()

    async def scenario() -> None:
        assert await store.progress("store") == Progress()
        await store.set_position("store", "log:1")
        await store.add_missed("store", 3)
        await store.add_missed("store", 4)
        await store.set_position("store", "log:2")
        await store.add_missed("other", 1)
        assert await store.progress("store") == Progress("log:2", 7, ())
        assert await store.progress("other") == Progress(None, 1, ())

    database.run(scenario())


def test_what_is_completed_is_pending_until_it_is_announced(database: Database) -> None:
    store = database.opened()

    async def scenario() -> None:
        await store.add_prices([price(1), price(1, pair="A_B"), price(2, minutes=1)], "store")
        [one] = (await store.progress("store")).pending
        assert one == ("M1", NOON, ("EUR_USD",), 1)
        await store.add_prices([price(2, minutes=2, pair="A_B"), price(3, minutes=60)], "store")
        hour, minute = sorted((await store.progress("store")).pending)
        assert hour == ("H1", NOON, ("EUR_USD",), 1)
        assert minute == ("M1", NOON + timedelta(minutes=1), ("A_B", "EUR_USD"), 3)
        await store.announced("store")
        await store.add_prices([price(3, minutes=60)], "store")
        assert (await store.progress("store")).pending == ()

    database.run(scenario())


# opening --------------------------------------------------------------------------------------------------------------


def test_a_store_that_is_not_open_is_unavailable(database: Database) -> None:
    store = database.store()
    with pytest.raises(StoreUnavailable, match="not open"):
        database.run(store.sessions())
    database.run(store.open())
    database.run(store.close())
    database.run(store.close())
    with pytest.raises(StoreUnavailable):
        database.run(store.sessions())
    database.run(store.open())
    assert database.run(store.sessions()) == SESSIONS


def test_a_postgres_that_hangs_is_unavailable(
    postgres_server: PostgresProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fx.postgres_store.STATEMENT_TIMEOUT_S", 0.2)
    store = open_store({"dsn": postgres_server.new_database()})

    async def scenario() -> None:
        await store.open()
        postgres_server.freeze()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="no answer in time"):
                    await store.count_prices()
        finally:
            postgres_server.freeze(False)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(StoreUnavailable):
                    assert await store.count_prices() == 0
                    break
        await store.close()

    asyncio.run(scenario())


def test_errors_of_postgres_have_no_password(postgres_server: PostgresProcess) -> None:
    wrong = "another-" + PASSWORD
    for dsn, kind, text in (
        (postgres_server.dsn(password=wrong), StoreError, "password authentication failed"),
        (postgres_server.dsn("nothing"), StoreError, "does not exist"),
        (f"postgresql://fx:{PASSWORD}@127.0.0.1:1/db", StoreUnavailable, "127.0.0.1:1/db is away"),
        (f"postgresql://fx:{PASSWORD}@127.0.0.1:x/db", StoreError, "dsn"),
        (f"postgresql://127.0.0.1:1/{PASSWORD}@db/fx", StoreUnavailable, "PostgreSQL is away"),  # user 127.0.0.1
    ):
        store = open_store({"dsn": dsn})
        with pytest.raises(kind, match=text) as caught:
            asyncio.run(store.open())
        assert PASSWORD not in f"{caught.value}{store!r}"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("no database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        asyncio.run(SqliteStore(file).open())
    with pytest.raises(StoreUnavailable, match="disk and permissions"):
        asyncio.run(SqliteStore(file / "below").open())


def test_options_say_which_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_DSN", "")
    assert repr(open_store({})) == f"SqliteStore({Path(__file__).parents[2] / 'examples/fx/fx.db'})"
    assert repr(open_store({"dsn": "sqlite:////var/lib/fx.db"})) == "SqliteStore(/var/lib/fx.db)"
    secret = tmp_path / "dsn"
    secret.write_text(f"postgresql://fx:{PASSWORD}@db/fx\n")
    assert repr(open_store({"dsn_file": str(secret)})) == "PostgresStore(PostgreSQL at db:5432/fx)"
    monkeypatch.setenv("FX_DSN", "postgresql://db:1234/fx")
    assert repr(open_store({})) == "PostgresStore(PostgreSQL at db:1234/fx)"
    monkeypatch.setenv("FX_DSN", f"mysql://{PASSWORD}@db")
    for options, text in (
        ({}, "FX_DSN"),
        ({"dsn": "sqlite://"}, "dsn: sqlite:///FILE"),
        ({"dsn": 1}, "dsn: a text"),
        ({"dsn": "sqlite:///a", "dsn_file": "b"}, "not both"),
        ({"dsn_file": str(tmp_path / "none")}, "cannot be read"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            open_store(options)
        assert PASSWORD not in str(caught.value)


def test_postgres_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fx.postgres_store", raising=False)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(ValueError, match=r"dsn: PostgreSQL needs asyncpg: pip install 'heliograph\[fx\]'"):
        open_store({"dsn": "postgresql://db/fx"})
