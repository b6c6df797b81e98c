"""Is anything lost while the Redis of several engines is away? Two engines, publishers and clients on both, under load.

    python -m bench.outage [--seconds 30] [--on-outage refuse|local] [--clients 50] [--rate 1000] [--topics 20]

Redis is killed with ``kill -9`` and started again, with what it has on its disk. Publishers repeat each event, with its
idempotency key, until it is acknowledged, be it as pending. In the end each client has every acknowledged event of its
topics exactly once and in the order of all, and was told of no gap and no new epoch (:mod:`bench.chaos_log`); what came
without a place while Redis was away has come again with one. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import uvloop

from bench import report
from bench.chaos_client import ANSWER_S, LOOK_S, Publisher, Watcher
from bench.chaos_crowd import topics_of
from bench.chaos_engine import ChaosEngine
from bench.chaos_load import NUMBERS, QUIET_S
from bench.chaos_log import Faults, Ledger, Receiver
from bench.churn_client import Message
from bench.redis_process import RedisProcess

PUBLISHERS = 2  # of each engine
HOST = "127.0.0.1"
ROOM = "outbox_events = 1_000_000\noutbox_bytes = 268_435_456"  # the clients are Python, and much comes at once


class PatientPublisher(Publisher):
    """Is content with a promise.

    Attributes:
        pending: numbers of events that were acknowledged without a place.
    """

    pending: set[int]

    def _receive(self, message: Message) -> None:
        if message.op == "ok" and not message.epoch:
            assert message.id is not None
            if self.unanswered.pop(message.id, None) is not None:
                self.pending.add(message.id)
            self._back()
        else:
            super()._receive(message)


class PlacelessWatcher(Watcher):
    """Gets some events before they have a place.

    Attributes:
        placeless: their numbers.
    """

    placeless: list[int]

    def _receive(self, message: Message) -> None:
        if message.op == "event" and not message.epoch:
            assert message.data is not None
            self.placeless.append(message.data.n)
        elif message.op != "slow":  # when Redis is back, much comes at once; what matters is whether it comes
            super()._receive(message)


async def outage(
    engines: Sequence[ChaosEngine], redis: RedisProcess, options: argparse.Namespace
) -> tuple[report.Row, list[str]]:
    """One run: its figures, and what was wrong."""
    faults = Faults()
    ledger = Ledger(faults)
    topics = topics_of(options.topics, False)
    async with AsyncExitStack() as stack:
        watchers: list[PlacelessWatcher] = []
        for n in range(options.clients):
            receiver = Receiver(f"client {n}", ledger, topics, topics, exact=True)
            engine = engines[n % len(engines)]
            watcher = PlacelessWatcher(HOST, engine.port, receiver, lambda: None, random.Random(n))
            watcher.placeless = []
            watchers.append(await stack.enter_async_context(watcher))
        await _until(lambda: all(watcher.receiver.begun for watcher in watchers), "the clients cannot subscribe")
        publishers: list[PatientPublisher] = []
        rate = options.rate / PUBLISHERS / len(engines)
        for n in range(PUBLISHERS * len(engines)):
            port = engines[n % len(engines)].port
            publisher = PatientPublisher(HOST, port, ledger, topics, rate, n * NUMBERS, "outage")
            publisher.pending = set()
            publishers.append(await stack.enter_async_context(publisher))
        await asyncio.sleep(QUIET_S)
        before = _acknowledged(publishers)
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(options.seconds)
        during = _acknowledged(publishers) - before
        await asyncio.to_thread(redis.start)
        back = time.monotonic()
        pending = {number for publisher in publishers for number in publisher.pending}
        await _until(lambda: pending <= _placed(ledger), "what was pending never got a place", faults)
        level = time.monotonic() - back
        await asyncio.sleep(QUIET_S)
        for publisher in publishers:
            await publisher.stop()
        acknowledged = {n for p in publishers for n in range(p._first, p._first + p.sent)}
        await _until(lambda: acknowledged <= _placed(ledger), "not everything acknowledged has come", faults)
        ends = {topic: max(numbers) for topic, numbers in ledger.numbers.items()}
        await _until(
            lambda: not any(watcher.receiver.lacks(ends) for watcher in watchers), "some clients lack events", faults
        )
        local = [number for watcher in watchers for number in watcher.placeless]
        if not set(local) <= acknowledged:
            faults.add("a client has got an event that nobody published")
    row = {
        "published": sum(publisher.sent for publisher in publishers),
        "acknowledged": len(acknowledged),
        "acknowledged in the outage": during,
        "pending": sum(len(publisher.pending) for publisher in publishers),
        "repeated publishes": sum(publisher.repeats for publisher in publishers),
        "deliveries": sum(sum(watcher.receiver.at.values()) for watcher in watchers),
        "deliveries without a place": len(local),
        "back to level, s": level,
        "connections lost": sum(watcher.connections - 1 for watcher in watchers),
        "wrong": faults.count,
    }
    return row, faults.texts


def _acknowledged(publishers: Sequence[Publisher]) -> int:
    return sum(publisher.sent - len(publisher.unanswered) for publisher in publishers)


def _placed(ledger: Ledger) -> set[int]:
    return {number for numbers in ledger.numbers.values() for number in numbers.values()}


async def _until(condition: Callable[[], bool], otherwise: str, faults: Faults | None = None) -> None:
    deadline = time.monotonic() + 2 * ANSWER_S
    while not condition():
        if time.monotonic() > deadline:
            if faults is None:
                raise RuntimeError(otherwise)
            faults.add(otherwise)
            return
        await asyncio.sleep(2 * LOOK_S)


def config(redis: RedisProcess, on_outage: str) -> str:
    """Of each engine."""
    return f'[delivery]\n{ROOM}\n[backplane]\nurl = "{redis.url}"\non_outage = "{on_outage}"\n'


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.outage", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="that Redis is away")
    parser.add_argument("--on-outage", choices=["refuse", "local"], default="refuse")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events per second over all topics")
    parser.add_argument("--topics", type=int, default=20)
    options = parser.parse_args(arguments)
    with RedisProcess() as redis:
        text = config(redis, options.on_outage)
        with ChaosEngine(text, 1) as one, ChaosEngine(text, 1) as other:
            row, wrong = uvloop.run(outage([one, other], redis, options))
    print(report.listing(row))
    for fault in wrong:
        print(f"wrong: {fault}")
    return 1 if row["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
