"""Processes that hang: who notices, what becomes of them, and what everybody else sees of it: nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import psutil
import pytest

from tests.integration.harness import EngineProcess, Publisher, RawClient, followed

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s
CLIENTS = 10
RATE = 200.0  # events/s
TOPIC = "t"
FEED = '[feeds.fx]\nurl = "ws://127.0.0.1:9/"\n'
idle_and_busy = pytest.mark.parametrize("rate", [0.0, RATE])


class Crowd(NamedTuple):
    """Subscribers, by worker, and their publisher, who is on worker-1; none where nothing is published."""

    worker_0: list[RawClient]
    worker_1: list[RawClient]
    publisher: Publisher | None

    async def check(self, clients: list[RawClient], eventually: Eventually) -> None:
        """These are connected, and have got each event until now."""
        assert {client.closed for client in clients} == {None}
        if self.publisher is not None:
            last = self.publisher.accepted[-1]
            for client in clients:
                await eventually(lambda client=client: last in followed(client.messages, TOPIC), DEADLINE)
                assert not client.of("gap")
            assert not self.publisher.refused
        for client in clients:
            assert (await client.request("ping"))["op"] == "ok"

    async def hear(self, events: int, eventually: Eventually) -> None:
        """Wait until so many more events have been accepted."""
        if self.publisher is not None:
            publisher, target = self.publisher, len(self.publisher.accepted) + events
            await eventually(lambda: len(publisher.accepted) >= target, DEADLINE)


@asynccontextmanager
async def crowd(engine: EngineProcess, rate: float) -> AsyncIterator[Crowd]:
    async with AsyncExitStack() as stack:
        by_worker: dict[str, list[RawClient]] = {"worker-0": [], "worker-1": []}
        while min(map(len, by_worker.values())) < 2 or sum(map(len, by_worker.values())) < CLIENTS:
            client = await stack.enter_async_context(RawClient(engine.url))
            by_worker[(await client.request("stats"))["stats"]["worker"]].append(client)
            await client.subscribe(TOPIC)
        publisher = None
        if rate:
            publisher = await stack.enter_async_context(Publisher(by_worker["worker-1"][0], TOPIC, rate))
        them = Crowd(by_worker["worker-0"], by_worker["worker-1"], publisher)
        await them.hear(20, eventually_)
        yield them


async def eventually_(condition: Callable[[], object], timeout: float) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


def start(engine_process: Start, config: str = "") -> EngineProcess:
    return engine_process(config, workers=2, server__heartbeat_interval=0.2, server__heartbeat_timeout=1.0)


def restarts(engine: EngineProcess) -> list[tuple[str, str]]:
    """Name and reason of each, so far."""
    return [(line["name"], line["reason"]) for line in engine.log() if line["event"] == "process_restarting"]


def forkserver_of(engine: EngineProcess) -> int:
    return psutil.Process(engine.children()["worker-1"]).ppid()


def wake(pid: int) -> None:
    """What an operator may do too late; a process that was given up must not come back."""
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


@idle_and_busy
@pytest.mark.parametrize("name", ["worker-0", "feeds"])
def test_a_hung_process_is_replaced_and_the_others_notice_nothing(
    engine_process: Start, eventually: Eventually, name: str, rate: float
) -> None:
    engine = start(engine_process, FEED)

    async def scenario() -> None:
        async with crowd(engine, rate) as them:
            await eventually(lambda: name in engine.children(), DEADLINE)
            hung = engine.kill(name, signal.SIGSTOP)
            await eventually(lambda: engine.children().get(name) not in (hung, None), DEADLINE)
            wake(hung)
            assert not psutil.pid_exists(hung)
            await them.hear(20, eventually)
            await them.check(them.worker_1 if name == "worker-0" else them.worker_0 + them.worker_1, eventually)
            assert restarts(engine) == [(name, "silent for 1 s")]

    asyncio.run(scenario())


@idle_and_busy
def test_a_hung_hub_is_replaced_and_nobody_loses_the_connection(
    engine_process: Start, eventually: Eventually, rate: float
) -> None:
    engine = start(engine_process)

    async def scenario() -> None:
        async with crowd(engine, rate) as them:
            hung = engine.kill("hub", signal.SIGSTOP)
            await eventually(lambda: engine.children().get("hub") not in (hung, None), DEADLINE)
            wake(hung)
            assert not psutil.pid_exists(hung)
            client = them.worker_0[0]

            async def accepted() -> bool:
                return (await client.request("publish", topic="other", data=1))["op"] == "ok"

            async with asyncio.timeout(DEADLINE):
                while not await accepted():
                    await asyncio.sleep(0.02)
            await them.hear(20, eventually)
            assert {client.closed for client in them.worker_0 + them.worker_1} == {None}
            if them.publisher is not None:
                assert set(them.publisher.refused) <= {"unavailable"}
            assert restarts(engine) == [("hub", "silent for 1 s")]

    asyncio.run(scenario())


@idle_and_busy
def test_a_hung_forkserver_is_given_up_and_its_children_serve_on(
    engine_process: Start, eventually: Eventually, rate: float
) -> None:
    engine = start(engine_process)

    async def scenario() -> None:
        async with crowd(engine, rate) as them:
            children, hung = engine.children(), forkserver_of(engine)
            os.kill(hung, signal.SIGSTOP)
            await eventually(lambda: not psutil.pid_exists(hung), DEADLINE)
            await them.hear(20, eventually)
            await them.check(them.worker_0 + them.worker_1, eventually)
            assert engine.children() == children
            assert restarts(engine) == []

            # Another one takes its place when a process dies, though the first one had forked that.
            dead = engine.kill("worker-0")
            await eventually(lambda: engine.children().get("worker-0") not in (dead, None), DEADLINE)
            await them.hear(20, eventually)
            await them.check(them.worker_1, eventually)

    asyncio.run(scenario())
    assert engine.stop() == 0


@idle_and_busy
def test_a_hung_daemon_stops_no_event_and_kills_nobody_when_it_wakes(
    engine_process: Start, eventually: Eventually, rate: float
) -> None:
    engine = start(engine_process)

    async def scenario() -> None:
        async with crowd(engine, rate) as them:
            children = engine.children()
            engine.kill("daemon", signal.SIGSTOP)
            try:
                await asyncio.sleep(2.5)  # more than twice the silence that would have the daemon kill a child
                await them.hear(20, eventually)
                await them.check(them.worker_0 + them.worker_1, eventually)
            finally:
                engine.kill("daemon", signal.SIGCONT)
            await eventually(lambda: engine.admin("/health")[1]["status"] == "ok", DEADLINE)
            await asyncio.sleep(1.5)  # longer than the silence that is allowed
            assert engine.children() == children
            await them.check(them.worker_0 + them.worker_1, eventually)
            assert restarts(engine) == []

    asyncio.run(scenario())
    assert engine.stop() == 0


def test_a_worker_that_hangs_while_workers_are_replaced_holds_nothing_up_for_ever(
    engine_process: Start, eventually: Eventually
) -> None:
    engine = start(engine_process)

    async def scenario() -> None:
        async with crowd(engine, 0.0):
            hung = engine.kill("worker-0", signal.SIGSTOP)
            status, _ = await asyncio.to_thread(engine.admin, "/api/restart", "POST", {})
            assert status == 200
            await eventually(lambda: engine.admin("/api/restart")[1]["state"] == "done", DEADLINE)
            wake(hung)
            assert not psutil.pid_exists(hung)
            async with RawClient(engine.url) as client:
                assert (await client.request("publish", topic=TOPIC, data=1))["op"] == "ok"

    asyncio.run(scenario())
