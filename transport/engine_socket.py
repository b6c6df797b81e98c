"""A session of Engine.IO, over long polling, a WebSocket, or first the one and then the other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from transport import engineio
from transport.codes import CloseCode
from transport.engine_errors import EngineCode, EngineRefusal
from transport.engineio import EngineIoError, EnginePacket, Kind
from transport.keepalive import Keepalive
from transport.long_poll import LongPoll
from transport.websocket import ABNORMAL, NO_STATUS, ConnectionLimits, WebSocketConnection

if TYPE_CHECKING:
    from transport.polling import PollingConnection

OVERFLOW: Final = 4  # times `write_buffer`: who has so much waiting and is written more does not come for it

# After these a polling client is to come back, and finds its session gone. Told `close`, python's stays away for good.
_COME_BACK: Final = frozenset(
    {
        CloseCode.GOING_AWAY,
        CloseCode.INTERNAL,
        CloseCode.RESTART,
        CloseCode.TRY_LATER,
        CloseCode.SLOW,
        CloseCode.LIMIT,
    }
)

_log = logging.getLogger(__name__)


class EngineHandler(Protocol):
    """What sits behind a session. None of its methods is called after :meth:`on_closed`."""

    def on_message(self, data: bytes, binary: bool) -> None:
        """A message of the client; text is valid UTF-8. Raising closes the session with 1011."""

    def on_paused(self) -> None:
        """As :meth:`transport.door.Handler.on_paused`; of a polling client, that so much waits for its next request."""

    def on_resumed(self) -> None:
        """As :meth:`transport.door.Handler.on_resumed`."""

    def on_rewired(self) -> None:
        """``write`` is another one now, copies of it are to be exchanged. What is still written with the former one
        goes the new way."""

    def on_closed(self, code: int, reason: str) -> None:
        """As :meth:`transport.door.Handler.on_closed`."""


class Sessions(Protocol):
    """Where a session belongs: the server."""

    @property
    def keepalive(self) -> Keepalive:
        """Keeps the deadlines."""

    @property
    def limits(self) -> ConnectionLimits:
        """What one may take."""

    @property
    def beat(self) -> int:
        """Ticks between a pong and the next ping."""

    @property
    def patience(self) -> int:
        """Ticks that a client has for its pong."""

    def ended(self, socket: EngineSocket) -> None:
        """Its name means nothing any more."""


class State(IntEnum):
    """Where a session is in its life; CLOSING: what was said last waits for the client."""

    OPEN, CLOSING, CLOSED = range(3)


class EngineSocket:
    """One of them; for a session of the engine its connection, for a WebSocket its handler.

    Args:
        connection: its WebSocket; None: it polls.

    Attributes:
        sid: its name, known to the client alone.
        write: takes whole WebSocket frames, each a packet, at any time; another one after ``on_rewired``.
        user: who the client says it is.
        token: what it showed at the handshake.
        token_in_query: whether it came in the address.
        address: the peer's ``host:port``; the host alone of a client behind a trusted proxy.
        host: that of ``address``.
    """

    __slots__ = (
        "_connection",
        "_handler",
        "_long_poll",
        "_paused",
        "_pinged",
        "_probe",
        "_reading",
        "_sessions",
        "_state",
        "_why",
        "address",
        "bucket",
        "host",
        "sid",
        "token",
        "token_in_query",
        "user",
        "write",
    )

    subprotocol: str | None = None
    write: Callable[[bytes], None]

    def __init__(
        self,
        sessions: Sessions,
        sid: str,
        connection: WebSocketConnection | None,
        host: str,
        address: str,
        credentials: tuple[str | None, str | None, bool],
    ) -> None:
        self._sessions, self.sid, self._connection = sessions, sid, connection
        self.host, self.address = host, address
        self.user, self.token, self.token_in_query = credentials
        self._handler: EngineHandler | None = None
        self._probe: WebSocketConnection | None = None
        self._long_poll: LongPoll | None = None
        self._state = State.OPEN
        self._why = (ABNORMAL, "")
        self._paused = False  # the handler is
        self._pinged = False  # and nothing was heard since
        self._reading = True
        self.bucket = 0
        if connection is None:
            self._long_poll = LongPoll(sessions.keepalive.loop, self._emptied)
            self.write = self._queue
        else:
            self.write = connection.write

    @property
    def direct(self) -> Callable[[bytes], int | None]:
        """As of :class:`WebSocketConnection`, while :attr:`write` is one's; else :attr:`write`."""
        connection = self._connection
        return connection.direct if connection is not None and self.write == connection.write else self.write

    @property
    def transport(self) -> str:
        """``polling`` or ``websocket``."""
        return "polling" if self._connection is None else "websocket"

    @property
    def gone(self) -> bool:
        """Whether its name means nothing any more."""
        return self._state is State.CLOSED

    @property
    def polls(self) -> bool:
        """Whether there is, or will be, something for its client to come for with a GET."""
        if self._connection is not None or self._state is State.CLOSED:
            return False
        return self._state is State.OPEN or self._polling.size > 0

    @property
    def buffered(self) -> int:
        """Bytes written that have not been taken yet."""
        if self._connection is not None:
            return self._connection.buffered
        return self._polling.size

    def open(self, handler: EngineHandler) -> None:
        """The handler is there."""
        self._handler = handler
        if self._paused:  # by what it has written meanwhile
            self._guard(handler.on_paused)
        if self._state is State.OPEN:
            self._sessions.keepalive.watch(self, self._sessions.beat)

    def close(self, code: int, reason: str = "") -> None:
        """End it behind what was written: a WebSocket with a close frame, a polling client with a close packet, or
        where it may come back with an answer that is its last.

        The handler's ``on_closed`` follows in the loop's next turn or later. Without effect once it is closing.
        """
        if self._state is not State.OPEN:
            return
        if self._connection is not None:
            self._state = State.CLOSING
            self.write = _discard
            self._connection.close(code, reason)
        else:
            self._polling.add(_last_packet(code))
            self._end(code, reason, State.CLOSING)

    def pause_reading(self) -> None:
        """Let the client wait with what it sends; what was received, one POST at most, still comes."""
        self._reading = False
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._reading = True
        self._pinged = False
        if self._connection is not None:
            self._connection.resume_reading()
        else:
            self._polling.release()

    def abort(self) -> None:
        """Drop it and what was not sent yet."""
        if self._connection is not None:
            self._connection.abort()
        else:
            self._end(ABNORMAL, "", State.CLOSED)

    def abandon(self) -> None:
        """Nobody wants it: it never was."""
        self.write = _discard
        self._leave()

    def on_deadline(self) -> None:
        """Called by the :class:`Keepalive`."""
        keepalive, sessions = self._sessions.keepalive, self._sessions
        if self._state is not State.OPEN:
            self._leave()
        elif not self._heeded():  # a pong may wait unread
            keepalive.watch(self, sessions.beat)
        elif self._pinged:
            self._fail(CloseCode.GOING_AWAY, "no answer to a ping")
        else:
            self._pinged = True
            self.write(engineio.PING)
            keepalive.watch(self, sessions.patience)

    # Long polling.

    def poll(self, connection: PollingConnection) -> None:
        """Its client's GET.

        Raises:
            EngineRefusal: there is one already, which ends the session, or it has a WebSocket.
        """
        if self._connection is not None:
            raise EngineRefusal(EngineCode.BAD_REQUEST)
        if self._polling.get is not None:
            self._fail(CloseCode.PROTOCOL_ERROR, "two requests at a time")
            raise EngineRefusal(EngineCode.BAD_REQUEST)
        self._polling.ask(connection)
        if self._state is State.CLOSING:
            self._say_last()

    def expect(self, connection: PollingConnection) -> None:
        """Its client's POST begins.

        Raises:
            EngineRefusal: as above.
        """
        if self._connection is not None:
            raise EngineRefusal(EngineCode.BAD_REQUEST)
        if self._polling.post is not None:
            self._fail(CloseCode.PROTOCOL_ERROR, "two requests at a time")
            raise EngineRefusal(EngineCode.BAD_REQUEST)
        self._polling.post = connection

    def post(self, connection: PollingConnection, body: bytes) -> None:
        """The POST is here.

        Raises:
            EngineRefusal: it is no payload, which ends the session.
        """
        if self._connection is not None:
            raise EngineRefusal(EngineCode.BAD_REQUEST)
        polling = self._polling
        polling.post = connection
        try:
            packets = engineio.decode_payload(body)
            rate = self._sessions.limits.message_rate
            if rate is not None:
                polling.charge(len(packets), rate, self._paid)
            for packet in packets:
                self._hear(packet)
        except EngineIoError as error:
            polling.post = None
            self._fail(CloseCode.PROTOCOL_ERROR, str(error))
            raise EngineRefusal(EngineCode.BAD_REQUEST) from None
        if self._reading or self._state is not State.OPEN:
            polling.release()

    def lost(self, connection: PollingConnection, unsent: bool) -> None:
        """A connection with requests of this session has gone, perhaps with something that was written to it."""
        if self._long_poll is not None and self._connection is None:
            had_get = self._long_poll.forget(connection)
            if had_get or unsent:
                self._end(ABNORMAL, "", State.CLOSED)

    # The change to a WebSocket.

    def probe(self, connection: WebSocketConnection) -> bool:
        """A WebSocket wants to take over: whether it may try."""
        if self._state is not State.OPEN or self._connection is not None or self._probe is not None:
            return False
        self._probe = connection
        return True

    def probed(self) -> None:
        """It works; the client now waits for its requests to be answered, then it changes over."""
        polling = self._polling
        polling.hasty = True
        polling.answer()
        polling.release(True)

    def unprobe(self, connection: WebSocketConnection) -> None:
        """It has gone again."""
        if self._probe is connection:
            self._probe = None
            self._polling.hasty = False

    def upgrade(self, connection: WebSocketConnection) -> None:
        """It takes over."""
        polling = self._polling
        self._probe, self._connection = None, connection
        polling.answer()
        polling.release(True)
        connection.follow(self)
        waiting = polling.take()
        if waiting:
            connection.write(waiting)
        self.write = connection.write
        if not self._reading:
            connection.pause_reading()
        if self._handler is not None:
            self._guard(self._handler.on_rewired)
        if not connection.paused:
            self.on_resumed()

    # From the WebSocket.

    def on_message(self, data: bytes, binary: bool) -> None:
        """A packet."""
        try:
            self._hear(engineio.decode_packet(data, binary))
        except EngineIoError as error:
            self._fail(CloseCode.PROTOCOL_ERROR, str(error))

    def on_paused(self) -> None:
        """Its buffer is full."""
        if not self._paused:
            self._paused = True
            if self._handler is not None:
                self._guard(self._handler.on_paused)

    def on_resumed(self) -> None:
        """Its buffer has room again, so the client reads."""
        self._pinged = False
        if self._paused:
            self._paused = False
            if self._handler is not None:
                self._guard(self._handler.on_resumed)

    def last_words(self, code: int) -> bytes:
        """None: the close frame says why."""
        return b""

    def on_closed(self, code: int, reason: str) -> None:
        """The WebSocket has ended, and the session with it."""
        self._state = State.CLOSING  # whatever the handler does now
        self.write = _discard
        self._why = (code, reason)
        self._leave()
        self._finish()

    # Inside.

    @property
    def _polling(self) -> LongPoll:
        assert self._long_poll is not None, "it never polled"
        return self._long_poll

    def _heeded(self) -> bool:
        """Whether what the client sends is read: its silence means something."""
        if self._connection is not None:
            return self._connection.heeded
        return self._polling.post is None

    def _hear(self, packet: EnginePacket) -> None:
        if self._state is not State.OPEN:
            return
        self._pinged = False
        if packet.kind is Kind.MESSAGE:
            if self._handler is not None:
                self._guard(self._handler.on_message, packet.data, packet.binary)
        elif packet.kind is Kind.PONG:
            self._sessions.keepalive.watch(self, self._sessions.beat)
        elif packet.kind is Kind.CLOSE:
            if self._connection is not None:
                self.close(CloseCode.NORMAL)
            else:
                # Its GET may still be on the way, through another worker perhaps; it is not to fail.
                self._polling.take()
                self._polling.add(engineio.NOOP)
                self._end(NO_STATUS, "", State.CLOSING)
        elif packet.kind is not Kind.NOOP:
            raise EngineIoError(f"a client does not send {packet.kind.name} here")

    def _queue(self, frames: bytes) -> None:
        """``write`` of a polling client."""
        if self._connection is not None:  # it has a WebSocket now, and somebody an old copy of `write`
            self.write(frames)
            return
        if self._state is not State.OPEN:
            return
        polling, high = self._polling, self._sessions.limits.write_buffer
        if polling.size > OVERFLOW * high:
            self._fail(CloseCode.SLOW, "too much waits for the next request")
            return
        polling.add(frames)
        if polling.size > high:
            self.on_paused()

    def _emptied(self) -> None:
        if self._paused:  # else nothing is new: who polls and never answers a ping is as silent as any
            self.on_resumed()

    def _paid(self) -> None:
        if self._reading:
            self._polling.release()

    def _guard(self, method: Callable[..., None], *args: object) -> None:
        """Call the handler; an error in it stays in this session."""
        try:
            method(*args)
        except Exception:
            _log.exception("the session failed", extra={"address": self.address})
            self._fail(CloseCode.INTERNAL, "")

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close it, and do not wait for a polling client to come for the news."""
        if self._connection is not None:
            self.close(code, reason)
        elif self._state is State.OPEN:
            self._polling.take()
            self._polling.add(_last_packet(code))
            self._polling.answer()
            self._end(code, reason, State.CLOSED)

    def _end(self, code: int, reason: str, state: State) -> None:
        """A polling session's end; the handler hears of it in the loop's next turn."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._why = (code, reason)
            self.write = _discard
            keepalive = self._sessions.keepalive
            keepalive.loop.call_soon(self._finish)
            keepalive.watch(self, keepalive.ticks(self._sessions.limits.close_timeout))
            if self._probe is not None:
                self._probe.close(CloseCode.NORMAL)
            self._polling.release(True)
        if state is State.CLOSED:
            self._leave()
        else:
            self._say_last()

    def _say_last(self) -> None:
        """Answer the GET, and be gone once there is nothing left to say."""
        self._polling.answer()
        if not self._polling.size:
            self._leave()

    def _leave(self) -> None:
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            if self._long_poll is not None:
                self._long_poll.end()
            self._sessions.keepalive.forget(self)
            self._sessions.ended(self)

    def _finish(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            self._guard(handler.on_closed, *self._why)


def _last_packet(code: int) -> bytes:
    return engineio.NOOP if code in _COME_BACK else engineio.CLOSE


def _discard(frames: bytes) -> None:
    """What ``write`` is once the session is closing."""
