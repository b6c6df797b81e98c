"""Clients and publishers while something happens to their engine, and what the oracle says of it afterwards."""

from __future__ import annotations

import argparse
import asyncio
import sys
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple, TypeVar

import msgspec

from bench import report
from bench.chaos_client import ANSWER_S, Publisher
from bench.chaos_crowd import BUSY, Result, topics_of
from bench.chaos_engine import ROOT, ChaosEngine
from bench.chaos_log import Faults, Ledger

PUBLISHERS = 4
CROWDS = 2  # processes that the clients are in
CROWDED = 100  # clients from which on there are several
DURABLE = '[topics."chaos.>"]\ndurable = true\n'
QUIET_S = 1.0  # before anything happens, and afterwards
NUMBERS = 10_000_000  # of the events of one publisher

T = TypeVar("T")


class Load(NamedTuple):
    """What was published, and what the clients have got of it."""

    ledger: Ledger
    publishers: list[Publisher]
    acknowledged: int
    results: list[Result]

    def figures(self) -> report.Row:
        """To be shown."""
        results = self.results
        return {
            "published": sum(publisher.sent for publisher in self.publishers),
            "acknowledged": self.acknowledged,
            "repeated publishes": sum(publisher.repeats for publisher in self.publishers),
            "deliveries": sum(result.deliveries for result in results),
            "recoveries": sum(result.recoveries for result in results),
            "came again": sum(result.repeated for result in results),
            "longest outage, s": max(result.longest_outage for result in results),
            "longest silence, s": max(result.longest_silence for result in results),
            "clients' cpu": max(result.cpu for result in results),
            "their lag, s": max(result.lag for result in results),
            "wrong": self.ledger.faults.count + sum(result.faults for result in results),
        }

    def wrong(self) -> list[str]:
        """What was not as it should be, as far as it is kept."""
        return self.ledger.faults.texts + [text for result in self.results for text in result.texts]


async def under_load(
    engine: ChaosEngine, options: argparse.Namespace, name: str, happen: Callable[[], Awaitable[T]]
) -> tuple[Load, T]:
    """``options.clients`` on ``options.topics`` at ``options.rate`` events/s while something happens."""
    ledger = Ledger(Faults())
    topics = topics_of(options.topics, options.wildcards)
    async with AsyncExitStack() as stack:
        crowds = [
            await stack.enter_async_context(CrowdProcess(engine.port, n, size, options)) for n, size in _shares(options)
        ]
        for crowd in crowds:
            await crowd.ready()
        publishers = [
            await stack.enter_async_context(
                Publisher("127.0.0.1", engine.port, ledger, topics, options.rate / PUBLISHERS, n * NUMBERS, name)
            )
            for n in range(PUBLISHERS)
        ]
        outcome = await happen()
        for publisher in publishers:
            await publisher.stop()
        acknowledged = ledger.acknowledged()
        results = [await crowd.result(msgspec.json.encode(acknowledged) + b"\n") for crowd in crowds]
    count = sum(number is not None for numbers in acknowledged.numbers.values() for number in numbers)
    return Load(ledger, publishers, count, results), outcome


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The options of a load."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events per second over all topics")
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--wildcards", action="store_true", help="subscribe to patterns, recover by position")
    return parser


def tell(row: report.Row, wrong: Sequence[str]) -> int:
    """Print it; the exit code: 0 if nothing was wrong, else 1."""
    print(report.listing(row))
    for text in wrong:
        print(f"wrong: {text}")
    if row["clients' cpu"] > BUSY:
        print("The clients were saturated: silence and outages are theirs as well as the engine's.")
    return 1 if row["wrong"] else 0


def _shares(options: argparse.Namespace) -> list[tuple[int, int]]:
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
        self._process: Process = await create_subprocess_exec(
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
