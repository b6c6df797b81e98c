"""A client's WebSocket: an :class:`asyncio.Protocol` around the library's sans-I/O protocol.

Here are the bytes and the connection's life; what messages mean is the :class:`Handler`'s business, who may come in the
:class:`Door`'s, or a :class:`Mount`'s at its path. Everything runs on the loop's thread.

    HANDSHAKE ──► OPEN ──► CLOSING ──► CLOSED
        └─ an answer in HTTP ──┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Final, cast

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from transport import deflate, frames, http
from transport.client_socket import ClientSocket
from transport.codes import CloseCode, RefusalReason
from transport.door import Door, Handler, Mount, Owner
from transport.gate import REFUSALS
from transport.incoming import BINARY, PING, Protocol, whole_frame
from transport.keepalive import Keepalive
from transport.reassembly import BadMessage, Reassembly, check_text
from transport.static_file import StaticFile
from transport.token_bucket import TokenBucket

NO_STATUS: Final = 1005  # RFC 6455 section 7.4.1: the peer closed without saying why; never sent
ABNORMAL: Final = 1006  # the connection went away without a close frame; never sent

_log = logging.getLogger(__name__)
# The library says "connection closed" at INFO for each client.
_library_log = logging.getLogger(f"{__name__}.library")
_library_log.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one connection may take. Times are seconds, kept to the second tick of the :class:`Keepalive` after them."""

    message_bytes: int = 1 << 20  # a longer message closes with 1009
    handshake_timeout: float = 10.0  # from the first byte of TCP to the whole request
    write_buffer: int = 256 * 1024  # bytes not yet taken by the kernel at which the handler is paused
    ping_interval: float = 25.0  # of silence, then a ping
    ping_timeout: float = 20.0  # of silence after it, then the connection is dropped
    close_timeout: float = 5.0  # for what was written, the peer's close frame and its end of TCP
    message_rate: float | None = None  # frames a second; who sends more is not read for a while
    deflate: bool = False  # compressed messages are accepted from clients that offer them

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value is not False and value <= 0:
                raise ValueError(f"{name} must be above 0")

    @property
    def tick(self) -> float:
        """The resolution that these times need, seconds: an eighth of the shortest, at most 1."""
        shortest = min(self.handshake_timeout, self.ping_interval, self.ping_timeout, self.close_timeout)
        return min(1.0, shortest / 8)


class State(IntEnum):
    """Where a connection is in its life."""

    HANDSHAKE, OPEN, CLOSING, CLOSED = range(4)


class WebSocketConnection(asyncio.Protocol):
    """One client.

    Args:
        door: who decides.
        limits: what the connection may take.
        keepalive: keeps its deadlines.
        owner: who lists it.

    Attributes:
        subprotocol: the one agreed on, if any.
        user: who the client says it is, if it does.
        token: what the client shows for it, if it does; the door takes it away, tokens are long.
        token_in_query: whether it came in the address.
        address: the peer's ``host:port``; the host alone of a client behind a trusted proxy.
        host: that of ``address``.
    """

    # One of these per client: no dict, nothing kept from the handshake, one shared object per listener each.
    __slots__ = (
        "_allowance",
        "_core",
        "_door",
        "_greeting",
        "_handler",
        "_head",
        "_heard",
        "_keepalive",
        "_limits",
        "_owner",
        "_partial",
        "_paused",
        "_reading",
        "_socket",
        "_state",
        "_throttle",
        "_transport",
        "_why",
        "address",
        "bucket",
        "host",
        "subprotocol",
        "token",
        "token_in_query",
        "user",
    )

    def __init__(self, door: Door, limits: ConnectionLimits, keepalive: Keepalive, owner: Owner) -> None:
        self._door, self._limits, self._keepalive, self._owner = door, limits, keepalive, owner
        self._state = State.HANDSHAKE
        self._head: bytes | None = b""
        self._greeting = b""  # the answer to the handshake, while the door opens
        self._core: Protocol | None = None  # once the client has sent what is no whole frame, or is to be told to close
        self._handler: Handler | None = None
        self._partial: Reassembly | None = None
        self._paused = False
        self._socket: ClientSocket | None = None  # once it is asked for
        self._reading = True  # as far as the handler is concerned
        self._allowance: TokenBucket | None = None  # once it has sent something, where there is a message_rate
        self._throttle: asyncio.TimerHandle | None = None  # until then it is not read, whatever the handler says
        self._heard = self.bucket = 0
        self._why: tuple[int, str] | None = None
        self.subprotocol: str | None = None
        self.user: str | None = None
        self.token: str | None = None
        self.token_in_query = False
        self.address = self.host = ""

    @property
    def open(self) -> bool:
        """Whether messages can be exchanged."""
        return self._state is State.OPEN

    @property
    def closing(self) -> bool:
        """Whether it is on its way out, for whatever reason."""
        return self._state >= State.CLOSING

    @property
    def paused(self) -> bool:
        """Whether more waits than the handler was told to let wait."""
        return self._paused

    @property
    def heeded(self) -> bool:
        """Whether what the client sends is read: its silence means something."""
        return self._reading and self._throttle is None

    @property
    def buffered(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Send whole frames; never blocks nor refuses. From the close frame on without effect: nothing may follow it
        (RFC 6455 section 5.5.1)."""
        if self._state < State.CLOSING:
            self._send(data)

    @property
    def direct(self) -> Callable[[bytes], int | None]:
        """For a fan-out that writes to many: ``send`` of the socket (:class:`ClientSocket`). What it does not take is
        for :meth:`write`. Where there is nothing but the transport, :meth:`write` itself. Good until ``on_closed``."""
        if self._socket is None:
            early = self._state is not State.OPEN or self._greeting  # nothing may overtake the answer to the handshake
            if early or self._transport.get_extra_info("ssl_object") is not None:
                return self.write
            self._socket = ClientSocket(self._transport)
            if self._transport.get_write_buffer_size():
                self._socket.detach()
        return self._socket.send

    def close(self, code: int, reason: str = "") -> None:
        """Send a close frame behind what was written, wait ``close_timeout`` for the peer's, then drop the connection.

        The handler's ``on_closed`` follows in the loop's next turn. Without effect unless :attr:`open`.
        """
        if self._state is not State.OPEN:
            return
        core = self._library()
        if core.state is OPEN:  # else its own close frame is about to be flushed, with an error's code
            core.send_close(code, frames.fit_reason(reason))
        self._end(code, reason)
        self._flush()

    def follow(self, handler: Handler) -> None:
        """Another handler from now on; the former one hears nothing more."""
        if self._handler is not None:
            self._handler = handler

    def frame(self, payload: bytes, binary: bool) -> bytes:
        """A whole message for this connection alone: compressed where that was agreed on. What is shared is not."""
        if self._core is not None and self._core.extensions:
            return deflate.deflated_frame(cast(PerMessageDeflate, self._core.extensions[0]), payload, binary)
        return frames.binary_frame(payload) if binary else frames.text_frame(payload)

    def abort(self) -> None:
        """Drop the connection and what was not sent yet."""
        self._end(ABNORMAL, "")
        self._transport.abort()

    def pause_reading(self) -> None:
        """Leave what the client sends to TCP. Messages already received, one read at most, still come."""
        self._reading = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again; not before a client that sent too much has waited for it."""
        self._reading = True
        self._heard = self._keepalive.now
        if self._throttle is None:
            self._transport.resume_reading()

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # TCP_NODELAY and TCP_NOTSENT_LOWAT came with the listening socket, see transport.listener.bind.
        self._transport = cast(asyncio.Transport, transport)
        high = self._limits.write_buffer
        self._transport.set_write_buffer_limits(high=high, low=high // 4)
        peer = self._transport.get_extra_info("peername")
        if peer:
            self.host, self.address = peer[0], f"{peer[0]}:{peer[1]}"
        self._owner.joined(self)
        self._watch(self._limits.handshake_timeout)

    def data_received(self, data: bytes) -> None:
        self._heard = self._keepalive.now
        if self._state is State.OPEN or self._core is not None:
            self._receive(data)
        elif self._state is State.HANDSHAKE:
            self._knock(data)

    def eof_received(self) -> bool:
        self._end(ABNORMAL, "")
        return False  # the transport closes itself once it has written what it has

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ABNORMAL, "")
        self._enter(State.CLOSED)
        self._finish()
        self._keepalive.forget(self)
        if self._core is not None:
            # The library's parser refers back to it; so closed, the collector is not needed to free both.
            self._core.parser.close()
        self._core = self._partial = self._head = None
        self._owner.left(self)

    def pause_writing(self) -> None:
        self._paused = True
        if self._handler is not None:
            self._guard(self._handler.on_paused)

    def resume_writing(self) -> None:
        self._paused = False
        self._heard = self._keepalive.now  # the peer reads, so it lives
        if self._handler is not None:
            self._guard(self._handler.on_resumed)

    def on_deadline(self) -> None:
        """Called by the :class:`Keepalive`."""
        keepalive, limits = self._keepalive, self._limits
        if self._state is not State.OPEN:
            # A request that never got complete, or a peer that does not end its side.
            if self._state is State.HANDSHAKE:
                self._owner.refused(RefusalReason.TIMEOUT)
            self.abort()
            return
        silent = keepalive.now - self._heard if self.heeded else 0
        interval = keepalive.ticks(limits.ping_interval)
        patience = interval + keepalive.ticks(limits.ping_timeout)
        if silent < interval:
            keepalive.watch(self, interval - silent)
        elif silent < patience:
            self.write(frames.PING)
            keepalive.watch(self, patience - silent)
        else:  # dead, or away for long and then glad to read why
            self._fail(CloseCode.GOING_AWAY, "no answer to a ping")

    # The opening handshake.

    def _knock(self, data: bytes) -> None:
        head = self._head + data if self._head else data
        welcome = False
        try:
            parsed = self._owner.heads.parse(head)
            if parsed is None:
                self._head = head
                return
            request, size = parsed
            mount = self._owner.mounts.get(request.path)
            if mount is not None and mount.take(self._owner, self._transport, self._peername(), request, head):
                self.connection_lost(None)
                return
            answer = self._answer(request, mount)
            welcome = request.upgrade
        except http.HttpError as error:
            self._owner.refused(REFUSALS.get(error.status, RefusalReason.REQUEST))
            answer = error.response()
        except Exception:
            _log.exception("the door failed", extra={"address": self.address})
            answer = http.HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug here; see the server's log").response()
        self._head = None
        if not welcome:
            self.write(answer)
            self._end(ABNORMAL, "")
            self._hang_up(False)
            return
        self._enter(State.OPEN)
        self._owner.opened(self)
        self._watch(self._limits.ping_interval)
        if mount is None:
            self._greeting = answer
        else:
            self.write(answer)
        try:
            self._handler = self._door.open(self) if mount is None else mount.open(self, request)
        except Exception:
            _log.exception("the door failed", extra={"address": self.address})
            self.close(CloseCode.INTERNAL)
        if self._greeting:
            self.write(b"")
        if self._handler is None:
            self.close(CloseCode.TRY_LATER)
        elif self._paused:  # by what the door wrote
            self._guard(self._handler.on_paused)
        if len(head) > size:
            self._receive(head[size:])

    def _peername(self) -> tuple[str, int]:
        return self.host, int(self.address.rpartition(":")[2] or 0)

    def _answer(self, request: http.Request, mount: Mount | None) -> bytes:
        door = self._door
        client = self._owner.gate.admit(self.host, request)
        if client != self.host:
            self.host = self.address = client
        if request.upgrade:
            if mount is not None:
                self._limits = mount.socket_limits
            elif door.path is not None and request.path != door.path:
                raise http.HttpError(HTTPStatus.NOT_FOUND, f"WebSocket clients connect to {door.path}")
            self.user, self.token, self.token_in_query = http.credentials(request)
            answer, self.subprotocol = http.accept(request, door.subprotocols if mount is None else ())
            offers = request.headers.get("sec-websocket-extensions")
            if self._limits.deflate and offers is not None:
                agreed = deflate.negotiate(offers)
                if agreed is not None:
                    header, extension = agreed
                    self._library().extensions.append(extension)
                    answer = answer.removesuffix(b"\r\n") + b"Sec-WebSocket-Extensions: " + header + b"\r\n\r\n"
            return answer
        if request.method != "GET":
            raise http.HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "only GET is served here", (("Allow", "GET"),))
        if request.path == door.path:
            raise http.HttpError(
                HTTPStatus.UPGRADE_REQUIRED, f"{door.path} speaks WebSocket", (("Upgrade", "websocket"),)
            )
        found = door.http(request.method, request.path)
        if found is None:
            raise http.HttpError(HTTPStatus.NOT_FOUND, "there is nothing at this path")
        return found.response(request.headers) if isinstance(found, StaticFile) else http.response(*found)

    # Frames.

    def _library(self) -> Protocol:
        """The library's part of this connection, made when it is first needed, between two frames."""
        if self._core is None:
            self._core = Protocol(state=OPEN, max_size=self._limits.message_bytes, logger=_library_log)
        return self._core

    def _receive(self, data: bytes) -> None:
        if (self._core is None or self._core.waits) and (read := self._take_whole(data)):
            if read == len(data) or (self._core is None and self._state is not State.OPEN):
                return
            data = data[read:]
        core = self._library()
        core.receive_data(data)
        if core.state is OPEN:
            self._flush()  # pongs: a ping amid the fragments of a message is answered before the message
        try:
            for event in core.events_received():
                if self._state is not State.OPEN:
                    break  # the handler closed the connection in an earlier message of these
                self._on_frame(cast(Frame, event))
        except BadMessage as error:
            if core.state is OPEN:
                core.fail(error.code, error.message)
        self._flush()

    def _take_whole(self, data: bytes) -> int:
        """Take the frames with which ``data`` begins; how many bytes the library need not see."""
        at, limit = 0, self._limits.message_bytes
        while self._state is State.OPEN and (self._core is None or self._core.state is OPEN):
            found = whole_frame(data, at, limit)
            if found is None:
                break
            first, payload, at = found
            if first >= PING:
                self._on_control(first, payload)
                continue
            try:
                self._on_whole(payload, first == BINARY)
            except BadMessage as error:
                self._library().fail(error.code, error.message)
                self._flush()
        return at

    def _on_control(self, first: int, payload: bytes) -> None:
        if self._limits.message_rate is not None:
            self._charge(self._limits.message_rate)
        if first == PING and not self._paused:  # a client that pings without reading must not grow the buffer
            self._send(frames.pong(payload))

    def _on_whole(self, message: bytes, binary: bool) -> None:
        """A message that came in one frame."""
        if self._limits.message_rate is not None:
            self._charge(self._limits.message_rate)
        if not binary:
            check_text(message)
        self._deliver(message, binary)

    def _on_frame(self, frame: Frame) -> None:
        opcode, data = frame.opcode, bytes(frame.data)
        if frame.fin and (opcode is Opcode.TEXT or opcode is Opcode.BINARY):
            self._on_whole(data, opcode is Opcode.BINARY)
            return
        if self._limits.message_rate is not None:
            self._charge(self._limits.message_rate)
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            self._partial = Reassembly(opcode is Opcode.BINARY, self._limits.message_bytes)
            self._partial.add(data, False)
        elif opcode is Opcode.CONT:
            partial = self._partial
            assert partial is not None, "the library lets no stray continuation through"
            message = partial.add(data, frame.fin)
            if message is not None:
                self._partial = None
                self._deliver(message, partial.binary)
        # The library answers pings and close frames.

    def _charge(self, rate: float) -> None:
        """Count a frame; beyond the rate leave the next ones to TCP until those that came are paid for."""
        now = self._keepalive.loop.time()
        if self._allowance is None:
            self._allowance = TokenBucket(rate, now)
        wait = self._allowance.charge(rate, now)
        if wait:
            if self._throttle is None:
                self._transport.pause_reading()
            else:
                self._throttle.cancel()
            self._throttle = self._keepalive.loop.call_later(wait, self._unthrottle)

    def _unthrottle(self) -> None:
        if self._throttle is not None:
            self._throttle.cancel()
            self._throttle = None
            if self._reading and not self._transport.is_closing():
                self._heard = self._keepalive.now
                self._transport.resume_reading()

    def _deliver(self, message: bytes, binary: bool) -> None:
        if self._handler is not None:
            self._guard(self._handler.on_message, message, binary)

    def _flush(self) -> None:
        """Send what the library has to say and follow it into the close."""
        core = self._core
        assert core is not None
        closing = core.state is not OPEN
        if closing and self._state is State.OPEN and core.close_rcvd is None and core.close_sent is not None:
            self._say_last(core.close_sent.code)
        for data in core.data_to_send():
            if data == SEND_EOF:
                # Not before the handler knows: a write after the end of our side raises.
                self._keepalive.loop.call_soon(self._hang_up, core.close_rcvd is not None)
            elif self._paused and data[0] == frames.PONG:
                continue  # a client that pings without reading must not grow the buffer
            else:
                self._send(data)
        if closing and self._state is State.OPEN:
            self._end(*_said(core))
            self._finish()

    def _send(self, data: bytes) -> None:
        transport, socket = self._transport, self._socket
        if self._greeting:  # it goes along with the first that the door writes: a write is 8 µs
            data, self._greeting = self._greeting + data, b""
        transport.write(data)
        if socket is None:
            return
        if transport.get_write_buffer_size():
            socket.detach()
        elif socket.fileno() < 0:
            socket.attach()

    def _hang_up(self, peer_is_done: bool) -> None:
        """End our side of TCP behind what was written."""
        if peer_is_done or not self._transport.can_write_eof():  # TLS says its own goodbye and reads until the peer's
            self._transport.close()
        elif not self._transport.is_closing():
            # Half of it only: to close with bytes unread would reset the connection and destroy what was just written.
            self._transport.write_eof()

    # The end.

    def _fail(self, code: CloseCode, reason: str = "") -> None:
        """Close, not by the handler's wish."""
        if self._state is State.OPEN and (self._core is None or self._core.state is OPEN):
            self._say_last(code)
        self.close(code, reason)

    def _say_last(self, code: int) -> None:
        if self._handler is None:
            return
        try:
            words = self._handler.last_words(code)
        except Exception:
            _log.exception("the session failed", extra={"address": self.address})
        else:
            self._send(words)

    def _end(self, code: int, reason: str) -> None:
        """Enter CLOSING, once; the handler hears of it in the loop's next turn, or earlier by :meth:`_finish`."""
        if self._state >= State.CLOSING:
            return
        self._enter(State.CLOSING)
        self._why = (code, reason)
        self._partial = None
        if self._socket is not None:
            self._socket.detach()
            self._socket = None
        self._unthrottle()  # else the peer's close frame is never read
        self._keepalive.loop.call_soon(self._finish)
        self._watch(self._limits.close_timeout)

    def _finish(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None and self._why is not None:
            self._guard(handler.on_closed, *self._why)

    def _enter(self, state: State) -> None:
        self._state = state
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("connection is %s", state.name.lower(), extra={"address": self.address})

    def _watch(self, delay: float) -> None:
        self._keepalive.watch(self, self._keepalive.ticks(delay))

    def _guard(self, method: Callable[..., None], *args: object) -> None:
        """Call the handler; an error in it stays in this connection."""
        try:
            method(*args)
        except Exception:
            _log.exception("the session failed", extra={"address": self.address})
            self._fail(CloseCode.INTERNAL)


def _said(core: ServerProtocol) -> tuple[int, str]:
    """Code and reason of the side that closed first."""
    if core.close_rcvd is not None and core.close_rcvd_then_sent:
        return core.close_rcvd.code, core.close_rcvd.reason
    close = core.close_sent or Close(ABNORMAL, "")
    return close.code, close.reason
