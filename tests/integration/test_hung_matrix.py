"""SIGSTOP to each kind of process, in each phase: as ``kill -9`` in :mod:`tests.integration.test_crash_matrix`, whose
oracle this is; but somebody has to notice it first. All victims of a phase hang at the same time, in an engine each."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from tests.integration.test_crash_matrix import CLIENTS, DEADLINE, DEAF, Eventually, Scene, Start, deaf, scene, sessions

VICTIMS = ["worker-0", "hub", "feeds", "daemon"]
FROZEN_S = 0.5  # of the daemon in a drain


async def hang(them: Scene, victim: str) -> None:
    """Until another one is in its place; the daemon, which nobody here replaces, until the rest has gone on without."""
    hung = them.engine.kill(victim, signal.SIGSTOP)
    if victim == "daemon":
        await them.hear()
        them.engine.kill(victim, signal.SIGCONT)
        return
    await them.eventually(lambda: them.engine.children().get(victim) not in (hung, None), DEADLINE)
    reasons = {line["name"]: line["reason"] for line in them.engine.log() if line["event"] == "process_restarting"}
    assert reasons[victim] == "silent for 1.5 s"


def each(start: Start, eventually: Eventually, phase: Callable[[Scene, str], Awaitable[None]]) -> None:
    """The phase with each victim; then everything that was acknowledged is everywhere."""

    async def one(victim: str) -> None:
        quick = {"server__heartbeat_interval": 0.3, "server__heartbeat_timeout": 1.5}
        async with scene(start, eventually, **quick) as them:
            await phase(them, victim)
            await them.check()

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group:
            for victim in VICTIMS:
                group.create_task(one(victim))

    asyncio.run(scenario())


def test_idle(engine_process: Start, eventually: Eventually) -> None:
    """Nobody publishes: what was there before is there afterwards, and offsets go on."""

    async def phase(them: Scene, victim: str) -> None:
        them.publisher.pause()
        await eventually(lambda: not them.publisher.unanswered, DEADLINE)
        if victim == "daemon":
            them.publisher.go_on()  # while it hangs
        await hang(them, victim)
        them.publisher.go_on()

    each(engine_process, eventually, phase)


def test_under_load(engine_process: Start, eventually: Eventually) -> None:
    """What is in flight is acknowledged in the end, once; who loses the connection misses nothing."""
    each(engine_process, eventually, hang)


def test_while_clients_recover(engine_process: Start, eventually: Eventually) -> None:
    """All clients come back at the same time; when the first has recovered, others are about to. They do, then."""

    async def phase(them: Scene, victim: str) -> None:
        await them.come_back()
        await hang(them, victim)
        await eventually(lambda: len(sessions(them.crowd)) == CLIENTS, DEADLINE)

    each(engine_process, eventually, phase)


def test_while_the_engine_drains(engine_process: Start, eventually: Eventually) -> None:
    """It ends all the same, some 10 s later at the most; its successor has everything."""

    async def phase(them: Scene, victim: str) -> None:
        hanging = [await deaf(them.engine.port) for _ in range(DEAF)]  # so that the drain takes its time
        them.engine.kill("daemon", signal.SIGTERM)
        await eventually(lambda: any(watcher.byes for watcher in them.crowd.watchers), DEADLINE)
        them.engine.kill(victim, signal.SIGSTOP)
        if victim == "daemon":
            await asyncio.sleep(FROZEN_S)  # nobody else ends the workers that it has not told yet
            them.engine.kill(victim, signal.SIGCONT)
        await them.succeed()
        for writer in hanging:
            writer.close()

    each(engine_process, eventually, phase)
