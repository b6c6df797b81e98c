"""Databases of the engine's own in SQLite: made where missing, checked before anything is written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transport.errors import HeliographError


class Unusable(HeliographError):
    """The database cannot be used; says what to do. The file is left as it is."""


class Kind(NamedTuple):
    """What a database is for.

    Attributes:
        mark: its PRAGMA application_id, by which it is known as ours.
        version: of its schema, PRAGMA user_version.
        schema: statements, each ended by a semicolon.
    """

    mark: int
    version: int
    schema: str


def open_database(path: Path | None, kind: Kind, patience: float, *, exclusive: bool = False) -> sqlite3.Connection:
    """In autocommit mode, with a write-ahead log, for any thread, one at a time. Blocks.

    Args:
        path: made with its directory where missing, for this user alone; ``None``: in memory.
        patience: seconds for whoever else has the file, such as the predecessor of this process at its end.
        exclusive: nobody else may have it open.

    Raises:
        Unusable: see there.
    """
    if path is not None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            text = f"{path} cannot be opened: {error.strerror}; see to its disk and permissions"
            raise Unusable(text) from None
    db = sqlite3.connect(path or ":memory:", patience, isolation_level=None, check_same_thread=False)
    try:
        if exclusive:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check(db, path, kind)
        db.execute("PRAGMA journal_mode = WAL")  # is written to the file: not before it is known as ours
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            text = f"{path} cannot be used: {error}; see to its disk and permissions, or move it away"
            raise Unusable(text) from None
        raise
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing of what is done inside. Errors go on; where one cannot even be rolled back, the first one does."""
    try:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if db.in_transaction:  # of some errors SQLite has rolled back itself
                db.execute("ROLLBACK")
        raise


def _check(db: sqlite3.Connection, path: Path | None, kind: Kind) -> None:
    db.execute("BEGIN IMMEDIATE")  # two that open a new file at once: one makes the tables
    tables, mark, version = (
        db.execute(query).fetchone()[0]
        for query in ("SELECT count(*) FROM sqlite_master", "PRAGMA application_id", "PRAGMA user_version")
    )
    if not tables:
        marks = f"PRAGMA application_id = {kind.mark}; PRAGMA user_version = {kind.version}"
        for statement in f"{kind.schema}{marks}".split(";"):
            db.execute(statement)
    elif mark != kind.mark:
        raise Unusable(f"{path} is a database of something else: move it away")
    elif version != kind.version:
        raise Unusable(f"{path} was written by another version of the engine: run that one, or move it away")
    db.execute("COMMIT")
