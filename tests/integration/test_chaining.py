"""An engine as another engine's feed, for real: what is published to the one reaches the clients of the other, and what
does not is named."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from heliograph import Client
from tests.integration.harness import EngineProcess, RawClient, followed

Start = Callable[..., EngineProcess]
TIMEOUT = 20.0
QUICK = {"server__heartbeat_interval": 0.1, "server__heartbeat_timeout": 5.0}
CHAINED = """
[feeds.a]
url = "{url}"
protocol = "heliograph"
options = {{ topics = ["price.>", "alert.x"]{more} }}
proof = "message"
backoff_initial = 0.02
backoff_max = 0.1
"""


def start(engine_process: Start, more: str = "") -> tuple[EngineProcess, EngineProcess]:
    """The upstream with a worker of its own, and the engine that reads it, in one process."""
    upstream = engine_process(**QUICK)
    return upstream, engine_process(CHAINED.format(url=upstream.url, more=more), workers=0, **QUICK)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.01)


async def publish(engine: EngineProcess, topic: str, data: Any) -> int:
    """Through the engine's hub, as soon as there is one; the offset."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            body = {"topic": topic, "data": data, "idempotency_key": f"{topic} {data}"}
            status, answer = await asyncio.to_thread(engine.admin, "/api/publish", "POST", body)
            if status == 200:
                return int(answer["offset"])
            assert status == 503, answer
            await asyncio.sleep(0.02)


def data(client: RawClient, topic: str) -> list[Any]:
    return [message["data"] for message in client.of("event") if message["topic"] == topic]


def gaps(client: RawClient) -> list[dict[str, Any]]:
    return [message["data"] for message in client.of("event") if message["type"] == "feed_gap"]


async def reads(client: RawClient, upstream: EngineProcess) -> None:
    """The engine's feed is subscribed, and so is the client."""
    await publish(upstream, "price.ready", 0)
    await client.subscribe("price.>", "alert.x", "system.feeds.a", snapshot=True)
    await until(lambda: data(client, "price.ready"))


def test_events_of_one_engine_reach_the_clients_of_the_other_as_they_are(engine_process: Start) -> None:
    upstream, engine = start(engine_process)

    async def scenario() -> None:
        async with RawClient(upstream.url) as source, RawClient(engine.url) as client:
            await reads(client, upstream)
            await client.subscribe("chat.a")
            await source.request("publish", topic="chat.a", data="not for the other")
            for n in range(300):
                await source.request("publish", topic=f"price.{n % 3}", data=n, type="tick", key=str(n % 3))
            await source.request("publish", topic="alert.x", data={"level": 3}, priority="critical")
            await until(
                lambda: data(client, "alert.x") and sum(len(data(client, f"price.{n}")) for n in range(3)) == 300
            )
            for topic in range(3):
                assert data(client, f"price.{topic}") == list(range(topic, 300, 3))
            here = [event for event in client.of("event") if event["topic"] == "price.1"]
            assert {(event["type"], event["key"]) for event in here} == {("tick", "1")}
            followed(client.messages, "price.1")
            (alert,) = [event for event in client.of("event") if event["topic"] == "alert.x"]
            assert alert["priority"] == "critical" and alert["source_ts"] <= alert["ts"]
            assert not data(client, "chat.a") and not gaps(client)

    asyncio.run(scenario())


def test_digits_come_through_two_engines_and_a_prefix_keeps_them_apart(engine_process: Start) -> None:
    upstream, engine = start(engine_process, ', prefix = "tokyo"')
    digits = b'{"bid":1.10000000000000000001,"ask":0.1200,"n":123456789012345678901234567890}'

    async def scenario() -> None:
        async with (
            asyncio.timeout(TIMEOUT),
            RawClient(upstream.url) as source,
            Client(engine.url) as client,
            client.subscribe("tokyo.price.a") as events,
        ):
            await source.request("publish", topic="price.a", data=msgspec.Raw(digits))
            event = await anext(events)
            assert (event.topic, event.payload) == ("tokyo.price.a", digits)

    asyncio.run(scenario())


def test_after_the_death_of_the_worker_that_served_it_nothing_repeats_and_the_missed_is_named(
    engine_process: Start,
) -> None:
    upstream, engine = start(engine_process)

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            await reads(client, upstream)
            for n in range(1, 4):
                assert await publish(upstream, "price.a", n) == n
            await publish(upstream, "alert.x", "before")
            await until(lambda: data(client, "price.a") == [1, 2, 3] and data(client, "alert.x"))
            upstream.kill("worker-0", signal.SIGSTOP)  # what the hub accepts now dies with it
            for n in range(4, 9):
                assert await publish(upstream, "price.a", n) == n
            await publish(upstream, "price.new", 1)
            await publish(upstream, "price.new", 2)
            upstream.kill("worker-0")
            await until(lambda: 8 in data(client, "price.a") and data(client, "price.new") and len(gaps(client)) == 2)
            await publish(upstream, "price.a", 9)
            await publish(upstream, "alert.x", "after")
            await until(lambda: 9 in data(client, "price.a") and "after" in data(client, "alert.x"))
            assert data(client, "price.a") == [1, 2, 3, 8, 9]
            assert data(client, "price.new") == [2]
            assert data(client, "alert.x") == ["before", "after"]
            assert data(client, "price.ready") == [0]
            assert sorted(gaps(client), key=str) == [
                {"reason": "sequence", "counter": "price.a", "first": 4, "last": 7},
                {"reason": "sequence", "counter": "price.new", "first": 1, "last": 1},
            ]

    asyncio.run(scenario())


def test_after_the_death_of_its_hub_everything_comes_as_before(engine_process: Start) -> None:
    upstream, engine = start(engine_process)

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            await reads(client, upstream)
            for n in range(1, 4):
                await publish(upstream, "price.a", n)
            await until(lambda: data(client, "price.a") == [1, 2, 3])
            upstream.kill("hub")
            for n in range(4, 10):  # the next hub accepts events before the worker has found it
                assert await publish(upstream, "price.a", n) == n, "offsets go on"
            await until(lambda: data(client, "price.a")[-1] == 9)
            assert data(client, "price.a") == [*range(1, 10)]
            assert not gaps(client)

    asyncio.run(scenario())
