"""Is anything lost while processes are killed? Workers and hub die in turn, under load; everything is counted.

While the hub dies a worker is frozen, so that it has something to catch up on.

    python -m bench.chaos [--seconds 60] [--clients 300] [--rate 1000] [--topics 20] [--workers 2] [--kill-every 5]
                          [--wildcards] [--durable]

Publishers repeat each event, with its idempotency key, until it is acknowledged. Clients recover by offsets, with
``--wildcards`` by position. In the end each has every acknowledged event of its topics exactly once and in order
(by position: what came after it once more), and was told of no gap and no new epoch (:mod:`bench.chaos_log`). With
``--durable`` the topics are, and at half time all processes are killed at once and the engine is started again.
Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import AsyncExitStack

import msgspec
import uvloop

from bench import report
from bench.chaos_client import ANSWER_S, Publisher
from bench.chaos_crowd import BUSY, Result, topics_of
from bench.chaos_engine import ROOT, ChaosEngine
from bench.chaos_log import Faults, Ledger

PUBLISHERS = 4
CROWDS = 2  # processes that the clients are in
CROWDED = 100  # clients from which on there are several
DURABLE = '[topics."chaos.>"]\ndurable = true\n'
QUIET_S = 1.0  # before the first kill, and after the last
FROZEN_S = 0.7  # of a worker, while the hub is killed and another one starts
NUMBERS = 10_000_000  # of the events of one publisher


async def chaos(engine: ChaosEngine, options: argparse.Namespace) -> tuple[report.Row, list[str]]:
    """One run: its figures, and what was wrong."""
    ledger = Ledger(Faults())
    topics = topics_of(options.topics, options.wildcards)
    async with AsyncExitStack() as stack:
        crowds = [
            await stack.enter_async_context(CrowdProcess(engine.port, n, size, options)) for n, size in shares(options)
        ]
        for crowd in crowds:
            await crowd.ready()
        publishers = [
            await stack.enter_async_context(
                Publisher("127.0.0.1", engine.port, ledger, topics, options.rate / PUBLISHERS, n * NUMBERS, "chaos")
            )
            for n in range(PUBLISHERS)
        ]
        kills = await _kill(engine, options)
        for publisher in publishers:
            await publisher.stop()
        acknowledged = ledger.acknowledged()
        results = [await crowd.result(msgspec.json.encode(acknowledged) + b"\n") for crowd in crowds]
    row = {
        "kills": kills,
        "published": sum(publisher.sent for publisher in publishers),
        "acknowledged": sum(number is not None for numbers in acknowledged.numbers.values() for number in numbers),
        "repeated publishes": sum(publisher.repeats for publisher in publishers),
        "deliveries": sum(result.deliveries for result in results),
        "recoveries": sum(result.recoveries for result in results),
        "came again": sum(result.repeated for result in results),
        "longest outage, s": max(result.longest_outage for result in results),
        "longest silence, s": max(result.longest_silence for result in results),
        "clients' cpu": max(result.cpu for result in results),
        "their lag, s": max(result.lag for result in results),
        "wrong": ledger.faults.count + sum(result.faults for result in results),
    }
    return row, ledger.faults.texts + [text for result in results for text in result.texts]


def shares(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Number and size of each part of the clients."""
    crowds = CROWDS if options.clients >= CROWDED else 1
    return [(n, options.clients // crowds + (n < options.clients % crowds)) for n in range(crowds)]


class CrowdProcess:
    """A process with a part of the clients."""

    def __init__(self, port: int, number: int, size: int, options: argparse.Namespace) -> None:
        kind = "wildcards" if options.wildcards else "exact"
        self._arguments = [str(port), str(size), str(options.topics), kind, str(number)]

    async def __aenter__(self) -> CrowdProcess:
        command = [sys.executable, "-m", "bench.chaos_crowd", *self._arguments]
        self._process: Process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdin=PIPE, stdout=PIPE, limit=1 << 20
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def ready(self) -> None:
        """All of its clients are subscribed."""
        if await self._line() != b"ready\n":
            raise RuntimeError("the clients cannot subscribe")

    async def result(self, acknowledged: bytes) -> Result:
        """What its clients say of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(acknowledged)
        return msgspec.json.decode(await self._line(), type=Result)

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(2 * ANSWER_S):
            return await self._process.stdout.readline()


async def _kill(engine: ChaosEngine, options: argparse.Namespace) -> int:
    """The victims in turn, until the time is over; how many."""
    begin = time.monotonic() + QUIET_S
    end = begin + options.seconds
    half = begin + options.seconds / 2 if options.durable else end
    workers = [f"worker-{n}" for n in range(options.workers)]
    others = workers[1:] + workers[:1]
    turns = itertools.cycle(zip(workers, others, strict=True))
    victims = itertools.chain.from_iterable(((worker, None), ("hub", other)) for worker, other in turns)
    kills = 0
    for due in itertools.count(begin, options.kill_every):
        if due >= end:
            break
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if due >= half:
            half = end
            await asyncio.to_thread(engine.kill_all)
            await asyncio.to_thread(engine.forget)
            await asyncio.to_thread(engine.start)
        else:
            await _kill_one(engine, *next(victims))
        kills += 1
    await asyncio.sleep(max(0.0, end - time.monotonic()) + QUIET_S)
    return kills


async def _kill_one(engine: ChaosEngine, victim: str, frozen: str | None) -> None:
    if frozen is None:
        await asyncio.to_thread(engine.kill, victim)
        return
    await asyncio.to_thread(engine.kill, frozen, signal.SIGSTOP)
    await asyncio.to_thread(engine.kill, victim)
    await asyncio.sleep(FROZEN_S)
    await asyncio.to_thread(engine.kill, frozen, signal.SIGCONT)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events per second over all topics")
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("--wildcards", action="store_true", help="subscribe to patterns, recover by position")
    parser.add_argument("--durable", action="store_true", help="durable topics; everything is killed at half time")
    options = parser.parse_args(arguments)
    with ChaosEngine(DURABLE if options.durable else "", options.workers) as engine:
        row, wrong = uvloop.run(chaos(engine, options))
    print(report.listing(row))
    for text in wrong:
        print(f"wrong: {text}")
    if row["clients' cpu"] > BUSY:
        print("The clients were saturated: silence and outages are theirs as well as the engine's.")
    return 1 if row["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
