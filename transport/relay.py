"""Under TLS a connection stays where its keys are: its bytes go to whoever has the other end of a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

BUFFER: Final = 64 * 1024  # bytes, each way, here and in the kernel; beyond them the side that sends is not read


class _End(asyncio.Protocol):
    """One side of a relay: what it reads, ``other`` writes."""

    other: _End

    def __init__(self, ended: Callable[[], None]) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost = False
        self._ended = ended

    def take(self, transport: asyncio.Transport) -> None:
        """This side's connection."""
        self.transport = transport
        transport.set_write_buffer_limits(high=BUFFER, low=BUFFER // 4)

    def close(self) -> None:
        """Close it behind what was written."""
        if self.transport is not None:
            self.transport.close()

    def read(self, wanted: bool) -> None:
        """Read it, or leave what comes to the kernel."""
        if self.transport is not None and not self.transport.is_closing():
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    # Called by the loop.

    def data_received(self, data: bytes) -> None:
        to = self.other.transport
        assert to is not None, "nothing is read before both sides are there"
        if not to.is_closing():
            to.write(data)

    def pause_writing(self) -> None:
        self.other.read(False)

    def resume_writing(self) -> None:
        self.other.read(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.other.close()
        self._ended()


class _Near(_End):
    """The client's. TLS has no half of an end: after the client's nothing can be said to it any more."""


class _Far(_End):
    """The worker's whose session it is."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.take(cast(asyncio.Transport, transport))
        if self.other.lost:
            self.close()
        self.other.read(True)

    def eof_received(self) -> bool:
        self.other.close()
        return True  # it is closed when the client has read the rest, or has gone


class Relay:
    """Carries bytes both ways until either side ends; the other one then gets what was on its way, and the end.

    Args:
        transport: the client's; its protocol is exchanged, and hears of it as of a lost connection in the next turn.
        sock: a non-blocking socket, whose other end is somebody else's; belongs to the relay from now on.
        ended: called once, when both are closed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        sock: socket.socket,
        ended: Callable[[Relay], None],
    ) -> None:
        self._sock, self._ended = sock, ended
        self._near, self._far = _Near(self._end), _Far(self._end)
        self._near.other, self._far.other = self._far, self._near
        transport.pause_reading()  # until the far side is there
        self._near.take(transport)
        former = transport.get_protocol()
        transport.set_protocol(self._near)
        loop.call_soon(former.connection_lost, None)
        self._joining = loop.create_task(self._join(loop), name="relay")

    def close(self) -> None:
        """End both sides behind what was written to them."""
        self._near.close()
        self._far.close()

    def abort(self) -> None:
        """End both sides at once."""
        for end in (self._near, self._far):
            if end.transport is not None:
                end.transport.abort()

    async def _join(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await loop.connect_accepted_socket(lambda: self._far, self._sock)
        except OSError:
            if self._far.transport is None:  # which would tell its end by itself
                self._sock.close()
                self._far.connection_lost(None)

    def _end(self) -> None:
        if self._near.lost and self._far.lost:
            self._ended(self)
