"""A WebSocket that a polling session tries before it changes over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from transport import engineio
from transport.codes import CloseCode
from transport.engine_socket import EngineSocket
from transport.websocket import WebSocketConnection

if TYPE_CHECKING:
    from transport.engine_server import EngineServer

_PING: Final = b"2probe"
_UPGRADE: Final = b"5"


class EngineProbe:
    """Its handler, until it takes over: ``2probe`` is answered with ``3probe``, then ``5`` does it."""

    __slots__ = ("_connection", "_server", "_socket", "_tried", "bucket")

    def __init__(self, socket: EngineSocket, connection: WebSocketConnection, server: EngineServer) -> None:
        self._socket, self._connection, self._server = socket, connection, server
        self._tried = False
        self.bucket = 0
        keepalive = server.keepalive
        keepalive.watch(self, keepalive.ticks(server.options.upgrade_timeout))

    def on_message(self, data: bytes, binary: bool) -> None:
        if binary or data != (_UPGRADE if self._tried else _PING):
            self._connection.close(CloseCode.PROTOCOL_ERROR, "a WebSocket takes over with 2probe, then 5")
        elif not self._tried:
            self._tried = True
            self._connection.write(engineio.PROBED)
            self._socket.probed()
        else:
            self._server.keepalive.forget(self)
            self._socket.upgrade(self._connection)

    def on_paused(self) -> None: ...

    def on_resumed(self) -> None: ...

    def last_words(self, code: int) -> bytes:
        return b""

    def on_closed(self, code: int, reason: str) -> None:
        self._server.keepalive.forget(self)
        self._socket.unprobe(self._connection)

    def on_deadline(self) -> None:
        """Called by the :class:`transport.keepalive.Keepalive`."""
        self._connection.close(CloseCode.POLICY, "it did not take over in time")
