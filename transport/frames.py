"""WebSocket frames from a server, RFC 6455 section 5.2: neither masked nor fragmented, so one frame serves all clients.

The library frames what ends one connection, and answers pings that it has read; these functions frame the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

MAX_CONTROL_BYTES: Final = 125  # RFC 6455 section 5.5
PING: Final = b"\x89\x00"
PONG: Final = 0x8A  # first byte
_TEXT, _BINARY = 0x81, 0x82  # FIN is set
# A table lookup costs half of building the two bytes (70 ns against 130 ns).
_SHORT_TEXT: Final = tuple(bytes((_TEXT, n)) for n in range(126))
_SHORT_BINARY: Final = tuple(bytes((_BINARY, n)) for n in range(126))


def text_frame(payload: bytes) -> bytes:
    """A whole text message; ``payload`` must be UTF-8, which is not checked."""
    size = len(payload)
    if size < 126:
        return _SHORT_TEXT[size] + payload
    return _long_header(_TEXT, size) + payload


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message."""
    size = len(payload)
    if size < 126:
        return _SHORT_BINARY[size] + payload
    return _long_header(_BINARY, size) + payload


def _long_header(first: int, size: int) -> bytes:
    if size < 65536:
        return bytes((first, 126, size >> 8, size & 255))
    return bytes((first, 127)) + size.to_bytes(8, "big")


def frame_at(data: bytes | bytearray, start: int) -> tuple[bool, int, int]:
    """The message frame that begins at ``start``: whether it is binary, and where its payload begins and ends.

    Raises:
        ValueError: there is no whole text or binary frame.
    """
    head = data[start : start + 10]
    if len(head) < 2 or head[0] not in (_TEXT, _BINARY):
        raise ValueError(f"no message frame at byte {start}: {head!r}")
    size, skip = head[1], 2
    if size == 126:
        size, skip = int.from_bytes(head[2:4], "big"), 4
    elif size == 127:
        size, skip = int.from_bytes(head[2:10], "big"), 10
    begin, end = start + skip, start + skip + size
    if end > len(data) or len(head) < skip:
        raise ValueError(f"the frame at byte {start} is cut off")
    return head[0] == _BINARY, begin, end


def unframe(data: bytes) -> Iterator[tuple[bool, bytes]]:
    """The messages in whole frames of the first two functions above: whether each is binary, and its payload, in order.

    Raises:
        ValueError: see :func:`frame_at`.
    """
    at, end = 0, len(data)
    while at < end:
        binary, begin, at = frame_at(data, at)
        yield binary, data[begin:at]


def pong(payload: bytes) -> bytes:
    """The answer to a ping, whose payload has at most 125 bytes."""
    return bytes((PONG, len(payload))) + payload


def fit_reason(reason: str) -> str:
    """``reason`` cut, at a character, to the 123 bytes of UTF-8 that a close frame has for it."""
    encoded = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2]
    return encoded.decode("utf-8", "ignore")
