"""Reads what servers send to many clients at once: a chunk is parsed once, and remembered by its bytes. Pure.

A server that fans out sends the same bytes to all, so most reads are a look-up, whatever lies in them: one process
reads 500,000 messages a second. Chunks that are like no other cost some microseconds a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from engine.loadtest.dialect import STAMP, Dialect, Heard
from engine.loadtest.frames import scan
from transport.position import Position

CHUNKS: Final = 1_024
"""Remembered at a time; the oldest is forgotten."""
CHUNK_BYTES: Final = 1 << 25
"""Of all that are remembered."""
IRREGULAR: Final = -2
"""Instead of the first sequence, where a chunk is more than messages one after the other; no sequence is that."""


class Chunk:
    """What one read brought, beginning with a frame.

    Attributes:
        first: the sequence it begins with, if it holds nothing but messages in a row; else :data:`IRREGULAR`.
        next: the sequence after its last.
        place: of its last message.
        stamps: per message when it was due (µs), and its sequence.
        heard: what else was said. It comes before messages: servers answer a subscription before they serve it.
        controls: opcode and payload of control frames.
        rest: the beginning of a message that is not whole.
        times: when it was read, once per client, as :meth:`ChunkReader.drain` has not taken it yet.
    """

    __slots__ = ("controls", "first", "heard", "next", "place", "rest", "stamps", "times")

    def __init__(
        self,
        stamps: Sequence[tuple[int, int]],
        place: Position | None,
        heard: Sequence[Heard],
        controls: Sequence[tuple[int, bytes]],
        rest: bytes,
    ) -> None:
        self.stamps, self.place, self.heard, self.controls, self.rest = stamps, place, heard, controls, rest
        self.times: list[int] = []
        self.first, self.next = IRREGULAR, 0
        if stamps and not heard and not controls and not rest:
            first, last = stamps[0][1], stamps[-1][1]
            if all(sequence == first + n for n, (_, sequence) in enumerate(stamps)):
                self.first, self.next = first, last + 1


class ChunkReader:
    """One for all connections of a process.

    Args:
        received: is told what came: stamps, and each time (ns) at which a client has read them.

    Attributes:
        remembered: chunks by their bytes: who has a whole one looks here first, and calls :meth:`read` if it is new.
    """

    def __init__(self, dialect: Dialect, received: Callable[[Sequence[tuple[int, int]], Sequence[int]], None]) -> None:
        self.remembered: dict[bytes, Chunk] = {}
        self._dialect, self._received = dialect, received
        self._bytes = 0

    def read(self, data: bytes) -> Chunk:
        """What these bytes say; they begin with a frame.

        Raises:
            BadFrame: no server may send that.
        """
        known = self.remembered.get(data)
        if known is not None:
            return known
        chunk = self._parse(data)
        while self.remembered and (len(self.remembered) >= CHUNKS or self._bytes + len(data) > CHUNK_BYTES):
            self._forget()
        self.remembered[data] = chunk
        self._bytes += len(data)
        return chunk

    def _forget(self) -> None:
        oldest = next(iter(self.remembered))
        self._bytes -= len(oldest)
        self._take(self.remembered.pop(oldest))

    def drain(self) -> None:
        """Tell what was read since the last time."""
        for chunk in self.remembered.values():
            if chunk.times:
                self._take(chunk)

    def _take(self, chunk: Chunk) -> None:
        times, chunk.times = chunk.times, []
        if times:
            self._received(chunk.stamps, times)

    def _parse(self, data: bytes) -> Chunk:
        messages, controls, end = scan(data)
        stamps: list[tuple[int, int]] = []
        heard: list[Heard] = []
        stamped = None
        for message in messages:
            found = STAMP.findall(message)
            if found:
                stamped = message
                stamps += [(int(due), int(sequence)) for due, sequence in found]
            elif (said := self._dialect.hear(message)) is not None:
                heard.append(said)
        place = None if stamped is None else self._dialect.place(stamped)
        return Chunk(stamps, place, heard, controls, data[end:])
