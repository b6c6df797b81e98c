"""Every event once and in order, through all processes: to those who are there, and to those who come in mid-stream.

The numbers are those that a test can afford; ``bench/`` has the full ones (1,000 clients, 200 events/s for 30 s).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from tests.integration.harness import EngineProcess, Publisher, RawClient, followed

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

CLIENTS = 100
EVENTS = 600
RATE = 200.0  # events/s
TOPICS = ("t.a", "t.b")

ROUNDS = 1_000
CONNECTIONS = 8
LIVE_EVENTS = 3  # that each subscription of a round waits for
BUSY_RATE = 1_000.0  # events/s


def test_every_client_gets_every_event_once_and_in_order(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            publisher, *clients = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(CLIENTS + 1)]
            # Exact topics, a wildcard, and both, which overlap.
            patterns = (TOPICS, ("t.*",), (*TOPICS, "t.>"))
            for i, client in enumerate(clients):
                await client.subscribe(*patterns[i % 3])
            answers = []
            for n in range(EVENTS):
                answers.append(publisher.send("publish", topic=TOPICS[n % 2], data=n))
                await asyncio.sleep(1 / RATE)
            assert {answer["op"] for answer in await asyncio.gather(*answers)} == {"ok"}
            await eventually(lambda: all(len(client.of("event")) >= EVENTS for client in clients))
            for client in clients:
                for i, topic in enumerate(TOPICS):
                    events = [message for message in client.of("event") if message["topic"] == topic]
                    assert [event["data"] for event in events] == list(range(i, EVENTS, 2))
                    assert [event["offset"] for event in events] == list(range(1, EVENTS // 2 + 1))
                assert client.closed is None and not client.of("gap")

    asyncio.run(scenario())


def test_who_subscribes_in_mid_stream_gets_the_snapshot_and_every_event_after_it(
    engine_process: Start, eventually: Eventually
) -> None:
    engine = engine_process(workers=2)

    async def rounds(client: RawClient, pattern: str, count: int) -> None:
        for _ in range(count):
            client.messages.clear()
            await client.subscribe(pattern, snapshot=True)
            await eventually(lambda: len(client.of("event")) > LIVE_EVENTS)
            left = await client.request("unsubscribe", topics=[pattern])
            assert left["topics"] == []
            _check(client.messages, pattern)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            publisher, *clients = [
                await stack.enter_async_context(RawClient(engine.url)) for _ in range(CONNECTIONS + 1)
            ]
            await publisher.request("publish", topic=TOPICS[0], data=-1)  # so that there is a snapshot from the start
            async with Publisher(publisher, TOPICS[0], BUSY_RATE):
                each = ROUNDS // CONNECTIONS
                patterns = [TOPICS[0], "t.*"]
                await asyncio.gather(*(rounds(client, patterns[i % 2], each) for i, client in enumerate(clients)))

    asyncio.run(scenario())


def _check(messages: list[dict[str, Any]], pattern: str) -> None:
    """From the answer to ``subscribe`` to the answer to ``unsubscribe``: the snapshot, and each event that follows."""
    subscribed, *events, unsubscribed = (message for message in messages if message["op"] != "position")
    assert subscribed["op"] == unsubscribed["op"] == "ok"
    assert {event["op"] for event in events} == {"event"}
    positions = followed(events, TOPICS[0])
    assert len(positions) == len(events)
    assert [event["data"] + 2 for event in events] == [offset for _, offset in positions]
    if pattern == TOPICS[0]:
        position = subscribed["positions"][pattern]
        assert positions[0] == (position["epoch"], position["offset"])
