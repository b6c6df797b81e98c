"""What does telling its progress cost a job? One iteration is a pair: 1,000 steps of real work without and with it,
in turns, in one process on a core of its own, while 50 clients of a real engine watch.

    python -m bench.progress [--pairs 15] [--steps 1000] [--work 1.0] [--watchers 50]

`slower` is the median over pairs of the job's time with progress, entering and leaving included, by its time without;
`spread` is that of these ratios between their quartiles: where it is above 3 %, others were using the machine. Then
`CPU` says more, the CPU time of the reporting thread and of all calls of `job.step()` by that of the work: `step` is
what one call takes, `work` what a step's own work takes, both in CPU time. `most/s` is the most updates that a client
got of a job in any second; `whole`: every client saw every job end at 100 % and nothing fall.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import NamedTuple

from bench import report
from bench.report import note
from bench.server import engine
from bench.wsload import CLIENT_CORE, SERVER_CORE
from engine import progress
from engine.client import Client

PREFIX = "bench-"  # of the jobs that are measured
GOAL_SLOWER = 1.03
GOAL_PER_SECOND = 20
READY_TIMEOUT = 60.0  # s
CALIBRATION = 200_000  # turns of the work's loop
STEP_CALLS = 200_000


class Seen(NamedTuple):
    """What one client saw of all jobs."""

    done: int
    most_per_second: int
    falls: int


def turns_in(seconds: float) -> int:
    """How often the loop of a step's work turns in that time here."""
    best = min(timed(lambda: work(CALIBRATION)).own for _ in range(5))
    return max(1, round(CALIBRATION * seconds / best))


def work(turns: int) -> int:
    """What a step does: plain Python, as a strategy's inner loop is."""
    total = 0
    for number in range(turns):
        total = (total * 31 + number) % 1_000_003
    return total


class Took(NamedTuple):
    """Seconds."""

    wall: float
    own: float  # CPU of this thread
    others: float  # CPU of the process's other threads


def timed(function: Callable[[], object]) -> Took:
    """What it takes."""
    process, own, wall = time.process_time(), time.thread_time(), time.perf_counter()
    function()
    wall, own = time.perf_counter() - wall, time.thread_time() - own
    return Took(wall, own, max(0.0, time.process_time() - process - own))


def plain(steps: int, turns: int) -> None:
    """The job without progress."""
    for _ in range(steps):
        work(turns)


def told(name: str, steps: int, turns: int, directory: str, url: str) -> None:
    """The same job with it."""
    with progress.job(name, total=steps, directory=directory, url=url) as job:
        for _ in range(steps):
            work(turns)
            job.step()


def alone() -> None:
    """Until the reporting thread of the job before has ended: each job connects anew, as the first of a process."""
    for thread in threading.enumerate():
        if thread.name == "heliograph-progress":
            thread.join()


async def watch(url: str, jobs: int, ready: Callable[[], None]) -> Seen:
    """A client, until so many jobs have ended."""
    done = most = falls = 0
    last: dict[str, float] = {}
    times: dict[str, deque[float]] = {}
    async with Client(url) as client, client.subscribe("progress.*") as events:
        ready()
        async for event in events:
            if not event.key.startswith(PREFIX):
                continue
            now = time.monotonic()
            recent = times.setdefault(event.topic, deque())
            recent.append(now)
            while recent[0] <= now - 1:
                recent.popleft()
            most = max(most, len(recent))
            part = event.data["progress"]
            falls += part < last.get(event.topic, 0.0)
            last[event.topic] = part
            if event.data["state"] != "running":
                done += event.data["state"] == "done" and part == 1
                if len(last) == jobs and all(value == 1 for value in last.values()):
                    break
    return Seen(done, most, falls)


def watchers(url: str, number: int, jobs: int, pipe: Connection) -> None:
    """A process of clients; sends ``None`` when all are there, and what they saw."""
    os.sched_setaffinity(0, {SERVER_CORE})

    async def run() -> list[Seen]:
        left = number

        def ready() -> None:
            nonlocal left
            left -= 1
            if not left:
                pipe.send(None)

        return await asyncio.gather(*(watch(url, jobs, ready) for _ in range(number)))

    pipe.send(asyncio.run(run()))


def step_cost(directory: str, url: str) -> float:
    """Seconds of one call."""
    with progress.job("calls", total=STEP_CALLS, directory=directory, url=url) as job:
        step, calls = job.step, range(STEP_CALLS)

        def loop() -> None:
            for _ in calls:
                step()

        return timed(loop).own / STEP_CALLS


def measure(pairs: int, steps: int, work_ms: float, number: int) -> report.Row:
    """All pairs against one engine."""
    turns = turns_in(work_ms / 1_000)
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with engine(1) as server, tempfile.TemporaryDirectory() as directory:
        url = f"ws://127.0.0.1:{server.port}/ws"
        crowd = spawn.Process(target=watchers, args=(url, number, pairs, theirs))
        crowd.start()
        try:
            assert ours.poll(READY_TIMEOUT), "the watchers are not ready"
            ours.recv()
            told("warm", 1, 1, directory, url)
            pairs_took: list[tuple[Took, Took]] = []
            for pair in range(pairs):
                took: dict[bool, Took] = {}
                for with_it in (False, True) if pair % 2 else (True, False):
                    alone()
                    name = f"{PREFIX}{pair}"
                    took[with_it] = timed(
                        partial(told, name, steps, turns, directory, url) if with_it else partial(plain, steps, turns)
                    )
                pairs_took.append((took[False], took[True]))
                note(f"pair {pair + 1}: {took[False].wall:.3f} s without, {took[True].wall:.3f} s with")
            cost = step_cost(directory, url)
            assert ours.poll(READY_TIMEOUT), "some watcher has not seen all jobs end"
            seen: list[Seen] = ours.recv()
        finally:
            crowd.terminate()
            crowd.join()
    walls = [with_it.wall / without.wall for without, with_it in pairs_took]
    low, _, high = quantiles(walls, n=4)
    own = median(without.own for without, _ in pairs_took)
    cpu = median(with_it.others for _, with_it in pairs_took) + steps * cost
    most = max(one.most_per_second for one in seen)
    whole = len(seen) == number and all(one.done == pairs and not one.falls for one in seen)
    return {
        "pairs": pairs,
        "s without": median(without.wall for without, _ in pairs_took),
        "slower %": 100 * (median(walls) - 1),
        "spread %": 100 * (high - low),
        "CPU %": 100 * cpu / own,
        "step ns": 1e9 * cost,
        "work us": 1e6 * own / steps,
        "watchers": len(seen),
        "most/s": most,
        "whole": whole,
        "goal": whole and median(walls) < GOAL_SLOWER and most <= GOAL_PER_SECOND,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if the goals were reached."""
    parser = argparse.ArgumentParser(prog="python -m bench.progress", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--work", type=float, default=1.0, help="ms of a step's own work")
    parser.add_argument("--watchers", type=int, default=50)
    options = parser.parse_args(arguments)
    if (warning := report.warning()) is not None:
        note(warning)
    os.sched_setaffinity(0, {CLIENT_CORE})
    row = measure(options.pairs, options.steps, options.work, options.watchers)
    print(report.listing(row))
    return 0 if row["goal"] else 1


if __name__ == "__main__":
    sys.exit(main())
