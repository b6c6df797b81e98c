"""Engine.IO, protocol 4, at one path of the client port: sessions over long polling and WebSocket.

GET ?EIO=4&transport=polling             a session, and its name
GET, POST ?…&transport=polling&sid=…     what waits for the client; what the client sends
WebSocket ?EIO=4&transport=websocket     a session without polling
WebSocket ?…&transport=websocket&sid=…   one that polls changes over
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, Protocol

from transport import engineio, http
from transport.codes import CloseCode
from transport.door import Handler, Owner
from transport.engine_errors import EngineCode, EngineRefusal
from transport.engine_probe import EngineProbe
from transport.engine_socket import EngineHandler, EngineSocket
from transport.keepalive import Keepalive
from transport.polling import PollingConnection
from transport.websocket import ConnectionLimits, WebSocketConnection

FRESH: Final = 4_096  # polling sessions whose client has not come back since the handshake; the oldest are ended
IDLE: Final = 4_096  # connections that wait for their next request, or amid its head; the oldest are closed
SID_BYTES: Final = 15  # of randomness in a session's name: it is all that a request shows
EARLY: Final = 5  # ticks before its time that a ping is sent, so that rounding never makes a client wait longer
SWEEP: Final = 0.1  # s after the end of a session until its idle connections are closed, in a drain
_PREFLIGHT_AGE: Final = "600"  # s for which a browser remembers what a page may

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a server speaks. Times are seconds.

    Attributes:
        path: where clients knock; with or without the last slash.
        ping_interval: between two pings of the server.
        ping_timeout: for the client's pong.
        upgrade_timeout: from a WebSocket's handshake to its taking over.
        max_payload: bytes of one POST, or of one message on a WebSocket.
    """

    path: str = "/socket.io/"
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    max_payload: int = 1_000_000


class Handoff(Protocol):
    """The other workers, see :class:`transport.handoff.Handoff`."""

    token: str

    def owns(self, sid: str) -> bool:
        """Whether a session of this name would be here."""

    def pass_on(self, sid: str, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> bool:
        """Give the connection to whose session it is; False: nobody's."""


class EngineServer:
    """A :class:`transport.door.Mount` of a listener. One per path; all on the loop's thread.

    Args:
        accept: a client has come, and may be written to; None refuses it: 503, a WebSocket is closed with 1013 unless
            the socket was closed otherwise.
        limits: of connections; may be exchanged.
        handoff: the other workers, where there are some.

    Attributes:
        sessions: by name.
        draining: nobody is let in.
        closing: a connection is kept only for a session that still polls.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: EngineOptions,
        accept: Callable[[EngineSocket], EngineHandler | None],
        limits: ConnectionLimits,
        handoff: Handoff | None = None,
    ) -> None:
        self.options = options
        self.sessions: dict[str, EngineSocket] = {}
        self.draining = self.closing = False
        self._accept, self._handoff = accept, handoff
        times = (options.ping_interval, options.ping_timeout, options.upgrade_timeout, limits.close_timeout)
        self.keepalive = Keepalive(loop, min(1.0, min(times) / 10))
        self.beat = max(1, int(options.ping_interval / self.keepalive.tick) - EARLY)
        self.patience = self.keepalive.ticks(options.ping_timeout)
        self.limits = limits
        # In order of arrival: dictionaries without values.
        self._fresh: dict[EngineSocket, None] = {}
        self._idle: dict[PollingConnection, None] = {}
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def paths(self) -> tuple[str, str]:
        """Where it is to be mounted."""
        path = self.options.path.rstrip("/")
        return path, path + "/"

    @property
    def limits(self) -> ConnectionLimits:
        """What a connection may take."""
        return self._limits

    @limits.setter
    def limits(self, limits: ConnectionLimits) -> None:
        options = self.options
        self._limits = limits
        # Heartbeats are packets: a WebSocket never gets to its own.
        silence = 2 * (options.ping_interval + options.ping_timeout + options.upgrade_timeout)
        self._socket_limits = replace(limits, message_bytes=options.max_payload, ping_interval=silence)

    # the mount -------------------------------------------------------------------------------------------------------

    @property
    def socket_limits(self) -> ConnectionLimits:
        """What a WebSocket may take."""
        return self._socket_limits

    def start(self) -> None:
        """Begin to count time."""
        self.keepalive.start()

    def take(
        self,
        owner: Owner,
        transport: asyncio.Transport,
        peer: tuple[str, int],
        request: http.Request,
        received: bytes,
    ) -> bool:
        """See :meth:`transport.door.Mount.take`."""
        if not request.upgrade:
            PollingConnection(self, owner, transport, peer).start(received)
            return True
        if self.pass_on(request, transport, peer, received):
            return True
        query = http.parameters(request)
        self._find(query, "websocket")
        return False

    def open(self, connection: WebSocketConnection, request: http.Request) -> Handler | None:
        """See :meth:`transport.door.Mount.open`."""
        sid = http.parameters(request).get("sid")
        credentials = connection.user, connection.token, connection.token_in_query
        connection.token = None
        if sid is not None:
            socket = self.sessions[sid]
            self._fresh.pop(socket, None)
            return EngineProbe(socket, connection, self) if socket.probe(connection) else None
        socket = EngineSocket(self, self._name(), connection, connection.host, connection.address, credentials)
        connection.write(self._greeting(socket, ()))
        return socket if self._begin(socket) else None

    def shut(self) -> None:
        """See :meth:`transport.door.Mount.shut`."""
        if not self.closing:
            self.closing = True
            self._sweep_idle()

    def drain(self) -> None:
        """Send everybody away who is still there, and let nobody in."""
        self.draining = self.closing = True
        for socket in tuple(self.sessions.values()):
            socket.close(CloseCode.RESTART)
        self._sweep_idle()

    def stop(self) -> None:
        """Drop everybody."""
        self.draining = self.closing = True
        for socket in tuple(self.sessions.values()):
            socket.abort()
        if self._sweep is not None:
            self._sweep.cancel()
        self.keepalive.stop()

    # requests of polling connections ---------------------------------------------------------------------------------

    def belongs(self, request: http.Request) -> bool:
        """See :meth:`transport.polling.Server.belongs`."""
        return request.path in self.paths

    def pass_on(self, request: http.Request, transport: asyncio.Transport, peer: tuple[str, int], data: bytes) -> bool:
        """See :meth:`transport.polling.Server.pass_on`."""
        handoff, sid = self._handoff, http.parameters(request).get("sid")
        if handoff is None or sid is None or handoff.owns(sid):
            return False
        return handoff.pass_on(sid, transport, peer, data)

    def expect(self, connection: PollingConnection, request: http.Request) -> int:
        """See :meth:`transport.polling.Server.expect`."""
        if request.method == "OPTIONS":
            return 0
        query = http.parameters(request)
        socket = self._find(query, "polling")
        if socket is None:
            if request.method != "GET":
                raise EngineRefusal(EngineCode.BAD_HANDSHAKE_METHOD)
            return 0
        self._fresh.pop(socket, None)
        connection.socket = socket
        if request.method != "POST":
            return 0
        socket.expect(connection)
        return self.options.max_payload

    def serve(self, connection: PollingConnection, request: http.Request, body: bytes) -> None:
        """See :meth:`transport.polling.Server.serve`."""
        if request.method == "OPTIONS":
            self._allow(connection, request)
            return
        socket = self._find(http.parameters(request), "polling")
        if socket is None:
            self._shake_hands(connection, request)
        elif request.method == "GET":
            socket.poll(connection)
        elif request.method == "POST":
            socket.post(connection, body)
        else:
            raise EngineRefusal(EngineCode.BAD_REQUEST)

    def idle(self, connection: PollingConnection, idle: bool) -> None:
        """See :meth:`transport.polling.Server.idle`."""
        if not idle:
            self._idle.pop(connection, None)
            return
        self._idle[connection] = None
        if len(self._idle) > IDLE:
            next(iter(self._idle)).close()

    def ended(self, socket: EngineSocket) -> None:
        """Called by the session."""
        self.sessions.pop(socket.sid, None)
        self._fresh.pop(socket, None)
        if self.closing and self._sweep is None:
            self._sweep = self.keepalive.loop.call_later(SWEEP, self._sweep_idle)

    # inside ----------------------------------------------------------------------------------------------------------

    def _find(self, query: dict[str, str], transport: str) -> EngineSocket | None:
        """The session of a request; None: it wants one.

        Raises:
            HttpError: it makes no sense.
        """
        given = query.get("transport")
        if given not in ("polling", "websocket"):
            raise EngineRefusal(EngineCode.UNKNOWN_TRANSPORT)
        if given != transport or "j" in query:  # answers as scripts: no client of this protocol asks for them
            raise EngineRefusal(EngineCode.BAD_REQUEST)
        sid = query.get("sid")
        if sid is None:
            if query.get("EIO") != "4":
                raise EngineRefusal(EngineCode.UNSUPPORTED_VERSION)
            if self.draining:
                raise http.HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "this server is about to end; come again")
            return None
        socket = self.sessions.get(sid)
        if socket is None:
            raise EngineRefusal(EngineCode.UNKNOWN_SID)
        return socket

    def _shake_hands(self, connection: PollingConnection, request: http.Request) -> None:
        socket = EngineSocket(self, self._name(), None, connection.host, connection.address, http.credentials(request))
        if not self._begin(socket):
            raise http.HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "no more clients are let in now; come again later")
        connection.socket = socket
        connection.respond(engineio.encode_payload(self._greeting(socket, ("websocket",)))[0])
        if not socket.gone:
            self._fresh[socket] = None
        if len(self._fresh) > FRESH:
            _log.warning("too many clients that do not come back after the handshake: the oldest are dropped")
            next(iter(self._fresh)).abort()

    def _begin(self, socket: EngineSocket) -> bool:
        self.sessions[socket.sid] = socket
        handler = None
        try:
            handler = self._accept(socket)
        finally:
            if handler is None:
                socket.abandon()
        if handler is None:
            return False
        socket.open(handler)
        return True

    def _name(self) -> str:
        prefix = "" if self._handoff is None else self._handoff.token
        return prefix + secrets.token_urlsafe(SID_BYTES)

    def _greeting(self, socket: EngineSocket, upgrades: tuple[str, ...]) -> bytes:
        options = self.options
        return engineio.open_packet(
            socket.sid, upgrades, options.ping_interval, options.ping_timeout, options.max_payload
        )

    def _allow(self, connection: PollingConnection, request: http.Request) -> None:
        """A browser asks what a page may; whether it may at all is the gate's decision."""
        headers: http.Headers = (
            ("Access-Control-Allow-Methods", "GET, POST"),
            ("Access-Control-Max-Age", _PREFLIGHT_AGE),
        )
        wanted = request.headers.get("access-control-request-headers")
        if wanted is not None:
            headers += (("Access-Control-Allow-Headers", wanted),)
        connection.respond(b"", headers=headers)

    def _sweep_idle(self) -> None:
        self._sweep = None
        for connection in tuple(self._idle):
            if connection.spent:
                connection.close()
