"""Does a client get what its filter accepts, and how soon? One iteration is one run of 500 clients, each with a
filter of its own on one topic, and ``--rate`` events a second whose fields change from event to event.

    python -m bench.selective [narrow broad] [--clients 500] [--rate 100] [--seconds 10] [--repeat 3]

``narrow``: symbols, patterns, tiers and a least confidence; few clients want an event. ``broad``: a least confidence
alone, all different; half of them want it, and no two events of different confidence the same half.
`exact`: every client got the events that its filter accepts, looked at one by one, and no other, none twice: their
number and the sum of their sequences say so. Where `others` took more than 0.1 of the server's core,
latencies are theirs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

from bench import report, wsload
from bench.report import Row, note
from bench.server import engine
from bench.wsload import MESSAGE_BYTES, TOPIC, Count, Load
from transport.filters import MISSING, Filter

GOAL_P99 = 5.0  # ms
CLIENT_ROOM = 0.8  # of a core; above it the latency would be the load client's own
EVENTS = 2_000  # different ones; then they come again
SYMBOLS, PATTERNS, TIERS = 50, 20, 3


def narrow(rng: random.Random, client: int, clients: int) -> dict[str, Any]:
    """A filter over four fields."""
    least = round(0.5 * client / clients, 6)
    where: dict[str, Any] = {
        "symbol": [f"S{n}" for n in rng.sample(range(SYMBOLS), 10)],
        "confidence": {"gte": least},
    }
    if rng.random() < 0.5:
        where["pattern"] = [f"P{n}" for n in rng.sample(range(PATTERNS), 10)]
    if rng.random() < 0.5:
        where["tier"] = f"T{rng.randrange(TIERS)}"
    return where


def broad(_rng: random.Random, client: int, clients: int) -> dict[str, Any]:
    """A threshold that nobody else has."""
    return {"confidence": {"gte": round(client / clients, 6)}}


WORKLOADS = {"narrow": narrow, "broad": broad}


def event(rng: random.Random) -> dict[str, Any]:
    """What filters look at."""
    return {
        "symbol": f"S{rng.randrange(SYMBOLS)}",
        "pattern": f"P{rng.randrange(PATTERNS)}",
        "tier": f"T{rng.randrange(TIERS)}",
        "confidence": round(rng.random(), 6),
    }


def message(data: dict[str, Any]) -> str:
    """A publish, as long as those of other benchmarks, or as it must be."""
    text = f'{{"op":"publish","id":%S,"topic":"{TOPIC}","data":{{"t":%T,"s":%S,{json.dumps(data)[1:-1]}'
    return text + ',"x":"' + "x" * max(0, MESSAGE_BYTES - len(text) - 25) + '"}}'


def expected(wheres: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], total: int) -> tuple[Count, ...]:
    """What each client must have, by brute force."""
    repeats = [0] * len(events), [0] * len(events)
    for sequence, place in enumerate(islice(cycle(range(len(events))), total)):
        repeats[0][place] += 1
        repeats[1][place] += sequence
    counts = []
    for where in wheres:
        wanted = Filter.parse(where)
        places = [n for n, data in enumerate(events) if wanted.holds(partial(_value, data))]
        counts.append(Count(sum(repeats[0][n] for n in places), sum(repeats[1][n] for n in places)))
    return tuple(counts)


def _value(data: dict[str, Any], name: str) -> Any:
    return data.get(name, MISSING)


def measure(workload: str, clients: int, rate: int, seconds: float) -> tuple[Load, bool]:
    """One run against a fresh engine, and whether it was exact."""
    rng = random.Random(1)
    wheres = [WORKLOADS[workload](rng, client, clients) for client in range(clients)]
    events = [event(rng) for _ in range(EVENTS)]
    subscribe = '{{"op":"subscribe","id":1,"topics":["{}"],"where":{}}}'
    with engine(1) as server:
        load = wsload.run(
            server.port,
            server.pids,
            clients=clients,
            rate=rate,
            seconds=seconds,
            subscriptions=[subscribe.format(TOPIC, json.dumps(where)) for where in wheres],
            messages=[message(data) for data in events],
        )
    trouble = load.closed or load.failed or load.repeated
    return load, not trouble and load.counts == expected(wheres, events, load.total)


def row(workload: str, load: Load, exact: bool) -> Row:
    """What one run showed."""
    return {
        "filters": workload,
        "events/s": round(load.published),
        "recipients": load.delivered / load.published,
        "us each": load.us,
        "p50 ms": load.p50,
        "p99 ms": load.p99,
        "worst ms": load.worst,
        "goal": load.p99 <= GOAL_P99,
        "server": load.server,
        "client": load.client,
        "others": load.others,
        "exact": exact,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all runs were exact, with a load client that had room."""
    parser = argparse.ArgumentParser(prog="python -m bench.selective", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[*WORKLOADS, []], metavar="WHAT")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rate", type=int, default=100, help="events per second")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(arguments)
    if (warning := report.warning()) is not None:
        note(warning)
    rows: list[Row] = []
    for _ in range(options.repeat):
        for workload in options.what or WORKLOADS:
            load, exact = measure(workload, options.clients, options.rate, options.seconds)
            rows.append(row(workload, load, exact))
    print(report.table(rows))
    return 0 if all(found["exact"] and found["client"] < CLIENT_ROOM for found in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
