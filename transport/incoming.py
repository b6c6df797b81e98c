"""Whole messages of clients, their pings and pongs, straight from the bytes that came; what is anything else is the
library's to judge. Most clients never send it: for them there is no object of the library, of 1.6 KiB and 15 µs.

A publish that comes alone is one frame in one read. The library takes 10 µs for it, with its generators, and 120 µs
when the machine was idle; this takes 1 µs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

if TYPE_CHECKING:

    def apply_mask(data: bytes, mask: bytes) -> bytes: ...

else:
    from websockets.frames import apply_mask  # the library's choice of C or Python

TEXT: Final = 0x81  # FIN is set, as in all that is read here; compressed messages have another bit
BINARY: Final = 0x82
PING: Final = 0x89
PONG: Final = 0x8A
_FIRST: Final = frozenset((TEXT, BINARY, PING, PONG))


def whole_frame(data: bytes, start: int, limit: int) -> tuple[int, bytes, int] | None:
    """The frame that begins at ``start``: its first byte, one of those above, its payload, and where it ends.

    ``None``: there is something else, which may be an error: a close frame, a part of a message, a compressed one, one
    without a mask or of more than ``limit`` bytes, or a frame that is not all there.
    """
    head = data[start : start + 2]
    if len(head) < 2 or head[0] not in _FIRST:
        return None
    size = head[1] - 0x80
    begin = start + 6
    if size < 0 or (size > 125 and head[0] >= PING):
        return None
    if size == 126:
        size, begin = int.from_bytes(data[start + 2 : start + 4], "big"), start + 8
    elif size == 127:
        size, begin = int.from_bytes(data[start + 2 : start + 10], "big"), start + 14
    end = begin + size
    if size > limit or end > len(data):
        return None
    return head[0], apply_mask(data[begin:end], data[begin - 4 : begin]), end


class _Reader(StreamReader):
    """The library's, but it knows whether a frame has begun."""

    between = False

    def at_eof(self) -> Generator[None, None, bool]:
        self.between = not self.buffer  # the library asks before each frame, and waits here for its first byte
        try:
            return (yield from super().at_eof())
        finally:
            self.between = False


class Protocol(ServerProtocol):
    """The library's, but a close frame may come amid fragments as any control frame may: RFC 6455 section 5.4. And it
    can be left out while it waits for a message to begin."""

    def parse(self) -> Generator[None]:
        self.reader: _Reader = _Reader()
        yield from super().parse()

    @property
    def waits(self) -> bool:
        """Whether a message may begin with the next byte; whole ones need not go through here."""
        return self.reader.between and self.current_size is None

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        super().recv_frame(frame)
