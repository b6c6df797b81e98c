"""The event as users see it, and its payload as JSON.

``data`` stays the publisher's JSON from the way in to the way out: it is opaque bytes to every hop. Numbers keep their
digits; ``exact`` decodes them as :class:`~decimal.Decimal`, ``data`` as float.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from transport.codes import ErrorCode, Priority
from transport.errors import RequestError
from transport.messages import Publish
from transport.topics import check_topic

MAX_PAYLOAD_BYTES = 16 << 20
"""Of one event; what crosses the bus with it has room beside it there."""
MAX_TEXT_BYTES = 1 << 20
"""Of an event's type, and of its key."""
MAX_IDEMPOTENCY_KEY = 128
"""Characters."""
_raw = msgspec.json.Decoder(msgspec.Raw)
_exact = msgspec.json.Decoder(float_hook=Decimal)
_plain = msgspec.json.Decoder()


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One publication.

    Attributes:
        topic: where it was published.
        payload: ``data`` as JSON bytes, exactly as published.
        type: what kind of event, chosen by the publisher.
        key: what the event is about (e.g. an instrument), for conflation.
        priority: ``None`` is medium.
        source_ts: the source's own time, Unix seconds.
        epoch, offset: position in the topic's log; empty and 0 before the hub accepted it, and for an event that
            a node delivers while its Redis is away: it comes again with its place (``backplane.on_outage``).
        ts: Unix seconds when the hub accepted it; 0 before.
    """

    topic: str
    payload: bytes
    type: str = "message"
    key: str | None = None
    priority: Priority | None = None
    source_ts: float | None = None
    epoch: str = ""
    offset: int = 0
    ts: float = 0.0

    @classmethod
    def of(cls, topic: str, data: Any, **fields: Any) -> Event:
        """An event from Python values; see :func:`to_json` for what is allowed."""
        return cls(topic=topic, payload=to_json(data), **fields)

    @property
    def data(self) -> Any:
        """The payload as Python values, decoded anew at each access; fractions are floats."""
        return _plain.decode(self.payload)

    @property
    def exact(self) -> Any:
        """As :attr:`data`, with every fraction a :class:`~decimal.Decimal` of the source's digits."""
        return _exact.decode(self.payload)

    def replace(self, **changes: Any) -> Event:
        """A copy with other fields; ``data=`` encodes a new payload."""
        if "data" in changes:
            changes["payload"] = to_json(changes.pop("data"))
        return msgspec.structs.replace(self, **changes)


def to_publish(event: Event, ref: int = 0, idempotency_key: str | None = None) -> Publish:
    """What the hub is asked to accept, from an event that a program made: checked, as other programs will read it.

    Args:
        ref, idempotency_key: see :class:`Publish`.

    Raises:
        RequestError: ``invalid_topic``, ``limit_exceeded`` or ``bad_request``, naming the field.
    """
    topic, priority, source_ts = check_topic(event.topic), event.priority, event.source_ts
    _check_text("type", event.type)
    if event.key is not None:
        _check_text("key", event.key)
    if not (priority is None or priority in set(Priority)):
        raise _wrong("priority", f"one of {', '.join(Priority)}", priority)
    if source_ts is not None:
        source_ts = _finite("source_ts", source_ts)
    _check_payload(event.payload)
    if idempotency_key is not None:
        _check_text("idempotency_key", idempotency_key)
        if not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY:
            raise _wrong("idempotency_key", f"1 to {MAX_IDEMPOTENCY_KEY} characters", idempotency_key)
    return Publish(
        ref,
        topic,
        event.type,
        event.payload,
        event.key,
        priority and str(priority),
        source_ts,
        idempotency_key,
    )


def _wrong(field: str, wanted: str, value: object) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, f"{field} is {wanted}, not {value!r:.100}", field)


def _check_text(field: str, text: str) -> None:
    if not isinstance(text, str):
        raise _wrong(field, "text", text)
    size = len(text)
    if not text.isascii():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise _wrong(field, "Unicode text", text) from None
    if size > MAX_TEXT_BYTES:
        raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"{field} has {size} bytes, at most {MAX_TEXT_BYTES}", field)


def _finite(field: str, value: float) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong(field, "a finite number", value)
    return number


def _check_payload(payload: bytes) -> None:
    if not isinstance(payload, bytes):
        raise _wrong("payload", "bytes of JSON", payload)
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RequestError(
            ErrorCode.LIMIT_EXCEEDED, f"data has {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES}", "data"
        )
    try:
        _raw.decode(payload)
        if not payload.isascii():
            payload.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"payload is not JSON: {error}", "payload") from None


def to_json(data: Any, name: str = "data") -> bytes:
    """Encode Python values as JSON: datetimes as RFC 3339, Decimals and numpy scalars as numbers with their digits.

    Raises:
        RequestError: ``bad_request`` for NaN, Infinity, a type without a JSON form or too deep nesting, naming where,
            from ``name`` on.
    """
    try:
        _refuse_non_finite(data, name)
        return _encoder.encode(data)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"{name} has no JSON form: {error}", name) from None


def _enc_hook(value: Any) -> Any:
    item = getattr(value, "item", None)  # numpy scalars; numpy itself is not a dependency
    if item is not None and getattr(value, "ndim", None) == 0:
        value = item()
        _refuse_non_finite(value, "data")
        return value
    tolist = getattr(value, "tolist", None)
    if tolist is not None:
        value = tolist()
        _refuse_non_finite(value, "data")
        return value
    raise TypeError(f"{type(value).__qualname__} is not supported")


_encoder = msgspec.json.Encoder(enc_hook=_enc_hook, decimal_format="number")


def _refuse_non_finite(value: Any, where: str) -> None:
    # JSON has no NaN or Infinity, and msgspec would write null in silence.
    if isinstance(value, (str, bytes, int, date, datetime)) or value is None:
        return
    if isinstance(value, (float, Decimal)):
        if not (value.is_finite() if isinstance(value, Decimal) else math.isfinite(value)):
            raise RequestError(ErrorCode.BAD_REQUEST, f"{value} is not a JSON number", where)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(name, Decimal):  # msgspec would write it without quotes
                raise RequestError(ErrorCode.BAD_REQUEST, "a Decimal is no key in JSON", where)
            _refuse_non_finite(item, f"{where}.{name}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for i, item in enumerate(value):
            _refuse_non_finite(item, f"{where}[{i}]")
    elif isinstance(value, msgspec.Struct) or hasattr(value, "__dataclass_fields__"):
        names = getattr(value, "__struct_fields__", None) or value.__dataclass_fields__
        for name in names:
            _refuse_non_finite(getattr(value, name), f"{where}.{name}")
