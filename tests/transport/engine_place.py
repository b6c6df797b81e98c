"""An Engine.IO server that sends back what it gets, and its clients in literal bytes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvloop

from transport import engineio
from transport.engine_server import EngineOptions, EngineServer, Handoff
from transport.engine_socket import EngineSocket
from transport.gate import Gate, GatePolicy
from transport.listener import Listener, bind
from transport.websocket import ConnectionLimits

DEADLINE = 20.0
POLLING = "/engine.io/?EIO=4&transport=polling"
WEBSOCKET = "/engine.io/?EIO=4&transport=websocket"
# What tests wait for is short, what they must not meet is long.
QUICK = EngineOptions("/engine.io/", ping_interval=0.15, ping_timeout=0.1, upgrade_timeout=0.15)
CALM = EngineOptions("/engine.io/", ping_interval=60.0, ping_timeout=60.0, max_payload=100_000)
LIMITS = ConnectionLimits(close_timeout=1.0, write_buffer=10_000)


class Echo:
    """Writes down what it hears."""

    def __init__(self, socket: EngineSocket) -> None:
        self.socket, self.write = socket, socket.write
        self.heard: list[Any] = []
        self.on: Callable[[bytes], None] | None = None

    def on_message(self, data: bytes, binary: bool) -> None:
        assert type(data) is bytes
        self.heard.append(data)
        if self.on is not None:
            self.on(data)
        else:
            self.write(engineio.message_frame(data, binary))

    def on_paused(self) -> None:
        self.heard.append("paused")

    def on_resumed(self) -> None:
        self.heard.append("resumed")

    def on_rewired(self) -> None:
        assert self.socket.write != self.write
        self.heard.append("rewired")

    def on_closed(self, code: int, reason: str) -> None:
        self.heard.append(("closed", code))


class Answer(NamedTuple):
    """To a request."""

    status: int
    headers: dict[str, str]
    body: bytes


class Http:
    """A connection of a client, kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, method: str, target: str, body: bytes | None = None, **headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))

    async def answer(self) -> Answer:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE)
        first, *rest = head.decode().split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        body = await asyncio.wait_for(self.reader.readexactly(int(headers["content-length"])), DEADLINE)
        return Answer(int(first.split()[1]), headers, body)

    async def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        self.send(method, target, body, **headers)
        return await self.answer()

    async def to_eof(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(), DEADLINE)


class Place:
    """A listener with the server, and the clients of a test."""

    def __init__(self, listener: Listener, server: EngineServer, tls: ssl.SSLContext | None) -> None:
        self.listener, self.server, self._tls = listener, server, tls
        self.echoes: list[Echo] = []
        self.refuse = False
        self.clients: list[Http] = []

    def accept(self, socket: EngineSocket) -> Echo | None:
        if self.refuse:
            return None
        self.echoes.append(Echo(socket))
        return self.echoes[-1]

    async def http(self) -> Http:
        client = Http(*await asyncio.open_connection("127.0.0.1", self.listener.port, ssl=self._tls))
        self.clients.append(client)
        return client

    async def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
        """On a connection of its own."""
        return await (await self.http()).ask(method, target, body, **headers)

    async def poll(self) -> tuple[str, Echo, Http]:
        """The address of a session that polls, its handler, and the connection of the handshake."""
        client = await self.http()
        answer = await client.ask("GET", POLLING)
        assert answer.status == 200
        assert answer.body[:1] == b"0"
        return f"{POLLING}&sid={json.loads(answer.body[1:])['sid']}", self.echoes[-1], client

    def url(self, address: str = WEBSOCKET) -> str:
        """Of a WebSocket; of a session that polls the one to change over to."""
        return f"ws://127.0.0.1:{self.listener.port}{address.replace('=polling', '=websocket')}"


@asynccontextmanager
async def place(
    options: EngineOptions = CALM,
    limits: ConnectionLimits = LIMITS,
    policy: GatePolicy | None = None,
    handoff: Handoff | None = None,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> AsyncIterator[Place]:
    """Args: tls: the server's context and the clients'."""
    loop = asyncio.get_running_loop()
    server = EngineServer(loop, options, lambda socket: here.accept(socket), limits, handoff)
    listener = Listener(
        loop,
        bind("127.0.0.1", 0),
        Lobby(),
        limits,
        Gate(policy or GatePolicy(), loop.time),
        None if tls is None else tls[0],
        mounts=dict.fromkeys(server.paths, server),
    )
    await listener.start()
    here = Place(listener, server, None if tls is None else tls[1])
    try:
        yield here
    finally:
        for client in here.clients:
            client.writer.close()
        await listener.stop()
        await asyncio.sleep(0)
        assert not listener.connections
        assert not server.sessions
        for echo in here.echoes:
            assert sum(isinstance(heard, tuple) for heard in echo.heard) == 1, "told of its end exactly once"
        await asyncio.gather(*(client.writer.wait_closed() for client in here.clients), return_exceptions=True)


class Lobby:
    """The door beside it."""

    path = "/ws"
    subprotocols = ()

    def open(self, connection: object) -> None: ...

    def http(self, method: str, path: str) -> tuple[int, str, bytes] | None:
        return (200, "text/plain", b"well") if path == "/health" else None


def run(test: Callable[[], Awaitable[None]], asyncio_loop: bool = False) -> None:
    """On a new loop; whatever reaches its exception handler fails the test."""
    failures: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=asyncio.new_event_loop if asyncio_loop else uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: failures.append(context))
        runner.run(test())  # type: ignore[arg-type]
    assert not failures
