"""Socket.IO clients as they are (python-socketio, polling first, then a WebSocket) and an engine of two workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import socketio

from tests.integration.harness import EngineProcess

CLIENTS = 8  # there are seats for
EVENTS = 200
DEADLINE = 30.0
CONFIG = f"""
[socketio]
enabled = true
clients = {CLIENTS}
[socketio.namespaces."/rooms"]
actor = "tests.integration.rooms:Rooms"
"""


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    engine = EngineProcess(CONFIG, workers=2)
    try:
        yield engine
        assert engine.stop() == 0
    finally:
        left = engine.destroy()
        print(engine.tail)  # shown where a test fails
    assert not left


class Client:
    """One of python-socketio's, that keeps all events it gets."""

    def __init__(self, engine: EngineProcess, *namespaces: str) -> None:
        self.sio = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2)
        self.url = engine.url.replace("ws:", "http:").removesuffix("/ws")
        self.namespaces = namespaces or ("/",)
        self.events: list[tuple[Any, ...]] = []
        self.refusals: list[Any] = []
        for namespace in self.namespaces:
            self.sio.on("*", self._event, namespace=namespace)
            self.sio.on("connect_error", self.refusals.append, namespace=namespace)

    def _event(self, name: str, *args: Any) -> None:
        self.events.append((name, *args))

    async def connect(self, **options: Any) -> None:
        """In all its namespaces; raises what python-socketio raises."""
        await self.sio.connect(self.url, namespaces=list(self.namespaces), wait_timeout=DEADLINE, **options)

    async def ask(self, name: str, *args: Any, namespace: str | None = None) -> Any:
        """The acknowledgement."""
        data = args[0] if len(args) == 1 else args
        return await self.sio.call(name, data, namespace=namespace or self.namespaces[0], timeout=DEADLINE)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of the events of this name, so far."""
        return [args for other, *args in self.events if other == name]  # type: ignore[misc]


@asynccontextmanager
async def connected(engine: EngineProcess, *namespaces: str, **options: Any) -> Any:
    client = Client(engine, *namespaces)
    try:
        await client.connect(**options)
        yield client
    finally:
        await client.sio.disconnect()


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def run(test: Awaitable[None]) -> None:
    async def main() -> None:
        await test

    asyncio.run(main())


def test_native_requests_and_events_in_their_order(engine: EngineProcess) -> None:
    async def test() -> None:
        async with connected(engine) as reader, connected(engine, transports=["websocket"]) as writer:
            answer = await reader.ask("subscribe", {"topics": ["order.*"]})
            assert answer["op"] == "ok", answer
            for n in range(EVENTS):
                await writer.sio.emit("publish", {"topic": "order.x", "key": "k", "data": {"n": n}})
            await until(lambda: len(reader.named("event")) == EVENTS, "all events")
            assert [event["data"]["n"] for [event] in reader.named("event")] == list(range(EVENTS))
            assert reader.sio.transport() == "websocket"
            page = await reader.ask("history", {"topic": "order.x", "limit": 2})
            assert [event["data"]["n"] for event in page["events"]] == [EVENTS - 2, EVENTS - 1]
            assert (await reader.ask("ping"))["ts"] > 0
            refused = await reader.ask("subscribe", {"topics": ["a b"]})
            assert (refused["op"], refused["code"], refused["field"]) == ("error", "invalid_topic", "topics[0]")
            await reader.sio.emit("publish", {"data": 1})
            await until(lambda: reader.named("error"), "an event where nobody asked for an acknowledgement")

            again = await writer.ask("subscribe", {"topics": ["order.*"], "since": answer["position"]})
            assert again["recovered"] is True
            await until(lambda: len(writer.named("event")) == EVENTS, "what it has missed")

    run(test())


def test_an_application_and_the_native_requests_over_one_connection(engine: EngineProcess) -> None:
    async def test() -> None:
        async with connected(engine, "/rooms", "/") as client, connected(engine, "/rooms") as other:
            await client.ask("say", "room.a", {"text": "before"})
            for each in (client, other):
                await each.sio.emit("join", "room.a", namespace="/rooms")
                await until(lambda each=each: len(each.events) >= 3, "joined, and the last event")
                [welcome], [joined], [said] = (each.named(name) for name in ("welcome", "joined", "said"))
                assert welcome[0]["id"] == each.sio.get_sid("/rooms")
                assert joined == ["room.a", "ok"]
                assert said == [{"text": "before"}]
                assert [name for name, *_ in each.events] == ["welcome", "joined", "said"]
            assert await client.ask("publish", {"topic": "room.a", "data": [1]}, namespace="/")
            await until(lambda: other.named("said")[1:] == [[[1]]], "what was published natively")
            assert await other.ask("echo", b"\x00\xff", {"deep": [b"bytes"]}) == (b"\x00\xff", {"deep": [b"bytes"]})
            assert await other.ask("census") == (3, 2, CLIENTS)
            assert (await other.ask("nonsense"))["code"] == "not_found"

    run(test())


def test_refusals_can_be_shown(engine: EngineProcess) -> None:
    async def test() -> None:
        for namespace, auth, message in [
            ("/rooms", {"ticket": "bad"}, "that ticket is no good"),
            ("/nowhere", None, "Invalid namespace"),
        ]:
            client = Client(engine, namespace)
            with pytest.raises(socketio.exceptions.ConnectionError):
                await client.connect(auth=auth)
            assert client.refusals[0]["message"] == message

    run(test())


def test_one_client_more_than_there_are_seats_is_refused_over_both_workers(engine: EngineProcess) -> None:
    async def test() -> None:
        clients = [Client(engine, "/rooms") for _ in range(CLIENTS + 4)]
        try:
            async with connected(engine, "/rooms") as first:
                # Who left in another test has perhaps not been heard of by the hub.
                while (await first.ask("census"))[0] > 1:
                    await asyncio.sleep(0.01)
            results = await asyncio.gather(*(each.connect() for each in clients), return_exceptions=True)
            inside = [each for each, result in zip(clients, results, strict=True) if result is None]
            outside = [each for each in clients if each not in inside]
            assert len(inside) == CLIENTS, results
            for each in outside:
                assert each.refusals[0]["message"] == f"the server is full: it takes {CLIENTS} clients"
                assert each.refusals[0]["data"]["code"] == "limit_exceeded"
            status, figures = engine.admin("/metrics")
            assert status == 200
            assert b'heliograph_connections{transport="socketio"}' in figures
        finally:
            for each in clients:
                await each.sio.disconnect()

    run(test())


def test_operators_see_explain_and_close_socketio_sessions(engine: EngineProcess) -> None:
    async def test() -> None:
        async with connected(engine) as client:
            await client.ask("subscribe", {"topics": ["seen.*"], "where": {"n": 1}})
            name = client.sio.get_sid("/")
            status, body = await asyncio.to_thread(engine.admin, "/api/sessions")
            assert status == 200
            [row] = [row for row in body["sessions"] if row["id"] == name]
            assert (row["lane"], row["subscriptions"]) == ("fast", 1)
            question = {"topic": "seen.a", "data": {"n": 2}, "session": name}
            status, body = await asyncio.to_thread(engine.admin, "/api/explain", "POST", question)
            assert status == 200, body
            assert "n" in str(body)
            lost = asyncio.Event()
            client.sio.on("disconnect", lost.set)
            status, _ = await asyncio.to_thread(engine.admin, f"/api/sessions/{name}", "DELETE")
            assert status == 200
            async with asyncio.timeout(DEADLINE):
                await lost.wait()
            assert client.named("bye")[0][0]["reason"] == "kicked"
            assert not client.sio.connected  # and it does not come back

    run(test())


def test_a_hub_that_is_killed_costs_a_pause(engine: EngineProcess) -> None:
    async def test() -> None:
        async with connected(engine, "/rooms") as client:
            await client.sio.emit("join", "room.hub", namespace="/rooms")
            await until(lambda: client.named("joined"), "joined")
            engine.kill("hub")
            late = Client(engine, "/rooms")
            await late.connect()  # waits for the next hub, which hears the workers first
            assert (await late.ask("census"))[0] == 2
            assert await late.ask("say", "room.hub", "after") > 0
            await until(lambda: ["after"] in client.named("said"), "the event")
            await late.sio.disconnect()
            assert client.sio.connected

    run(test())
