"""Events that wait on disk for the Redis which several engines share: a queue in a SQLite file.

``synchronous=FULL``: an event is on the disk when :meth:`Spool.add` returns. Each has a number; together with the
spool's name it says to Redis what it has already, if an append had an unknown outcome.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from actors.sqlite_file import transaction
from transport.codec import join, pack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.messages import Publish

APPLICATION_ID: Final = 0x48454C53
"""Says that a database is a spool (PRAGMA application_id): "HELS"."""
SCHEMA_VERSION: Final = 1
NUMBERS_SKIPPED: Final = 1_000_000
"""At an opening: a former life may have used numbers for what it did not keep, and Redis may have had those."""
LOCK_TIMEOUT_S: Final = 10.0
"""For a former life to end. Two engines with one spool would give numbers twice, and Redis pass over events."""
FIELD: Final = "history.durable_file"

_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE begun (name TEXT NOT NULL);
CREATE TABLE events (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, key BLOB, packed BLOB NOT NULL);
CREATE INDEX events_by_key ON events (topic, key) WHERE key IS NOT NULL;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


class Spool:
    """One per engine, used on one thread at a time; nobody else can open the file meanwhile.

    Args:
        path: of the database; made with its directory where missing, for this user alone.
        max_events: that wait at most.
        new_name: makes a string that never named a spool before.

    Attributes:
        name: of this spool; another one where it was empty at its opening, so that numbers begin anew.
        number: that of the next event.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path, max_events: int, new_name: Callable[[], str]) -> None:
        self._max = max_events
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            self._open(path, new_name)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path} cannot be used: {error}; see to it, or give another path", FIELD) from None

    def _open(self, path: Path, new_name: Callable[[], str]) -> None:
        db = self._db
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if not self._one("SELECT count(*) FROM sqlite_master"):
            db.executescript(_SCHEMA)
        marks = (self._one("PRAGMA application_id"), self._one("PRAGMA user_version"))
        if marks != (APPLICATION_ID, SCHEMA_VERSION):
            db.close()
            raise ConfigError(f"{path} is no spool that this version can read; give another path", FIELD)
        self._size = self._one("SELECT count(*) FROM events")
        if not self._size:
            with self._transaction():
                db.execute("DELETE FROM begun")
                db.execute("INSERT INTO begun VALUES (?)", (new_name(),))
        self.name: str = db.execute("SELECT name FROM begun").fetchone()[0]
        self.number = NUMBERS_SKIPPED + self._one("SELECT ifnull(max(number), 0) FROM events")

    def _one(self, query: str) -> int:
        found: int = self._db.execute(query).fetchone()[0]
        return found

    def __len__(self) -> int:
        return self._size

    @property
    def room(self) -> int:
        """So many events more."""
        return max(0, self._max - self._size)

    def numbers(self, count: int) -> int:
        """The first of so many numbers, which no other event will have."""
        first, self.number = self.number, self.number + count
        return first

    def add(self, first: int, publishes: Sequence[Publish]) -> None:
        """Keep events under their :meth:`numbers`, all or none. One fsync.

        Raises:
            RequestError: ``unavailable``: they cannot be written.
        """
        rows = [
            (number, event.topic, None if event.idempotency_key is None else _bytes(event.idempotency_key), pack(event))
            for number, event in enumerate(publishes, first)
        ]
        with self._transaction():
            self._db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        self._size += len(rows)

    def knows(self, topic: str, key: str) -> bool:
        """Whether an event with this idempotency key waits."""
        query = "SELECT 1 FROM events WHERE topic = ? AND key = ?"
        with _errors():
            return self._db.execute(query, (topic, _bytes(key))).fetchone() is not None

    def oldest(self, limit: int, nbytes: int) -> tuple[int, list[Publish]]:
        """Events whose numbers follow each other, and the first of these; at most ``limit``, and no more once they are
        ``nbytes``."""
        first = 0
        run: list[bytes] = []
        with _errors():
            rows = self._db.execute("SELECT number, packed FROM events ORDER BY number LIMIT ?", (limit,))
            for number, packed in rows:
                first = first if run else number
                if number != first + len(run) or nbytes <= 0:
                    break
                run.append(packed)
                nbytes -= len(packed)
            rows.close()
        return first, unpack_batch(join(run)) if run else []

    def remove(self, first: int, count: int) -> None:
        """They are where they belong."""
        with self._transaction():
            self._db.execute("DELETE FROM events WHERE number >= ? AND number < ?", (first, first + count))
        self._size -= count

    def close(self) -> None:
        """Let go the file; what waits stays."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _errors(), transaction(self._db):
            yield


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        text = f"the spool cannot be used: {error}; see to the disk of {FIELD}, then repeat it"
        raise RequestError(ErrorCode.UNAVAILABLE, text) from error
