"""Is anything lost while the engine is replaced? Its workers, or all of it, several times, under load.

    python -m bench.rolling [--clients 300] [--rate 1000] [--topics 20] [--workers 2] [--times 3] [--wildcards]
                            [--durable] [--whole | --plain]

Each time is a ``heliograph reload --restart``; with ``--whole`` a SIGTERM and a new start on the same port and runtime
directory, with ``--plain`` a ``heliograph reload``. In the end each client has every acknowledged event of its topics
exactly once and in order (see :mod:`bench.chaos`, whose clients and oracle these are). Nobody has lost the connection
more than once each time, and nobody was refused; whoever comes while there is no engine, with ``--whole``, has to come
again. Nobody at all has lost the connection where nothing was restarted. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import uvloop

from bench import report
from bench.chaos import DURABLE, NUMBERS, PUBLISHERS, QUIET_S, CrowdProcess, shares
from bench.chaos_client import Publisher
from bench.chaos_crowd import BUSY, topics_of
from bench.chaos_engine import ChaosEngine
from bench.chaos_log import Faults, Ledger


async def rolling(
    engine: ChaosEngine, replace: Callable[[], None], options: argparse.Namespace
) -> tuple[report.Row, list[str]]:
    """One run: its figures, and what was wrong. ``replace`` blocks until it is done."""
    ledger = Ledger(Faults())
    topics = topics_of(options.topics, options.wildcards)
    took: list[float] = []
    async with AsyncExitStack() as stack:
        crowds = [
            await stack.enter_async_context(CrowdProcess(engine.port, n, size, options)) for n, size in shares(options)
        ]
        for crowd in crowds:
            await crowd.ready()
        publishers = [
            await stack.enter_async_context(
                Publisher("127.0.0.1", engine.port, ledger, topics, options.rate / PUBLISHERS, n * NUMBERS, "rolling")
            )
            for n in range(PUBLISHERS)
        ]
        for _ in range(options.times):
            await asyncio.sleep(QUIET_S)
            began = time.monotonic()
            await asyncio.to_thread(replace)
            took.append(time.monotonic() - began)
        await asyncio.sleep(QUIET_S)
        for publisher in publishers:
            await publisher.stop()
        acknowledged = ledger.acknowledged()
        results = [await crowd.result(msgspec.json.encode(acknowledged) + b"\n") for crowd in crowds]
    losses = max(made.most_connections for made in results) - 1
    losses = max(losses, *(publisher.connections - 1 for publisher in publishers))
    refused = sum(made.refused for made in results) + sum(publisher.refused for publisher in publishers)
    allowed = 0 if options.plain else options.times
    if losses > allowed:
        ledger.faults.add(f"a client lost its connection {losses} times")
    if refused and not options.whole:
        ledger.faults.add(f"{refused} connections were refused")
    row = {
        "times": options.times,
        "longest, s": max(took),
        "published": sum(publisher.sent for publisher in publishers),
        "acknowledged": sum(number is not None for numbers in acknowledged.numbers.values() for number in numbers),
        "repeated publishes": sum(publisher.repeats for publisher in publishers),
        "deliveries": sum(made.deliveries for made in results),
        "recoveries": sum(made.recoveries for made in results),
        "came again": sum(made.repeated for made in results),
        "most losses of one": losses,
        "refused": refused,
        "longest outage, s": max(made.longest_outage for made in results),
        "longest silence, s": max(made.longest_silence for made in results),
        "clients' cpu": max(made.cpu for made in results),
        "their lag, s": max(made.lag for made in results),
        "wrong": ledger.faults.count + sum(made.faults for made in results),
    }
    return row, ledger.faults.texts + [text for made in results for text in made.texts]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if nothing was wrong, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.rolling", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--rate", type=float, default=1_000.0, help="events per second over all topics")
    parser.add_argument("--topics", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--wildcards", action="store_true", help="subscribe to patterns, recover by position")
    parser.add_argument("--durable", action="store_true", help="durable topics")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--whole", action="store_true", help="stop the engine and start it again")
    how.add_argument("--plain", action="store_true", help="only reload the configuration")
    options = parser.parse_args(arguments)
    with ChaosEngine(DURABLE if options.durable else "", options.workers) as engine:

        def replace() -> None:
            if options.whole:
                engine.stop()
                engine.start()
            else:
                engine.reload(*([] if options.plain else ["--restart"]))

        row, wrong = uvloop.run(rolling(engine, replace, options))
    print(report.listing(row))
    for text in wrong:
        print(f"wrong: {text}")
    if row["clients' cpu"] > BUSY:
        print("The clients were saturated: silence and outages are theirs as well as the engine's.")
    return 1 if row["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
