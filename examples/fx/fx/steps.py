"""Transactions as data: generators that yield what is to be executed and are sent its rows.

So what is stored, and how, is written once. A driver runs the same steps on a thread (SQLite) or on a loop
(PostgreSQL).

SQL is what both databases understand, with parameters ``$1``, ``$2``, ….
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar


class Rows(NamedTuple):
    """Execute; what it returns is sent back."""

    sql: str
    values: tuple[Any, ...] = ()


class Many(NamedTuple):
    """Execute for each; nothing is sent back."""

    sql: str
    rows: Iterable[tuple[Any, ...]]


class Define(NamedTuple):
    """Execute a definition; ``{time}``, ``{exact}`` and so on stand for the database's types."""

    sql: str


class Lock(NamedTuple):
    """No other transaction with this number runs until the end of this one."""

    number: int


Step = Rows | Many | Define | Lock
Result = Sequence[Sequence[Any]]
T = TypeVar("T")
Steps = Generator[Step, Result, T]
