"""The :class:`~fx.store.Store` of any database that runs :mod:`fx.steps`: all that is SQL and no driver's."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any, Final

from fx.candles import Place, join, of_prices, place
from fx.prices import Price
from fx.schema import migrate
from fx.steps import Lock, Many, Rows, Steps, T
from fx.store import (
    GRANULARITIES,
    Added,
    Announcement,
    BestPair,
    Candle,
    Correlation,
    JobRun,
    MarketSession,
    PriceEvent,
    Progress,
    VolatilityMetric,
)

CANDLES_LOCK: Final = 0x46580002
"""Held while candles are read, joined with new prices and written."""
_ALWAYS: Final = datetime.max.replace(tzinfo=UTC)

_CANDLE = "instrument, granularity, time, open, high, low, close, volume, opened_at, closed_at, complete"
_PRICE = "topic, epoch, event_offset, received_at, instrument, bid, ask, mid, time"
_VOLATILITY = "instrument, granularity, time, periods, volatility, annualized, atr, range_volatility, regime"
_CORRELATION = "time, granularity, instrument_a, instrument_b, correlation, observations, regime"
_BEST = "time, granularity, category, rank, instrument_a, instrument_b, correlation"
_JOB = "id, job, started_at, finished_at, status, row_count, error"


class SqlStore(ABC):
    """Everything of a :class:`~fx.store.Store` but its connection."""

    @abstractmethod
    async def _connect(self) -> None:
        """Raises StoreUnavailable, StoreError; what there is by then, :meth:`close` ends."""

    @abstractmethod
    async def close(self) -> None:
        """See :meth:`fx.store.Store.close`."""

    @abstractmethod
    async def run(self, steps: Steps[T], write: bool = True) -> T:
        """Run a transaction; ``write=False``: it only reads.

        Raises:
            StoreUnavailable, StoreError: nothing of it has happened; or, where the answer was lost, perhaps all.
        """

    async def open(self) -> list[str]:
        """See :meth:`fx.store.Store.open`."""
        applied = []
        try:
            await self._connect()
            while (title := await self.run(migrate())) is not None:
                applied.append(title)
        except BaseException:
            await self.close()
            raise
        return applied

    # prices and candles ---------------------------------------------------------------------------------------------

    async def add_prices(self, events: Sequence[PriceEvent], service: str | None = None) -> Added:
        """See :meth:`fx.store.Store.add_prices`. Costs a look per topic and per candle, and one write of each table."""
        return await self.run(_add_prices(events, service)) if events else Added(0, [])

    async def put_candles(self, candles: Sequence[Candle]) -> int:
        """See :meth:`fx.store.Store.put_candles`. A look per candle."""
        return await self.run(_put_candles(candles)) if candles else 0

    async def candles(
        self, instrument: str, granularity: str, before: datetime | None = None, limit: int = 500
    ) -> list[Candle]:
        """See :meth:`fx.store.Store.candles`."""
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity: one of {', '.join(GRANULARITIES)}, not {granularity!r}")
        newest = _ALWAYS if before is None else before - GRANULARITIES[granularity]
        rows = await self._rows(
            f"SELECT {_CANDLE} FROM oanda_candles WHERE instrument = $1 AND granularity = $2 AND time <= $3 "
            "ORDER BY time DESC LIMIT $4",
            instrument,
            granularity,
            newest,
            limit,
        )
        return [_candle(row) for row in reversed(rows)]

    async def last_price(self, instrument: str) -> PriceEvent | None:
        """See :meth:`fx.store.Store.last_price`."""
        rows = await self._rows(
            f"SELECT {_PRICE} FROM real_time_prices_audit WHERE instrument = $1 ORDER BY time DESC, id DESC LIMIT 1",
            instrument,
        )
        return _price_event(rows[0]) if rows else None

    async def count_prices(self, instrument: str | None = None) -> int:
        """See :meth:`fx.store.Store.count_prices`. Reads them all."""
        query = "SELECT count(*) FROM real_time_prices_audit"
        if instrument is None:
            return int((await self._rows(query))[0][0])
        return int((await self._rows(f"{query} WHERE instrument = $1", instrument))[0][0])

    async def forget_prices(self, before: datetime, limit: int) -> int:
        """See :meth:`fx.store.Store.forget_prices`."""
        gone = await self._write(
            "DELETE FROM real_time_prices_audit WHERE id IN (SELECT id FROM real_time_prices_audit "
            "WHERE received_at < $1 ORDER BY received_at LIMIT $2) RETURNING id",
            before,
            limit,
        )
        return len(gone)

    # analytics ------------------------------------------------------------------------------------------------------

    async def put_volatility(self, metrics: Sequence[VolatilityMetric]) -> None:
        """See :meth:`fx.store.Store.put_volatility`."""
        await self.run(_many(_upsert("volatility_metrics", _VOLATILITY, "instrument, granularity, time"), metrics))

    async def last_volatility(self, granularity: str, before: datetime | None = None) -> list[VolatilityMetric]:
        """See :meth:`fx.store.Store.last_volatility`."""
        rows = await self._rows(
            f"SELECT {_VOLATILITY} FROM volatility_metrics WHERE granularity = $1 AND (instrument, time) IN "
            "(SELECT instrument, max(time) FROM volatility_metrics WHERE granularity = $1 AND time < $2 "
            "GROUP BY instrument)",
            granularity,
            before or _ALWAYS,
        )
        return sorted(VolatilityMetric(row[0], row[1], _time(row[2]), *row[3:]) for row in rows)

    async def put_correlations(self, correlations: Sequence[Correlation], best: Sequence[BestPair] = ()) -> None:
        """See :meth:`fx.store.Store.put_correlations`."""
        await self.run(_put_correlations(correlations, best))

    async def last_correlations(self, granularity: str, before: datetime | None = None) -> list[Correlation]:
        """See :meth:`fx.store.Store.last_correlations`."""
        rows = await self._newest("correlation_matrix", _CORRELATION, granularity, before)
        return sorted(Correlation(_time(row[0]), *row[1:]) for row in rows)

    async def last_best_pairs(self, granularity: str) -> list[BestPair]:
        """See :meth:`fx.store.Store.last_best_pairs`."""
        rows = await self._newest("best_pairs_tracker", _BEST, granularity, None)
        return sorted(BestPair(_time(row[0]), *row[1:]) for row in rows)

    async def sessions(self) -> list[MarketSession]:
        """See :meth:`fx.store.Store.sessions`."""
        rows = await self._rows(
            "SELECT session_name, start_time, end_time, timezone, description FROM market_sessions ORDER BY id"
        )
        return [MarketSession(row[0], str(row[1])[:5], str(row[2])[:5], row[3], row[4]) for row in rows]

    async def job_started(self, job: str, at: datetime) -> int:
        """See :meth:`fx.store.Store.job_started`."""
        query = "INSERT INTO cron_job_log (job, started_at, status) VALUES ($1, $2, 'running') RETURNING id"
        return int((await self._write(query, job, at))[0][0])

    async def job_finished(self, run: int, at: datetime, status: str, rows: int = 0, error: str | None = None) -> None:
        """See :meth:`fx.store.Store.job_finished`."""
        query = "UPDATE cron_job_log SET finished_at = $2, status = $3, row_count = $4, error = $5 WHERE id = $1"
        await self._write(query, run, at, status, rows, error)

    async def jobs(self, job: str | None = None, limit: int = 100) -> list[JobRun]:
        """See :meth:`fx.store.Store.jobs`."""
        if job is None:
            rows = await self._rows(f"SELECT {_JOB} FROM cron_job_log ORDER BY id DESC LIMIT $1", limit)
        else:
            query = f"SELECT {_JOB} FROM cron_job_log WHERE job = $1 ORDER BY id DESC LIMIT $2"
            rows = await self._rows(query, job, limit)
        return [JobRun(row[0], row[1], _time(row[2]), row[3] and _time(row[3]), *row[4:]) for row in rows]

    # services -------------------------------------------------------------------------------------------------------

    async def progress(self, service: str) -> Progress:
        """See :meth:`fx.store.Store.progress`."""
        rows = await self._rows("SELECT position, missed, pending FROM service_positions WHERE service = $1", service)
        return Progress(rows[0][0], rows[0][1], tuple(_announcements(rows[0][2]))) if rows else Progress()

    async def set_position(self, service: str, position: str) -> None:
        """See :meth:`fx.store.Store.set_position`."""
        await self._write(_upsert("service_positions", "service, position", "service"), service, position)

    async def add_missed(self, service: str, events: int) -> None:
        """See :meth:`fx.store.Store.add_missed`."""
        await self._write(
            "INSERT INTO service_positions (service, missed) VALUES ($1, $2) "
            "ON CONFLICT (service) DO UPDATE SET missed = service_positions.missed + excluded.missed",
            service,
            events,
        )

    async def announced(self, service: str) -> None:
        """See :meth:`fx.store.Store.announced`."""
        await self._write("UPDATE service_positions SET pending = '[]' WHERE service = $1", service)

    # statements -----------------------------------------------------------------------------------------------------

    async def _rows(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        return await self.run(_one(sql, values), write=False)

    async def _write(self, sql: str, *values: Any) -> Sequence[Sequence[Any]]:
        return await self.run(_one(sql, values))

    async def _newest(
        self, table: str, columns: str, granularity: str, before: datetime | None
    ) -> Sequence[Sequence[Any]]:
        return await self._rows(
            f"SELECT {columns} FROM {table} WHERE granularity = $1 AND time = "
            f"(SELECT max(time) FROM {table} WHERE granularity = $1 AND time < $2)",
            granularity,
            before or _ALWAYS,
        )


def _one(sql: str, values: tuple[Any, ...]) -> Steps[Sequence[Sequence[Any]]]:
    return (yield Rows(sql, values))


def _many(sql: str, rows: Iterable[tuple[Any, ...]]) -> Steps[None]:
    yield Many(sql, rows)


def _add_prices(events: Sequence[PriceEvent], service: str | None) -> Steps[Added]:
    yield Lock(CANDLES_LOCK)
    new = yield from _unknown(events)
    yield Many(
        f"INSERT INTO real_time_prices_audit ({_PRICE}) VALUES ({_parameters(_PRICE)})",
        [(*event[:4], *event.price) for event in new],
    )
    added = of_prices(new)
    known = yield from _known(added)
    merged = [join(known[key], candle) if key in known else candle for key, candle in added.items()]
    yield Many(_UPSERT_CANDLE, merged)
    completed: list[Candle] = []
    for instrument, granularity in sorted({key[:2] for key in added if key not in known}):
        rows = yield Rows(_COMPLETE, (instrument, granularity))
        completed += sorted(map(_candle, rows))
    if completed and service is not None:
        yield from _announce(completed, service)
    return Added(len(new), completed)


def _unknown(events: Sequence[PriceEvent]) -> Steps[list[PriceEvent]]:
    """Those that are not stored, each once, in their order."""
    once = {event[:3]: event for event in events}
    for (topic, epoch), keys in groupby(sorted(once), key=lambda key: key[:2]):
        offsets = [offset for _, _, offset in keys]
        rows = yield Rows(
            "SELECT event_offset FROM real_time_prices_audit "
            "WHERE topic = $1 AND epoch = $2 AND event_offset BETWEEN $3 AND $4",
            (topic, epoch, offsets[0], offsets[-1]),
        )
        for (offset,) in rows:
            once.pop((topic, epoch, offset), None)
    return list(once.values())


def _put_candles(candles: Sequence[Candle]) -> Steps[int]:
    yield Lock(CANDLES_LOCK)
    wanted = {place(candle): candle for candle in candles}
    known = yield from _known(wanted)
    changed = [candle for key, candle in wanted.items() if known.get(key) != candle]
    yield Many(_UPSERT_CANDLE, changed)
    return len(changed)


def _known(places: Iterable[Place]) -> Steps[dict[Place, Candle]]:
    found = {}
    for key in places:
        query = f"SELECT {_CANDLE} FROM oanda_candles WHERE instrument = $1 AND granularity = $2 AND time = $3"
        for row in (yield Rows(query, key)):
            found[key] = _candle(row)
    return found


def _announce(completed: Sequence[Candle], service: str) -> Steps[None]:
    """What is completed becomes pending, joined with what is: one of each granularity."""
    rows = yield Rows("SELECT pending FROM service_positions WHERE service = $1", (service,))
    waiting = {one.granularity: one for one in _announcements(rows[0][0])} if rows else {}
    for candle in completed:
        one = waiting.get(candle.granularity, Announcement(candle.granularity, candle.time, (), 0))
        pairs = tuple(sorted({*one.instruments, candle.instrument}))
        waiting[candle.granularity] = one._replace(
            time=max(one.time, candle.time), instruments=pairs, rows=one.rows + 1
        )
    text = json.dumps([(one.granularity, one.time.isoformat(), one.instruments, one.rows) for one in waiting.values()])
    yield Rows(_upsert("service_positions", "service, pending", "service"), (service, text))


def _announcements(text: str) -> Iterator[Announcement]:
    for granularity, time, instruments, rows in json.loads(text):
        yield Announcement(granularity, _time(time), tuple(instruments), rows)


def _put_correlations(correlations: Sequence[Correlation], best: Sequence[BestPair]) -> Steps[None]:
    key = "granularity, time, instrument_a, instrument_b"
    yield Many(_upsert("correlation_matrix", _CORRELATION, key), correlations)
    for time, granularity in sorted({one[:2] for one in best}):
        yield Rows("DELETE FROM best_pairs_tracker WHERE time = $1 AND granularity = $2", (time, granularity))
    yield Many(f"INSERT INTO best_pairs_tracker ({_BEST}) VALUES ({_parameters(_BEST)})", best)


def _parameters(columns: str) -> str:
    return ", ".join(f"${i}" for i in range(1, columns.count(",") + 2))


def _upsert(table: str, columns: str, key: str) -> str:
    rest = [column for column in columns.split(", ") if column not in key.split(", ")]
    return (
        f"INSERT INTO {table} ({columns}) VALUES ({_parameters(columns)}) "
        f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in rest)}"
    )


_UPSERT_CANDLE = _upsert("oanda_candles", _CANDLE, "instrument, granularity, time")
_COMPLETE = (
    "UPDATE oanda_candles SET complete = TRUE WHERE instrument = $1 AND granularity = $2 AND NOT complete AND time < "
    f"(SELECT max(time) FROM oanda_candles WHERE instrument = $1 AND granularity = $2) RETURNING {_CANDLE}"
)


# What comes from SQLite is text where PostgreSQL has a type.


def _time(value: datetime | str) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def _exact(value: Decimal | str) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(value)


def _candle(row: Sequence[Any]) -> Candle:
    first, high, low, last = map(_exact, row[3:7])
    opened, closed = map(_time, row[8:10])
    return Candle(row[0], row[1], _time(row[2]), first, high, low, last, row[7], opened, closed, bool(row[10]))


def _price_event(row: Sequence[Any]) -> PriceEvent:
    topic, epoch, offset, received, instrument, bid, ask, mid, time = row
    price = Price(instrument, _exact(bid), _exact(ask), _exact(mid), _time(time))
    return PriceEvent(topic, epoch, offset, _time(received), price)
