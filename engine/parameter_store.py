"""Versions of parameters and who made them, in one SQLite file.

Write-ahead log, ``synchronous=FULL``: a version is on the disk when :meth:`ParameterStore.append` returns. Attempts
that were refused are kept beside them, without waiting for the disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from actors.parameter_book import Change, Refusal
from actors.sqlite_file import Kind, open_database, transaction
from transport.codes import ErrorCode
from transport.errors import RequestError

BUSY_TIMEOUT_S: Final = 5.0
"""Longest wait for another process that has the file, such as the predecessor of this one at its end."""
VERSIONS_KEPT: Final = 100_000
"""Of one parameter; the oldest go."""
REFUSED_KEPT: Final = 1_000
"""Attempts of one parameter that were refused; the oldest go."""
REFUSED_BYTES: Final = 2_048
"""Of the values of one such, as JSON; of larger ones it is only kept that they were."""
PAGE_BYTES: Final = 131_072
"""Of the changes in one page."""

_KIND: Final = Kind(
    mark=0x48454C50,  # "HELP"
    version=1,
    schema="""
CREATE TABLE changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, parameter TEXT NOT NULL, version INTEGER NOT NULL, refused INTEGER NOT NULL,
    change BLOB NOT NULL
);
CREATE UNIQUE INDEX versions ON changes (parameter, version) WHERE NOT refused;
CREATE INDEX of_parameter ON changes (parameter, id);
CREATE INDEX refusals ON changes (parameter, id) WHERE refused;
CREATE TABLE counts (parameter TEXT PRIMARY KEY, refused INTEGER NOT NULL);
CREATE TABLE begun (name TEXT NOT NULL);
INSERT INTO begun VALUES (lower(hex(randomblob(16))));
""",
)


class Page(msgspec.Struct, frozen=True):
    """Some of a parameter's changes.

    Attributes:
        changes: newest first, refused ones among them.
        before: what to ask with for older ones; none: there are none.
    """

    changes: list[Change]
    before: int | None


class ParameterStore:
    """May be used on any thread, one at a time.

    Args:
        path: of the database, made with its directory where missing, for this user alone; none: it is in memory, gone
            with this object, not with :meth:`close`.

    Attributes:
        name: of this database, random: another one's versions are others.

    Raises:
        Unusable: the file cannot be used; says what to do.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._where = path, str(path or "memory")
        self._db = open_database(path, _KIND, BUSY_TIMEOUT_S)
        self.name = str(self._rows("SELECT name FROM begun")[0][0])

    def latest(self, parameter: str) -> Change | None:
        """Its newest version."""
        query = "SELECT change FROM changes WHERE parameter = ? AND NOT refused ORDER BY version DESC LIMIT 1"
        found = self._rows(query, parameter)
        return _decoder.decode(found[0][0]) if found else None

    def versions(self, parameter: str, after: int, limit: int) -> list[Change]:
        """Its versions above ``after``, the newest ``limit`` of them, oldest first."""
        above = "SELECT change FROM changes WHERE parameter = ? AND NOT refused AND version > ?"
        rows = self._rows(f"{above} ORDER BY version DESC LIMIT ?", parameter, after, limit)
        return [_decoder.decode(change) for (change,) in reversed(rows)]

    def page(self, parameter: str, limit: int, before: int | None) -> Page:
        """At most ``limit`` of its changes, fewer where they have :data:`PAGE_BYTES`: those older than ``before``."""
        query = "SELECT id, change FROM changes WHERE parameter = ? AND id < ? ORDER BY id DESC LIMIT ?"
        changes: list[Change] = []
        size, last = 0, None
        rows = self._rows(query, parameter, before or 2**62, limit + 1)
        for at, raw in rows:
            size += len(raw)
            if len(changes) == limit or (changes and size > PAGE_BYTES):
                return Page(changes, last)
            changes.append(_decoder.decode(raw))
            last = at
        return Page(changes, None)

    def refused(self, parameter: str) -> int:
        """How many attempts to change it were refused, ever."""
        found = self._rows("SELECT refused FROM counts WHERE parameter = ?", parameter)
        return int(found[0][0]) if found else 0

    def append(self, parameter: str, change: Change) -> None:
        """Keep a version. It takes the disk's time.

        Raises:
            RequestError: ``unavailable``: it is not kept.
        """
        with self._transaction():
            self._insert(parameter, change)
            query = "DELETE FROM changes WHERE parameter = ? AND NOT refused AND version <= ?"
            self._db.execute(query, (parameter, change.version - VERSIONS_KEPT))

    def refuse(self, parameter: str, change: Change, refusal: Refusal) -> None:
        """Keep that a change was refused."""
        if change.values is not None and len(msgspec.json.encode(change.values)) > REFUSED_BYTES:
            change = msgspec.structs.replace(change, values=None)
        with self._transaction(wait=False):
            self._insert(parameter, msgspec.structs.replace(change, refused=refusal))
            query = "INSERT INTO counts VALUES (?, 1) ON CONFLICT (parameter) DO UPDATE SET refused = refused + 1"
            self._db.execute(query, (parameter,))
            query = (
                "DELETE FROM changes WHERE id IN (SELECT id FROM changes WHERE parameter = ? AND refused "
                "ORDER BY id DESC LIMIT -1 OFFSET ?)"
            )
            self._db.execute(query, (parameter, REFUSED_KEPT))

    def _insert(self, parameter: str, change: Change) -> None:
        row = (parameter, change.version, change.refused is not None, msgspec.msgpack.encode(change))
        self._db.execute("INSERT INTO changes (parameter, version, refused, change) VALUES (?, ?, ?, ?)", row)

    @contextlib.contextmanager
    def _transaction(self, *, wait: bool = True) -> Iterator[None]:
        """All or nothing; without ``wait`` it may be gone after a failure of the machine, though not of a process."""
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if wait else 'NORMAL'}")
            with transaction(self._db):
                yield
        except sqlite3.Error as error:
            raise RequestError(ErrorCode.UNAVAILABLE, f"{self._where} cannot be written: {error}") from None

    def _rows(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise RequestError(ErrorCode.UNAVAILABLE, f"{self._where} cannot be read: {error}") from None

    def close(self) -> None:
        """Let go of the file."""
        if self._path is not None:
            self._db.close()


_decoder = msgspec.msgpack.Decoder(Change)
