"""What does a Redis between publisher and clients cost? Latency of one publish, and events per second.

    python -m bench.backplane [--seconds 5] [--publishes 500]

One engine alone, then two that share a Redis with ``appendfsync everysec`` and ``always``. Latency: one publish at a
time, until it is acknowledged, and until a client of the other engine has it (of the same one, where it is alone).
Events per second: four publishers, each with up to 900 unanswered.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import quantiles

import uvloop

from bench import report
from bench.chaos_client import UNANSWERED
from bench.chaos_engine import ChaosEngine
from bench.churn_client import Message, Socket
from bench.outage import HOST, config
from bench.redis_process import RedisProcess

PUBLISHERS = 4
DEADLINE_S = 60.0


class Caller:
    """A connection whose answers come one by one, and whose events are counted."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self.events = 0
        self.came = asyncio.Event()

    @classmethod
    async def connect(cls, port: int) -> Caller:
        """Connected."""
        caller = cls()
        caller.socket = await Socket.connect(HOST, port, caller._receive)
        return caller

    socket: Socket

    def _receive(self, message: Message) -> None:
        if message.op == "event":
            self.events += 1
            self.came.set()
        elif message.op in ("ok", "error"):
            self._answers.put_nowait(message)

    async def answer(self) -> None:
        """The next one, which must be ``ok``."""
        async with asyncio.timeout(DEADLINE_S):
            message = await self._answers.get()
        if message.op != "ok":
            raise RuntimeError(f"refused: {message.message}")


async def measure(publish_at: int, watch_at: int, options: argparse.Namespace) -> report.Row:
    """The figures of one setting."""
    watcher = await Caller.connect(watch_at)
    watcher.socket.send(op="subscribe", id=1, topics=["bench.>"])
    await watcher.answer()
    publishers = [await Caller.connect(publish_at) for _ in range(PUBLISHERS)]
    acknowledged, delivered = [], []
    for n in range(options.publishes):
        watcher.came.clear()
        began = time.perf_counter()
        publishers[0].socket.send(op="publish", id=n, topic="bench.a", data={"n": n})
        await publishers[0].answer()
        acknowledged.append(time.perf_counter() - began)
        await watcher.came.wait()
        delivered.append(time.perf_counter() - began)
    before = watcher.events
    began = time.perf_counter()
    sent = sum(await asyncio.gather(*(_flood(publisher, n, options) for n, publisher in enumerate(publishers))))
    async with asyncio.timeout(DEADLINE_S):
        while watcher.events < before + sent:
            watcher.came.clear()
            await watcher.came.wait()
    took = time.perf_counter() - began
    for caller in (watcher, *publishers):
        caller.socket.leave(abort=True)
    ack, seen = quantiles(acknowledged, n=100), quantiles(delivered, n=100)
    return {
        "ack p50 ms": ack[49] * 1e3,
        "ack p99 ms": ack[98] * 1e3,
        "client p50 ms": seen[49] * 1e3,
        "client p99 ms": seen[98] * 1e3,
        "events/s": sent / took,
    }


async def _flood(publisher: Caller, name: int, options: argparse.Namespace) -> int:
    end = time.perf_counter() + options.seconds
    sent = unanswered = 0
    while time.perf_counter() < end:
        while unanswered < UNANSWERED:
            publisher.socket.send(op="publish", id=sent, topic=f"bench.{name}", data={"n": sent})
            sent += 1
            unanswered += 1
        await publisher.answer()
        unanswered -= 1
    for _ in range(unanswered):
        await publisher.answer()
    return sent


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.backplane", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--publishes", type=int, default=500)
    options = parser.parse_args(arguments)
    rows: list[report.Row] = []
    for appendfsync in (None, "everysec", "always"):
        with ExitStack() as stack:
            if appendfsync is None:
                one = other = stack.enter_context(ChaosEngine("", 1))
            else:
                text = config(stack.enter_context(RedisProcess(appendfsync)), "refuse")
                one, other = stack.enter_context(ChaosEngine(text, 1)), stack.enter_context(ChaosEngine(text, 1))
            row = uvloop.run(measure(one.port, other.port, options))
        rows.append({"": "alone" if appendfsync is None else appendfsync, **row})
    print(report.table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
