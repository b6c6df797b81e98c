"""What strangers send to an Engine.IO server: requests, bodies, payloads, and packets on a WebSocket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from tests.fuzz.sockets import Findings, Owner, Transport
from transport import engineio
from transport.engine_server import EngineOptions, EngineServer
from transport.engine_socket import EngineSocket
from transport.keepalive import Keepalive
from transport.websocket import ConnectionLimits, WebSocketConnection

SID: Final = b"SID"  # in the bytes: the name of a session that polls
LIMIT: Final = 1_000  # bytes of a message
_GET: Final = b"GET /e/?EIO=4&transport=polling"
_POST: Final = b"POST /e/?transport=polling&sid=SID HTTP/1.1\r\nContent-Length: "
_UPGRADE: Final = (
    b" HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class _Handler:
    def __init__(self, socket: EngineSocket) -> None:
        self.socket, self.closed = socket, 0

    def on_message(self, data: bytes, binary: bool) -> None:
        assert not self.closed
        assert len(data) <= LIMIT
        if not binary:
            data.decode()
        self.socket.write(engineio.message_frame(data, binary))

    def on_paused(self) -> None: ...

    def on_resumed(self) -> None: ...

    def on_rewired(self) -> None: ...

    def on_closed(self, code: int, reason: str) -> None:
        self.closed += 1


class _Place(Owner):
    """A listener with one mount."""

    path = "/ws"
    subprotocols = ()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.handlers: list[_Handler] = []
        limits = ConnectionLimits(message_bytes=LIMIT, write_buffer=LIMIT)
        self.server = EngineServer(loop, EngineOptions("/e/", max_payload=LIMIT), self._accept, limits)
        self.mounts = dict.fromkeys(self.server.paths, self.server)
        self._keepalive, self._limits = Keepalive(loop, 1.0), limits

    def open(self, connection: WebSocketConnection) -> None: ...

    def http(self, method: str, path: str) -> None: ...

    def connect(self, received: bytes) -> Transport:
        transport = Transport()
        self.resume(transport, ("127.0.0.1", 1), received)  # type: ignore[arg-type]
        return transport

    def resume(self, transport: asyncio.Transport, peer: tuple[str, int], received: bytes) -> None:
        connection = WebSocketConnection(self, self._limits, self._keepalive, self)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.data_received(received)

    def _accept(self, socket: EngineSocket) -> _Handler:
        self.handlers.append(_Handler(socket))
        return self.handlers[-1]


def engine(data: bytes) -> None:
    """What comes in on a connection, while a session polls; the first byte says how large the pieces are."""
    if not data:
        return
    size, rest = max(data[0], 1), data[1:]
    loop = asyncio.new_event_loop()
    log, findings = logging.getLogger("transport"), Findings(logging.ERROR)
    log.addHandler(findings)
    try:
        place = _Place(loop)
        polling = place.connect(_GET + b" HTTP/1.1\r\n\r\n")
        (sid,) = place.server.sessions
        rest = rest.replace(SID, sid.encode())
        transport = place.connect(b"")
        for start in range(0, len(rest), size):
            if not transport.closing and transport.protocol is not None:
                transport.protocol.data_received(rest[start : start + size])
                loop.run_until_complete(asyncio.sleep(0))
        for end in (transport, polling):
            end.closing = True
            assert end.protocol is not None
            end.protocol.connection_lost(None)
        place.server.stop()
        loop.run_until_complete(asyncio.sleep(0))
        assert not place.server.sessions
        assert not place.connections
        assert all(handler.closed == 1 for handler in place.handlers), "told of its end exactly once"
    finally:
        log.removeHandler(findings)
        loop.close()


def payload(data: bytes) -> None:
    """The body of a POST: what is taken comes to the server as it is."""
    body = data.replace(b"SID", b"SIX")
    engine(b"\xff" + _POST + str(len(body)).encode() + b"\r\n\r\n" + body)


def _frame(payload: bytes, binary: bool = False) -> bytes:
    return bytes((0x82 if binary else 0x81, 0x80 | len(payload))) + bytes(4) + payload


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"engine": engine, "engine-payload": payload}
SEEDS: Final[dict[str, list[bytes]]] = {
    "engine": [
        b"\xff" + _POST + b"6\r\n\r\n4hello" + _GET + b"&sid=SID HTTP/1.1\r\n\r\n" + _POST + b"1\r\n\r\n1",
        b"\xff" + _GET + b"&sid=SID HTTP/1.1\r\n\r\n" + _GET + b"&sid=SID HTTP/1.1\r\n\r\n",
        b"\xff"
        + _GET.replace(b"polling", b"websocket&sid=SID")
        + _UPGRADE
        + _frame(b"2probe")
        + _frame(b"5")
        + _frame(b"4hello")
        + _frame(b"\1\2", True)
        + _frame(b"1"),
        b"\xff" + _GET.replace(b"polling", b"websocket") + _UPGRADE + _frame(b"3") + _frame(b"4hello"),
        b"\xffOPTIONS /e HTTP/1.1\r\nOrigin: http://localhost\r\nHost: localhost\r\n\r\n" + _GET + b" HTTP/1.0\r\n\r\n",
        b"\x05" + _GET + b"&sid=SID HTTP/1.1\r\n\r\nGET /ws" + _UPGRADE,
    ],
    "engine-payload": [b"4hello\x1ebAQIDBA==\x1e4\xe2\x82\xac", b"3\x1e1\x1e4late", b"6\x1e42[]"],
}
