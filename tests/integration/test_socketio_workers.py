"""Socket.IO clients and several workers: a client's connections come to any of them, its session is in one.

The clients are python-socketio's as it comes: polling first, then a WebSocket.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import signal
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import pytest
import socketio

from tests.integration.harness import EngineProcess
from tests.transport.test_tls import certify
from transport.handoff import TOKEN_LENGTH

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

CLIENTS = 40
EVENTS = 200
TOPIC = "t"
DEADLINE = 30.0
ENABLED = "[socketio]\nenabled = true\n"


def address(engine: EngineProcess) -> str:
    return engine.url.replace("ws", "http", 1).removesuffix("/ws")


class Visitor:
    """Subscribes whenever it is connected, and keeps what it gets; comes back by itself.

    Attributes:
        transport: that it shall come to.
        got: data of the events.
        byes: what it was told.
        losses: of its connection.
        errors: of an attempt to come back.
        subscribed: to what is published now.
    """

    def __init__(self, engine: EngineProcess, cert: Path | None, transports: list[str]) -> None:
        self._address, self._transports, self.transport = address(engine), transports, transports[-1]
        tls = True if cert is None else ssl.create_default_context(cafile=str(cert))
        self.client = socketio.AsyncClient(
            http_session=aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)),
            reconnection_delay=0.05,
            reconnection_delay_max=0.2,
        )
        self.got: list[Any] = []
        self.byes: list[dict[str, Any]] = []
        self.losses = 0
        self.errors: list[Any] = []
        self.subscribed = False
        self.client.on("connect", self._subscribe)
        self.client.on("event", lambda event: self.got.append(event["data"]))
        self.client.on("bye", self.byes.append)
        self.client.on("disconnect", self._lost)
        self.client.on("connect_error", self.errors.append)

    async def __aenter__(self) -> Self:
        await self.client.connect(self._address, transports=self._transports, wait_timeout=DEADLINE)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.disconnect()
        await self.client.eio.http.close()

    @property
    def worker(self) -> str:
        """The token of the one that it is at."""
        return str(self.client.eio.sid)[:TOKEN_LENGTH]

    async def _subscribe(self) -> None:
        await self.client.emit("subscribe", {"topics": [TOPIC]}, callback=self._confirmed)

    def _confirmed(self, answer: dict[str, Any]) -> None:
        assert answer["op"] == "ok", answer
        self.subscribed = True

    def _lost(self, *_: Any) -> None:
        self.subscribed = False
        self.losses += 1


class Poller:
    """A client that only polls, with a connection of its own for each request."""

    def __init__(self, engine: EngineProcess, cert: Path | None) -> None:
        self._port, self._tls = engine.port, None if cert is None else ssl.create_default_context(cafile=str(cert))
        self.got: list[Any] = []
        self.requests = 0
        self._sid = ""
        self._sid = msgspec.json.decode(self._ask("GET")[1:])["sid"]
        assert self._ask("POST", b"40") == b"ok"
        assert self._ask("GET").startswith(b"40{")
        assert self._ask("POST", b'420["subscribe",{"topics":["%s"]}]' % TOPIC.encode()) == b"ok"
        assert self._ask("GET").startswith(b"430[")
        self._thread = threading.Thread(target=self._poll, name="poller")
        self._thread.start()

    def close(self) -> None:
        """Leave; raises what went wrong."""
        assert self._ask("POST", b"1") == b"ok"
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _poll(self) -> None:
        while True:
            for packet in self._ask("GET").split(b"\x1e"):
                if packet in (b"1", b"6"):
                    return
                if packet == b"2":
                    assert self._ask("POST", b"3") == b"ok"
                elif packet.startswith(b"42"):
                    name, event = msgspec.json.decode(packet[2:])
                    if name == "event":
                        self.got.append(event["data"])

    def _ask(self, method: str, body: bytes | None = None) -> bytes:
        self.requests += 1
        kind = http.client.HTTPConnection if self._tls is None else http.client.HTTPSConnection
        options = {} if self._tls is None else {"context": self._tls}
        connection = kind("127.0.0.1", self._port, timeout=DEADLINE, **options)  # type: ignore[arg-type]
        try:
            sid = self._sid and f"&sid={self._sid}"
            connection.request(method, f"/socket.io/?EIO=4&transport=polling{sid}", body)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == 200, (answer.status, content)
            return content
        finally:
            connection.close()


class Crowd:
    """Visitors, and one of them who publishes numbers."""

    def __init__(self, visitors: list[Visitor], eventually: Eventually) -> None:
        self.visitors, self._eventually = visitors, eventually
        self._numbers = itertools.count()

    async def settled(self) -> None:
        """All are subscribed."""
        await self._eventually(lambda: all(visitor.subscribed for visitor in self.visitors), DEADLINE)

    async def check(self, *others: Poller) -> None:
        """All get what is published now, in order, once."""
        everybody = (*self.visitors, *others)
        for visitor in everybody:
            visitor.got.clear()
        published = [next(self._numbers) for _ in range(EVENTS)]
        for number in published:
            await self.visitors[0].client.emit("publish", {"topic": TOPIC, "data": number})
        await self._eventually(lambda: all(len(visitor.got) >= EVENTS for visitor in everybody), DEADLINE)
        assert [visitor.got for visitor in everybody if visitor.got != published] == []


@asynccontextmanager
async def crowd(engine: EngineProcess, cert: Path | None, eventually: Eventually) -> AsyncIterator[Crowd]:
    """Most come to a WebSocket, the others poll for good."""
    async with AsyncExitStack() as stack:
        ways = [["polling"] if n % 8 == 0 else ["polling", "websocket"] for n in range(CLIENTS)]
        visitors = [Visitor(engine, cert, way) for way in ways]
        await asyncio.gather(*(stack.enter_async_context(visitor) for visitor in visitors))
        made = Crowd(visitors, eventually)
        await made.settled()
        yield made


async def restart(engine: EngineProcess) -> None:
    """The workers, one by one; returns when the last of the old ones has gone."""
    status, state = await asyncio.to_thread(engine.admin, "/api/restart", "POST", {})
    assert status == 200, state
    deadline = time.monotonic() + DEADLINE
    while state["state"] != "done":
        assert state["state"] != "failed", state
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.02)
        _, state = await asyncio.to_thread(engine.admin, "/api/restart")


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_every_client_gets_every_event_whatever_worker_its_connections_come_to(
    engine_process: Start, eventually: Eventually, tmp_path: Path, kind: str
) -> None:
    fields: dict[str, object] = {}
    cert = None
    if kind == "tls":
        cert, key = certify(tmp_path, "engine")
        fields = {"server__tls_cert_file": cert, "server__tls_key_file": key}
    engine = engine_process(ENABLED, workers=2, **fields)

    async def scenario() -> None:
        async with crowd(engine, cert, eventually) as visitors:
            everybody = visitors.visitors
            assert [visitor.client.transport() for visitor in everybody] == [visitor.transport for visitor in everybody]
            assert len({visitor.worker for visitor in everybody}) == 2
            poller = await asyncio.to_thread(Poller, engine, cert)
            await visitors.check(poller)
            await asyncio.to_thread(poller.close)
            assert [visitor.losses for visitor in everybody] == [0] * CLIENTS
            if kind == "tcp":  # under TLS a worker carries connections of the other's clients
                await one_worker_dies(engine, visitors, eventually)
            await all_are_replaced(engine, visitors, eventually)
            if kind == "tcp":
                assert {len(visitor.byes) for visitor in everybody} == {1}

    asyncio.run(scenario())


async def one_worker_dies(engine: EngineProcess, visitors: Crowd, eventually: Eventually) -> None:
    """Its clients come back, the others notice nothing."""
    everybody = visitors.visitors
    before = {visitor: visitor.worker for visitor in everybody}
    engine.kill("worker-0", signal.SIGKILL)
    await eventually(lambda: any(visitor.losses for visitor in everybody), DEADLINE)
    gone = next(before[visitor] for visitor in everybody if visitor.losses)
    mourners = [visitor for visitor in everybody if before[visitor] == gone]
    await eventually(lambda: all(visitor.losses for visitor in mourners), DEADLINE)
    await visitors.settled()
    await visitors.check()
    assert [visitor.losses for visitor in everybody] == [int(visitor in mourners) for visitor in everybody]
    await eventually(lambda: "worker-0" in engine.children(), DEADLINE)


async def all_are_replaced(engine: EngineProcess, visitors: Crowd, eventually: Eventually) -> None:
    """Each is sent away once, and comes back at its first attempt."""
    everybody = visitors.visitors
    before = {visitor: visitor.losses for visitor in everybody}
    for visitor in everybody:
        visitor.errors.clear()
    await restart(engine)
    await eventually(lambda: all(visitor.losses > before[visitor] for visitor in everybody), DEADLINE)
    await visitors.settled()
    await visitors.check()
    assert [visitor.losses - before[visitor] for visitor in everybody] == [1] * CLIENTS
    assert [visitor.errors for visitor in everybody if visitor.errors] == []
    assert {bye["reason"] for visitor in everybody for bye in visitor.byes} == {"drain"}
