"""``kill -9`` of each kind of process, in each phase: no acknowledged event is lost, none comes twice.

The oracle is that of ``python -m bench.chaos``: clients that recover by offsets and by position get every event of
their topics in order, are told of no gap and no new epoch, and each publish is acknowledged, if need be when repeated.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psutil
import pytest

from bench.chaos_client import Crowd, Publisher, Watcher
from bench.chaos_log import Faults, Ledger, Receiver
from tests.integration.harness import EngineProcess

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

DEADLINE = 30.0  # s
CONFIG = '[feeds.fx]\nurl = "ws://127.0.0.1:9/"\n'
TOPICS = ["m.a", "m.b"]
CLIENTS = 16
RATE = 300.0  # events/s
HELLO = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
DEAF = 16  # so many that each worker has some
SOME = 30  # events before and after
JITTER_S = 0.1
LONG_JITTER_S = 0.6
VICTIMS = ["worker-0", "hub", "feeds", "forkserver", "daemon"]
UNNOTICED = {"hub", "feeds", "forkserver"}
"""Whose death costs no client its connection."""


@dataclass
class Scene:
    """An engine, a publisher and clients that recover."""

    start: Start
    engine: EngineProcess
    told: Ledger
    seen: Ledger
    crowd: Crowd
    publisher: Publisher
    eventually: Eventually

    async def hear(self, events: int = SOME) -> None:
        """Wait until so many more events have been acknowledged."""
        target = self._acknowledged() + events
        await self.eventually(lambda: self._acknowledged() >= target, DEADLINE)

    def _acknowledged(self) -> int:
        return sum(map(len, self.told.numbers.values()))

    def resumed(self) -> int:
        return sum(receiver.resumed for receiver in self.crowd.receivers)

    async def come_back(self) -> None:
        """All clients leave; returns when the first has recovered, and the last has not."""
        for watcher in self.crowd.watchers:
            watcher.jitter_s = LONG_JITTER_S
            watcher.leave()
        await self.eventually(self.resumed, DEADLINE)
        assert self.resumed() < CLIENTS
        for watcher in self.crowd.watchers:
            watcher.jitter_s = JITTER_S

    async def kill(self, name: str) -> None:
        """And wait until another one is in its place; in the daemon's, that of an engine that is started anew."""
        children = self.engine.children()
        if name == "forkserver":
            self.forkserver().kill()
            return  # it is replaced when it is needed; the others do not depend on it
        self.engine.kill(name)
        if name == "daemon":
            await self.succeed()
        else:
            await self.eventually(lambda: self.engine.children().get(name) not in (children[name], None), DEADLINE)

    def forkserver(self) -> psutil.Process:
        """Who has forked the others."""
        return psutil.Process(psutil.Process(self.engine.children()["worker-1"]).ppid())

    async def succeed(self) -> None:
        """The daemon has ended or will do so; another one takes its place at once, whatever is left of the engine."""
        await asyncio.to_thread(self.engine.wait, DEADLINE)
        place = {"port": self.engine.port, "server__runtime_dir": self.engine.runtime_dir}
        self.engine = await asyncio.to_thread(self.start, CONFIG, 2, **place)

    async def check(self) -> None:
        """Everything that was acknowledged is everywhere."""
        await self.hear()
        await self.publisher.stop()
        await self.crowd.complete(self.seen, self.told.acknowledged())
        assert self.told.faults.texts + self.seen.faults.texts == []
        assert self.crowd.events >= CLIENTS * SOME


@asynccontextmanager
async def scene(start: Start, eventually: Eventually, **fields: object) -> AsyncIterator[Scene]:
    """``fields``: more configuration."""
    engine = await asyncio.to_thread(start, CONFIG, 2, server__drain_timeout=1, **fields)
    told, seen = Ledger(Faults()), Ledger(Faults())
    receivers = [
        Receiver(f"exact {n}", seen, TOPICS, TOPICS, exact=True)
        if n % 2
        else Receiver(f"by position {n}", seen, ["m.*"], TOPICS, exact=False)
        for n in range(CLIENTS)
    ]
    async with Crowd("127.0.0.1", engine.port, receivers) as crowd:
        for watcher in crowd.watchers:
            watcher.jitter_s = JITTER_S
        await crowd.ready()
        async with Publisher("127.0.0.1", engine.port, told, TOPICS, RATE, 0, "matrix") as publisher:
            publisher.jitter_s = JITTER_S
            them = Scene(start, engine, told, seen, crowd, publisher, eventually)
            await them.hear()
            yield them


def sessions(crowd: Crowd) -> list[Watcher]:
    """Those who have lost their connection at least once."""
    return [watcher for watcher in crowd.watchers if watcher.receiver.resumed]


async def deaf(port: int) -> asyncio.StreamWriter:
    """A client that answers no close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HELLO)
    await reader.readuntil(b'"welcome"')
    return writer


@pytest.mark.parametrize("victim", VICTIMS)
def test_idle(engine_process: Start, eventually: Eventually, victim: str) -> None:
    """Nobody publishes: what was there before is there afterwards, and offsets go on."""

    async def scenario() -> None:
        async with scene(engine_process, eventually) as them:
            them.publisher.pause()
            await eventually(lambda: not them.publisher.unanswered, DEADLINE)
            await them.kill(victim)
            them.publisher.go_on()
            await them.check()
            assert victim not in UNNOTICED or not sessions(them.crowd)

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", VICTIMS)
def test_under_load(engine_process: Start, eventually: Eventually, victim: str) -> None:
    """What is in flight is acknowledged in the end, once; who loses the connection misses nothing."""

    async def scenario() -> None:
        async with scene(engine_process, eventually) as them:
            await them.kill(victim)
            await them.check()
            assert victim not in UNNOTICED or not sessions(them.crowd)

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_clients_recover(engine_process: Start, eventually: Eventually, victim: str) -> None:
    """All clients come back at the same time; when the first has recovered, others are about to. They do, then."""

    async def scenario() -> None:
        async with scene(engine_process, eventually) as them:
            await them.come_back()
            await them.kill(victim)
            await eventually(lambda: len(sessions(them.crowd)) == CLIENTS, DEADLINE)
            await them.check()

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", VICTIMS)
def test_while_the_engine_drains(engine_process: Start, eventually: Eventually, victim: str) -> None:
    """It ends all the same, in time; its successor has everything."""

    async def scenario() -> None:
        async with scene(engine_process, eventually) as them:
            pids = {**them.engine.children(), "daemon": them.engine.pid, "forkserver": them.forkserver().pid}
            hanging = [await deaf(them.engine.port) for _ in range(DEAF)]  # so that the drain takes its time
            them.engine.kill("daemon", signal.SIGTERM)
            await eventually(lambda: any(watcher.byes for watcher in them.crowd.watchers), DEADLINE)
            psutil.Process(pids[victim]).kill()
            await them.succeed()
            for writer in hanging:
                writer.close()
            await them.check()

    asyncio.run(scenario())


def test_stopped_and_started_again(engine_process: Start, eventually: Eventually) -> None:
    """SIGTERM under load loses nothing either, and sends each client away once."""

    async def scenario() -> None:
        async with scene(engine_process, eventually) as them:
            them.engine.kill("daemon", signal.SIGTERM)
            await them.succeed()
            await them.check()
            assert {watcher.connections for watcher in them.crowd.watchers} == {2}

    asyncio.run(scenario())
