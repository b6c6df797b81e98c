"""An engine of one process and no promises, which speaks the native protocol and can be told to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed

from transport.topics import matches


class _Payload(msgspec.Struct):
    data: msgspec.Raw


_payload = msgspec.json.Decoder(_Payload)


class FakeEngine:
    """Topics have offsets and a last event; ``held`` ops are recorded and not answered."""

    def __init__(self) -> None:
        self.epoch = "e1"
        self.offsets: dict[str, int] = {}
        self.last: dict[str, str] = {}
        self.sessions: dict[ServerConnection, list[str]] = {}
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Headers] = []
        self.options: dict[str, Any] = {}
        self.held: set[str] = set()
        self.refusals: dict[str, dict[str, Any]] = {}
        self.tokens: set[str] | None = None
        self.log: list[tuple[str, str]] | None = None  # topics and events, where it keeps history
        self.gap: dict[str, Any] = {}  # of its answers to `history`
        self.knows_since = True
        self.result: Any = None  # of calls
        self.pending = False  # whether publishes get no place
        self.ping_interval = 25.0
        self.port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    async def start(self) -> None:
        self._server = await serve(
            self._session, "127.0.0.1", self.port, compression=None, ping_interval=None, close_timeout=1
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def cut(self) -> None:
        """Break all connections as a crash does."""
        for connection in list(self.sessions):
            del self.sessions[connection]
            connection.transport.abort()

    async def bye(self, code: int, reason: str, **fields: Any) -> None:
        """Close all connections as the contract says."""
        for connection in list(self.sessions):
            del self.sessions[connection]
            await self._dismiss(connection, code, reason, **fields)

    async def _dismiss(self, connection: ServerConnection, code: int, reason: str, **fields: Any) -> None:
        await connection.send(json.dumps({"op": "bye", "code": code, "reason": reason, "reconnect": True, **fields}))
        await connection.close(code, reason)

    def accept(self, topic: str, data: str = "{}", **fields: Any) -> str:
        """Give an event its offset, without sending it; ``data`` is JSON."""
        offset = self.offsets[topic] = self.offsets.get(topic, 0) + 1
        head = {"op": "event", "topic": topic, "type": "message", "offset": offset, "epoch": self.epoch, "ts": 1.5}
        self.last[topic] = json.dumps({**head, **fields})[:-1] + f', "data": {data}}}'
        if self.log is not None:
            self.log.append((topic, self.last[topic]))
        return self.last[topic]

    async def publish(self, topic: str, data: str = "{}", **fields: Any) -> None:
        """An event, to everybody who subscribed."""
        await self.send(topic, self.accept(topic, data, **fields))

    async def send(self, topic: str, text: str) -> None:
        for connection, patterns in list(self.sessions.items()):
            if any(matches(pattern, topic) for pattern in patterns):
                with contextlib.suppress(ConnectionClosed):
                    await connection.send(text)

    async def order(self, op: str, topics: list[str]) -> None:
        """Subscribe all sessions (``subscribed``) or leave them ``topics`` (``unsubscribed``) as an operator does."""
        for connection in self.sessions:
            held = self.sessions[connection]
            self.sessions[connection] = topics if op == "unsubscribed" else [*held, *topics]
            positions = {topic: {"epoch": self.epoch, "offset": self.offsets.get(topic, 0)} for topic in topics}
            await connection.send(json.dumps({"op": op, "topics": topics, "positions": positions, "position": ""}))

    async def _session(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.headers.append(connection.request.headers)
        token = connection.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            await self._dismiss(connection, 4001, "unauthorized", reconnect=False)
            return
        welcome = {"op": "welcome", "protocol": 1, "server": "fake", "session": f"s{len(self.headers)}"}
        await connection.send(json.dumps({**welcome, "ping_interval": self.ping_interval, "limits": {}}))
        self.sessions[connection] = []
        try:
            async for text in connection:
                await self._answer(connection, json.loads(text), str(text))
        except ConnectionClosed:
            pass
        finally:
            self.sessions.pop(connection, None)

    async def _answer(self, connection: ServerConnection, request: dict[str, Any], text: str) -> None:
        self.requests.append(request)
        op, patterns = request["op"], self.sessions[connection]
        if op in self.held:
            return
        if op in self.refusals:
            await connection.send(json.dumps({"op": "error", "id": request["id"], **self.refusals[op]}))
            return
        if "since" in request and not self.knows_since:
            error = {"code": "unsupported", "message": "not built", "field": "since"}
            await connection.send(json.dumps({"op": "error", "id": request["id"], **error}))
            return
        answer: dict[str, Any] = {}
        after: list[str] = []
        if op == "subscribe":
            topics = request["topics"]
            patterns.extend(topic for topic in topics if topic not in patterns)
            positions = {t: {"epoch": self.epoch, "offset": self.offsets.get(t, 0)} for t in topics if "*" not in t}
            answer = {"topics": topics, "positions": {t: p for t, p in positions.items() if ">" not in t}}
            if self.log is not None:
                answer["position"] = str(len(self.log))
            if (since := request.get("since")) is not None and self.log is not None:
                answer["recovered"] = True
                start = int(since) if isinstance(since, str) else 0  # what it has already is told apart by offsets
                after = [event for t, event in self.log[start:] if any(matches(p, t) for p in topics)]
            elif request.get("snapshot"):
                after = [event for topic, event in self.last.items() if any(matches(t, topic) for t in topics)]
        elif op == "unsubscribe":
            gone = patterns if request["topics"] == "*" else request["topics"]
            self.sessions[connection] = patterns = [topic for topic in patterns if topic not in gone]
            answer = {"topics": patterns}
        elif op == "publish":
            data = bytes(_payload.decode(text).data).decode()  # the digits as they came
            fields = {name: request[name] for name in ("type", "key", "priority") if request.get(name) is not None}
            await self.publish(request["topic"], data, **fields)
            place = {"epoch": self.epoch, "offset": self.offsets[request["topic"]]}
            answer = {"pending": True} if self.pending else place
        elif op == "history":
            events = [json.loads(event) for t, event in self.log or () if t == request["topic"]]
            answer = {"events": events[-request.get("limit", 100) :], **self.gap}
        elif op == "call":
            answer = {"result": self.result}
        elif op == "snapshot":
            events = [json.loads(self.last[t]) for t in self.last if any(matches(p, t) for p in request["topics"])]
            answer = {"events": events}
        else:
            options = {"subscriptions": patterns, "options": self.options}
            answer = {"stats": {"connections": 1}, "users": ["alice"], "ts": 12.5, **options}
        await connection.send(json.dumps({"op": "ok", "id": request["id"], **answer}))
        for event in after:
            await connection.send(event)


@contextlib.asynccontextmanager
async def fake_engine() -> AsyncIterator[FakeEngine]:
    """A running one on the test's own loop."""
    engine = FakeEngine()
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@contextlib.contextmanager
def fake_engine_in_thread() -> Iterator[tuple[FakeEngine, asyncio.AbstractEventLoop]]:
    """A running one on a loop in a thread, for tests that block."""
    engine, loop = FakeEngine(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(engine.start(), loop).result(5)
    try:
        yield engine, loop
    finally:
        asyncio.run_coroutine_threadsafe(engine.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
