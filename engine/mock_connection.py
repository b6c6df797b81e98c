"""One client's connection to the mock exchange: RFC 6455 from the websockets library, the socket in our own hands.

A server that must break the protocol, fall silent in the middle or write a frame byte by byte cannot be one that takes
care of all that; so this is the library's core without input and output, on a plain :class:`asyncio.Protocol`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Protocol, cast

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

REQUEST_BYTES = 1 << 20
WRITE_LIMIT_BYTES = 128 << 20  # unsent bytes to one client; beyond it the connection is aborted
UNREAD_LIMIT_BYTES = 1 << 20  # what a frozen connection holds of what the client sends
CLOSE_TIMEOUT_S = 1.0  # for the client to answer a close frame, or to close after the end of the stream
SLOW_STEP_S = 0.01  # between two writes of a slow connection, or longer where that is less than a byte
LONGEST_PIECE = 40  # bytes of a write of a fragmented message

_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)  # every handshake otherwise


class Owner(Protocol):
    """What a connection tells."""

    def on_request(self, connection: MockConnection, request: Request) -> None:
        """A handshake; to be answered with :meth:`MockConnection.accept` or ``refuse``, or not at all."""

    def on_message(self, connection: MockConnection, raw: bytes) -> None:
        """A message, complete."""

    def on_lost(self, connection: MockConnection) -> None:
        """The socket is closed."""


class MockConnection(asyncio.Protocol):
    """Belongs to the loop that accepted it.

    Attributes:
        number: 1 for the first TCP connection that the exchange accepted.
        subscribed: the symbols whose ticks it gets.
        mute: it gets no more ticks and answers.
        had_huge: it got its huge message of the present fault.
        lost: done when the socket is closed.
    """

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner = owner
        self.number = number
        self.subscribed: set[str] = set()
        self.mute = self.had_huge = False
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.request: Request | None = None
        self._protocol = ServerProtocol(max_size=REQUEST_BYTES, logger=_log)
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []  # of the message that is coming in
        self._frozen = False
        self._unread: list[bytes] = []
        self._pace: int | None = None  # bytes per second; 0: odd pieces, a turn of the loop each
        self._queue = bytearray()
        self._pump_timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._stream_ended = False  # nothing can be written any more, also no answer to what the client still says
        self._end_timer: asyncio.TimerHandle | None = None
        self._own_timer: asyncio.TimerHandle | None = None
        self._sizes = random.Random(number)  # the same pieces in each run

    # the socket ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio's protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type

    def data_received(self, data: bytes) -> None:
        """Part of asyncio's protocol."""
        if self._frozen:
            self._unread.append(data)
            if sum(map(len, self._unread)) > UNREAD_LIMIT_BYTES:
                self.kill()
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self.request = event
                self._owner.on_request(self, event)
            elif isinstance(event, Frame):
                self._on_frame(event)
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """Part of asyncio's protocol."""
        self._transport = None
        self._queue.clear()
        for timer in (self._pump_timer, self._end_timer, self._own_timer):
            if timer is not None:
                timer.cancel()
        if not self.lost.done():
            self.lost.set_result(None)
        self._owner.on_lost(self)

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # pings and close frames are answered by the library's core
        self._parts.append(bytes(frame.data))
        if frame.fin:
            raw, self._parts = b"".join(self._parts), []
            self._owner.on_message(self, raw)

    # the handshake ---------------------------------------------------------------------------------------------------

    def accept(self) -> bool:
        """Answer the handshake with 101, or with what is wrong with it; whether it is open now."""
        assert self.request is not None
        if self._transport is None or self._ending:
            return False
        self._protocol.send_response(self._protocol.accept(self.request))
        self._flush()
        return self.open

    def refuse(self, status: int, body: str, headers: dict[str, str]) -> None:
        """Answer the handshake with an HTTP status, 200 included."""
        response: Response = self._protocol.reject(status, body)
        for name, value in headers.items():
            if name in response.headers:  # the library has a content type of its own; a second one would be added
                del response.headers[name]
            response.headers[name] = value
        self._protocol.send_response(response)
        self._flush()

    def call_later(self, seconds: float, work: Callable[[], None]) -> None:
        """Do this, unless the connection is lost before."""
        self._own_timer = self._loop.call_later(seconds, work)

    @property
    def open(self) -> bool:
        """The handshake is done, and nobody has begun to close."""
        return self._transport is not None and not self._ending and self._protocol.state is OPEN

    # sending ---------------------------------------------------------------------------------------------------------

    def pace(self, bytes_per_second: int | None) -> None:
        """From now on write so slowly; 0: odd pieces of fragmented messages; ``None``: at once, as usual."""
        self._pace = bytes_per_second
        if bytes_per_second is None and self._queue:
            rest = bytes(self._queue)
            self._queue.clear()
            self._write_now(rest)
            self._end_if_written()

    def send(self, text: str) -> bool:
        """Send one message; whether it was sent. A client that does not read is cut off at the limit."""
        if not self.open or self.mute or self._frozen:
            return False
        assert self._transport is not None
        if self._transport.get_write_buffer_size() + len(self._queue) > WRITE_LIMIT_BYTES:
            _log.warning("cut off client %d, which does not read", self.number)
            self.kill()
            return False
        data = text.encode()
        if self._pace == 0 and len(data) > 1:
            self._send_fragments(data)
        else:
            self._protocol.send_text(data)
        self._flush()
        return True

    def send_raw(self, data: bytes) -> None:
        """Bytes that are no frame of ours."""
        self._write(data)

    def _send_fragments(self, data: bytes) -> None:
        cuts = sorted({0, len(data), *(self._sizes.randrange(1, len(data)) for _ in range(3))})
        for begin, end in pairwise(cuts):
            part, last = data[begin:end], end == len(data)
            if begin == 0:
                self._protocol.send_text(part, fin=last)
            else:
                self._protocol.send_continuation(part, fin=last)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._write(data)
            else:  # the library's word for the end of the stream: the close handshake or a refusal is complete
                self._ending = True
        self._end_if_written()

    def _write(self, data: bytes) -> None:
        if self._pace is None and not self._queue:
            self._write_now(data)
            return
        self._queue += data
        if self._pump_timer is None:
            self._pump()

    def _pump(self) -> None:
        self._pump_timer = None
        if self._pace:
            size = max(1, int(self._pace * SLOW_STEP_S))
            wait = size / self._pace
        else:
            size, wait = self._sizes.randint(1, LONGEST_PIECE), 0
        piece = bytes(self._queue[:size])
        del self._queue[:size]
        if piece:
            self._write_now(piece)
        if self._queue:
            self._pump_timer = self._loop.call_later(wait, self._pump)
        else:
            self._end_if_written()

    def _write_now(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._stream_ended:
            self._transport.write(data)

    def _end_if_written(self) -> None:
        if self._ending and not self._queue and self._transport is not None:
            self._transport.close()

    # faults and the end ----------------------------------------------------------------------------------------------

    def freeze(self, frozen: bool) -> None:
        """Read and answer nothing; afterwards go on with what the client has sent meanwhile."""
        self._frozen = frozen
        if not frozen:
            unread, self._unread = self._unread, []
            for data in unread:
                self.data_received(data)

    def close(self, code: int | None, reason: str = "") -> None:
        """Begin the close handshake; it is cut short after ``CLOSE_TIMEOUT_S``."""
        if not self.open:
            return
        try:
            self._protocol.send_close(code, reason if code is not None else "")
        except InvalidState:
            return
        self._flush()
        self._end_within(CLOSE_TIMEOUT_S)

    def end_stream(self) -> None:
        """FIN, without a close frame."""
        if self._transport is None or self._ending:
            return
        self._queue.clear()
        self._ending = self._stream_ended = True
        if self._transport.can_write_eof():
            self._transport.write_eof()  # not close(): with bytes of the client unread that would be a reset
        self._end_within(CLOSE_TIMEOUT_S)

    def reset(self) -> None:
        """RST."""
        if self._transport is not None:
            reset_at_close(self._transport.get_extra_info("socket"))
            self.kill()

    def kill(self) -> None:
        """Close the socket now."""
        self._ending = True
        self._queue.clear()
        if self._transport is not None:
            self._transport.abort()

    def _end_within(self, seconds: float) -> None:
        if self._end_timer is None:
            self._end_timer = self._loop.call_later(seconds, self.kill)


def reset_at_close(sock: socket.socket) -> None:
    """Closing this socket sends RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
