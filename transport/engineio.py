"""Engine.IO, protocol 4: packets and payloads as bytes. Pure.

What goes to a client is always a whole WebSocket frame per packet, whatever its transport is: a long-polling client's
response is made of the frames that wait for it (:func:`encode_payload`).
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from transport.errors import CodecError
from transport.frames import binary_frame, frame_at, text_frame

MAX_RESPONSE_PACKETS: Final = 16
"""In one response: python-engineio's clients take no more from a poll, and give up their connection."""
MAX_REQUEST_PACKETS: Final = 4_096
"""In one POST of a client, whose bytes are bounded elsewhere: each costs more than its bytes."""
_SEPARATOR: Final = b"\x1e"


class EngineIoError(CodecError):
    """A client's bytes are no Engine.IO packet."""


class Kind(IntEnum):
    """Packet types; on the wire the digit before the data."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


CLOSE: Final = text_frame(b"1")
PING: Final = text_frame(b"2")
PROBED: Final = text_frame(b"3probe")
NOOP: Final = text_frame(b"6")
PROBE: Final = b"probe"  # data of the ping that tries a transport

_KINDS: Final = {ord(str(kind.value)): kind for kind in Kind}


class EnginePacket(NamedTuple):
    """One packet of a client. ``binary`` ones are messages; the data of others is UTF-8."""

    kind: Kind
    data: bytes
    binary: bool


def open_packet(
    sid: str, upgrades: Sequence[str], ping_interval: float, ping_timeout: float, max_payload: int
) -> bytes:
    """The frame of the handshake's answer.

    Args:
        ping_interval, ping_timeout: seconds; milliseconds on the wire.
        max_payload: bytes that a client may send in one POST or frame.
    """
    fields = {
        "sid": sid,
        "upgrades": list(upgrades),
        "pingInterval": round(ping_interval * 1000),
        "pingTimeout": round(ping_timeout * 1000),
        "maxPayload": max_payload,
    }
    return text_frame(b"0" + msgspec.json.encode(fields))


def message_frame(data: bytes, binary: bool) -> bytes:
    """The frame of a message of an application: text (UTF-8, not checked) or binary.

    A text with the character U+001E reaches long-polling clients in parts: the protocol does not escape it.
    """
    return binary_frame(data) if binary else text_frame(b"4" + data)


def decode_packet(data: bytes, binary: bool) -> EnginePacket:
    """A client's packet from one WebSocket message.

    Raises:
        EngineIoError: it is empty, or begins with no packet type.
    """
    if binary:
        return EnginePacket(Kind.MESSAGE, data, True)
    kind = _KINDS.get(data[0]) if data else None
    if kind is None:
        raise EngineIoError(f"an Engine.IO packet begins with a digit from 0 to 6, not {data[:20]!r}")
    return EnginePacket(kind, data[1:], False)


def decode_payload(body: bytes) -> list[EnginePacket]:
    """The packets of a client's POST, in order.

    Raises:
        EngineIoError: it is not UTF-8, has too many packets, or one of them is wrong.
    """
    # Whole, and before it is split: no byte of a longer character is a separator.
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise EngineIoError(f"a payload is UTF-8: {error.reason} at byte {error.start}") from None
    if body.count(_SEPARATOR) >= MAX_REQUEST_PACKETS:
        raise EngineIoError(f"a payload has at most {MAX_REQUEST_PACKETS} packets")
    return [_unpack(part) for part in body.split(_SEPARATOR)]


def _unpack(part: bytes) -> EnginePacket:
    if part[:1] != b"b":
        return decode_packet(part, False)
    try:
        return EnginePacket(Kind.MESSAGE, binascii.a2b_base64(part[1:], strict_mode=True), True)
    except binascii.Error as error:
        raise EngineIoError(f"a binary packet is base64: {error}") from None


def encode_payload(frames: bytes | bytearray, packets: int = MAX_RESPONSE_PACKETS) -> tuple[bytes, int]:
    """A response's body from the frames that wait for a long-polling client, and how many bytes of them it holds.

    Args:
        frames: whole frames of packets, as they would be written to a WebSocket.
        packets: how many it may hold.
    """
    parts: list[bytes | bytearray] = []
    at = 0
    while at < len(frames) and len(parts) < packets:
        binary, begin, end = frame_at(frames, at)
        payload = frames[begin:end]
        parts.append(b"b" + binascii.b2a_base64(payload, newline=False) if binary else payload)
        at = end
    return _SEPARATOR.join(parts), at
