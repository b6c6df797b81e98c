"""Durable topics: a history in one SQLite file that outlives the machine.

Write-ahead log, ``synchronous=FULL``: an event is on the disk when :meth:`SqliteHistory.append` returns. One append is
one transaction and one fsync, so what comes together costs one of them.

``packed`` is as the bus carries it, with the bus's tag of a publication, which a test pins.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from actors.history import KEY_LIFETIME, Accepted, Expired, Head
from actors.sqlite_file import transaction
from actors.topic_policy import TopicPolicies
from transport.codec import join, pack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import CodecError, ConfigError, RequestError
from transport.messages import Publication, Publish

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 0x48454C49
"""Says that a database is ours (PRAGMA application_id): "HELI"."""
BUSY_TIMEOUT_S: Final = 5.0
"""Longest wait for another process that has the file, such as the predecessor of this hub at its end."""
TRIM_BITE: Final = 1_000
"""Events let go in one transaction, some milliseconds."""
TRIM_BITES: Final = 50
"""Transactions of one :meth:`SqliteHistory.trim`; what is left goes with the next one."""
WAL_BYTES: Final = 16 << 20
"""The write-ahead log's file is cut to so much when it was larger."""

FIELD: Final = "history.durable_file"

_SCHEMA: Final = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, offset INTEGER NOT NULL, ts REAL NOT NULL
);
CREATE TABLE events (
    mark INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, offset INTEGER NOT NULL, ts REAL NOT NULL,
    packed BLOB NOT NULL
);
CREATE UNIQUE INDEX events_of_topic ON events (topic, offset);
CREATE TABLE keys (
    topic INTEGER NOT NULL, key BLOB NOT NULL, epoch TEXT NOT NULL, offset INTEGER NOT NULL, ts REAL NOT NULL,
    mark INTEGER NOT NULL
);
CREATE UNIQUE INDEX keys_of_topic ON keys (topic, key);
CREATE INDEX keys_by_age ON keys (ts);
CREATE TABLE trimmed (mark INTEGER NOT NULL);
INSERT INTO trimmed VALUES (0);
CREATE TABLE begun (epoch TEXT NOT NULL);
"""


class _Topic:
    """As committed. ``first``, ``oldest``: offset and ts of the oldest event kept; ``first`` > ``offset``: none is."""

    __slots__ = ("epoch", "first", "id", "offset", "oldest", "ts")

    def __init__(self, row: tuple[int, str, int, float, int, float]) -> None:
        self.id, self.epoch, self.offset, self.ts, self.first, self.oldest = row

    def copy(self) -> _Topic:
        return _Topic((self.id, self.epoch, self.offset, self.ts, self.first, self.oldest))


class SqliteHistory:
    """A :class:`~actors.history.History`. Topics are never forgotten: one without events keeps epoch and offset.

    May be used on any thread, one at a time. Another process, or another one of these, may have the file open too.

    Args:
        path: of the database; made with its directory where missing, for this user alone.
        policies: how many events of a topic are kept, and for how long.
        max_topics: an event of a further topic is refused.
        new_epoch: makes a string that was never an epoch before.

    Attributes:
        epoch: of all topics, as none is ever forgotten.

    Raises:
        ConfigError: the file cannot be used; says what to do.
    """

    def __init__(self, path: Path, policies: TopicPolicies, max_topics: int, new_epoch: Callable[[], str]) -> None:
        self._policies, self._max_topics, self._new_epoch = policies, max_topics, new_epoch
        self._topics: dict[str, _Topic] = {}
        self.epoch = ""
        self._version = -1
        self._fresh = 0  # topics that the present append adds
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ConfigError(f"{path} cannot be opened: {error.strerror}; give another path", FIELD) from None
        self._db = sqlite3.connect(path, BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        try:
            self._open(path)
        except sqlite3.Error as error:
            self._db.close()
            raise ConfigError(_unusable(path, error), FIELD) from None
        except ConfigError:
            self._db.close()
            raise

    def _open(self, path: Path) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
        db.execute("BEGIN IMMEDIATE")  # two that open a new file at once: one makes the tables
        try:
            self._check(path)
            self._load()
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _check(self, path: Path) -> None:
        version, owner, tables = (
            self._one(query)
            for query in ("PRAGMA user_version", "PRAGMA application_id", "SELECT count(*) FROM sqlite_master")
        )
        if not tables:
            marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}"
            for statement in f"{_SCHEMA}{marks}".split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO begun VALUES (?)", (self._new_epoch(),))
        elif owner != APPLICATION_ID:
            raise ConfigError(f"{path} is a database of another program; give another path", FIELD)
        elif version > SCHEMA_VERSION:
            raise ConfigError(
                f"{path} was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION}): "
                "run that version, or give another path",
                FIELD,
            )

    def _one(self, query: str) -> int:
        return int(self._db.execute(query).fetchone()[0])

    def _load(self) -> None:
        """What another one has written since the last look."""
        version = self._one("PRAGMA data_version")
        if version == self._version:
            return
        oldest = "FROM events WHERE topic = topics.id ORDER BY offset LIMIT 1"
        rows = self._db.execute(
            f"SELECT name, id, epoch, offset, ts, ifnull((SELECT offset {oldest}), offset + 1), "  # noqa: S608
            f"ifnull((SELECT ts {oldest}), 0.0) FROM topics"
        )
        self._topics = {name: _Topic(row) for name, *row in rows}
        self.epoch = str(self._db.execute("SELECT epoch FROM begun").fetchone()[0])
        self._version = version

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. Raises :class:`RequestError` for whatever is wrong with the file or its disk."""
        try:
            with transaction(self._db):
                self._load()
                yield
        except sqlite3.Error as error:
            _unavailable(error)

    # accepting ------------------------------------------------------------------------------------------------------

    def append(self, publishes: Sequence[Publish], now: float) -> list[Accepted | RequestError]:
        """See :meth:`actors.history.History.append`. One transaction; some 10 µs an event and one fsync."""
        changed: dict[str, _Topic] = {}
        self._fresh = 0
        with self._transaction():
            results = [self._accept(publish, now, changed) for publish in publishes]
            self._db.executemany(
                "UPDATE topics SET offset = ?, ts = ? WHERE id = ?", [(t.offset, t.ts, t.id) for t in changed.values()]
            )
        self._topics.update(changed)
        return results

    def _accept(self, publish: Publish, now: float, changed: dict[str, _Topic]) -> Accepted | RequestError:
        _, name, kind, data, key, priority, source_ts, idempotency_key, _ = publish
        topic = changed.get(name)
        if topic is None:
            known = self._topics.get(name)
            if known is None and len(self._topics) + self._fresh >= self._max_topics:
                text = f"the engine keeps at most {self._max_topics} topics (limits.topics)"
                return RequestError(ErrorCode.LIMIT_EXCEEDED, text, "topic")
            topic = None if known is None else known.copy()
        once = None if idempotency_key is None else idempotency_key.encode("utf-8", "surrogatepass")
        if once is not None and topic is not None:
            query = "SELECT epoch, offset, ts, mark FROM keys WHERE topic = ? AND key = ? AND ts > ?"
            place = self._db.execute(query, (topic.id, once, now - KEY_LIFETIME)).fetchone()
            if place is not None:
                epoch, offset, ts, mark = place
                return Accepted(Publication(name, epoch, offset, ts, kind, data), b"", mark, again=True)
        epoch = self.epoch if topic is None else topic.epoch
        offset, ts = (1, now) if topic is None else (topic.offset + 1, max(now, topic.ts))
        publication = Publication(name, epoch, offset, ts, kind, data, key, priority, source_ts)
        try:
            packed = pack(publication)
        except CodecError as error:
            return RequestError(ErrorCode.LIMIT_EXCEEDED, str(error), "data")
        if topic is None:
            added = self._db.execute(
                "INSERT INTO topics (name, epoch, offset, ts) VALUES (?, ?, 0, ?)", (name, epoch, ts)
            )
            self._fresh += 1
            topic = _Topic((added.lastrowid or 0, epoch, 0, ts, 1, ts))
        changed[name] = topic
        if topic.first > topic.offset:
            topic.oldest = ts
        topic.offset, topic.ts = offset, ts
        query = "INSERT INTO events (topic, offset, ts, packed) VALUES (?, ?, ?, ?)"
        mark = self._db.execute(query, (topic.id, offset, ts, packed)).lastrowid or 0
        if once is not None:
            query = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, ?)"
            self._db.execute(query, (topic.id, once, epoch, offset, ts, mark))
        return Accepted(publication, packed, mark)

    def skip(self, name: str, offset: int) -> None:
        """Somebody has seen events of a known topic up to ``offset``, which are not here: give no such place again.

        Raises:
            RequestError: ``unavailable``; nothing has changed.
        """
        with self._transaction():
            topic = self._topics[name].copy()
            empty = topic.first > topic.offset
            topic.offset = max(topic.offset, offset)
            topic.first = topic.offset + 1 if empty else topic.first
            self._db.execute("UPDATE topics SET offset = ? WHERE id = ?", (topic.offset, topic.id))
        self._topics[name] = topic

    # looking --------------------------------------------------------------------------------------------------------

    def heads(self) -> Iterator[Head]:
        """See :meth:`actors.history.History.heads`. The last event of a topic is known while it is kept."""
        rows = self._rows(
            "SELECT name, epoch, topics.offset, packed FROM topics LEFT JOIN events "
            "ON events.topic = topics.id AND events.offset = topics.offset"
        )
        for name, epoch, offset, packed in rows:
            yield Head(name, epoch, offset, None if packed is None else unpack_batch(join([packed]))[0])

    def first(self, topic: str) -> int:
        """See :meth:`actors.history.History.first`."""
        query = (
            "SELECT ifnull((SELECT min(offset) FROM events WHERE topic = id), offset + 1) FROM topics WHERE name = ?"
        )
        rows = self._rows(query, topic)
        return int(rows[0][0]) if rows else 1

    def read(self, topic: str, after: int, limit: int) -> list[bytes]:
        """See :meth:`actors.history.History.read`. O(answer)."""
        rows = self._rows(
            "SELECT packed FROM events WHERE topic = (SELECT id FROM topics WHERE name = ?) AND offset > ? "
            "ORDER BY offset LIMIT ?",
            topic,
            after,
            limit,
        )
        return [packed for (packed,) in rows]

    def bounds(self) -> tuple[int, int]:
        """The first and the last mark behind which :meth:`tail` can be asked for events."""
        [(trimmed, last)] = self._rows(
            "SELECT mark, ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) FROM trimmed"
        )
        return trimmed, last

    def tail(self, mark: int, limit: int) -> list[tuple[int, bytes]]:
        """See :meth:`actors.history.History.tail`. It reaches back to the last event let go, of any topic."""
        trimmed, last = self.bounds()
        if not trimmed <= mark <= last:
            raise Expired(f"the log has {trimmed} to {last}, not {mark}")
        return self._rows("SELECT mark, packed FROM events WHERE mark > ? ORDER BY mark LIMIT ?", mark, limit)

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            _unavailable(error)

    # letting go -----------------------------------------------------------------------------------------------------

    def trim(self, now: float) -> None:
        """See :meth:`actors.history.History.trim`; at most ``TRIM_BITE`` × ``TRIM_BITES`` events, 0.2 s."""
        with self._transaction():
            query = "DELETE FROM keys WHERE rowid IN (SELECT rowid FROM keys WHERE ts <= ? ORDER BY ts LIMIT ?)"
            self._db.execute(query, (now - KEY_LIFETIME, TRIM_BITE * TRIM_BITES))
        bites = TRIM_BITES
        for name in list(self._topics):
            policy = self._policies.of(name)
            before = float("-inf") if policy.history_age_s is None else now - policy.history_age_s
            while (topic := self._topics[name]).first <= topic.offset and (
                topic.first <= topic.offset - policy.history_size or topic.oldest <= before
            ):
                if not bites:
                    return
                bites -= 1
                self._bite(name, policy.history_size, before)

    def _bite(self, name: str, size: int, before: float) -> None:
        """Let go the oldest events of a topic, of which one at least is due."""
        with self._transaction():
            topic = self._topics[name].copy()
            query = "SELECT offset, ts, mark FROM events WHERE topic = ? ORDER BY offset LIMIT ?"
            rows = self._db.execute(query, (topic.id, TRIM_BITE + 1)).fetchall()
            due = [row for row in rows[:TRIM_BITE] if row[0] <= topic.offset - size or row[1] <= before]
            topic.first, topic.oldest = rows[len(due)][:2] if len(due) < len(rows) else (topic.offset + 1, 0.0)
            if due:
                self._db.execute("DELETE FROM events WHERE topic = ? AND offset <= ?", (topic.id, due[-1][0]))
                self._db.execute("UPDATE trimmed SET mark = max(mark, ?)", (due[-1][2],))
        self._topics[name] = topic

    def close(self) -> None:
        """See :meth:`actors.history.History.close`."""
        self._db.close()


def database_bytes(path: Path) -> int:
    """Size of the file with its write-ahead log; 0 for what is not there."""
    total = 0
    for name in (path, f"{path}-wal"):
        with contextlib.suppress(OSError):
            total += os.stat(name).st_size
    return total


def _unavailable(error: sqlite3.Error) -> NoReturn:
    text = f"the history of durable topics cannot be used: {error}; see to the disk of history.durable_file"
    raise RequestError(ErrorCode.UNAVAILABLE, text) from error


def _unusable(path: Path, error: sqlite3.Error) -> str:
    if isinstance(error, sqlite3.OperationalError):
        return f"{path} cannot be opened: {error}; see to its disk and permissions, or give another path"
    return f"{path} is damaged or no database ({error}): put back a copy, or move it away and begin without history"
