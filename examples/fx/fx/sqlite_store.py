"""The store in one SQLite file, on a thread of its own."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fx.sql_store import SqlStore
from fx.steps import Define, Many, Result, Rows, Step, Steps, T
from fx.store import StoreError, StoreUnavailable

BUSY_TIMEOUT_S: Final = 5.0
"""Longest wait for another program that writes."""
TYPES: Final = {
    "id": "INTEGER PRIMARY KEY",
    "time": "TEXT",  # UTC with microseconds: as texts they are in the order of time
    "clock": "TEXT",
    "exact": "TEXT",  # SQLite's own numbers would lose digits
    "float": "REAL",
    "flag": "INTEGER",
}


class SqliteStore(SqlStore):
    """A :class:`~fx.store.Store`.

    Write-ahead log, ``synchronous=NORMAL``: a crash of the machine may take the last transactions, never a part of one.
    As positions are in the same file, a service then begins again before what was lost.

    Args:
        path: of the file; made with its directory by :meth:`open`.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._thread: ThreadPoolExecutor | None = None
        self._db: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"SqliteStore({self._path})"

    async def _connect(self) -> None:
        self._thread = ThreadPoolExecutor(1, "fx-sqlite")
        self._db = await self._on_thread(self._thread, _connection, self._path)

    async def close(self) -> None:
        """See :meth:`fx.store.Store.close`."""
        thread, self._thread = self._thread, None
        db, self._db = self._db, None
        if thread is not None:
            try:
                if db is not None:
                    await self._on_thread(thread, db.close)
            finally:
                thread.shutdown(wait=False)

    async def run(self, steps: Steps[T], write: bool = True) -> T:
        """See :meth:`fx.sql_store.SqlStore.run`."""
        if self._thread is None or self._db is None:
            raise StoreUnavailable(f"{self._path} is not open")
        return await self._on_thread(self._thread, _run, self._db, steps, write)

    async def _on_thread(self, thread: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
        except (sqlite3.OperationalError, OSError) as error:
            text = f"{self._path} cannot be used: {error}; see to its disk and permissions"
            raise StoreUnavailable(text) from error
        except sqlite3.Error as error:
            raise StoreError(f"{self._path} refuses: {error}") from error


# on the thread --------------------------------------------------------------------------------------------------------


def _connection(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def _run(db: sqlite3.Connection, steps: Steps[T], write: bool) -> T:
    db.execute("BEGIN IMMEDIATE" if write else "BEGIN")  # a writer waits here, and not in the middle
    try:
        result = _drive(db, steps)
        db.execute("COMMIT")
        return result
    except BaseException:
        if db.in_transaction:  # of some errors SQLite has rolled back itself
            db.execute("ROLLBACK")
        raise


def _drive(db: sqlite3.Connection, steps: Steps[T]) -> T:
    step = next(steps)
    while True:
        rows = _execute(db, step)
        try:
            step = steps.send(rows)
        except StopIteration as done:
            value: T = done.value
            return value


def _execute(db: sqlite3.Connection, step: Step) -> Result:
    if isinstance(step, Rows):
        return db.execute(_dialect(step.sql), _plain(step.values)).fetchall()
    if isinstance(step, Many):
        db.executemany(_dialect(step.sql), map(_plain, step.rows))
    elif isinstance(step, Define):
        db.execute(step.sql.format_map(TYPES))
    return ()  # a lock: one transaction writes at a time anyway


@lru_cache(256)
def _dialect(sql: str) -> str:
    return re.sub(r"\$(\d+)", r"?\1", sql)


def _plain(values: tuple[Any, ...]) -> list[Any]:
    return [_text(value) if isinstance(value, (Decimal, datetime)) else value for value in values]


def _text(value: Decimal | datetime) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.astimezone(UTC).isoformat(timespec="microseconds")
