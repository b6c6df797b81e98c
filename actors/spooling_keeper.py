"""Keeps events where the Redis that engines share may be away: then on this node's disk, until it is back.

While something waits, what comes waits behind it: the order in which a node accepts events is the one in which Redis
gets them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from actors.history import Accepted
from actors.keeper import BATCH_BYTES, Keeper
from actors.messages import Drain, FromBackplane, Spooled, TailState
from actors.redis_history import RedisHistory, reason_of
from actors.spool import Spool
from transport.codec import pack
from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.messages import Publication, Publish

_log = logging.getLogger(__name__)

DRAIN_EVENTS: Final = 2_048
"""Of one append of what has waited. More than come in one :data:`~actors.keeper.BATCH_EVENTS`: so the spool empties,
whatever comes."""
DRAIN_BYTES: Final = 2 * BATCH_BYTES
"""The same in bytes."""


class SpoolingKeeper(Keeper):
    """Its history is a :class:`~actors.redis_history.RedisHistory`. What has to wait is answered as accepted, without
    epoch and with offset 0. The router is told how many wait (:class:`~actors.messages.Spooled`), and says when Redis
    can be had (:class:`~actors.messages.Drain`) and that it can not.

    Args:
        spool: opens it.
    """

    _history: RedisHistory | None

    def __init__(self, *, spool: Callable[[], Spool], **keeper: Any) -> None:
        super().__init__(**keeper)
        self._open_spool = spool
        self._spool: Spool | None = None
        self._away: str | None = None  # why Redis is not asked

    def on_start(self) -> None:
        """Open both, and say what a former life has left."""
        super().on_start()
        self._spool = self._open_spool()
        self._tell(drained=True)

    def on_stop(self) -> None:
        """Let go both; what waits stays."""
        if self._spool is not None:
            self._spool.close()
        super().on_stop()

    def on_tail_state(self, message: TailState) -> None:
        """Redis cannot be had: it is not even asked, until there is a reason to."""
        self._away = message.reason or self._away

    def on_drain(self, _message: Drain) -> None:
        """Redis can be had."""
        self._away = None
        self._drain()
        self._tell(drained=True)

    def _drain(self) -> None:
        """Give Redis the oldest that wait."""
        history, spool = self._both()
        try:
            first, publishes = spool.oldest(DRAIN_EVENTS, DRAIN_BYTES)
            if not publishes:
                return
            results = history.append(publishes, self._clock(), writer=(spool.name, first))
            spool.remove(first, len(publishes))
        except RequestError as error:
            self._away = reason_of(error)
            return
        for publish, result in zip(publishes, results, strict=True):
            if isinstance(result, RequestError):
                _log.error("an event of %s that has waited for the backplane is lost: %s", publish.topic, result)

    def _keep(self, publishes: list[Publish]) -> list[Accepted | RequestError]:
        """Into Redis or, where that is away or others wait, into the spool."""
        history, spool = self._both()
        if len(spool) and self._away is None:
            self._drain()
        results: list[Accepted | RequestError | None] = [_unfit(publish) for publish in publishes]
        fit = [publish for publish, result in zip(publishes, results, strict=True) if result is None]
        rest = iter(self._keep_fit(history, spool, fit) if fit else [])
        return [next(rest) if result is None else result for result in results]

    def _keep_fit(self, history: RedisHistory, spool: Spool, publishes: list[Publish]) -> list[Accepted | RequestError]:
        first = None
        if self._away is None and not len(spool):
            first = spool.numbers(len(publishes))
            try:
                return history.append(publishes, self._clock(), writer=(spool.name, first))
            except RequestError as error:
                self._away = reason_of(error)
        try:
            return self._wait(spool, publishes, first)
        finally:
            self._tell()  # also where the disk does not take them: else nobody asks Redis again

    def _wait(self, spool: Spool, publishes: Sequence[Publish], first: int | None) -> list[Accepted | RequestError]:
        """Put them into the spool; ``first``: under these numbers, as Redis may have them already."""
        now, room, waiting = self._clock(), spool.room, len(spool)
        results: list[Accepted | RequestError] = []
        kept: list[Publish] = []
        keys: set[tuple[str, str]] = set()
        for publish in publishes:
            _, topic, kind, data, key, priority, source_ts, once, _ = publish
            again = once is not None and ((topic, once) in keys or spool.knows(topic, once))
            if first is not None or not again:
                if len(kept) >= room:
                    results.append(_full(waiting + len(kept)))
                    continue
                kept.append(publish)
            if once is not None:
                keys.add((topic, once))
            event = Publication(topic, "", 0, now, kind, data, key, priority, source_ts)
            results.append(Accepted(event, b"" if again else pack(event), 0, again))
        if kept:
            spool.add(spool.numbers(len(kept)) if first is None else first, kept)
        return results

    def _tell(self, drained: bool = False) -> None:
        self._router.tell(FromBackplane(Spooled(len(self._both()[1]), self._away, drained)))

    def _both(self) -> tuple[RedisHistory, Spool]:
        assert self._history is not None, "it has started"
        assert self._spool is not None, "it has started"
        return self._history, self._spool


def _unfit(publish: Publish) -> RequestError | None:
    """Why an event could not be packed once it has its place."""
    _, topic, kind, data, key, priority, source_ts, _, _ = publish
    try:
        pack(Publication(topic, "", 2**62, 0.0, kind, data, key, priority, source_ts))
    except CodecError as error:
        return RequestError(ErrorCode.LIMIT_EXCEEDED, str(error), "data")
    return None


def _full(waiting: int) -> RequestError:
    text = f"{waiting} events wait for the backplane (backplane.spool_events); repeat it later"
    return RequestError(ErrorCode.UNAVAILABLE, text)
