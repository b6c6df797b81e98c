"""Wire forms: pure ``encode(publication) → frame``; one frame serves every client that speaks the form.

No field of an event depends on the client, so an event is encoded once per form and not once per client.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

import msgspec

from transport.codes import ErrorCode, GapReason
from transport.errors import CodecError, RequestError
from transport.event import to_json
from transport.frames import binary_frame, text_frame
from transport.messages import Missed, Publication
from transport.requests import Request, RequestDecoder

BATCH_BYTES = 65_536  # of events in one `events` message; one that is larger goes alone
_TYPES_CACHED = 4096
_TYPE_LENGTH = 64  # characters of a type that is cached: they come from strangers, and may be as long as a message


class WireForm(Protocol):
    """How a kind of client wants its messages. Stateless but for caches; shared by all sessions of a worker."""

    subprotocol: str
    binary: bool

    def event(self, publication: Publication) -> bytes:
        """The whole WebSocket frame of a publication."""

    def message(self, fields: Mapping[str, Any]) -> bytes:
        """The frame of any other server message; ``fields`` holds JSON-able values."""

    def batch(self, publications: Sequence[Publication]) -> bytes:
        """The frames of an `events` message each with as many publications as :data:`BATCH_BYTES` hold, in order."""

    def snapshot(
        self, request_id: int | str, publications: Iterable[Publication], missed: Missed | None = None
    ) -> bytes:
        """The frame of the answer to ``snapshot`` or ``history``; ``missed`` is what ``history`` does not have."""

    def decode(self, data: bytes) -> Request:
        """A client's message; raises :class:`transport.requests.Rejected`."""

    def payload(self, raw: bytes, field: str = "data") -> bytes:
        """``data`` of a client's publish as JSON; raises :class:`RequestError`, naming ``field``, where it has none."""

    def raw(self, payload: bytes) -> msgspec.Raw:
        """The opposite, to stand among the fields of :meth:`message`; :class:`CodecError` where there is none."""


def skipped(topic: str, count: int) -> dict[str, Any]:
    """The fields of a ``skipped`` notice."""
    return {"op": "skipped", "topic": topic, "count": count}


def bye(code: int, reason: str, reconnect_in: float | None) -> dict[str, Any]:
    """The fields of a ``bye``; without ``reconnect_in`` the client should not come back as it is."""
    fields: dict[str, Any] = {"op": "bye", "code": code, "reason": reason, "reconnect": reconnect_in is not None}
    return fields if reconnect_in is None else {**fields, "reconnect_in": reconnect_in}


def gap(missed: Missed) -> dict[str, Any]:
    """The fields of a ``gap`` notice."""
    return {
        "op": "gap",
        "topic": missed.topic,
        "epoch": missed.epoch,
        "from": missed.first,
        "to": missed.last,
        "reason": missed.reason,
    }


class JsonForm:
    """``heliograph.v1.json``: JSON in text frames."""

    subprotocol = "heliograph.v1.json"
    binary = False

    def __init__(self) -> None:
        self._decoder = RequestDecoder(binary=False)
        self._encode = msgspec.json.Encoder(decimal_format="number").encode
        self._types: dict[str, str] = {}

    def event(self, publication: Publication) -> bytes:
        return text_frame(self.event_json(publication))

    def event_json(self, publication: Publication) -> bytes:
        """The event's map; topics need no escaping, types and keys do."""
        topic, epoch, offset, ts, kind, data, key, priority, source_ts = publication
        quoted = self._types.get(kind)
        if quoted is None:
            quoted = self._quote(kind)
        place = f'"offset":{offset},"epoch":"{epoch}",' if epoch else ""
        head = f'{{"op":"event","topic":"{topic}","type":{quoted},{place}"ts":{ts:.6f},'
        if key is not None:
            head += f'"key":{self._encode(key).decode()},'
        if priority is not None:
            head += f'"priority":"{priority}",'
        if source_ts is not None:
            head += f'"source_ts":{source_ts:.6f},'
        return b'%b"data":%b}' % (head.encode(), data)

    def message(self, fields: Mapping[str, Any]) -> bytes:
        return text_frame(self._encode(fields))

    def batch(self, publications: Sequence[Publication]) -> bytes:
        maps = [self.event_json(publication) for publication in publications]
        return b"".join([text_frame(b'{"op":"events","events":[%b]}' % b",".join(some)) for some in _chunks(maps)])

    def snapshot(
        self, request_id: int | str, publications: Iterable[Publication], missed: Missed | None = None
    ) -> bytes:
        events = b",".join(self.event_json(publication) for publication in publications)
        lost = b"" if missed is None else b',"gap":' + self._encode(gap(missed))
        return text_frame(b'{"op":"ok","id":%b,"events":[%b]%b}' % (self._encode(request_id), events, lost))

    def decode(self, data: bytes) -> Request:
        return self._decoder.decode(data)

    def payload(self, raw: bytes, field: str = "data") -> bytes:
        return bytes(raw)

    def raw(self, payload: bytes) -> msgspec.Raw:
        return msgspec.Raw(payload)

    def _quote(self, kind: str) -> str:
        quoted = self._encode(kind).decode()
        if len(kind) <= _TYPE_LENGTH:
            if len(self._types) >= _TYPES_CACHED:
                self._types.clear()
            self._types[kind] = quoted
        return quoted


class MsgpackForm:
    """``heliograph.v1.msgpack``: the same maps as MessagePack in binary frames.

    ``data`` is transcoded once per event; a number without an exact float64 or 64-bit integer becomes ExtType 1 holding
    its ASCII digits. An event whose data cannot be transcoded (nested too deep for this process) is a ``gap`` instead,
    and is left out of a snapshot.
    """

    subprotocol = "heliograph.v1.msgpack"
    binary = True

    def __init__(self) -> None:
        self._decoder = RequestDecoder(binary=True)
        self._encoder = msgspec.msgpack.Encoder()
        self._from_json = msgspec.json.Decoder(float_hook=_number)

    def event(self, publication: Publication) -> bytes:
        try:
            return self.message(self._event_map(publication))
        except CodecError:
            _, epoch, offset, *_ = publication
            if not epoch:
                return b""
            return self.message(gap(Missed(publication.topic, epoch, offset, offset, GapReason.OVERFLOW.value)))

    def _event_map(self, publication: Publication) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "op": "event",
            "topic": publication.topic,
            "type": publication.type,
        }
        if publication.epoch:
            fields |= {"offset": publication.offset, "epoch": publication.epoch}
        fields["ts"] = publication.ts
        for name in ("key", "priority", "source_ts"):
            if (value := getattr(publication, name)) is not None:
                fields[name] = value
        fields["data"] = self._transcode(publication.data)
        return fields

    def _transcode(self, data: bytes) -> msgspec.Raw:
        try:
            try:
                value = self._from_json.decode(data)
            except msgspec.ValidationError:  # an integer of more digits than msgspec takes
                value = json.loads(data, parse_int=_integer, parse_float=_number)
            try:
                packed = self._encoder.encode(value)
            except OverflowError:
                packed = self._encoder.encode(_without_big_integers(value))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # Events of all kinds of publishers come here: none may end the process, and its clients with it.
            raise CodecError(f"data has no MessagePack form: {error}") from None
        return msgspec.Raw(packed)

    def message(self, fields: Mapping[str, Any]) -> bytes:
        return binary_frame(self._encoder.encode(fields))

    def batch(self, publications: Sequence[Publication]) -> bytes:
        frames, maps = [], []
        for publication in publications:
            try:
                maps.append(msgspec.Raw(self._encoder.encode(self._event_map(publication))))
            except CodecError:
                frames.append(self.event(publication))
        frames += [self.message({"op": "events", "events": some}) for some in _chunks(maps)]
        return b"".join(frames)

    def snapshot(
        self, request_id: int | str, publications: Iterable[Publication], missed: Missed | None = None
    ) -> bytes:
        events = []
        for publication in publications:
            try:
                events.append(self._event_map(publication))
            except CodecError:
                continue
        lost = {} if missed is None else {"gap": gap(missed)}
        return self.message({"op": "ok", "id": request_id, "events": events, **lost})

    def decode(self, data: bytes) -> Request:
        return self._decoder.decode(data)

    def payload(self, raw: bytes, field: str = "data") -> bytes:
        try:
            value = msgspec.msgpack.decode(raw, ext_hook=_from_ext)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"{field} has no JSON form: {error}", field) from None
        return to_json(value)

    def raw(self, payload: bytes) -> msgspec.Raw:
        return self._transcode(payload)


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    """Encoded maps in groups of at most ``BATCH_BYTES``, or one."""
    some: list[Any] = []
    size = 0
    for item in items:
        length = len(memoryview(item))
        if some and size + length > BATCH_BYTES:
            yield some
            some, size = [], 0
        some.append(item)
        size += length
    if some:
        yield some


DECIMAL_EXT = 1
_DIGITS = re.compile(rb"[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,9})?")  # what Decimal surely takes


def _number(digits: str) -> Any:
    value = float(digits)
    try:
        exact = Decimal(digits) == Decimal(value)
    except InvalidOperation:  # an exponent of more than 18 digits
        exact = False
    return value if exact else msgspec.msgpack.Ext(DECIMAL_EXT, digits.encode())


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) < 20 else msgspec.msgpack.Ext(DECIMAL_EXT, digits.encode())


def _without_big_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_big_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_big_integers(item) for item in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return msgspec.msgpack.Ext(DECIMAL_EXT, str(value).encode())
    return value


def _from_ext(code: int, data: memoryview) -> Any:
    if code == DECIMAL_EXT:
        if _DIGITS.fullmatch(data) is None:
            raise ValueError("ExtType 1 holds the ASCII digits of a number")
        return Decimal(bytes(data).decode("ascii"))
    raise ValueError(f"unknown ExtType {code}")
