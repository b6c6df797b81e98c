"""What operators and Python clients see of who gets what, through a whole engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from heliograph import Client, Event, RequestError
from tests.integration.harness import EngineProcess, RawClient

CLIENTS = 40


def test_explain_asks_all_workers_and_is_what_happens(
    engine_process: Callable[..., EngineProcess], eventually: Callable[..., Awaitable[None]]
) -> None:
    engine = engine_process(workers=2)

    def explain(**asked: Any) -> Any:
        return engine.admin("/api/explain", "POST", asked)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(CLIENTS)]
            await asyncio.gather(
                *(client.subscribe("a.*", where={"n": {"gte": n}}) for n, client in enumerate(clients[:-1]))
            )
            workers = {(await client.request("stats"))["stats"]["worker"] for client in clients}
            assert len(workers) == 2, "else this shows little"
            status, found = await asyncio.to_thread(explain, topic="a.b", data={"n": 20})
            assert (status, found["receivers"], found["matched"]) == (200, 21, CLIENTS - 1)
            assert (found["strategy"], found["patterns"]) == ("content_based", ["a.*"])
            published = await clients[-1].request("publish", topic="a.b", data={"n": 20})
            await eventually(lambda: all(client.of("event") for client in clients[:21]))
            names = {client.of("welcome")[0]["session"]: client for client in clients}
            for row in found["sessions"]:
                offsets = names[row["session"]].offsets("a.b")
                assert offsets == ([published["offset"]] if row["receives"] else []), row
                assert row["receives"] or row["because"].startswith("n is 20, not gte ")
            session = clients[-1].of("welcome")[0]["session"]
            _, found = await asyncio.to_thread(explain, topic="a.b", data=1, session=session)
            assert found["sessions"][0]["because"] == "it has no subscription"
            status, found = await asyncio.to_thread(explain, topic="a.b", data=1, session="nobody")
            assert (status, found["error"]["code"]) == (404, "not_found")

    asyncio.run(scenario())


def test_a_python_client_filters_batches_and_has_an_inbox(
    engine_process: Callable[..., EngineProcess],
) -> None:
    engine = engine_process()

    async def take(events: Any, count: int) -> list[Any]:
        got: list[Event] = [await anext(events) for _ in range(count)]
        return [event.data for event in got]

    async def scenario() -> None:
        async with (
            asyncio.timeout(20),
            Client(f"{engine.url}?user=alice", connect_within=5) as client,
            client.subscribe("a.*", where={"n": {"lt": 2}}) as low,
            client.subscribe("a.b", where={"n": {"gt": 2}}, batch=True, window=0.05) as high,
            client.inbox() as inbox,
        ):
            for n in range(5):
                await client.publish("a.b", {"n": n})
            assert await take(low, 2) == [{"n": 0}, {"n": 1}]
            assert await take(high, 2) == [{"n": 3}, {"n": 4}]
            assert (low.missed, high.missed) == (0, 0)
            held = await client.subscriptions()
            assert held.pop("user.alice") == {}
            assert held == {
                "a.*": {"where": {"n": {"lt": 2}}},
                "a.b": {"where": {"n": {"gt": 2}}, "window": 0.05, "batch": True},
            }
            await client.publish("user.alice", "hello")
            assert (await anext(inbox)).data == "hello"
            with pytest.raises(RequestError, match="presence"):
                await client.presence("a.b")
            engine.admin("/api/users/alice/unsubscribe", "POST", {"topics": ["a.*"]})
            with pytest.raises(RequestError, match="has ended the subscription"):
                await anext(low)

    asyncio.run(scenario())


def test_a_python_member_of_a_group_acknowledges(engine_process: Callable[..., EngineProcess]) -> None:
    engine = engine_process('[topics."jobs.>"]\nstrategy = "load_balanced"\nacks = true\nack_timeout = 60')

    async def scenario() -> None:
        async with asyncio.timeout(20), AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(engine.url, connect_within=5)) for _ in range(2)]
            first, second = [await stack.enter_async_context(c.subscribe("jobs.*", group="g")) for c in clients]
            assert await clients[0].subscriptions() == {"jobs.*": {"group": "g"}}
            _, found = await asyncio.to_thread(engine.admin, "/api/explain", "POST", {"topic": "jobs.a", "data": 1})
            assert (found["groups"], [row["receives"] for row in found["sessions"]]) == (["g"], [None, None])
            for n in range(4):
                await clients[0].publish("jobs.a", n)
            mine, theirs = [await anext(first) for _ in range(2)], [await anext(second) for _ in range(2)]
            assert sorted(event.data for event in mine + theirs) == [0, 1, 2, 3]
            await clients[1].ack(theirs[0])
            await clients[1].close()  # without having acknowledged the other one
            assert (await anext(first)).data == theirs[1].data

    asyncio.run(scenario())
