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
from collections.abc import Sequence

import uvloop

from bench import report
from bench.chaos_engine import ChaosEngine
from bench.chaos_load import DURABLE, QUIET_S, parser, tell, under_load

FROZEN_S = 0.7  # of a worker, while the hub is killed and another one starts


async def chaos(engine: ChaosEngine, options: argparse.Namespace) -> tuple[report.Row, list[str]]:
    """One run: its figures, and what was wrong."""
    load, kills = await under_load(engine, options, "chaos", lambda: _kill(engine, options))
    return {"kills": kills, **load.figures()}, load.wrong()


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
    known = parser("python -m bench.chaos", __doc__.split("\n")[0])
    known.add_argument("--seconds", type=float, default=60.0)
    known.add_argument("--kill-every", type=float, default=5.0, metavar="SECONDS")
    known.add_argument("--durable", action="store_true", help="durable topics; everything is killed at half time")
    options = known.parse_args(arguments)
    with ChaosEngine(DURABLE if options.durable else "", options.workers) as engine:
        return tell(*uvloop.run(chaos(engine, options)))


if __name__ == "__main__":
    sys.exit(main())
