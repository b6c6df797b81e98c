"""What a history is: a log of events that outlives the process which writes it.

Three keep this contract: :class:`actors.topic_log.TopicLog` (recent events, in files that survive the hub),
:class:`actors.sqlite_history.SqliteHistory` (durable topics) and :class:`actors.redis_history.RedisHistory` (shared by
several engines). ``tests/actors/test_history_contract.py`` holds all three to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from transport.errors import RequestError
from transport.messages import Publication, Publish

KEY_LIFETIME: Final = 300.0
"""Seconds for which an idempotency key is known."""


class Accepted(NamedTuple):
    """An event in its place.

    ``packed`` is the publication as the bus carries it; ``mark`` its place in the whole log, rising. ``again``: it was
    there before, under the same idempotency key, and went to everybody then.
    """

    publication: Publication
    packed: bytes
    mark: int
    again: bool = False


class Head(NamedTuple):
    """Where a topic ends: epoch and offset of its last event, and that event, if it is still known."""

    topic: str
    epoch: str
    offset: int
    last: Publication | None


class Expired(Exception):
    """The place asked for is older than the log."""


class History(Protocol):
    """A log of events, and per topic an offset that rises by one within an epoch. Blocking; one thread.

    Every method may raise :class:`RequestError` ``unavailable``; then nothing has changed.
    """

    def append(self, publishes: Sequence[Publish], now: float) -> list[Accepted | RequestError]:
        """Keep events, in order; when it returns they are where this history promises. ``now``: Unix seconds.

        A topic's ``ts`` never falls. One event may be refused (``limit_exceeded``) without the others.
        """

    def heads(self) -> Iterator[Head]:
        """All topics."""

    def first(self, topic: str) -> int:
        """Offset of a topic's oldest event that is kept, in its present epoch; one above its last if none is."""

    def read(self, topic: str, after: int, limit: int) -> list[bytes]:
        """Packed events of a topic's present epoch with offsets above ``after``, oldest first, at most ``limit``."""

    def tail(self, mark: int, limit: int) -> list[tuple[int, bytes]]:
        """Packed events of the whole log behind ``mark``, oldest first, each with its mark, at most ``limit``.

        Raises:
            Expired: the log does not reach back so far, or never was there.
        """

    def trim(self, now: float) -> None:
        """Let go what the topics' policies no longer promise. Called every few seconds, outside the events' way."""

    def close(self) -> None:
        """Let go files and connections; what was appended stays."""
