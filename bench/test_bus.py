"""What does an event cost between two processes? One iteration is 1,000 publications in 20 batches, each packed, sent
by a ROUTER, received by a DEALER and unpacked, until the last one is there. Both ends share a loop: it is their sum."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from bench import fakes
from transport.bus_client import BusClient
from transport.bus_server import BusServer, Peer
from transport.codec import pack
from transport.messages import Publication

EVENTS, BATCHES = 1_000, 20


class _Hub:
    """The sending end; all it wants is its peer."""

    def __init__(self) -> None:
        self.peer: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()

    def on_peer(self, peer: Peer) -> None:
        self.peer.set_result(peer)

    def on_batch(self, peer: Peer, items: list[Any]) -> None: ...

    def on_window(self, peer: Peer, is_open: bool) -> None: ...

    def on_gone(self, peer: Peer, reason: str) -> None: ...


@pytest.fixture(params=["ipc", "inproc"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address that nobody else has; a Unix socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        yield f"{request.param}://{directory}/bus"


def test_bus(
    measure: Callable[..., Any],
    loop: asyncio.AbstractEventLoop,
    publications: Callable[..., list[Publication]],
    endpoint: str,
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    events = publications(EVENTS)

    async def start() -> tuple[BusServer, BusClient, Peer, fakes.BusEnd]:
        hub, worker = _Hub(), fakes.BusEnd(EVENTS)
        server = BusServer(context, endpoint, hub, name="hub")
        client = BusClient(context, endpoint, worker, name="worker", auto_ack=True)
        server.start()
        client.start()
        peer = await asyncio.wait_for(hub.peer, 5)
        await asyncio.wait_for(client.writable(), 5)
        return server, client, peer, worker

    server, client, peer, worker = loop.run_until_complete(start())

    async def iteration() -> None:
        worker.received = 0
        worker.complete.clear()
        for first in range(0, EVENTS, EVENTS // BATCHES):
            for event in events[first : first + EVENTS // BATCHES]:
                peer.out.append(pack(event))
            server.wake()
            await asyncio.sleep(0)
        await worker.complete.wait()

    async def stop() -> None:
        client.stop()
        server.stop()

    try:
        measure(lambda: loop.run_until_complete(iteration()), EVENTS)
        assert worker.received == EVENTS
    finally:
        loop.run_until_complete(stop())
        context.term()
