"""How much more do more workers deliver? One iteration is a run against a fresh engine: one publisher, ``--clients``
subscribers of one topic, at a rate that climbs until not all arrives in time.

    python -m bench.scaling [--workers 1,2,4,8,16] [--clients 2000] [--rate 500] [--most 100000] [--json]

The engine has a core per worker and one for the hub, the load clients the others, one process each and one at least;
with two cores one worker and the hub share theirs. Where there are not enough, engine and clients have half of the
cores each: such a row says *shared*, it is correct and shows nothing. The row of a worker count is its highest rate at
which every client got every event once, in order, with a p99 below 100 ms; `limit` is what ended the climb. CPU time
is that of all the engine's processes, memory their PSS under load; latencies are the worst of the load clients'.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence, Set
from typing import NamedTuple

from bench import report
from bench.fanout import numbers
from bench.report import Row, note
from bench.server import engine
from bench.wsload import CORES, Load, Run

P99 = 100.0  # ms
CLIENT = 0.8  # of a load client's core; above it the figures would be its own
KEPT = 0.95  # of the rate asked for that a publisher must have reached
NEAR = 1.2  # a rate that counts and one that does not, so near that none between them is tried
TRIES = 2  # at a rate
SETTLE = 0.5  # s
WARM = 1.0  # s of load before it is measured


class Layout(NamedTuple):
    """Who runs where."""

    engine: Set[int]
    clients: Sequence[int]
    shared: bool


class Step(NamedTuple):
    """What all load clients together saw at a rate."""

    rate: int
    delivered: float  # per second
    us: float  # the engine's CPU per delivery
    cores: float
    megabytes: float  # the engine's PSS
    client: float  # cores, of the busiest load client
    p50: float  # ms
    p99: float
    limit: str | None  # why it does not count


class Options(argparse.Namespace):
    """The command line."""

    workers: list[int]
    clients: int
    rate: int
    most: int
    seconds: float
    json: bool


def layout(workers: int, cores: Sequence[int] = CORES) -> Layout:
    """Cores for an engine with so many workers, and for load clients."""
    if workers + 1 < len(cores):
        return Layout(frozenset(cores[: workers + 1]), cores[workers + 1 :], shared=False)
    if workers < len(cores):
        return Layout(frozenset(cores[:workers]), cores[workers:], shared=False)
    half = (len(cores) + 1) // 2
    return Layout(frozenset(cores[:half]), cores[half:] or cores, shared=True)


def climb(workers: int, options: Options, first: int) -> tuple[Step, str]:
    """The highest rate that counts, within a fifth, and what is wrong with the next; if none counts, the lowest."""
    good: Step | None = None
    bad: Step | None = None
    rate = first
    while True:
        step = _step(workers, rate, options)
        good, bad = (step, bad) if step.limit is None else (good, step)
        if bad is None:
            if rate == options.most:
                return step, "--most"
            rate = min(2 * rate, options.most)
        elif good is None:
            if rate == 1:
                return bad, str(bad.limit)
            rate = max(1, rate // 2)
        else:
            if bad.rate < NEAR * good.rate:
                return good, str(bad.limit)
            rate = math.isqrt(good.rate * bad.rate)
            if rate == good.rate:
                return good, str(bad.limit)


def _step(workers: int, rate: int, options: Options) -> Step:
    """Of two tries the first that counts."""
    for _ in range(TRIES):
        step = _try(workers, rate, options)
        note(
            f"{workers} workers, {rate}/s: {step.delivered / 1e6:.2f} M/s, {step.us:.3f} us, p99 {step.p99:.1f} ms,"
            f" {step.limit or 'delivered'}"
        )
        if step.limit is None:
            break
    return step


def _try(workers: int, rate: int, options: Options) -> Step:
    cores = layout(workers)
    with engine(workers, cores=cores.engine) as server:
        processes = min(len(cores.clients), options.clients)
        runs: list[Run] = []
        try:
            for number, core in enumerate(cores.clients[:processes]):
                first = number == 0  # it publishes, and looks at the engine
                run = Run(
                    server.port,
                    server.pids if first else (),
                    clients=len(range(number, options.clients, processes)),
                    rate=rate if first else 0,
                    seconds=options.seconds,
                    settle=SETTLE,
                    warm=WARM,
                    core=core,
                    held=True,
                )
                runs.append(run)
            for run in runs:
                run.opened()
            for run in runs:
                run.go()
            time.sleep(WARM + options.seconds / 2)
            megabytes = server.pss()
            loads = [run.wait() for run in runs]
        except BaseException:
            for run in runs:
                run.stop()
            raise
    return _sum(rate, loads, megabytes)


def _sum(rate: int, loads: Sequence[Load], megabytes: float) -> Step:
    publisher = loads[0]
    delivered = sum(load.delivered for load in loads)
    cpu = publisher.us * publisher.delivered / 1e6  # cores
    return Step(
        rate,
        delivered,
        us=cpu * 1e6 / delivered if delivered else math.nan,
        cores=cpu,
        megabytes=megabytes,
        client=max(load.client for load in loads),
        p50=max(load.p50 for load in loads),
        p99=max(load.p99 for load in loads),
        limit=_limit(rate, loads),
    )


def _limit(rate: int, loads: Sequence[Load]) -> str | None:
    if max(load.client for load in loads) >= CLIENT:
        return "load clients at their limit"
    total = loads[0].total
    for load in loads:
        if load.closed or load.failed or load.missing or load.repeated or not load.least == load.most == total:
            return "not whole"
    if loads[0].published < KEPT * rate:
        return "publisher held up"
    return "p99 too high" if max(load.p99 for load in loads) > P99 else None


def scale(options: Options) -> list[Row]:
    """The highest rate that is wholly delivered, by number of workers."""
    rows: list[Row] = []
    rate, least = min(options.rate, options.most), math.nan
    for workers in options.workers:
        cores = layout(workers)
        step, limit = climb(workers, options, rate)
        rate = step.rate
        if not rows:
            least = step.delivered
        rows.append(
            {
                "workers": workers,
                "cores": f"{len(cores.engine)} + {len(cores.clients)}" + (", shared" if cores.shared else ""),
                "msg/s": step.rate,
                "deliveries/s": step.delivered,
                "x": step.delivered / least if least else math.nan,
                "us each": step.us,
                "engine": step.cores,
                "MB": step.megabytes,
                "busiest client": step.client,
                "p50 ms": step.p50,
                "p99 ms": step.p99,
                "whole": step.limit is None,
                "limit": limit,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--rate", type=int, default=500, help="messages per second to begin with")
    parser.add_argument("--most", type=int, default=100_000, help="messages per second to end with")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured per run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    report.show({"scaling": scale}, ["scaling"], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
