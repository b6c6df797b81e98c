"""Socket.IO, protocol 5, with its default parser: packets as bytes. Pure.

A packet is ``<type>[<attachments>-][<namespace>,][<id>][JSON]``; bytes inside its JSON are placeholders, and follow as
binary messages. Arguments stay the client's JSON until somebody asks for values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final, NamedTuple

import msgspec

from transport.codes import ErrorCode
from transport.errors import CodecError, RequestError
from transport.event import to_json
from transport.frames import binary_frame, text_frame

MAIN: Final = "/"
MAX_NAMESPACE: Final = 255  # bytes
MAX_ATTACHMENTS: Final = 100  # of one packet
_ID_DIGITS: Final = 16  # what a client's counter can reach: 2**53
_HEAD: Final = re.compile(rb"([0-6])(?:([0-9]{1,4})-)?(/[^,]*(?:,|\Z))?([0-9]*)")


class SocketIoError(CodecError):
    """A client's bytes are no Socket.IO packet; the connection cannot go on."""


class Kind(IntEnum):
    """Packet types; on the wire a digit."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5  # only on the wire: decoded it is an EVENT with attachments
    BINARY_ACK = 6  # the same


_PLAIN: Final = {Kind.BINARY_EVENT: Kind.EVENT, Kind.BINARY_ACK: Kind.ACK}
_BINARY: Final = {plain: binary for binary, plain in _PLAIN.items()}


class Packet(NamedTuple):
    """One packet of a client.

    Attributes:
        kind: CONNECT, DISCONNECT, EVENT, ACK or CONNECT_ERROR.
        id: the client's number for an acknowledgement, where it wants one.
        name: of an EVENT; else empty.
        data: the JSON of each argument, digits as the client sent them; of a CONNECT its payload, if it has one.
            Where there are attachments, placeholders stand for them.
        attachments: what the placeholders stand for.
    """

    kind: Kind
    namespace: str
    id: int | None
    name: str
    data: list[msgspec.Raw]
    attachments: tuple[bytes, ...] = ()

    def values(self) -> list[Any]:
        """The arguments as Python values, bytes in their places; fractions are floats.

        Raises:
            SocketIoError: nested too deep, a number of thousands of digits, or a placeholder for nothing.
        """
        values = [_value(item) for item in self.data]
        if not self.attachments:
            return values
        try:
            return [_fill(value, self.attachments) for value in values]
        except RecursionError as error:
            raise SocketIoError(f"an argument: {error}") from None


class Decoder:
    """Packets of one connection: joins a packet with its attachments. Holds at most ``max_bytes`` of them."""

    __slots__ = ("_held", "_max_bytes", "_missing", "_packet", "_size")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._packet: Packet | None = None
        self._held: list[bytes] = []
        self._missing = self._size = 0

    def text(self, data: bytes) -> Packet | None:
        """A text message, without Engine.IO's digit; ``None``: its attachments are still to come.

        Raises:
            SocketIoError: it is no packet, or an attachment was to come.
        """
        if self._missing:
            raise SocketIoError(f"a text came where {self._missing} attachments were missing")
        packet, self._missing = decode(data)
        if not self._missing:
            return packet
        self._packet, self._size = packet, len(data)
        return None

    def binary(self, data: bytes) -> Packet | None:
        """A binary message: the next attachment; the packet, when it is the last.

        Raises:
            SocketIoError: none was to come, or the packet is too large.
        """
        packet = self._packet
        if packet is None or not self._missing:
            raise SocketIoError("an attachment without a packet that announces it")
        self._size += len(data)
        if self._size > self._max_bytes:
            raise SocketIoError(f"a packet with its attachments has more than {self._max_bytes} bytes")
        self._held.append(data)
        self._missing -= 1
        if self._missing:
            return None
        whole = packet._replace(attachments=tuple(self._held))
        self._packet = None
        self._held.clear()
        return whole


_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NAME: Final = msgspec.json.Decoder(str)
_VALUE: Final = msgspec.json.Decoder()


def decode(data: bytes) -> tuple[Packet, int]:
    """A packet, and how many attachments are to follow.

    Raises:
        SocketIoError: it is none.
    """
    match = _HEAD.match(data)
    if match is None:
        raise SocketIoError(f"a Socket.IO packet begins with a digit from 0 to 6, not {data[:20]!r}")
    kind, count, digits = Kind(int(match[1])), match[2], match[4]
    namespace = MAIN.encode() if match[3] is None else match[3].rstrip(b",")
    missing = int(count) if count else 0
    if (kind in _PLAIN) is not (count is not None):
        raise SocketIoError(f"a packet of type {kind.value} {'lacks' if count is None else 'has'} attachments")
    if missing > MAX_ATTACHMENTS:
        raise SocketIoError(f"{missing} attachments, at most {MAX_ATTACHMENTS}")
    if len(namespace) > MAX_NAMESPACE:
        raise SocketIoError(f"a namespace has at most {MAX_NAMESPACE} bytes")
    if len(digits) > _ID_DIGITS:
        raise SocketIoError(f"an acknowledgement's number has at most {_ID_DIGITS} digits")
    kind = _PLAIN.get(kind, kind)
    try:
        if not data.isascii():
            data.decode()
        name, items = _payload(kind, data[match.end() :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SocketIoError(f"the payload of a packet of type {kind.value}: {error}") from None
    return Packet(kind, namespace.decode(), int(digits) if digits else None, name, items), missing


def _payload(kind: Kind, text: bytes) -> tuple[str, list[msgspec.Raw]]:
    """An event's name, and the items."""
    if kind is Kind.EVENT:
        items = _ITEMS.decode(text)
        if not items:
            raise SocketIoError("an event is an array that begins with its name")
        return _NAME.decode(items[0]), items[1:]
    if kind is Kind.ACK:
        return "", _ITEMS.decode(text)
    if not text:
        return "", []
    if kind is Kind.DISCONNECT:
        raise SocketIoError("a packet of type 1 has no payload")
    _OBJECT.decode(text)
    return "", [msgspec.Raw(text)]


def _value(item: msgspec.Raw) -> Any:
    try:
        try:
            return _VALUE.decode(item)
        except msgspec.ValidationError:  # an integer of more digits than msgspec takes
            return json.loads(bytes(item))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise SocketIoError(f"an argument: {error}") from None


def _fill(value: Any, attachments: tuple[bytes, ...]) -> Any:
    if isinstance(value, list):
        return [_fill(item, attachments) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("_placeholder") is not True:
        return {name: _fill(item, attachments) for name, item in value.items()}
    number = value.get("num")
    if type(number) is not int or not 0 <= number < len(attachments):
        raise SocketIoError(f"a placeholder for attachment {number!r:.40} of {len(attachments)}")
    return attachments[number]


def head(kind: Kind, namespace: str, packet_id: int | None = None, attachments: int | None = None) -> bytes:
    """What is before a packet's JSON, Engine.IO's digit included: a frame that is used often is made from it once."""
    place = "" if namespace == MAIN else f"{namespace},"
    count = "" if attachments is None else f"{attachments}-"
    return f"4{kind.value}{count}{place}{'' if packet_id is None else packet_id}".encode()


def encode(kind: Kind, namespace: str, packet_id: int | None = None, data: Any = None) -> bytes:
    """A packet as whole WebSocket frames: a text, then a binary one per attachment.

    Args:
        kind: CONNECT, DISCONNECT, EVENT, ACK or CONNECT_ERROR.
        data: its payload (:func:`transport.event.to_json`); of an EVENT ``[name, *arguments]``, of an ACK the list of
            arguments: ``bytes`` anywhere in their lists and maps are attachments. ``None``: the packet has none.

    Raises:
        RequestError: ``bad_request``, ``data`` has no JSON form.
    """
    attachments: list[bytes] = []
    if kind in _BINARY:
        try:
            data = _extract(data, attachments)
        except RecursionError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"data has no JSON form: {error}", "data") from None
    count = None
    if attachments:
        kind, count = _BINARY[kind], len(attachments)
    payload = b"" if data is None else to_json(data)
    text = text_frame(head(kind, namespace, packet_id, count) + payload)
    return b"".join([text, *map(binary_frame, attachments)]) if attachments else text


def _extract(value: Any, attachments: list[bytes]) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, Mapping):
        return {name: _extract(item, attachments) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_extract(item, attachments) for item in value]
    return value
