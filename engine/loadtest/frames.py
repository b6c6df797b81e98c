"""WebSocket frames as a client meets them (RFC 6455, section 5): the server's are scanned, ours are built. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

MESSAGE_BYTES: Final = 1 << 24
"""The longest message that is waited for; a payload may have 1 MB, and servers write round it."""
_FIN, _OPCODE, _MASKED = 0x80, 0x0F, 0x80
_NO_KEY: Final = bytes(4)
"""A key that leaves the payload as it is. Keys protect proxies from scripts (section 10.3); there are none here."""


class BadFrame(Exception):
    """What a server must not send."""


class Scanned(NamedTuple):
    """Whole messages in their order, control frames in theirs, and where the bytes begin that are not whole yet.

    Control frames in the midst of a message that is not whole are not told before it is.
    """

    messages: list[bytes]
    controls: list[tuple[int, bytes]]
    end: int


def scan(data: bytes) -> Scanned:
    """What a server sent, from the beginning of a message. Linear in the number of frames.

    Raises:
        BadFrame: it is masked, compressed, or otherwise not as the RFC has it; or longer than :data:`MESSAGE_BYTES`.
    """
    messages: list[bytes] = []
    controls: list[tuple[int, bytes]] = []
    fragments: list[bytes] = []
    within: list[tuple[int, bytes]] = []  # control frames among the fragments
    size, whole, at, opened = len(data), 0, 0, False
    while (begin := _payload(data, at, size)) is not None:
        start, end = begin
        if end > size:
            break
        first = data[at]
        opcode, payload, at = first & _OPCODE, data[start:end], end
        if opcode >= CLOSE:
            (within if opened else controls).append((opcode, payload))
            if not opened:
                whole = at
            continue
        if opened is (opcode != CONTINUATION):
            raise BadFrame("a new message before the last one has ended" if opened else "a continuation of nothing")
        if first & _FIN and not opened:
            messages.append(payload)
        else:
            fragments.append(payload)
            opened = not first & _FIN
            if opened:
                continue
            messages.append(b"".join(fragments))
            controls += within
            fragments, within = [], []
        whole = at
    if size - whole > MESSAGE_BYTES + 14:
        raise BadFrame(f"a message of more than {MESSAGE_BYTES} bytes")
    return Scanned(messages, controls, whole)


def _payload(data: bytes, at: int, size: int) -> tuple[int, int] | None:
    """Where the payload of the frame at ``at`` begins and ends; ``None``: its head is not whole."""
    if size - at < 2:
        return None
    first, second = data[at], data[at + 1]
    opcode = first & _OPCODE
    if first & 0x70:
        raise BadFrame("a frame with reserved bits, though no extension was agreed on")
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise BadFrame(f"a frame with the unknown opcode {opcode}")
    if second & _MASKED:
        raise BadFrame("a masked frame: only clients mask")
    if opcode >= CLOSE and (second > 125 or not first & _FIN):
        raise BadFrame("a control frame that is long or fragmented")
    if second < 126:
        return at + 2, at + 2 + second
    start = at + (4 if second == 126 else 10)
    if size < start:
        return None
    length = int.from_bytes(data[at + 2 : start])
    if length > MESSAGE_BYTES:
        raise BadFrame(f"a frame of {length} bytes")
    return start, start + length


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One of ours, whole."""
    length = len(payload)
    if length < 126:
        head = bytes((_FIN | opcode, _MASKED | length))
    elif length < 1 << 16:
        head = bytes((_FIN | opcode, _MASKED | 126)) + length.to_bytes(2)
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + length.to_bytes(8)
    return head + _NO_KEY + payload


def close_reason(payload: bytes) -> str:
    """What a close frame says, for people."""
    if len(payload) < 2:
        return "closed by the server without a code"
    text = payload[2:].decode(errors="replace")
    return f"closed by the server with {int.from_bytes(payload[:2])}" + (f" {text}" if text else "")
