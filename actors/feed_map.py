"""What to take from a feed's messages: as configured, and compiled. Pure.

A number is never a float on its way: a JSON number is passed on as its literal, a text that is a JSON number
(``"1.121200"``) becomes that number, ``1.121200``.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

import msgspec

from actors.paths import ABSENT, Path, RowsPath
from actors.upstream_values import (
    CONVERTERS,
    BadMessage,
    MappingError,
    Scalar,
    TimeUnit,
    ValueType,
    decode_any,
    exact,
    is_one_of,
    seconds,
    shown,
    token,
    whole_number,
)
from transport.errors import ConfigError, RequestError
from transport.messages import Publish
from transport.topics import check_topic, is_system, topic

Wanted: TypeAlias = Scalar | Sequence[Scalar] | Mapping[str, bool]
EXISTS = "exists"
TOPICS_CACHED = 4_096  # rendered topics kept per map
_encode = msgspec.json.Encoder().encode


class FeedMap(msgspec.Struct, frozen=True, kw_only=True):
    """What to take from a feed's messages. Paths (:mod:`actors.paths`) look into a row, with ``$.`` into the message.

    Attributes:
        each: path to the message's rows, each of which becomes an event; ``None``: the message is the only row.
        topic: the event's topic; each ``{name}`` is the path of that name in ``data``, else a path.
            ``{symbol}`` is, where ``data`` has no ``symbol``, the event's key.
        type: the event's type.
        key: path of the event's key; ``None``: no key.
        time: path of the source's time; ``None``: no source time.
        time_unit: its unit; ``iso`` is ISO 8601, UTC where it names no zone.
        sequence: path of the row's number among those of its key: an integer, or its digits as text.
        symbols: upstream name to ours, for the key and for what goes into the topic.
        symbol_replace: text to text, applied in order to each name that is not in ``symbols``.
        data: name in the event to path; empty: the message or row as it came.
        types: name in ``data`` to its type; a row with another is bad. A ``text`` stays one if it is of digits.
        filter: path to the value, or the values one of which, it must have, or to ``{"exists": True}``; other rows are
            not for us.
    """

    each: str | None = None
    topic: str = "price.{symbol}"
    type: str = "message"
    key: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "s"
    sequence: str | None = None
    symbols: Mapping[str, str] = {}
    symbol_replace: Mapping[str, str] = {}
    data: Mapping[str, str] = {}
    types: Mapping[str, ValueType] = {}
    filter: Mapping[str, Wanted] = {}


class Row(NamedTuple):
    """An event of a message.

    Attributes:
        event: for the publisher.
        number: among those of the same ``sequence`` (the map's, as configured) and ``counter`` (the upstream's own
            name of the key, ``""`` without one); ``None`` where the map has no ``sequence``.
    """

    event: Publish
    counter: str = ""
    number: int | None = None
    sequence: str = ""


class Condition(NamedTuple):
    """One entry of ``filter``.

    Attributes:
        values: one of which must be there.
        texts: the same, where all are texts, the usual case.
        exists: whether anything must be there; ``None``: the values decide.
    """

    path: Path
    values: tuple[Scalar, ...]
    texts: frozenset[str] | None
    exists: bool | None

    def is_met(self, found: Any) -> bool:
        """Whether this is what ``filter`` wants; :data:`~actors.paths.ABSENT` for nothing."""
        if self.texts is not None:
            return type(found) is str and found in self.texts
        if self.exists is not None:
            return (found is not ABSENT) is self.exists
        return is_one_of(found, self.values)


class Filter:
    """Conditions on whole messages, written as ``filter`` is.

    Args:
        field: whose errors these are.

    Raises:
        ConfigError: a condition cannot work.
    """

    def __init__(self, wanted: Mapping[str, Wanted], field: str) -> None:
        self._conditions = tuple(_condition(path, value, field) for path, value in wanted.items())

    def is_met_by(self, raw: bytes) -> bool:
        """Whether a received message meets them all; what is no JSON meets none."""
        try:
            return _are_met(self._conditions, decode_any(raw))
        except MappingError:
            return False


class Column(NamedTuple):
    """One entry of ``data``. ``type`` is ``None`` where any value will do."""

    name: str
    path: Path
    type: ValueType | None


class CompiledMap:
    """A :class:`FeedMap` ready for use. It keeps no state but a bounded cache of topics.

    Raises:
        ConfigError: the map cannot work; the field is relative to the map, e.g. ``data.bid``.
    """

    def __init__(self, feed_map: FeedMap) -> None:
        self.source = feed_map
        self.each = RowsPath(feed_map.each, "each") if feed_map.each else None
        self.key = Path(feed_map.key, "key") if feed_map.key else None
        self.time = Path(feed_map.time, "time") if feed_map.time else None
        self.sequence = Path(feed_map.sequence, "sequence") if feed_map.sequence else None
        self.columns = tuple(
            Column(name, Path(path, f"data.{name}"), feed_map.types.get(name)) for name, path in feed_map.data.items()
        )
        for typed in feed_map.types:
            if typed not in feed_map.data:
                raise ConfigError("there is no such name in data", f"types.{typed}")
        if "" in feed_map.symbol_replace:
            raise ConfigError("an empty text cannot be replaced", "symbol_replace")
        conditions = [_condition(path, wanted) for path, wanted in feed_map.filter.items()]
        # Without `each` the message is the row.
        self.of_message = tuple(c for c in conditions if c.path.whole and self.each)
        self.of_row = tuple(c for c in conditions if not (c.path.whole and self.each))
        self._texts, self.topic_paths = _template(feed_map)
        _check_template(feed_map.topic, self._texts, self.topic_paths)
        self._type, self._unit = feed_map.type, feed_map.time_unit
        self._symbols, self._replace = dict(feed_map.symbols), tuple(feed_map.symbol_replace.items())
        same = [i for i, path in enumerate(self.topic_paths) if self.key and path.text == self.key.text]
        self._key_at = same[0] if same else None
        # The usual case: the topic has one name in it, and that is the key.
        self._only_name = self.topic_paths[0] if same and len(self.topic_paths) == 1 else None
        self._address = lru_cache(TOPICS_CACHED)(self._render)
        self._fields = [(c.name, c.path.text, CONVERTERS[c.type] if c.type else None) for c in self.columns]
        # All in one call where all must be there, by plain names.
        plain = len(self.columns) > 1 and all(c.path.is_name and not c.path.optional for c in self.columns)
        self._all = itemgetter(*(c.path.text for c in self.columns)) if plain else None

    def wants_of(self, message: Any) -> bool:
        """Whether the message meets what ``filter`` says of the whole message."""
        return _are_met(self.of_message, message)

    def wants(self, row: Any) -> bool:
        """Whether the row meets what ``filter`` says of rows."""
        return _are_met(self.of_row, row)

    def row(self, row: Any, message: Any, raw: str | bytes) -> Row:
        """The event in ``row`` of ``message``, which was received as ``raw``.

        Raises:
            MappingError: the row lacks what the map needs.
        """
        if self._only_name is not None:
            upstream: str | None = self.name(self._only_name, row, message)
            address, key = self._address(upstream)
        else:
            names = [self.name(path, row, message) for path in self.topic_paths]
            address, key = self._address(*names)
            if self._key_at is not None:
                upstream = names[self._key_at]
            else:
                upstream = self.upstream_key(row, message)
                key = None if upstream is None else self.renamed(upstream)
        event = Publish(
            0,
            address,
            self._type,
            self._payload(row, message, raw),
            key,
            None,
            self.source_ts(row, message) if self.time is not None else None,
        )
        if self.sequence is None:
            return Row(event)
        return Row(event, upstream or "", self.number(row, message), self.source.sequence or "")

    def name(self, path: Path, row: Any, message: Any) -> str:
        """What goes into the topic or key, as the upstream calls it."""
        value = path.find(message if path.whole else row)
        if value is ABSENT:
            raise MappingError(BadMessage.MISSING, path.text)
        return token(value, path.text)

    def upstream_key(self, row: Any, message: Any) -> str | None:
        """The key as the upstream calls it."""
        value = self._present(self.key, row, message)
        return None if value is ABSENT else token(value, self.key.text)  # type: ignore[union-attr]

    def source_ts(self, row: Any, message: Any) -> float | None:
        """The source's time in Unix seconds."""
        value = self._present(self.time, row, message)
        return None if value is ABSENT else seconds(value, self._unit, self.time.text)  # type: ignore[union-attr]

    def number(self, row: Any, message: Any) -> int | None:
        """The row's number."""
        value = self._present(self.sequence, row, message)
        if value is ABSENT:
            return None
        number = whole_number(value)
        if number is None:
            path = self.sequence.text  # type: ignore[union-attr]
            raise MappingError(BadMessage.WRONG_TYPE, path, f"{shown(value)} is no whole number")
        return number

    def _present(self, path: Path | None, row: Any, message: Any) -> Any:
        """The value, :data:`ABSENT` where there is no path or it may lead nowhere and does."""
        if path is None:
            return ABSENT
        value = path.find(message if path.whole else row)
        if value is ABSENT and not path.optional:
            raise MappingError(BadMessage.MISSING, path.text)
        return value

    def renamed(self, upstream: str) -> str:
        """Our name for the upstream's."""
        known = self._symbols.get(upstream)
        if known is not None:
            return known
        for text, by in self._replace:
            upstream = upstream.replace(text, by)
        return upstream

    def rendered(self, *upstream: str) -> str:
        """The topic of these names; ``RequestError`` becomes MappingError."""
        return self._render(*upstream)[0]

    def _render(self, *upstream: str) -> tuple[str, str | None]:
        ours = [self.renamed(name) for name in upstream]
        try:
            tokens = [topic(name) for name in ours]
            padded = [*tokens, ""] if len(tokens) < len(self._texts) else tokens
            address = check_topic("".join(t + v for t, v in zip(self._texts, padded, strict=True)))
        except RequestError as error:
            raise MappingError(BadMessage.BAD_TOPIC, "", error.message) from None
        if is_system(address):
            raise MappingError(BadMessage.BAD_TOPIC, "", "system.> belongs to the engine")
        return address, None if self._key_at is None else ours[self._key_at]

    def _payload(self, row: Any, message: Any, raw: str | bytes) -> bytes:
        if not self._fields:
            if self.each is not None:
                return _encode(row)
            return raw.encode() if isinstance(raw, str) else bytes(raw)
        data: dict[str, Any] = {}
        if self._all is not None and type(row) is dict:
            try:
                values = self._all(row)
            except KeyError:
                pass  # the long way says which
            else:
                for (name, path_text, convert), value in zip(self._fields, values, strict=True):
                    if convert is not None:
                        data[name] = convert(value, path_text)
                    else:
                        data[name] = exact(value, path_text) if type(value) is str else value
                return _encode(data)
        for column in self.columns:
            value = self.value(column, row, message)
            if value is not ABSENT:
                data[column.name] = value
        return _encode(data)

    def value(self, column: Column, row: Any, message: Any) -> Any:
        """What goes into the event's data under the column's name, :data:`ABSENT` for nothing."""
        path = column.path
        value = path.find(message if path.whole else row)
        if value is ABSENT:
            if path.optional:
                return ABSENT
            raise MappingError(BadMessage.MISSING, path.text)
        return CONVERTERS[column.type](value, path.text)


def _are_met(conditions: tuple[Condition, ...], value: Any) -> bool:
    for condition in conditions:  # noqa: SIM110 a generator costs twice as much
        if not condition.is_met(condition.path.find(value)):
            return False
    return True


def _condition(path: str, wanted: Wanted, within: str = "filter") -> Condition:
    field = f"{within}.{path}"
    if isinstance(wanted, Mapping):
        if wanted.keys() != {EXISTS}:
            raise ConfigError(f"write a value, a list of values or {{ {EXISTS} = true }}", field)
        return Condition(Path(path, field), (), None, wanted[EXISTS])
    values = (wanted,) if isinstance(wanted, (str, int, float)) else tuple(wanted)
    texts = frozenset(value for value in values if isinstance(value, str))
    return Condition(Path(path, field), values, texts if len(texts) == len(values) else None, None)


def _template(feed_map: FeedMap) -> tuple[list[str], list[Path]]:
    """The texts of the topic, and the paths of the names between them."""
    texts, paths = [], []
    try:
        for text, name, spec, conversion in string.Formatter().parse(feed_map.topic):
            if name == "" or spec or conversion:
                raise ValueError("write {name}, without a format")
            texts.append(text)
            if name is not None:
                path = feed_map.data.get(name)
                if path is None:
                    path = feed_map.key if name == "symbol" and feed_map.key else name
                paths.append(Path(path, "topic"))
    except ValueError as error:
        raise ConfigError(f"{feed_map.topic!r} is not a template: {error}", "topic") from None
    return texts, paths


def _check_template(template: str, texts: list[str], paths: list[Path]) -> None:
    try:
        sample = check_topic("x".join([*texts, ""] if len(texts) == len(paths) else texts))
    except RequestError as error:
        raise ConfigError(error.message, "topic") from None
    if is_system(sample):
        raise ConfigError("system.> belongs to the engine", "topic")
