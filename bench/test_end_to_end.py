"""How long is an event's whole way, over real sockets and processes? One iteration is one event (or a burst of 200)
published by a client of a running engine, until each of 20 subscribers has read it.

The subscribers share a loop and decode what they get: a cheap look. ``python -m bench.fanout`` measures for real."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from bench.server import Server, engine
from bench.wsload import NATIVE

SUBSCRIBERS = 20
DEADLINE = 10.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """An engine with one worker."""
    with engine() as server:
        yield server


class Crowd:
    """A publisher and subscribers, all connected."""

    def __init__(self, publisher: ClientConnection, subscribers: list[ClientConnection]) -> None:
        self.publisher, self.subscribers = publisher, subscribers
        self._sequence = 0

    @classmethod
    async def gather(cls, port: int) -> Crowd:
        """Everybody subscribed."""
        url = f"ws://127.0.0.1:{port}{NATIVE.path}"
        publisher, *subscribers = [await connect(url, compression=None) for _ in range(1 + SUBSCRIBERS)]
        for subscriber in subscribers:
            await subscriber.send(NATIVE.subscribe[0])
            while '"op":"ok"' not in str(await subscriber.recv()):
                pass
        return cls(publisher, subscribers)

    async def publish(self, events: int) -> None:
        """``events`` at once, and everybody has them."""
        for _ in range(events):
            self._sequence += 1
            message = NATIVE.publish.replace("%S", str(self._sequence)).replace("%T", "1").replace("%X", "x" * 30)
            await self.publisher.send(message)
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(self._read(subscriber, events) for subscriber in self.subscribers))

    async def _read(self, subscriber: ClientConnection, events: int) -> None:
        for _ in range(events):
            assert '"op":"event"' in str(await subscriber.recv())

    async def leave(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(connection.close() for connection in (self.publisher, *self.subscribers)))


@pytest.mark.parametrize("events", [1, 200])
def test_end_to_end(measure: Callable[..., Any], loop: asyncio.AbstractEventLoop, server: Server, events: int) -> None:
    crowd = loop.run_until_complete(Crowd.gather(server.port))
    try:
        measure(lambda: loop.run_until_complete(crowd.publish(events)), events)
    finally:
        loop.run_until_complete(crowd.leave())
