from __future__ import annotations

import asyncio

import pytest

from engine.loadtest.report import Fault
from engine.loadtest.server_processes import NoWorker
from engine.loadtest.stability import ConnectionStabilityTester


class Server:
    def __init__(self) -> None:
        self.cuts: list[int] = []
        self.workers = ["worker-0"]

    async def cut(self, count: int) -> int:
        self.cuts.append(count)
        return count

    async def kill(self) -> str:
        if not self.workers:
            raise NoWorker("all gone")
        return self.workers.pop()


def watched(expected: int) -> tuple[ConnectionStabilityTester, Server]:
    server = Server()
    return ConnectionStabilityTester(expected, 2.0, server.cut, server.kill), server


def test_uptime_is_of_connection_seconds_that_count() -> None:
    stability, _ = watched(10)
    assert stability.uptime is None
    stability.observe(3.0, 10, judged=True)
    assert stability.uptime == 1.0
    stability.observe(4.0, 5, judged=True)
    assert stability.uptime == pytest.approx(0.75)
    stability.observe(5.0, 0, judged=False)
    assert stability.uptime == pytest.approx(0.75)
    stability.observe(7.0, 10, judged=True)
    assert stability.uptime == pytest.approx(35 / 40)


async def recovery(back: int) -> float | None:
    stability, _ = watched(10)
    stability.observe(3.0, 10, judged=True)
    await stability.cut(3.5, 0.4)
    stability.observe(4.0, 6, judged=False)
    stability.observe(5.0, 6, judged=True)
    stability.recovered([1.6] * back)
    stability.observe(6.0, 6, judged=True)
    return stability.uptime


def test_whom_the_tester_cut_is_not_missed_until_it_is_back() -> None:
    assert asyncio.run(recovery(0)) == 1.0
    assert asyncio.run(recovery(1)) == pytest.approx(1 - 1 / 23)  # it was back, and is away again


def test_samples_every_five_seconds() -> None:
    stability, _ = watched(10)
    for t in range(3, 23):
        stability.observe(float(t), 10 if t < 10 else 9, judged=True)
    assert [(sample.t, sample.open, sample.expected) for sample in stability.samples] == [
        (7, 10, 10),
        (12, 9, 10),
        (17, 9, 10),
        (22, 9, 10),
    ]
    assert stability.samples[0].uptime == 1.0
    assert stability.samples[-1].uptime == pytest.approx(1 - 13 / 200)


async def cut_and_kill() -> list[Fault]:
    stability, server = watched(100)
    assert not stability.lost(3)  # before anything was killed: nobody's doing
    stability.recovered([9.0])
    await stability.cut(10.0, 0.02)
    assert server.cuts == [2]
    stability.recovered([0.2, 0.4, 9.0])
    await stability.kill(12.0)
    assert stability.lost(50)
    stability.recovered([1.0, 2.0])
    with pytest.raises(NoWorker):
        await stability.kill(13.0)
    return stability.faults


def test_faults_tell_who_came_back() -> None:
    mean = pytest.approx(0.3)
    assert asyncio.run(cut_and_kill()) == [
        Fault(t=10.0, kind="cut", what="2 connections cut", affected=2, recovered=2, mean_s=mean, worst_s=0.4),
        Fault(t=12.0, kind="kill", what="worker-0 killed", affected=50, recovered=2, mean_s=1.5, worst_s=2.0),
    ]


def test_who_is_back_before_the_cut_is_confirmed_counts() -> None:
    async def cut(count: int) -> int:
        stability.recovered([0.1] * count)
        return count

    stability = ConnectionStabilityTester(10, 0.0, cut, Server().kill)
    asyncio.run(stability.cut(5.0, 0.3))
    (fault,) = stability.faults
    assert (fault.affected, fault.recovered) == (3, 3)


def test_one_connection_is_cut_at_least() -> None:
    stability, server = watched(3)
    asyncio.run(stability.cut(5.0, 0.01))
    assert server.cuts == [1]
    assert stability.faults[0].mean_s is None
