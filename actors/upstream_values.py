"""Values of upstream messages: pure; decoded so that no number loses a digit, and checked one by one.

A JSON number with a fraction or an exponent, or beyond 64 bits, is decoded to a :class:`msgspec.Raw` that holds its
literal, never to a float.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from math import isfinite
from typing import Any, Literal, TypeAlias

import msgspec

from transport.errors import CodecError

Scalar: TypeAlias = str | int | float | bool
TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns", "iso"]
ValueType: TypeAlias = Literal["number", "text", "bool"]
NAME_CHARS = 1_024  # of a value that goes into a key or topic; rendered ones are cached, so they are bounded
_MAX_EXPONENT = 300  # what a float64 holds; a reader that decodes to floats fails on more
_PER_SECOND = {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}
_DIGITS = 18  # of a sequence number: what 64 bits hold for sure
# RFC 8259 section 6; the group tells whether there is an exponent.
_number = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII).fullmatch
_not_finite = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE).fullmatch


class BadMessage(StrEnum):
    """Why a message, or a row of one, could not become an event; few, so that they can be counted by reason."""

    NOT_JSON = "not_json"
    MISSING = "missing"  # a path leads nowhere
    NOT_TEXT = "not_text"  # a topic's or key's value is a map, list, bool or null
    WRONG_TYPE = "wrong_type"  # a value is not of the type that the map says, or a number in sequence is none
    NOT_FINITE = "not_finite"  # NaN, Infinity or beyond what a float64 holds
    BAD_TIME = "bad_time"
    BAD_TOPIC = "bad_topic"
    TOO_BIG = "too_big"  # where a message that is too big does not end the connection
    BAD_EVENT = "bad_event"  # a protocol of somebody's own made one that cannot be published


class MappingError(CodecError):
    """What the feed's maps cannot turn into an event; ``path`` names where, empty for the whole message or row."""

    def __init__(self, reason: BadMessage, path: str = "", detail: str = "") -> None:
        self.reason, self.path, self.detail = reason, path, detail
        super().__init__(": ".join(filter(None, (reason, path, detail))))


def decode(raw: str | bytes) -> Any:
    """A received message as plain values.

    Raises:
        MappingError: it is not JSON, or a number in it is beyond what a float64 holds.
    """
    return _decode(_finite, raw)


def decode_any(raw: str | bytes) -> Any:
    """As :func:`decode`, but whatever the numbers: for a message of which a part may be of use."""
    return _decode(_any, raw)


def _decode(decoder: msgspec.json.Decoder[Any], raw: str | bytes) -> Any:
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MappingError(BadMessage.NOT_JSON, "", str(error)) from None


def _finite_literal(literal: str) -> msgspec.Raw:
    if len(literal) > _MAX_EXPONENT or "e" in literal or "E" in literal:
        _check_finite(literal, "")
    return msgspec.Raw(literal)


_finite = msgspec.json.Decoder(float_hook=_finite_literal)
_any = msgspec.json.Decoder(float_hook=msgspec.Raw)


def _check_finite(literal: str, path: str) -> None:
    # Long or exponential literals only: what a float64 cannot hold would fail at every reader that decodes to floats.
    try:
        finite = Decimal(literal).adjusted() <= _MAX_EXPONENT
    except InvalidOperation:  # an exponent beyond Decimal's own
        finite = False
    if not finite:
        raise MappingError(BadMessage.NOT_FINITE, path, shortened(literal))


def check_finite(value: Any, path: str) -> None:
    """Raise MappingError where a number somewhere in ``value`` is beyond what a float64 holds."""
    try:
        decode(msgspec.json.encode(value))
    except MappingError as error:
        raise MappingError(error.reason, path, error.detail) from None


def exact(text: str, path: str) -> msgspec.Raw | str:
    """A text that is a JSON number as that number, digit for digit; any other text as it is."""
    found = _number(text)
    if found is not None:
        if found.lastindex or len(text) > _MAX_EXPONENT:
            _check_finite(text, path)
        return msgspec.Raw(text)
    if text[:1] in "+-nNiI" and _not_finite(text):
        raise MappingError(BadMessage.NOT_FINITE, path, text)
    return text


def as_number(value: Any, path: str) -> Any:
    """A number, or a text that is one."""
    if type(value) is str:
        value = exact(value, path)
    if type(value) is msgspec.Raw or type(value) is int:
        return value
    raise _wrong_type(value, path, "number")


def as_text(value: Any, path: str) -> str:
    """A text, also of digits: it stays text."""
    if type(value) is str:
        return value
    raise _wrong_type(value, path, "text")


def as_bool(value: Any, path: str) -> bool:
    """True or false."""
    if type(value) is bool:
        return value
    raise _wrong_type(value, path, "bool")


def as_is(value: Any, path: str) -> Any:
    """Any value; a text that is a number becomes that number."""
    return exact(value, path) if type(value) is str else value


CONVERTERS: dict[ValueType | None, Callable[[Any, str], Any]] = {
    None: as_is,
    "number": as_number,
    "text": as_text,
    "bool": as_bool,
}
"""By what a map says of a value's type: from value and path to what goes into the event."""


def _wrong_type(value: Any, path: str, wanted: str) -> MappingError:
    return MappingError(BadMessage.WRONG_TYPE, path, f"{shown(value)} is no {wanted}")


def token(value: Any, path: str) -> str:
    """What goes into a topic or key: a text or the digits of a number."""
    if type(value) is msgspec.Raw:
        value = literal_of(value)
    elif type(value) is int:
        value = str(value)
    elif type(value) is not str:
        raise MappingError(BadMessage.NOT_TEXT, path, shown(value))
    if len(value) > NAME_CHARS:
        raise MappingError(BadMessage.BAD_TOPIC, path, f"has {len(value)} characters, at most {NAME_CHARS} can be used")
    return value  # type: ignore[no-any-return]


def whole_number(value: Any) -> int | None:
    """A number of a sequence: an integer, or its digits as text; ``None`` for all else."""
    if type(value) is str and len(value) <= _DIGITS and value.isascii() and value.isdigit():
        return int(value)
    return value if type(value) is int and abs(value) < 10**_DIGITS else None


def seconds(value: Any, unit: TimeUnit, path: str) -> float:
    """A source's time in Unix seconds. ISO 8601 may have ``Z``, an offset or neither (UTC), a blank for the ``T`` and
    more than six digits, of which a float holds no more anyway."""
    try:
        if unit == "iso":
            time = datetime.fromisoformat(value)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        if type(value) is int:
            return value / _PER_SECOND[unit]
        digits = literal_of(value) if type(value) is msgspec.Raw else value
        # float() alone would take 1_000 and other scripts' digits too.
        if type(digits) is str and _number(digits) and isfinite(time_s := float(digits) / _PER_SECOND[unit]):
            return time_s
    except (TypeError, ValueError, OverflowError):
        pass
    raise MappingError(BadMessage.BAD_TIME, path, f"{shown(value)} is no time in {unit}")


def literal_of(raw: msgspec.Raw) -> str:
    """The literal of a number."""
    return bytes(memoryview(raw)).decode()


def is_one_of(value: Any, wanted: Collection[Scalar]) -> bool:
    """Whether ``value`` equals one of ``wanted``; numbers by value, and a JSON true is no 1."""
    if type(value) is msgspec.Raw:
        try:
            decimal = Decimal(literal_of(value))
        except InvalidOperation:  # an exponent beyond Decimal's own
            return False
        return any(not isinstance(w, (str, bool)) and decimal == Decimal(str(w)) for w in wanted)
    return any(value == w and isinstance(value, bool) == isinstance(w, bool) for w in wanted)


def shown(value: Any, chars: int = 40) -> str:
    """A value as people read it: its JSON, shortened to ``chars``."""
    return shortened(msgspec.json.encode(value).decode(), chars)


def shortened(text: str, chars: int = 40) -> str:
    """At most ``chars`` of a text."""
    return text if len(text) <= chars else text[: chars - 1] + "…"
