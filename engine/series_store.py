"""Samples in SQLite: a row per bucket of time and tier, with all series in it; see :mod:`engine.series`.

The database is the only state, so that a process that is killed loses nothing but what it was writing: rows of the
upper tiers are made of those below when their time is over, whoever wrote those. ``synchronous = NORMAL``: the last
seconds may be lost with the machine.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from actors.sqlite_file import Kind, open_database, transaction
from engine.series import POINTS, TIERS, Row, Summary, floor, grouped, points, resolution, width
from transport.errors import HeliographError

BUSY_TIMEOUT_S: Final = 2.0
WAL_BYTES: Final = 4 << 20
"""The write-ahead log's file is cut to so much when it was larger."""
SEEN_TIER: Final = 2
"""With each row of this tier its series are marked as seen, and those are forgotten of which nothing is kept."""

FORGOTTEN: Final = 2
"""Rows of a tier that go at most with each sample, so that one with a clock that is far ahead does not take all."""

_FORGET: Final = (
    "DELETE FROM rows WHERE tier = ? AND ts IN (SELECT ts FROM rows WHERE tier = ? AND ts <= ? ORDER BY ts LIMIT ?)"
)
_KIND: Final = Kind(
    mark=0x48454C4D,  # "HELM"
    version=1,
    schema="""
CREATE TABLE series (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, seen INTEGER NOT NULL);
CREATE TABLE rows (
    tier INTEGER NOT NULL, ts INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (tier, ts)
) WITHOUT ROWID;
""",
)

_encode = msgspec.msgpack.Encoder().encode
_samples = msgspec.msgpack.Decoder(dict[int, float]).decode
_summaries = msgspec.msgpack.Decoder(dict[int, Summary]).decode


class StoreError(HeliographError):
    """The database cannot be used; says why. What was being written is not in it."""


class SeriesStore:
    """The history of all series. On any thread, one at a time.

    Args:
        path: of the database, made with its directory where missing, for this user alone; ``None``: in memory.
        interval: between samples, ms. Where a predecessor had another one, sums of the time between are inexact.

    Raises:
        Unusable, StoreError: the file cannot be used. It is left as it is.
    """

    def __init__(self, path: Path | None, interval: int) -> None:
        self._interval = interval
        self._ids: dict[str, int] = {}
        self._db = open_database(path, _KIND, BUSY_TIMEOUT_S)
        with self._readable():
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
            self._load_ids()

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    # writing ---------------------------------------------------------------------------------------------------------

    def add(self, ts: int, samples: Mapping[str, float]) -> None:
        """Keep what was sampled at ``ts``, finite numbers; a second sample of one bucket takes the first one's place.

        What lies in the future of ``ts`` is forgotten: the clock was wrong then. One transaction, about 0.2 ms.

        Raises:
            StoreError: it is not kept.
        """
        ts = floor(ts, self._interval)
        with self._transaction():
            if self._newest() > ts:
                self._drop_future(ts)
            self._put(0, ts, _encode({self._id(name, ts): value for name, value in samples.items()}))
            for tier in range(1, TIERS):
                self._close_buckets(tier, ts)
            for tier in range(TIERS):  # now that it is summed up
                step = width(self._interval, tier)
                old = floor(ts, step) - POINTS * step
                self._db.execute(_FORGET, (tier, tier, old, FORGOTTEN))

    def _drop_future(self, ts: int) -> None:
        """Above the first tier also the bucket of ``ts``: it is not over any more."""
        self._db.execute("DELETE FROM rows WHERE tier = 0 AND ts > ?", (ts,))
        for tier in range(1, TIERS):
            now = floor(ts, width(self._interval, tier))
            self._db.execute("DELETE FROM rows WHERE tier = ? AND ts >= ?", (tier, now))

    def _close_buckets(self, tier: int, ts: int) -> None:
        step = width(self._interval, tier)
        below = self._stored(tier - 1, self._closed(tier), floor(ts, step) - 1)
        for begin, row in grouped(below, step):
            self._put(tier, begin, _encode(row))
            if tier == SEEN_TIER:
                self._see(begin, row)

    def _see(self, begin: int, row: Row) -> None:
        self._db.executemany("UPDATE series SET seen = ? WHERE id = ?", [(begin, series) for series in row])
        oldest = begin - POINTS * width(self._interval, TIERS - 1)
        if self._db.execute("DELETE FROM series WHERE seen < ?", (oldest,)).rowcount:
            self._load_ids()

    def _put(self, tier: int, ts: int, body: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (tier, ts, body))

    def _id(self, name: str, ts: int) -> int:
        found = self._ids.get(name)
        if found is None:
            found = self._db.execute("INSERT INTO series (name, seen) VALUES (?, ?)", (name, ts)).lastrowid
            assert found is not None
            self._ids[name] = found
        return found

    def _load_ids(self) -> None:
        self._ids = dict(self._db.execute("SELECT name, id FROM series").fetchall())

    # reading ---------------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All series of which something is kept, sorted."""
        return sorted(self._ids)

    def read(
        self, names: Sequence[str], start: int, end: int, count: int
    ) -> tuple[dict[str, list[tuple[float, float, float, float]]], int]:
        """Series from ``start`` to ``end`` as at most ``count`` points each, and the ms from one to the next.

        A point is ``(ts, min, mean, max)`` of what was sampled from ``ts`` (Unix seconds) on. A series that is not
        known has none. Reads at most 1,000 rows and some, each about 10 µs.

        Raises:
            StoreError: the database cannot be read.
        """
        with self._readable():
            found = resolution(start, end, count, self._newest(), self._interval)
            wanted = {name: self._ids[name] for name in names if name in self._ids}
            only = frozenset(wanted.values())
            rows = list(grouped(self._rows(found.tier, found.start, end, only), found.step))
        return {name: points(rows, wanted[name]) if name in wanted else [] for name in names}, found.step

    def _rows(self, tier: int, start: int, end: int, only: frozenset[int]) -> Iterator[tuple[int, Row]]:
        """Rows of the buckets that begin from ``start``, a multiple of the tier's width, to ``end``; what is not summed
        up yet is, from the tier below."""
        for ts, row in self._stored(tier, start, end):
            yield ts, {series: row[series] for series in only if series in row}
        if tier:
            step = width(self._interval, tier)
            below = self._rows(tier - 1, max(start, self._closed(tier)), floor(end, step) + step - 1, only)
            yield from grouped(below, step)

    def _stored(self, tier: int, start: int, end: int) -> Iterator[tuple[int, Row]]:
        query = "SELECT ts, body FROM rows WHERE tier = ? AND ts BETWEEN ? AND ? ORDER BY ts"
        for ts, body in self._db.execute(query, (tier, start, end)).fetchall():
            if tier:
                yield ts, _summaries(body)
            else:
                yield ts, {series: Summary(value, value, value, 1) for series, value in _samples(body).items()}

    def _newest(self) -> int:
        return self._one("SELECT ifnull(max(ts), 0) FROM rows WHERE tier = 0")

    def _closed(self, tier: int) -> int:
        """The end of the last bucket that a tier has."""
        last = self._one(f"SELECT ifnull(max(ts), -1) FROM rows WHERE tier = {tier}")  # noqa: S608
        step = width(self._interval, tier)
        return 0 if last < 0 else floor(last, step) + step

    # the database ----------------------------------------------------------------------------------------------------

    def _one(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, msgspec.MsgspecError) as error:
            raise StoreError(f"metrics.file: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._readable():
            try:
                with transaction(self._db):
                    yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # of series whose insertion was taken back
                    self._load_ids()
                raise
