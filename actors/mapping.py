"""An upstream message as an event: pure, compiled once per feed; numbers keep the digits of the source.

A *path* is names joined by dots that lead into the message, e.g. ``data.bids.0.price``; digits index a list. A number
is never a float on its way: a JSON number is passed on as its literal, a text that is a JSON number
(``"1.121200"``) becomes that number, ``1.121200``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from functools import lru_cache
from math import isfinite
from typing import Any, Literal, TypeAlias

import msgspec

from transport.errors import CodecError, ConfigError, RequestError
from transport.messages import Publish
from transport.topics import check_topic, is_system, topic

Scalar: TypeAlias = str | int | float | bool
TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns", "iso"]
OPTIONAL = "?"  # a data path that ends with it may lead nowhere; the name is left out of the event then
TOPICS_CACHED = 4_096  # rendered topics kept per feed
_MAX_EXPONENT = 300  # what a float64 holds; a reader that decodes to floats fails on more
_PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)  # RFC 8259 section 6
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_ABSENT: Any = object()


class BadMessage(StrEnum):
    """Why a message could not become an event; few, so that they can be counted by reason."""

    NOT_JSON = "not_json"
    MISSING = "missing"  # a path leads nowhere
    NOT_TEXT = "not_text"  # a topic's or key's value is a map, list, bool or null
    NOT_FINITE = "not_finite"  # NaN, Infinity or beyond what a float64 holds
    BAD_TIME = "bad_time"
    BAD_TOPIC = "bad_topic"


class MappingError(CodecError):
    """A message that the feed's map cannot turn into an event; ``path`` names where, empty for the whole message."""

    def __init__(self, reason: BadMessage, path: str = "", detail: str = "") -> None:
        self.reason, self.path = reason, path
        super().__init__(": ".join(filter(None, (reason, path, detail))))


class FeedMap(msgspec.Struct, frozen=True, kw_only=True):
    """What to take from a feed's messages.

    Attributes:
        topic: the event's topic; each ``{name}`` is the path of that name in ``data``, else a path into the message.
            ``{symbol}`` is, where ``data`` has no ``symbol``, the event's key.
        type: the event's type.
        key: path of the event's key; ``None``: no key.
        time: path of the source's time; ``None``: no source time.
        time_unit: its unit; ``iso`` is ISO 8601, UTC where it names no zone.
        symbols: upstream name to ours, for the key and for what goes into the topic.
        data: name in the event to path; a path that ends with ``?`` may lead nowhere. Empty: the message as it came.
        filter: path to the value, or the values one of which, it must have; other messages are not for us.
    """

    topic: str = "price.{symbol}"
    type: str = "message"
    key: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "s"
    symbols: Mapping[str, str] = {}
    data: Mapping[str, str] = {}
    filter: Mapping[str, Scalar | Sequence[Scalar]] = {}


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


class _Path:
    __slots__ = ("names", "optional", "text")

    def __init__(self, text: str, field: str) -> None:
        self.optional = text.endswith(OPTIONAL)
        self.text = text.removesuffix(OPTIONAL)
        self.names = tuple((name, int(name) if name.isdecimal() else None) for name in self.text.split("."))
        if not all(name for name, _ in self.names):
            raise ConfigError(f"{text!r} is not a path: write names joined by dots", field)

    def find(self, message: Any) -> Any:
        """What the path leads to, :data:`_ABSENT` if nowhere."""
        for name, index in self.names:
            if isinstance(message, dict):
                message = message.get(name, _ABSENT)
            elif isinstance(message, list) and index is not None and index < len(message):
                message = message[index]
            else:
                return _ABSENT
        return message


class Mapper:
    """A compiled :class:`FeedMap`. It keeps no state but a bounded cache of topics.

    Raises:
        ConfigError: the map cannot work; the field is relative to the map, e.g. ``data.bid``.
    """

    def __init__(self, feed_map: FeedMap) -> None:
        self._type = feed_map.type
        self._symbols = dict(feed_map.symbols)
        self._key = _Path(feed_map.key, "key") if feed_map.key else None
        self._time = _Path(feed_map.time, "time") if feed_map.time else None
        self._unit = feed_map.time_unit
        self._data = [(name, _Path(path, f"data.{name}")) for name, path in feed_map.data.items()]
        self._filter = [(_Path(path, "filter"), _values(wanted)) for path, wanted in feed_map.filter.items()]
        self._topic_texts, self._topic_paths = self._compile_topic(feed_map)
        self._topic = lru_cache(TOPICS_CACHED)(self._render_topic)

    def _compile_topic(self, feed_map: FeedMap) -> tuple[list[str], list[_Path]]:
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
                    paths.append(_Path(path, "topic"))
        except ValueError as error:
            raise ConfigError(f"{feed_map.topic!r} is not a template: {error}", "topic") from None
        try:
            sample = check_topic("x".join([*texts, ""] if len(texts) == len(paths) else texts))
        except RequestError as error:
            raise ConfigError(error.message, "topic") from None
        if is_system(sample):
            raise ConfigError("system.> belongs to the engine", "topic")
        return texts, paths

    def map(self, raw: str | bytes) -> Publish | None:
        """The event in a received message, ``None`` if the message is not for us.

        Raises:
            MappingError: the message is for us and lacks what the map needs, or is not JSON at all.
        """
        message = _decode(raw)
        for path, wanted in self._filter:
            if not _is_one_of(path.find(message), wanted):
                return None
        values = tuple([self._name(message, path) for path in self._topic_paths])
        return Publish(
            0,
            self._topic(values),
            self._type,
            self._payload(message, raw),
            self._name(message, self._key) if self._key else None,
            None,
            _seconds(_require(message, self._time), self._unit, self._time.text) if self._time else None,
        )

    def _name(self, message: Any, path: _Path) -> str:
        value = _require(message, path)
        if isinstance(value, msgspec.Raw):
            value = _literal_of(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        elif not isinstance(value, str):
            raise MappingError(BadMessage.NOT_TEXT, path.text)
        return self._symbols.get(value, value)

    def _render_topic(self, values: tuple[str, ...]) -> str:
        try:
            tokens = [topic(value) for value in values]
            padded = [*tokens, ""] if len(tokens) < len(self._topic_texts) else tokens
            name = check_topic("".join(t + v for t, v in zip(self._topic_texts, padded, strict=True)))
        except RequestError as error:
            raise MappingError(BadMessage.BAD_TOPIC, "", error.message) from None
        if is_system(name):
            raise MappingError(BadMessage.BAD_TOPIC, "", "system.> belongs to the engine")
        return name

    def _payload(self, message: Any, raw: str | bytes) -> bytes:
        if not self._data:
            return raw.encode() if isinstance(raw, str) else bytes(raw)
        data = {}
        for name, path in self._data:
            value = path.find(message)
            if value is _ABSENT:
                if path.optional:
                    continue
                raise MappingError(BadMessage.MISSING, path.text)
            data[name] = _exact(value, path.text) if isinstance(value, str) else value
        return msgspec.json.encode(data)


def _decode(raw: str | bytes) -> Any:
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        if isinstance(error.__cause__, MappingError):
            raise error.__cause__ from None
        raise MappingError(BadMessage.NOT_JSON, "", str(error)) from None


def _number(literal: str) -> msgspec.Raw:
    return _checked(literal, "")


_decoder = msgspec.json.Decoder(float_hook=_number)


def _checked(literal: str, path: str) -> msgspec.Raw:
    # Long or exponential literals only: what a float64 cannot hold would fail at every reader that decodes to floats.
    if len(literal) > _MAX_EXPONENT or "e" in literal or "E" in literal:
        try:
            finite = Decimal(literal).adjusted() <= _MAX_EXPONENT
        except InvalidOperation:  # an exponent beyond Decimal's own
            finite = False
        if not finite:
            raise MappingError(BadMessage.NOT_FINITE, path, literal[:40])
    return msgspec.Raw(literal)


def _exact(text: str, path: str) -> msgspec.Raw | str:
    if _NUMBER.fullmatch(text):
        return _checked(text, path)
    if _NOT_FINITE.fullmatch(text):
        raise MappingError(BadMessage.NOT_FINITE, path, text)
    return text


def _require(message: Any, path: _Path) -> Any:
    value = path.find(message)
    if value is _ABSENT:
        raise MappingError(BadMessage.MISSING, path.text)
    return value


def _literal_of(number: msgspec.Raw) -> str:
    return bytes(memoryview(number)).decode()


def _values(wanted: Scalar | Sequence[Scalar]) -> list[Scalar]:
    return [wanted] if isinstance(wanted, (str, int, float)) else list(wanted)


def _is_one_of(value: Any, wanted: list[Scalar]) -> bool:
    if isinstance(value, msgspec.Raw):
        number = Decimal(_literal_of(value))
        return any(not isinstance(w, (str, bool)) and number == Decimal(str(w)) for w in wanted)
    # A JSON true is no 1.
    return any(value == w and isinstance(value, bool) == isinstance(w, bool) for w in wanted)


def _seconds(value: Any, unit: TimeUnit, path: str) -> float:
    if isinstance(value, msgspec.Raw):
        value = _literal_of(value)
    try:
        if unit == "iso":
            time = datetime.fromisoformat(value)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            seconds = float(value) / _PER_SECOND[unit]
            if isfinite(seconds):
                return seconds
    except (TypeError, ValueError, OverflowError):
        pass
    raise MappingError(BadMessage.BAD_TIME, path, f"{str(value)[:40]!r} is no time in {unit}")
