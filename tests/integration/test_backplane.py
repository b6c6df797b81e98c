"""Two engines that share a Redis: one order, clients that go from one to the other, and Redis as it dies."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.feeds.redis_server import RedisServer
from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
StartRedis = Callable[..., RedisServer]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s
DURABLE = {"appendonly": "yes", "appendfsync": "always"}


@pytest.fixture
def node(engine_process: Start) -> Callable[..., EngineProcess]:
    """``node(redis, …)`` starts an engine that shares this Redis."""
    return lambda redis, **fields: engine_process(backplane__url=redis.url, **fields)


async def publish(client: RawClient, topic: str, *data: Any, **fields: Any) -> list[dict[str, Any]]:
    """Events; the answers."""
    return list(
        await asyncio.wait_for(
            asyncio.gather(*(client.send("publish", topic=topic, data=each, **fields) for each in data)), DEADLINE
        )
    )


async def accepted(client: RawClient, topic: str, data: Any, **fields: Any) -> dict[str, Any]:
    """A publish that is repeated until it is taken."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await client.request("publish", topic=topic, data=data, **fields))["op"] != "ok":
            assert answer["code"] == "unavailable", answer
            await asyncio.sleep(0.02)
    return answer


def events(client: RawClient, topic: str | None = None) -> list[tuple[str, str, int, Any]]:
    """What came with a place: topic, epoch, offset, data."""
    return [
        (event["topic"], event["epoch"], event["offset"], event["data"])
        for event in client.of("event")
        if "offset" in event and topic in (None, event["topic"])
    ]


async def health(engine: EngineProcess) -> dict[str, Any]:
    """What ``/health`` says of the backplane."""
    _, answer = await asyncio.to_thread(engine.admin, "/health")
    found: dict[str, Any] = answer["components"].get("backplane", {})
    return found


async def is_healthy(engine: EngineProcess, status: str) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE):
        while (found := await health(engine)).get("status") != status:
            await asyncio.sleep(0.05)
    return found


def test_what_one_accepts_clients_of_both_get_in_one_order(
    node: Start, redis_server: StartRedis, eventually: Eventually
) -> None:
    redis = redis_server()
    one, other = node(redis), node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here, RawClient(other.url) as there:
            await here.subscribe("a.*", "b", "system.x")
            await there.subscribe("a.*", "b", "system.x")
            answers = await asyncio.gather(publish(here, "a.1", *range(100)), publish(there, "a.1", *range(100, 200)))
            await publish(there, "b", 1)
            assert {answer["op"] for some in answers for answer in some} == {"ok"}
            await eventually(lambda: len(events(here)) == len(events(there)) == 201, DEADLINE)
            assert events(here, "a.1") == events(there, "a.1")
            assert [offset for _, _, offset, _ in events(here, "a.1")] == list(range(1, 201))
            places = {data: offset for _, _, offset, data in events(here, "a.1")}
            assert [answer["offset"] for some in answers for answer in some] == [places[n] for n in range(200)]

            first = await publish(here, "c", 1, idempotency_key="once")
            again = await publish(there, "c", 1, idempotency_key="once")
            assert first[0]["offset"] == again[0]["offset"] == 1
            assert first[0]["epoch"] == again[0]["epoch"]
            assert (await health(one))["status"] == (await health(other))["status"] == "ok"

    asyncio.run(main())


def test_a_client_goes_on_at_another_node(node: Start, redis_server: StartRedis, eventually: Eventually) -> None:
    redis = redis_server()
    one = node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here:
            await here.subscribe("a.>")
            (last,) = (await publish(here, "a.1", *range(10)))[-1:]
            await eventually(lambda: len(events(here)) == 10 and here.of("position"), DEADLINE)
            position = here.of("position")[-1]["position"]
            await publish(here, "a.1", *range(10, 20))
        other = node(redis)  # it was not there when all this happened
        for since in (position, {"a.1": {"epoch": last["epoch"], "offset": last["offset"]}}):
            async with RawClient(other.url) as there:
                topic = "a.>" if since is position else "a.1"
                answer = await there.subscribe(topic, since=since)
                assert answer["recovered"] is True
                await publish(there, "a.1", "more")
                await eventually(lambda there=there: events(there)[-1:] and events(there)[-1][3] == "more", DEADLINE)
                offsets = [offset for _, _, offset, _ in events(there)]
                assert offsets == list(range(11, offsets[-1] + 1))
                assert not there.of("gap")

    asyncio.run(main())


def test_without_redis_publishes_are_refused_and_the_rest_goes_on(
    node: Start, redis_server: StartRedis, eventually: Eventually
) -> None:
    redis = redis_server(**DURABLE)
    one, other = node(redis), node(redis)

    async def main() -> None:
        async with RawClient(one.url) as here, RawClient(other.url) as there:
            await here.subscribe("a")
            await there.subscribe("a")
            answers = await publish(here, "a", *range(5))
            await eventually(lambda: len(events(there)) == 5, DEADLINE)
            redis.stop(signal.SIGKILL)
            refused = (await publish(here, "a", "lost"))[0]
            assert (refused["op"], refused["code"]) == ("error", "unavailable")
            away = await is_healthy(one, "degraded")
            assert away["reason"]
            assert 0 <= away["retry_in"] <= 2.0
            since = {"a": {"epoch": answers[1]["epoch"], "offset": answers[1]["offset"]}}
            async with RawClient(one.url) as late:
                assert (await late.subscribe("a", since=since))["recovered"] is True
                assert [offset for _, _, offset, _ in events(late)] == [3, 4, 5]
            page = await here.request("history", topic="a", limit=2)
            assert [event["offset"] for event in page["events"]] == [4, 5]
            await is_healthy(other, "degraded")

            redis.start()
            await accepted(here, "a", "back")
            await accepted(there, "a", "too")
            await eventually(lambda: len(events(here)) == len(events(there)) == 7, DEADLINE)
            assert events(here) == events(there)
            assert [offset for _, _, offset, _ in events(here)] == list(range(1, 8))
            assert not here.of("gap")
            assert (await is_healthy(one, "ok"))["reason"] is None

    asyncio.run(main())
