"""How many events a second go through a hub to one worker? One iteration is ``--events`` events of 500 topics,
published in batches of 100 as fast as the bus takes them, until the worker's end of the bus has unpacked the last one.

    python -m bench.hub_rate [--events 300000] [--repeat 3]

The hub is a process on a core of its own, with its router, offsets and last events; publisher and worker share another
core. `client` is what they used of it: the rate is the hub's as long as that is below 0.8, else theirs.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]
import uvloop
import zmq

from bench import report
from bench.conftest import DATA
from bench.report import Row, note
from bench.wsload import CLIENT_CORE, SERVER_CORE
from engine import log
from engine.config import Config
from engine.hub import Hub
from transport.bus_client import BusClient
from transport.codec import pack
from transport.messages import Fence, Interest, Publication, Publish, Ready

GOAL = 60_000  # events/s
TOPICS, BATCH = 500, 100
DEADLINE = 60.0  # s


class _End:
    """An end of the bus that counts what arrives, and looks whether a topic's offsets rise by one."""

    def __init__(self) -> None:
        self.received = self.wrong = self.wanted = 0
        self.joined, self.complete = asyncio.Event(), asyncio.Event()
        self._offsets: dict[str, int] = {}

    def on_server(self, incarnation: str) -> None: ...

    def on_batch(self, items: list[Any]) -> None:
        offsets = self._offsets
        for item in items:
            if type(item) is Publication:
                self.received += 1
                self.wrong += item.offset != offsets.get(item.topic, 0) + 1
                offsets[item.topic] = item.offset
            elif type(item) is Fence:
                self.joined.set()
        if self.received >= self.wanted > 0:
            self.complete.set()

    def on_window(self, is_open: bool) -> None: ...

    def on_lost(self, reason: str) -> None: ...


def serve(endpoint: str) -> None:
    """The hub's process; it is killed."""
    os.sched_setaffinity(0, {SERVER_CORE})
    log.configure("hub", "bench", "warning")

    async def live() -> None:
        await Hub(Config(), zmq.Context(), endpoint, sys.exit).start()
        await asyncio.Event().wait()

    uvloop.run(live())


async def measure(endpoint: str, hub: psutil.Process, count: int) -> Row:
    """One run against a fresh hub."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    end = _End()
    publisher = BusClient(context, endpoint, _End(), name="feeds", auto_ack=True)
    worker = BusClient(context, endpoint, end, name="worker", auto_ack=True)
    for client in (publisher, worker):
        client.start()
        await asyncio.wait_for(client.writable(), DEADLINE)
    worker.send(pack(Interest(0, ["price.*"], [], [], [])))
    worker.send(pack(Ready(None)))
    worker.send(pack(Interest(1, [], [], [], [])))  # answered when it is level
    await asyncio.wait_for(end.joined.wait(), DEADLINE)
    events = [pack(Publish(0, f"price.EUR_{n}", "message", DATA)) for n in range(TOPICS)]
    end.wanted = count
    mine, before, began = time.process_time(), hub.cpu_times(), time.perf_counter()
    for first in range(0, count, BATCH):
        for n in range(first, min(first + BATCH, count)):
            publisher.send(events[n % TOPICS])
        await publisher.writable()
        await asyncio.sleep(0)
    await asyncio.wait_for(end.complete.wait(), DEADLINE)
    took, after = time.perf_counter() - began, hub.cpu_times()
    used = after.user + after.system - before.user - before.system
    client_used = time.process_time() - mine
    publisher.stop()
    worker.stop()
    context.term()
    return {
        "events": end.received,
        "events/s": round(count / took),
        "goal": count / took >= GOAL,
        "hub, us each": 1e6 * used / count,
        "hub": used / took,
        "client": client_used / took,
        "whole": end.received == count and not end.wrong,
    }


def run(count: int) -> Row:
    """A hub and its end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        endpoint = f"ipc://{directory}/bus"
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(endpoint,))
        process.start()
        try:
            return uvloop.run(measure(endpoint, psutil.Process(process.pid), count))
        finally:
            process.kill()
            process.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every event arrived, in order."""
    parser = argparse.ArgumentParser(prog="python -m bench.hub_rate", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(arguments)
    if (warning := report.warning()) is not None:
        note(warning)
    os.sched_setaffinity(0, {CLIENT_CORE})
    rows = [run(options.events) for _ in range(options.repeat)]
    print(report.table(rows))
    return 0 if all(row["whole"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
