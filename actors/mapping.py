"""An upstream message as events: pure, compiled once per feed; numbers keep the digits of the source.

What a map is, :class:`FeedMap` says; how paths lead into a message, :mod:`actors.paths`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from actors.feed_map import CompiledMap, FeedMap, Row
from actors.mapping_report import Report, report
from actors.paths import Path, RowsPath
from actors.upstream_values import BadMessage, MappingError, decode, decode_any, whole_number
from transport.errors import ConfigError

__all__ = ["DEMO_MAP", "DEMO_SUBSCRIBE", "BadMessage", "FeedMap", "Mapped", "Mapper", "MappingError", "Row"]

DEMO_MAP = FeedMap(
    topic="price.{symbol}",
    type="price_update",
    key="data.s",
    time="data.T",
    time_unit="ms",
    data={"bid": "data.b?", "ask": "data.a?", "price": "data.p?", "quantity": "data.q?", "side": "data.side?"},
    filter={"data.e": ("tick", "trade")},
)
"""For the replay exchange: ``price.EUR_USD`` and its like with bid and ask, ``price.XBT_USDT`` with its trades."""

DEMO_SUBSCRIBE = ('{"method":"SUBSCRIBE","params":["*"],"id":1}',)


class Mapped(NamedTuple):
    """What a message holds.

    Attributes:
        number: the message's own, where the feed's ``sequence`` leads to one; also in messages that are not for us.
        rows: in order; what could not be mapped is its error. Empty: the message is not for us.
    """

    number: int | None
    rows: Sequence[Row | MappingError]


_NOT_FOR_US = Mapped(None, ())


class _Group(NamedTuple):
    """Maps with the same rows: a row goes to the first of them that wants it."""

    each: RowsPath | None
    maps: tuple[CompiledMap, ...]


class Mapper:
    """Compiled maps of one feed. It keeps no state but a bounded cache of topics.

    Maps with the same ``each`` see the same rows, and a row goes to the first of them whose filter it meets. Maps with
    another ``each`` see other rows, independently.

    Args:
        maps: at least one.
        sequence: path of the number that each message has.

    Raises:
        ConfigError: a map cannot work. The field is ``sequence`` or relative to ``map``, e.g. ``map.data.bid`` or, of
            several maps, ``map[1].data.bid``.
    """

    def __init__(self, maps: Sequence[FeedMap], sequence: str | None = None) -> None:
        if not maps:
            raise ConfigError("at least one is needed", "map")
        compiled = []
        for i, feed_map in enumerate(maps):
            try:
                compiled.append(CompiledMap(feed_map))
            except ConfigError as error:
                field = "map" if len(maps) == 1 else f"map[{i}]"
                raise ConfigError(error.message, f"{field}.{error.field}") from None
        self._maps = compiled
        groups: dict[str | None, list[CompiledMap]] = {}
        for i, one in enumerate(compiled):
            before = groups.setdefault(one.source.each, [])
            if before and not before[-1].source.filter:
                raise ConfigError(f"map[{compiled.index(before[-1])}] has no filter and takes all", f"map[{i}]")
            before.append(one)
        self._groups = [_Group(group[0].each, tuple(group)) for group in groups.values()]
        # The usual case: one map, and the message is the row.
        self._only = compiled[0] if len(compiled) == 1 and compiled[0].each is None else None
        self._sequence = Path(sequence, "sequence") if sequence else None

    def map(self, raw: str | bytes) -> Mapped:
        """What is in a received message. Raises nothing: what is bad is among the rows."""
        try:
            message = decode(raw)
        except MappingError as error:
            return Mapped(None, (error,)) if error.reason is BadMessage.NOT_JSON else self._map_partly(raw)
        number = whole_number(self._sequence.find(message)) if self._sequence is not None else None
        only = self._only
        if only is None:
            return Mapped(number, self._rows(message, raw))
        if not only.wants(message):
            return Mapped(number, ()) if number is not None else _NOT_FOR_US
        try:
            return Mapped(number, (only.row(message, message, raw),))
        except MappingError as error:
            return Mapped(number, (error,))

    def _rows(self, message: Any, raw: str | bytes) -> list[Row | MappingError]:
        out: list[Row | MappingError] = []
        for each, maps in self._groups:
            wanting = [one for one in maps if one.wants_of(message)]
            if not wanting:
                continue
            for row in (message,) if each is None else each.rows(message):
                for one in wanting:
                    if one.wants(row):
                        try:
                            out.append(one.row(row, message, raw))
                        except MappingError as error:
                            out.append(error)
                        break
        return out

    def _map_partly(self, raw: str | bytes) -> Mapped:
        """Some number is beyond a float64: a row is bad if that number is in its event."""
        try:
            message = decode_any(raw)
        except MappingError as error:
            return Mapped(None, (error,))
        rows = self._rows(message, raw)
        for i, row in enumerate(rows):
            if isinstance(row, Row):
                try:
                    decode(row.event.data)
                except MappingError as error:
                    rows[i] = error
        number = whole_number(self._sequence.find(message)) if self._sequence is not None else None
        return Mapped(number, rows)

    def explain(self, raw: str | bytes) -> Report:
        """What :meth:`map` makes of a message and why, field by field. Slow, for people."""
        return report(self._maps, self._sequence, raw)
