"""The clients of :mod:`bench.chaos`, in a process of their own. Says ``ready``, is told what was acknowledged, answers.

python -m bench.chaos_crowd PORT CLIENTS TOPICS {exact|wildcards} NUMBER
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

import msgspec
import uvloop

from bench.chaos_client import Crowd
from bench.chaos_log import Acknowledged, Faults, Ledger, Receiver

EVERYTHING = 100  # of so many clients with wildcards one has all topics
LAG_S = 0.1
BUSY = 0.9  # of a core, above which this process may have been what was slow


class Result(msgspec.Struct):
    """What came of it; times in seconds."""

    clients: int
    deliveries: int
    recoveries: int
    most_connections: int  # of one client
    refused: int
    repeated: int
    longest_outage: float
    longest_silence: float
    cpu: float
    lag: float
    faults: int
    texts: list[str]


def topics_of(count: int, wildcards: bool) -> list[str]:
    """All topics; with wildcards there are two under each name."""
    if not wildcards:
        return [f"chaos.{n}" for n in range(count)]
    return [f"chaos.{n}.{half}" for n in range(count) for half in "ab"]


def receivers(ledger: Ledger, clients: int, topics: int, wildcards: bool, number: int = 0) -> list[Receiver]:
    """One topic's worth of events each, but for a few with all of them, where there are wildcards."""
    made = []
    for n in range(clients):
        name, topic = f"client {number}.{n}", n % topics
        if not wildcards:
            made.append(Receiver(name, ledger, [f"chaos.{topic}"], [f"chaos.{topic}"], exact=True))
        elif n % EVERYTHING == 0:
            made.append(Receiver(name, ledger, ["chaos.>"], topics_of(topics, True), exact=False))
        else:
            wanted = [f"chaos.{topic}.{half}" for half in "ab"]
            made.append(Receiver(name, ledger, [f"chaos.{topic}.*"], wanted, exact=False))
    return made


async def run(port: int, clients: int, topics: int, wildcards: bool, number: int) -> Result:
    """Until everybody has what was acknowledged."""
    ledger = Ledger(Faults())
    async with Crowd("127.0.0.1", port, receivers(ledger, clients, topics, wildcards, number)) as crowd:
        await crowd.ready()
        print("ready", flush=True)
        began, used = time.monotonic(), time.process_time()
        told = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.readline))
        lag = 0.0
        while not told.done():
            due = time.monotonic() + LAG_S
            await asyncio.sleep(LAG_S)
            lag = max(lag, time.monotonic() - due)
        cpu = (time.process_time() - used) / (time.monotonic() - began)
        await crowd.complete(ledger, msgspec.json.decode(told.result(), type=Acknowledged))
        return Result(
            clients=clients,
            deliveries=crowd.events,
            recoveries=sum(receiver.resumed for receiver in crowd.receivers),
            most_connections=max(watcher.connections for watcher in crowd.watchers),
            refused=sum(watcher.refused for watcher in crowd.watchers),
            repeated=sum(receiver.repeated for receiver in crowd.receivers),
            longest_outage=max(watcher.outage for watcher in crowd.watchers),
            longest_silence=crowd.silence,
            cpu=cpu,
            lag=lag,
            faults=ledger.faults.count,
            texts=ledger.faults.texts,
        )


def main(arguments: Sequence[str]) -> int:
    """The process; not meant for people."""
    port, clients, topics, kind, number = arguments
    result = uvloop.run(run(int(port), int(clients), int(topics), kind == "wildcards", int(number)))
    print(msgspec.json.encode(result).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
