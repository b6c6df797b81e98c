"""How long is a killed process away? One iteration is a ``kill -9`` under load, until its successor says ready.

    python -m bench.recovery [--clients 200] [--rate 200] [--repeat 3]

The load client does not reconnect: `closed` are the subscribers that the killed process had (its connections, less the
publisher if that was there), and nobody else.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

from bench import report, wsload
from bench.report import Row
from bench.server import Server, engine

VICTIMS = ("worker-0", "hub", "feeds")
GOAL = 1.0  # s
DEADLINE = 10.0  # s
LOOK_AGAIN = 0.005  # s
UNDER_LOAD = 2.0  # s from the start of the load to the kill
SECONDS = 4.0  # of load


def measure(victim: str, clients: int, rate: int) -> Row:
    """Kill one process of a fresh engine of two workers with a feed."""
    with engine(2, demo=True) as server:
        run = wsload.Run(server.port, server.pids, clients=clients, rate=rate, seconds=SECONDS, warm=0.0, check=False)
        time.sleep(UNDER_LOAD)
        process = server.named(victim)
        if process is None:
            raise RuntimeError(f"the engine has no process {victim}")
        had = server.clients_of(process)
        began = time.perf_counter()
        process.send_signal(signal.SIGKILL)
        seen_down = _await_successor(server, victim, process.pid, began)
        took = time.perf_counter() - began
        try:
            closed: int | str = run.wait().closed
        except ValueError:
            closed = "all"
    return {
        "killed": victim,
        "ready again, s": took,
        "goal": took < GOAL,
        "seen in /health": seen_down,
        "clients": clients,
        "connections of the killed": had,
        "closed": closed,
    }


def _await_successor(server: Server, victim: str, pid: int, began: float) -> bool:
    seen_down = False
    while True:
        ok = server.health()["components"][victim]["status"] == "ok"
        seen_down = seen_down or not ok
        if ok:
            successor = server.named(victim)
            if successor is not None and successor.pid != pid:
                return seen_down
        if time.perf_counter() - began > DEADLINE:
            raise RuntimeError(f"{victim} is not back after {DEADLINE:g} s")
        time.sleep(LOOK_AGAIN)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all were back within the goal, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args(arguments)
    rows = [measure(victim, options.clients, options.rate) for _ in range(options.repeat) for victim in VICTIMS]
    print(report.table(rows))
    return 0 if all(row["goal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
