"""The connections of long-polling clients: HTTP/1.1 with keep-alive, one request at a time. What requests mean is the
:class:`Server`'s business, here they are read whole and answered.

    IDLE ──► HEAD ──► BODY ──► SERVING ──► IDLE …
      └───────┴─────────┴─────────┴──► CLOSING ──► CLOSED
"""

from __future__ import annotations

import asyncio
import logging
from enum import IntEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from transport import http
from transport.codes import RefusalReason
from transport.door import Owner
from transport.gate import REFUSALS
from transport.keepalive import Keepalive

if TYPE_CHECKING:
    from transport.engine_socket import EngineSocket
    from transport.websocket import ConnectionLimits

KEEP_ALIVE: Final = 65.0  # s between two requests, longer than the proxies' in front
IDLE_END: Final = 0.5  # s for a client to answer TLS's goodbye on a connection that it does not use
BODY_TIMEOUT: Final = 30.0  # s for a body, from its head on
PIPELINED: Final = 65_536  # bytes that may come before the answer to what came before them was taken
_TEXT: Final = "text/plain; charset=UTF-8"

_log = logging.getLogger(__name__)


class Server(Protocol):
    """Answers the requests."""

    @property
    def keepalive(self) -> Keepalive:
        """Keeps the deadlines."""

    @property
    def limits(self) -> ConnectionLimits:
        """What a connection may take."""

    @property
    def closing(self) -> bool:
        """Whether a connection is kept only for a session that still polls."""

    def expect(self, connection: PollingConnection, request: http.Request) -> int:
        """A request's head is there: how many bytes its body may have. HttpError is an answer."""

    def belongs(self, request: http.Request) -> bool:
        """Whether it is for this server; if not the connection begins anew."""

    def pass_on(self, request: http.Request, transport: asyncio.Transport, peer: tuple[str, int], data: bytes) -> bool:
        """Whether it was for another worker, which has the connection now, and will answer ``data``."""

    def serve(self, connection: PollingConnection, request: http.Request, body: bytes) -> None:
        """A whole request; :meth:`PollingConnection.respond` is called now or later. HttpError is an answer, too."""

    def idle(self, connection: PollingConnection, idle: bool) -> None:
        """It waits for its next request, or the rest of its head, or does not any more."""


class Stage(IntEnum):
    """Where a connection is."""

    IDLE, HEAD, BODY, SERVING, CLOSING, CLOSED = range(6)


class PollingConnection(asyncio.Protocol):
    """One of them, from its first request on.

    Args:
        peer: host and port of whom the connection is from.

    Attributes:
        socket: whose request it had last.
        host: the address of the client of the request that is served, seen through trusted proxies.
        address: with the port, where that is the client's.
    """

    __slots__ = (
        "_cors",
        "_fresh",
        "_last",
        "_owner",
        "_peer",
        "_received",
        "_request",
        "_server",
        "_size",
        "_stage",
        "_transport",
        "_unsent",
        "address",
        "bucket",
        "host",
        "socket",
    )

    def __init__(self, server: Server, owner: Owner, transport: asyncio.Transport, peer: tuple[str, int]) -> None:
        self._server, self._owner, self._transport, self._peer = server, owner, transport, peer
        self._stage = Stage.IDLE
        self._received = bytearray()
        self._request: http.Request | None = None  # whose body is awaited
        self._size = self.bucket = 0
        self._cors: http.Headers = ()
        self._fresh = True  # nothing was asked yet
        self._last = False  # the request wants no other one after it
        self._unsent = False  # something of an answer
        self.socket: EngineSocket | None = None
        self.host = self.address = ""

    @property
    def open(self) -> bool:
        """Whether it is not amid the head of a request."""
        return self._stage is not Stage.HEAD

    @property
    def spent(self) -> bool:
        """Whether nothing is begun, and its last request's session has nothing more to say by polling, or was none."""
        return self.open and (self.socket is None or not self.socket.polls)

    @property
    def closing(self) -> bool:
        """Whether it is on its way out."""
        return self._stage >= Stage.CLOSING

    def start(self, received: bytes) -> None:
        """Take the transport over, with a request that was read."""
        self._owner.joined(self)
        self._owner.opened(self)
        self._transport.set_protocol(self)
        # So `pause_writing` says that something is left of an answer. With 0, nothing is too much to uvloop's TLS.
        self._transport.set_write_buffer_limits(high=1, low=0)
        self.data_received(received)

    def respond(
        self, body: bytes, status: int = HTTPStatus.OK, content_type: str = _TEXT, headers: http.Headers = ()
    ) -> None:
        """Answer the request that is served; without effect once the client has gone."""
        if self._stage is Stage.SERVING:
            last = self._last or (self._server.closing and self.spent)
            self._answer(http.response(status, content_type, body, headers + self._cors, last), last)

    def refuse(self, error: http.HttpError) -> None:
        """Answer it so, and close the connection: what comes behind a wrong request may be anything. The session whose
        request it was ends, if it still polls."""
        if self._stage < Stage.CLOSING:
            if self.socket is not None:
                self.socket.lost(self, True)
            else:
                self._owner.refused(REFUSALS.get(error.status, RefusalReason.REQUEST))
            error.headers += self._cors
            self._answer(error.response(), True)

    def close(self) -> None:
        """End our side behind what was written."""
        if self._stage >= Stage.CLOSING:
            return
        self._server.idle(self, False)
        idle = self._stage is Stage.IDLE
        self._enter(Stage.CLOSING, IDLE_END if idle else self._server.limits.close_timeout)
        self._received.clear()
        if idle or not self._transport.can_write_eof():  # a client's pool may keep an idle one after our end, too
            self._transport.close()
        else:
            # Half of it only: to close with bytes unread would reset the connection and destroy the answer.
            self._transport.write_eof()

    def abort(self) -> None:
        """Drop it and what was not sent yet."""
        self._transport.abort()

    # Called by the loop.

    def data_received(self, data: bytes) -> None:
        if self._stage >= Stage.CLOSING:
            return
        self._received += data
        if self._stage is Stage.SERVING or self._unsent:
            if len(self._received) > PIPELINED:
                self.abort()
        elif self._received:
            self._read()

    def eof_received(self) -> bool:
        return False  # the transport closes itself once it has written what it has

    def pause_writing(self) -> None:
        self._unsent = True

    def resume_writing(self) -> None:
        self._unsent = False
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.idle(self, False)
        self._server.keepalive.forget(self)
        self._stage = Stage.CLOSED
        self._owner.left(self)
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.lost(self, self._unsent)

    def on_deadline(self) -> None:
        """Called by the :class:`Keepalive`."""
        if self._stage is Stage.IDLE:
            self.close()
        elif self._stage is Stage.CLOSING:
            self.abort()
        else:
            self.refuse(http.HttpError(HTTPStatus.REQUEST_TIMEOUT, "the request did not come in time"))

    # Requests.

    def _read(self) -> None:
        try:
            if self._request is None and not self._read_head():
                return
            request, size = self._request, self._size
            assert request is not None, "its head was read"
            if len(self._received) < size:
                return
            self._request = None
            body = bytes(memoryview(self._received)[:size])
            del self._received[:size]
            self._enter(Stage.SERVING, None)
            self._server.serve(self, request, body)
        except http.HttpError as error:
            self.refuse(error)
        except Exception:
            _log.exception("a request failed", extra={"address": self.address})
            self.refuse(http.HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug here; see the server's log"))

    def _read_head(self) -> bool:
        """Whether there is a request that is for us, and all but its body is well."""
        self.socket, self._cors = None, ()  # it may be another client's, behind a proxy that shares connections
        parsed = http.parse(self._received)
        if parsed is None:
            if self._stage is Stage.IDLE:  # it still counts as idle: a stranger need not ever end a head
                self._enter(Stage.HEAD, self._server.limits.handshake_timeout)
            return False
        request, size = parsed
        self._server.idle(self, False)
        if request.upgrade or not self._server.belongs(request):
            self._owner.resume(self._transport, self._peer, bytes(self._received))
            self.connection_lost(None)
            return False
        if self._server.pass_on(request, self._transport, self._peer, bytes(self._received)):
            self._enter(Stage.CLOSING, None)  # and hears of its end
            return False
        self._enter(Stage.BODY, BODY_TIMEOUT)
        del self._received[:size]
        begins, fresh = request.method == "GET" and "sid" not in http.parameters(request), self._fresh
        self._fresh = False
        self.host, self._cors = self._owner.gate.visit(self._peer[0], request, begins, fresh)
        self.address = f"{self.host}:{self._peer[1]}" if self.host == self._peer[0] else self.host
        self._last = request.version == "1.0" or request.headers.get("connection", "").lower() == "close"
        self._size = _length(request, self._server.expect(self, request))
        self._request = request
        return True

    def _answer(self, answer: bytes, last: bool) -> None:
        self._transport.write(answer)
        if last:
            self.close()
            return
        self._enter(Stage.IDLE, KEEP_ALIVE)
        self._server.idle(self, True)
        self._go_on()

    def _go_on(self) -> None:
        """With the next request, if it is here and the answer before it is not."""
        if self._received:
            self._server.keepalive.loop.call_soon(self.data_received, b"")

    def _enter(self, stage: Stage, patience: float | None) -> None:
        self._stage = stage
        keepalive = self._server.keepalive
        if patience is None:
            keepalive.forget(self)
        else:
            keepalive.watch(self, keepalive.ticks(patience))


def _length(request: http.Request, most: int) -> int:
    """Bytes of the request's body.

    Raises:
        HttpError: 411, it does not say so beforehand; 400; 413.
    """
    length = request.headers.get("content-length")
    if "transfer-encoding" in request.headers or (length is None and request.method == "POST"):
        raise http.HttpError(HTTPStatus.LENGTH_REQUIRED, "a request with a body has a Content-Length")
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit()) or len(length) > 15:
        raise http.HttpError(HTTPStatus.BAD_REQUEST, "Content-Length is a number")
    if int(length) > most:
        raise http.HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {most} bytes")
    return int(length)
