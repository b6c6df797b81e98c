"""Consumer groups through real processes: whoever dies, what nobody has acknowledged comes to somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

JOBS = """
[topics."jobs.>"]
strategy = "load_balanced"
acks = true
ack_timeout = 60.0

[topics."dice.*"]
strategy = "load_balanced"
"""
KNOCKS = 60  # connections until there is a member at each worker; each is a coin's throw


class Consumer:
    """A member that acknowledges what it is told to."""

    def __init__(self, client: RawClient, worker: str) -> None:
        self.client, self.worker = client, worker
        self.done: list[int] = []  # offsets that it has acknowledged

    def events(self) -> list[dict[str, Any]]:
        return [event for event in self.client.of("event") if event["topic"].startswith("jobs.")]

    async def ack(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            position = {name: event[name] for name in ("topic", "epoch", "offset")}
            assert (await self.client.request("ack", **position))["op"] == "ok"
            self.done.append(event["offset"])


async def consumers(stack: AsyncExitStack, url: str) -> list[Consumer]:
    """One at worker-0, and two at worker-1."""
    found: list[Consumer] = []
    for _ in range(KNOCKS):
        client = await stack.enter_async_context(RawClient(url))
        worker = (await client.request("stats"))["stats"]["worker"]
        if [consumer.worker for consumer in found].count(worker) < (1 if worker == "worker-0" else 2):
            await client.subscribe("jobs.*", group="mailers")
            found.append(Consumer(client, worker))
        if len(found) == 3:
            return sorted(found, key=lambda consumer: consumer.worker)
    raise AssertionError(f"{KNOCKS} connections came to {[consumer.worker for consumer in found]}")


async def publish(client: RawClient, topic: str, count: int) -> list[int]:
    answers = [client.send("publish", topic=topic, data=n) for n in range(count)]
    return [(await asyncio.wait_for(answer, 10))["offset"] for answer in answers]


def test_what_the_dead_have_not_acknowledged_comes_to_the_living(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(JOBS, workers=2)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            killed, closed, living = members = await consumers(stack, engine.url)
            publisher, other = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(2)]
            await other.subscribe("jobs.>", group="auditors")
            jobs = await publish(publisher, "jobs.mail", 90)
            await eventually(lambda: [len(member.events()) for member in members] == [30, 30, 30])
            await eventually(lambda: len(other.of("event")) == 90)
            for member in members:
                await member.ack(member.events()[:10])
            # An acknowledgement is on its way to the hub when it is answered; the next answer of the hub is behind it.
            await asyncio.gather(*(member.client.subscribe("fence") for member in members))
            assert engine.kill("worker-0")
            await eventually(lambda: killed.client.closed is not None)
            await closed.client.__aexit__(None, None, None)
            await eventually(lambda: len(living.events()) == 70)
            again = living.events()[30:]
            # What was taken back from the first may have come to the second before it went, too.
            lost = {event["offset"] for member in (killed, closed) for event in member.events()[10:]}
            assert sorted(event["offset"] for event in again) == sorted(lost)
            await living.ack(living.events()[10:])
            assert sorted(killed.done + closed.done + living.done) == jobs
            # Nothing is left for somebody who comes late.
            late = await stack.enter_async_context(RawClient(engine.url))
            await living.client.subscribe("fence.too")
            await living.client.__aexit__(None, None, None)
            await late.subscribe("jobs.*", group="mailers")
            await late.subscribe("fence")
            assert late.of("event") == []

    asyncio.run(scenario())


def test_groups_through_the_death_of_the_hub(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(JOBS, workers=2)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            members = await consumers(stack, engine.url)
            publisher = await stack.enter_async_context(RawClient(engine.url))
            pid = engine.kill("hub")
            await eventually(lambda: engine.children().get("hub", pid) != pid, 15.0)

            async def known() -> bool:
                """Whether the new hub knows all three: of three events each gets one."""
                before = [len(member.events()) for member in members]
                answers = [await publisher.request("publish", topic="jobs.x", data=n) for n in range(3)]
                if any(answer["op"] == "error" for answer in answers):
                    return False
                await eventually(lambda: sum(len(member.events()) for member in members) >= sum(before) + 3, 15.0)
                for member in members:
                    await member.ack([e for e in member.events() if e["offset"] not in member.done])
                return [len(member.events()) for member in members] == [n + 1 for n in before]

            async with asyncio.timeout(20):
                while not await known():
                    await asyncio.sleep(0.05)

    asyncio.run(scenario())


def test_what_a_group_cannot_be(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(JOBS)

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            answer = await client.request("subscribe", topics=["jobs.x", "price.*"], group="g")
            assert (answer["code"], answer["field"]) == ("conflict", "group")
            assert 'topics."price.*"' in answer["message"]
            await client.subscribe("dice.*", group="g")
            await client.subscribe("dice.one")
            await publish(client, "dice.one", 2)
            await publish(client, "jobs.x", 1)  # it is in no group of these
            await client.request("unsubscribe", topics=["dice.*"])
            await publish(client, "dice.two", 1)
            await client.subscribe("fence")
            assert {event["topic"] for event in client.of("event")} == {"dice.one"}
            line = b'heliograph_events_dropped_total{reason="group_empty"} 1'
            await eventually(lambda: line in engine.admin("/metrics")[1])

    asyncio.run(scenario())
