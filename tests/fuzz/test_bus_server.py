"""What comes from nobody known over a real socket of the bus is dropped and counted; the others notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import codec
from transport.bus import Header, Kind
from transport.bus_client import BusClient
from transport.bus_server import BusServer, Peer
from transport.messages import Hello, Tell

DEADLINE = 20.0  # s


class Hub:
    """A server's owner: what came from whom."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any]] = []

    def on_peer(self, peer: Peer) -> None: ...

    def on_batch(self, peer: Peer, items: list[Any]) -> None:
        self.got += [(peer.name, item) for item in items]

    def on_window(self, peer: Peer, is_open: bool) -> None: ...

    def on_gone(self, peer: Peer, reason: str) -> None: ...


class Worker:
    """A client's owner."""

    def __init__(self) -> None:
        self.lost: list[str] = []

    def on_server(self, incarnation: str) -> None: ...

    def on_batch(self, items: list[Any]) -> None: ...

    def on_window(self, is_open: bool) -> None: ...

    def on_lost(self, reason: str) -> None:
        self.lost.append(reason)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


numbers = st.integers(-1, 2**40)
texts = st.sampled_from(["", "x", "stranger.x"]) | st.text(max_size=4)
headers = st.builds(Header, st.sampled_from(Kind), texts, texts, numbers, numbers).map(Header.packed)
hellos = st.builds(Hello, texts, texts, numbers).map(codec.pack)
bodies = st.lists(hellos | st.binary(max_size=10), max_size=3).map(codec.join)
whole = st.builds(lambda head, body: [head + body], headers, bodies)
messages = st.lists(st.binary(max_size=30) | headers | bodies, min_size=1, max_size=4) | whole


@settings(max_examples=20, deadline=None)
@given(st.lists(messages, min_size=1, max_size=30))
def test_a_stranger_s_frames_harm_nobody(sent: list[list[bytes]]) -> None:
    async def main(endpoint: str, context: zmq.Context[Any]) -> None:
        hub, worker = Hub(), Worker()
        server = BusServer(context, endpoint, hub, name="hub")
        server.start()
        client = BusClient(context, endpoint, worker, name="worker", auto_ack=True)
        client.start()
        try:
            await until(lambda: client.connected)
            with context.socket(zmq.DEALER) as stranger:
                stranger.identity = b"stranger.x"
                stranger.linger = 0
                stranger.connect(endpoint)
                for frames in sent:
                    stranger.send_multipart(frames)
                stranger.send_multipart([b"the last"])
                bad = server.malformed
                await until(lambda: server.malformed > bad)  # it has met some of it at least
            note = Tell("test", "note", "unharmed")
            client.send(codec.pack(note))
            await until(lambda: ("worker", note) in hub.got)
            assert worker.lost == []
        finally:
            client.stop()
            server.stop()

    with TemporaryDirectory() as directory, zmq.Context() as context:
        uvloop.run(main(f"ipc://{Path(directory, 'bus')}", context))
