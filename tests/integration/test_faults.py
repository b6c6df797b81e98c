"""Processes that are killed or hang, under load: what the others, the clients and the operator see of it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from actors.backoff import BackoffPolicy
from engine.client import Client
from engine.recording import Instrument, Quote
from engine.replay import ReplayExchange
from tests.integration.harness import EngineProcess, Publisher, RawClient, followed
from transport.event import Event

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 10.0  # s from a process's death until everything is as before
ORPHANS_GONE = 5.0  # s from the daemon's death until nothing is left
CLIENTS = 20
USERS = 6
RATE = 200.0  # events/s
TOPIC = "t"
PROMPT = BackoffPolicy(first_s=0.1, cap_s=1.0)


async def fall(engine: EngineProcess, name: str, eventually: Eventually, how: int = signal.SIGKILL) -> str:
    """Let a process fall and wait until it was replaced; what ``/health`` called the whole meanwhile."""

    def health() -> tuple[str, set[str]]:
        code, body = engine.admin("/health")
        assert code == 200
        return body["status"], {part for part, state in body["components"].items() if state["status"] != "ok"}

    await eventually(lambda: health() == ("ok", set()))
    # A restart takes 14 ms, in which a busy machine does not get round to asking. So the next life's way to the daemon
    # is hidden until we have asked.
    door = Path(engine.runtime_dir, "control.sock")
    hidden = door.rename(door.with_suffix(".hidden"))
    fallen = engine.kill(name, how)
    await eventually(lambda: name in health()[1], DEADLINE)
    status, _ = health()
    hidden.rename(door)
    await eventually(lambda: health() == ("ok", set()), DEADLINE)
    assert engine.children()[name] != fallen
    return status


class User:
    """A consumer of the Python client."""

    def __init__(self, url: str, topic: str) -> None:
        self.client = Client(url, reconnect=PROMPT)
        self._topic = topic
        self.events: list[Event] = []
        self.missed = 0
        self.worker = ""

    async def __aenter__(self) -> Self:
        await self.client.__aenter__()
        self.worker = (await self.client.stats())["worker"]
        self.session = self.client.session
        subscribed = asyncio.Event()
        self._task = asyncio.create_task(self._consume(subscribed))
        await subscribed.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()
        await self._task

    async def _consume(self, subscribed: asyncio.Event) -> None:
        async with self.client.subscribe(self._topic, on_gap=lambda _: None) as subscription:
            subscribed.set()
            async for event in subscription:
                self.events.append(event)
                self.missed = subscription.missed

    def positions(self) -> list[tuple[str, int]]:
        """Of all events so far."""
        return [(event.epoch, event.offset) for event in self.events]


class Crowd:
    """Clients of all kinds, on both workers, and a publisher whose own connection is to worker-1."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self.raw: list[RawClient] = []
        self.users: list[User] = []
        self.worker_of: dict[RawClient, str] = {}

    def on(self, worker: str) -> list[RawClient]:
        """The raw clients of a worker."""
        return [client for client in self.raw if self.worker_of[client] == worker]

    def heard(self) -> list[int]:
        """How many events each user got."""
        return [len(user.events) for user in self.users]

    async def more(self, stack: AsyncExitStack) -> RawClient:
        """Another raw client, whose worker is known."""
        client = await stack.enter_async_context(RawClient(self.engine.url))
        self.worker_of[client] = (await client.request("stats"))["stats"]["worker"]
        return client


@asynccontextmanager
async def crowd(engine: EngineProcess, topic: str = TOPIC) -> AsyncIterator[tuple[Crowd, Publisher, AsyncExitStack]]:
    """A crowd that gets events on ``topic`` already, and a publisher on :data:`TOPIC`."""
    async with AsyncExitStack() as stack:
        found = Crowd(engine)
        while len(found.raw) < CLIENTS or not (found.on("worker-0") and found.on("worker-1")):
            found.raw.append(await found.more(stack))
        while len(found.users) < USERS or {user.worker for user in found.users} != {"worker-0", "worker-1"}:
            found.users.append(await stack.enter_async_context(User(engine.url, topic)))
        for client in found.raw:
            await client.subscribe(topic)
        while found.worker_of[own := await found.more(stack)] != "worker-1":
            pass
        publisher = await stack.enter_async_context(Publisher(own, TOPIC, RATE))
        async with asyncio.timeout(DEADLINE):
            while not (publisher.accepted and all(c.offsets(topic) for c in found.raw) and all(found.heard())):
                await asyncio.sleep(0.01)
        yield found, publisher, stack


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_is_replaced_and_the_other_ones_clients_notice_nothing(
    engine_process: Start, eventually: Eventually, how: signal.Signals
) -> None:
    quick = {"server__heartbeat_interval": 0.2, "server__heartbeat_timeout": 1.0} if how == signal.SIGSTOP else {}
    engine = engine_process(workers=2, **quick)

    async def scenario() -> None:
        async with crowd(engine) as (them, publisher, stack):
            assert await fall(engine, "worker-0", eventually, how) == "degraded"
            assert b'heliograph_process_restarts_total{process="worker-0"} 1' in engine.admin("/metrics")[1]

            # Users come back and go on; who was on the other worker did not even lose the connection.
            then = publisher.accepted[-1]
            await eventually(lambda: all(user.positions()[-1] > then for user in them.users), DEADLINE)
            for user in them.users:
                positions = user.positions()
                assert positions == sorted(set(positions))
                assert user.missed == positions[-1][1] - positions[0][1] + 1 - len(positions)
                assert (user.client.session == user.session) is (user.worker == "worker-1")
                assert user.missed == 0 or user.worker == "worker-0"

            # The new worker takes new clients.
            while them.worker_of[late := await them.more(stack)] != "worker-0":
                pass
            await late.subscribe(TOPIC)
            await eventually(lambda: late.offsets(TOPIC))

            await publisher.stop()
            last = publisher.accepted[-1]
            await eventually(lambda: all(client.offsets(TOPIC)[-1] == last[1] for client in them.on("worker-1")))
            for client in them.on("worker-1"):
                assert client.closed is None
                assert not client.of("gap")
                assert followed(client.messages, TOPIC)[-1] == last
            assert {client.closed for client in them.on("worker-0") if client is not late} == {1006}
            assert not publisher.refused

    asyncio.run(scenario())
    if how == signal.SIGSTOP:
        assert any("silent for 1 s" in line.get("reason", "") for line in engine.log())


def test_the_hub_dies_and_no_client_loses_its_connection(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2)

    async def scenario() -> None:
        async with crowd(engine) as (them, publisher, _):
            engine.kill("hub", signal.SIGSTOP)  # so that some publishes are on their way when it dies
            await eventually(lambda: len(publisher.unanswered) >= 5)
            assert await fall(engine, "hub", eventually) == "down"
            then = len(publisher.accepted)
            await eventually(lambda: len(publisher.accepted) > then + 50)
            await publisher.stop()
            last = publisher.accepted[-1]
            for client in them.raw:
                await eventually(lambda client=client: followed(client.messages, TOPIC)[-1] == last)
                assert client.closed is None
                assert not client.of("gap"), "the next hub goes on where it ended"
            for user in them.users:
                await eventually(lambda user=user: user.positions()[-1] == last)
                assert user.client.session == user.session
                positions = user.positions()
                assert [offset for _, offset in positions] == [*range(positions[0][1], last[1] + 1)]
            assert set(publisher.refused) == {"unavailable"}

    asyncio.run(scenario())


FEED = """
[feeds.fx]
url = "{url}"
subscribe = [{{ method = "SUBSCRIBE", params = ["*"], id = 1 }}]
[feeds.fx.map]
topic = "price.{{symbol}}"
key = "data.s"
filter = {{ "data.e" = "tick" }}
data = {{ bid = "data.b", n = "data.n" }}
"""


def test_the_feeds_process_dies_and_prices_go_on(engine_process: Start, eventually: Eventually) -> None:
    price = "price.EUR_USD"
    instrument = Instrument("EUR_USD", lambda: (Quote("EUR_USD", n * 5, f"1.{n}", "2.0") for n in range(10_000)))

    async def scenario() -> None:
        async with ReplayExchange(play=[instrument]) as exchange:
            engine = await asyncio.to_thread(engine_process, FEED.format(url=exchange.url), 2)
            async with crowd(engine, price) as (them, publisher, _):
                assert await fall(engine, "feeds", eventually) == "degraded"
                sent = exchange.sent
                await eventually(lambda: all(_newest(client) > sent for client in them.raw), DEADLINE)
                for client in them.raw:
                    assert client.closed is None
                    assert not client.of("gap")
                    positions = followed(client.messages, price)
                    assert len({epoch for epoch, _ in positions}) == 1
                for user in them.users:
                    assert user.client.session == user.session
                    assert user.missed == 0
                assert not publisher.refused

    def _newest(client: RawClient) -> int:
        """The exchange's own number of the last tick that has come."""
        number: int = client.of("event")[-1]["data"]["n"]
        return number

    asyncio.run(scenario())


def test_what_is_in_flight_when_the_hub_dies_is_answered(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(workers=2)

    async def scenario() -> None:
        async with RawClient(engine.url) as client:
            await client.subscribe("before")
            assert (await client.request("publish", topic="before", data=0))["op"] == "ok"
            engine.kill("hub", signal.SIGSTOP)  # so that it takes no more
            publishes = [client.send("publish", topic="before", data=n) for n in range(10)]
            subscribes = [client.send("subscribe", topics=[f"during.{n}"], snapshot=True) for n in range(3)]
            assert (await client.request("ping"))["op"] == "ok"  # so that all of these have been taken
            assert not any(answer.done() for answer in publishes + subscribes)
            engine.kill("hub")
            answers = await asyncio.wait_for(asyncio.gather(*publishes), DEADLINE)
            assert {(answer["op"], answer["code"]) for answer in answers} == {("error", "unavailable")}
            away = client.send("subscribe", topics=["away"])
            answers = await asyncio.wait_for(asyncio.gather(*subscribes, away), DEADLINE)
            assert {answer["op"] for answer in answers} == {"ok"}
            # All of them are in force with the new hub, also the one from before.
            for topic in ("before", "during.0", "during.1", "during.2", "away"):
                assert (await client.request("publish", topic=topic, data=f"after, on {topic}"))["op"] == "ok"
                await eventually(lambda topic=topic: client.of("event")[-1]["data"] == f"after, on {topic}")
            assert client.closed is None

    asyncio.run(scenario())


@pytest.mark.parametrize("hanging", [[], ["hub", "worker-0"]])
def test_nothing_outlives_the_daemon_and_a_new_one_takes_its_place(
    engine_process: Start, wait_until: Callable[..., None], hanging: list[str]
) -> None:
    engine = engine_process(workers=2)
    assert sorted(engine.children()) == ["hub", "worker-0", "worker-1"]

    async def load() -> dict[str, Any]:
        async with RawClient(engine.url) as client, Publisher(client, TOPIC, RATE) as publisher:
            await client.subscribe(TOPIC)
            while len(publisher.accepted) < 20:
                await asyncio.sleep(0.01)
            for name in hanging:
                engine.kill(name, signal.SIGSTOP)
            engine.kill("daemon")
            return {"accepted": len(publisher.accepted)}

    asyncio.run(load())
    began = time.monotonic()
    assert engine.wait() == -signal.SIGKILL
    wait_until(lambda: not engine.processes(), ORPHANS_GONE - (time.monotonic() - began))

    second = engine_process(workers=2, port=engine.port, server__runtime_dir=engine.runtime_dir)
    assert second.url == engine.url

    async def works() -> None:
        async with RawClient(second.url) as client:
            await client.subscribe(TOPIC)
            assert (await client.request("publish", topic=TOPIC, data=1))["op"] == "ok"

    asyncio.run(works())
