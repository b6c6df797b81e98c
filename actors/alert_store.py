"""What alerts remember: how subjects stand, what is still to be told, and up to where events were seen. In SQLite.

``synchronous=FULL``: a change and what is to be told of it are on the disk together when :meth:`AlertStore.keep`
returns. So a process that is killed tells nothing twice and leaves nothing out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from actors.alert_rule import Alarm
from actors.sqlite_file import Kind, open_database
from transport.errors import HeliographError

LOCK_TIMEOUT_S: Final = 10.0
"""For a former life to end."""

_KIND: Final = Kind(
    mark=0x48454C41,  # "HELA"
    version=1,
    schema="""
CREATE TABLE alarms (rule TEXT NOT NULL, subject TEXT NOT NULL, alarm BLOB NOT NULL, PRIMARY KEY (rule, subject));
CREATE TABLE waiting (number INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE place (position TEXT);
INSERT INTO place VALUES (NULL);
""",
)
_SINGLE: Final = ""  # as a subject: that of a rule about one topic

_alarm = msgspec.json.Decoder(Alarm)


class Waiting(NamedTuple):
    """What is still to be told: to the webhook ``target``, ``""``: as an event."""

    number: int
    target: str
    body: bytes


class AlertStore:
    """One per engine. Used on one thread at a time; blocks for a sync of the disk per call that writes.

    Args:
        path: of the database; made with its directory where missing, for this user alone. ``None``: in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Begin; again is without effect.

        Raises:
            Unusable: the file cannot be used; says what to do.
        """
        if self._db is None:
            self._db = open_database(self._path, _KIND, LOCK_TIMEOUT_S, exclusive=True)
            self._db.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        """End; what is in memory stays for the next :meth:`open`."""
        if self._db is not None and self._path is not None:
            self._db.close()
            self._db = None

    def load(self) -> tuple[list[Alarm], list[Waiting], str | None]:
        """How subjects stand, what is still to be told, in its order, and the position of the events seen."""
        db = self._open_db()
        alarms = [_alarm.decode(row) for (row,) in db.execute("SELECT alarm FROM alarms ORDER BY rowid")]
        waiting = [Waiting(*row) for row in db.execute("SELECT number, target, body FROM waiting ORDER BY number")]
        (position,) = db.execute("SELECT position FROM place").fetchone()
        return alarms, waiting, position

    def keep(
        self,
        changed: Iterable[Alarm],
        forgotten: Iterable[tuple[str, str | None]],
        told: Sequence[tuple[str, bytes]],
        position: str | None,
    ) -> list[Waiting]:
        """All or nothing; what is to be told of it gets numbers, which only rise.

        Args:
            told: target and body, in order.
            position: ``None``: that which is kept stays.
        """
        with self._open_db() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "DELETE FROM alarms WHERE rule = ? AND subject = ?",
                [(rule, _SINGLE if subject is None else subject) for rule, subject in forgotten],
            )
            db.executemany(
                "INSERT OR REPLACE INTO alarms VALUES (?, ?, ?)",
                [
                    (alarm.rule, _SINGLE if alarm.subject is None else alarm.subject, msgspec.json.encode(alarm))
                    for alarm in changed
                ],
            )
            waiting = [
                Waiting(db.execute("INSERT INTO waiting (target, body) VALUES (?, ?)", row).lastrowid or 0, *row)
                for row in told
            ]
            if position is not None:
                db.execute("UPDATE place SET position = ?", (position,))
        return waiting

    def done(self, numbers: Iterable[int]) -> None:
        """These were told, or nobody is to be told any more."""
        with self._open_db() as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("DELETE FROM waiting WHERE number = ?", [(number,) for number in numbers])

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise HeliographError("the alerts' database is closed")
        return self._db
