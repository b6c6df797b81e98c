"""What does it cost that an event is on disk before anybody sees it? One iteration is 1, 32 or 500 events published at
once by one client of a running engine, until all are answered: with 1 the median is the latency of a publish, with more
its inverse is the rate. ``memory`` is the same without ``durable``. The client's own part is some 30 us an event.

The disk decides; ``history`` is the append alone, of so many events in one transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from actors.sqlite_history import SqliteHistory
from actors.topic_policy import TopicPolicies, TopicPolicy
from bench.chaos_engine import ChaosEngine
from transport.messages import Publish

CONFIG = '[topics."durable.>"]\ndurable = true\n'
DEADLINE = 30.0
EVENTS = (1, 32, 500)


@pytest.fixture(scope="module")
def server() -> Iterator[ChaosEngine]:
    """An engine with one worker."""
    with ChaosEngine(CONFIG, 1) as engine:
        yield engine


async def publish(client: ClientConnection, topic: str, events: int) -> None:
    """``events`` at once, and all answers."""
    for n in range(events):
        await client.send(f'{{"op":"publish","id":{n},"topic":"{topic}","data":{{"bid":1.12345}}}}')
    async with asyncio.timeout(DEADLINE):
        for _ in range(events):
            assert '"op":"ok"' in str(await client.recv())


@pytest.mark.parametrize("events", EVENTS)
@pytest.mark.parametrize("kind", ["memory", "durable"])
def test_publish(
    measure: Callable[..., Any], loop: asyncio.AbstractEventLoop, server: ChaosEngine, kind: str, events: int
) -> None:
    async def begin() -> ClientConnection:
        client = await connect(f"ws://127.0.0.1:{server.port}/ws", compression=None)
        await client.recv()  # welcome
        return client

    client = loop.run_until_complete(begin())
    try:
        measure(lambda: loop.run_until_complete(publish(client, f"{kind}.a", events)), events)
    finally:
        loop.run_until_complete(client.close())


@pytest.mark.parametrize("events", EVENTS)
def test_history(measure: Callable[..., Any], tmp_path: Path, events: int) -> None:
    policies = TopicPolicies({}, TopicPolicy(durable=True))
    history = SqliteHistory(tmp_path / "history.db", policies, 10, lambda: "0a1b2c3d")
    batch = [Publish(n, "durable.a", "message", b'{"bid":1.12345}') for n in range(events)]
    try:
        measure(lambda: history.append(batch, time.time()), events)
    finally:
        history.close()
