"""Every price into the store, beside its way to the clients: what it costs, no client waits for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fx.pairs import pairs, price_topic
from fx.prices import BadPrice, Price, timestamp
from fx.store import Announcement, PriceEvent
from fx.stores import open_store
from heliograph import Event, Gap, RequestError, Service

ROWS: Final = 1_000
"""Prices of one transaction."""
READY_TOPIC: Final = "data.ready"
READY: Final = "data_ready"
RETENTION_DAYS: Final = 30
FORGET_EVERY: Final = timedelta(minutes=1)
"""How often it is looked for prices that are too old, while there are none."""
FORGET_ROWS: Final = 2_000
"""Deleted at once: more than come meanwhile, and some milliseconds."""
AHEAD: Final = timedelta(days=1)
"""A price that says it is from later is wrong: every candle up to then would be complete."""
_OPTIONS: Final = frozenset({"dsn", "dsn_file", "pairs", "retention_days"})

_log = logging.getLogger(__name__)


class StoreService(Service):
    """``[services.store]``, with ``topics = ["price.*"]``.

    Prices that come go into ``real_time_prices_audit`` and into the candles of minutes and hours, in one transaction.
    An event that comes twice is stored once, so it begins after any failure at the position that it kept.
    When candles are complete, ``data.ready`` is published, at least once.

    Options:
        dsn, dsn_file: see :func:`fx.stores.open_store`.
        pairs: whose prices are stored; default: :data:`fx.pairs.DEFAULT_PAIRS`.
        retention_days: how long prices are kept, 30; 0: for ever. Candles are always kept.

    Attributes:
        skipped: events that were not stored, by the field that was wrong.
    """

    def __init__(
        self,
        *,
        name: str,
        options: Mapping[str, Any],
        engine: Any,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(name=name, options=options, engine=engine)
        for option in sorted(options.keys() - _OPTIONS):
            raise ValueError(f"{option}: there is no such option; there is {', '.join(sorted(_OPTIONS))}")
        self._store = open_store(options)
        self._now = now
        self._pairs = {price_topic(pair): pair for pair in pairs(options)}
        self._retention = _retention(options)
        self._forget_at = datetime.min.replace(tzinfo=UTC)
        self._unannounced = True  # perhaps: a predecessor may have ended before it told
        self.skipped: Counter[str] = Counter()

    async def on_start(self) -> None:
        """Open the store, with its tables."""
        for title in await self._store.open():
            _log.info("%r: applied %s", self._store, title)

    async def on_stop(self) -> None:
        """Close it."""
        await self._store.close()

    async def position(self) -> str | None:
        """The last one that was stored behind all its prices."""
        return (await self._store.progress(self.name)).position

    async def on_events(self, batch: list[Event]) -> None:
        """Store what is new."""
        prices = []
        for event in batch:
            try:
                prices.append(self._price(event))
            except BadPrice as error:
                self._skip(event, error)
        for first in range(0, len(prices), ROWS):
            added = await self._store.add_prices(prices[first : first + ROWS], self.name)
            self._unannounced = self._unannounced or bool(added.completed)
        await self._announce()
        await self._forget()

    async def on_position(self, position: str) -> None:
        """Keep it: everything before it is stored."""
        await self._store.set_position(self.name, position)
        await self._announce()

    async def on_gap(self, gap: Gap) -> None:
        """Count what is lost."""
        missed = max(0, gap.last - gap.first + 1)
        await self._store.add_missed(self.name, missed)
        _log.warning("%s: %d prices are lost (%d to %d): %s", gap.topic, missed, gap.first, gap.last, gap.reason)

    def _price(self, event: Event) -> PriceEvent:
        pair = self._pairs.get(event.topic)
        if pair is None:
            raise BadPrice("pairs", "it is not tracked")
        if not event.offset:
            raise BadPrice("offset", "it has no place yet, and comes again with one")
        received = datetime.fromtimestamp(event.ts, UTC)
        price = Price.of(pair, event.exact, event.source_ts or event.ts)
        if price.time > received + AHEAD:
            raise BadPrice("time", f"{timestamp(price.time)} has not come yet")
        return PriceEvent(event.topic, event.epoch, event.offset, received, price)

    def _skip(self, event: Event, error: BadPrice) -> None:
        self.skipped[error.field] += 1
        if self.skipped[error.field] == 1:  # the first of its kind is enough for the log
            _log.warning("%s (%s, %d): not stored: %s", event.topic, event.epoch, event.offset, error)

    async def _announce(self) -> None:
        if not self._unannounced:
            return
        for one in (await self._store.progress(self.name)).pending:
            try:
                await self.engine.publish(READY_TOPIC, _ready(one), type=READY, key=one.granularity)
            except RequestError as error:  # no hub: again with the next batch
                _log.warning("%s: %s candles are complete, but not announced yet: %s", READY_TOPIC, one.rows, error)
                return
        await self._store.announced(self.name)
        self._unannounced = False

    async def _forget(self) -> None:
        """One bite at a time, so that no batch waits long."""
        now = self._now()
        if self._retention is None or now < self._forget_at:
            return
        gone = await self._store.forget_prices(now - self._retention, FORGET_ROWS)
        if gone < FORGET_ROWS:
            self._forget_at = now + FORGET_EVERY


def _ready(one: Announcement) -> dict[str, Any]:
    return {
        "granularity": one.granularity,
        "time": timestamp(one.time),
        "pairs": list(one.instruments),
        "rows": one.rows,
    }


def _retention(options: Mapping[str, Any]) -> timedelta | None:
    days = options.get("retention_days", RETENTION_DAYS)
    if isinstance(days, bool) or not isinstance(days, (int, float)) or not 0 <= days <= 36_500:
        raise ValueError(f"retention_days: 0 (for ever) to 36500 days, not {days!r:.100}")
    return timedelta(days=days) if days else None
