"""How old does a client's newest value become where each gets ten a second of 250? One iteration is one run of 500
clients that ask for ``max_rate`` 10, on one topic with ``--keys`` keys and ``--rate`` events a second.

    python -m bench.conflated [--clients 500] [--rate 5000] [--keys 20] [--max-rate 10] [--seconds 20] [--repeat 3]

`age`: what a client has of a key, when a newer value comes: the time since it was published. It is at its oldest then,
so that the worst one bounds what any client ever had. `never`: newest values that some client did not get in the end.
`cores` are the engine's: all its processes are on one. `growth` is of the resident memory of all processes, in MB, from
the second quarter of the run to the last. Where `others` took more than 0.1 of the server's core, ages are theirs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from statistics import median

import psutil  # type: ignore[import-untyped]

from bench import report, wsload
from bench.report import Row, note
from bench.server import Server, engine
from bench.wsload import CLIENT_CORE, NATIVE, TOPIC

GOAL_CORES = 2.0
GOAL_AGE = 150.0  # ms
GOAL_GROWTH = 2.0  # MB
CLIENT_ROOM = 0.8  # of a core
WARM = 2.0  # s
LOOK_AGAIN = 0.5  # s


def resident(server: Server) -> float:
    """MB of all processes; shared pages count in each, which growth does not care about."""
    return sum(float(psutil.Process(pid).memory_info().rss) for pid in server.pids) / 1e6


def measure(clients: int, rate: int, keys: int, max_rate: float, seconds: float) -> Row:
    """One run against a fresh engine."""
    dialect = NATIVE._replace(
        subscribe=(f'{{"op":"subscribe","id":1,"topics":["{TOPIC}"],"max_rate":{max_rate:g}}}',),
        publish=NATIVE.publish.replace('"data"', '"key":"k%k","data"'),
    )
    with engine(1) as server:
        run = wsload.Run(
            server.port,
            server.pids,
            dialect=dialect,
            clients=clients,
            rate=rate,
            seconds=seconds,
            warm=WARM,
            keys=keys,
        )
        until = time.monotonic() + WARM + seconds
        sizes = []
        while time.monotonic() < until:
            time.sleep(LOOK_AGAIN)
            sizes.append(resident(server))
        load = run.wait()
    quarter = len(sizes) // 4
    growth = median(sizes[-quarter:]) - median(sizes[quarter : 2 * quarter])
    whole = not (load.closed or load.failed or load.repeated or load.never)
    return {
        "events/s": round(load.published),
        "to a client/s": load.delivered / clients,
        "cores": load.server,
        "age p99 ms": load.age_p99,
        "worst ms": load.age_worst,
        "never": load.never,
        "growth MB": growth,
        "goal": load.server <= GOAL_CORES and load.age_worst <= GOAL_AGE and growth <= GOAL_GROWTH,
        "client": load.client,
        "others": load.others,
        "whole": whole,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every client had every key's newest value in the end, with a load client that had room."""
    parser = argparse.ArgumentParser(prog="python -m bench.conflated", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rate", type=int, default=5_000, help="events per second")
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--max-rate", type=float, default=10.0, help="per key and client")
    parser.add_argument("--seconds", type=float, default=20.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(arguments)
    if (warning := report.warning()) is not None:
        note(warning)
    os.sched_setaffinity(0, {CLIENT_CORE})  # looking at memory costs the engine nothing
    rows = [
        measure(options.clients, options.rate, options.keys, options.max_rate, options.seconds)
        for _ in range(options.repeat)
    ]
    print(report.table(rows))
    return 0 if all(row["whole"] and row["client"] < CLIENT_ROOM for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
