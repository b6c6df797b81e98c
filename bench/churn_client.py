"""A WebSocket client that costs its process next to nothing per event, so that one core can be 500 of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Payload(msgspec.Struct):
    """``data`` of an event, as far as anybody looks at it: its number in the log."""

    n: int


class Item(msgspec.Struct):
    """An event."""

    topic: str
    offset: int
    epoch: str
    data: Payload
    type: str
    key: str | None = None
    priority: str = "medium"


class Place(msgspec.Struct):
    """Where a topic is."""

    epoch: str
    offset: int


class Message(msgspec.Struct):
    """Any message of the server."""

    op: str
    id: int | None = None
    topic: str = ""
    topics: list[str] = []
    position: str = ""
    positions: dict[str, Place] = {}
    recovered: bool | None = None
    offset: int = 0
    epoch: str = ""
    data: Payload | None = None
    type: str = ""
    key: str | None = None
    priority: str = "medium"
    events: list[Item] = []
    code: int | str = ""
    message: str = ""
    reason: str = ""


_decode = msgspec.json.Decoder(Message).decode


class Socket(asyncio.Protocol):
    """One connection, text frames without fragments or compression: what this engine sends.

    Args:
        receive: gets each message.

    Attributes:
        open: done when the handshake is; fails if that does.
        closed: done when the connection has ended.
    """

    def __init__(self, receive: Callable[[Message], None]) -> None:
        loop = asyncio.get_running_loop()
        self._receive = receive
        self._buffer = bytearray()
        self._upgraded = self._leaving = False
        self.open: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()

    @classmethod
    async def connect(cls, host: str, port: int, receive: Callable[[Message], None]) -> Socket:
        """Connect and shake hands."""
        loop = asyncio.get_running_loop()
        _, socket = await loop.create_connection(lambda: cls(receive), host, port)
        await socket.open
        return socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport: Any = transport
        transport.write(  # type: ignore[attr-defined]
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )

    def data_received(self, data: bytes) -> None:
        """Every whole frame of it."""
        buffer = self._buffer
        buffer += data
        at = 0
        if not self._upgraded:
            at = buffer.find(b"\r\n\r\n") + 4
            if at < 4:
                return
            if not buffer.startswith(b"HTTP/1.1 101"):
                self.open.set_exception(ConnectionError(bytes(buffer[:at]).decode("latin-1")))
                self._transport.abort()
                return
            self._upgraded = True
            self.open.set_result(None)
        while not self._leaving and len(buffer) >= at + 2:
            opcode, size, start = buffer[at] & 15, buffer[at + 1], at + 2
            if size == 126:
                start = at + 4
                size = int.from_bytes(buffer[at + 2 : start], "big")
            elif size == 127:
                start = at + 10
                size = int.from_bytes(buffer[at + 2 : start], "big")
            if len(buffer) < start + size:
                break
            at = start + size
            if opcode == _TEXT:
                self._receive(_decode(memoryview(buffer)[start:at]))
            elif opcode == _PING:
                self._transport.write(_frame(_PONG, bytes(buffer[start:at])))
            elif opcode == _CLOSE:
                self._transport.close()
        del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        if not self.open.done():
            self.open.set_exception(exc or ConnectionError("closed in the handshake"))
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, **fields: Any) -> None:
        """A request."""
        self._transport.write(_frame(_TEXT, msgspec.json.encode(fields)))

    def leave(self, abort: bool) -> None:
        """Close politely or just go; what comes now is not looked at."""
        self._leaving = True
        if abort:
            self._transport.abort()
        else:
            self._transport.write(_frame(_CLOSE, b"\x03\xe8"))
            self._transport.close()


def _frame(opcode: int, payload: bytes) -> bytes:
    # masked with zeros, which costs nothing
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else bytes([0x80 | opcode, 0xFE]) + size.to_bytes(2, "big")
    return head + bytes(4) + payload
