"""What does a delivery cost, and how many are there to be had? One iteration is one run of the load client against a
fresh server: subscribers on one topic, a publisher on a connection of its own, ``--seconds`` measured after 1 s.

    python -m bench.fanout [rates ceiling memory connect latency two-workers | all] [--json]

Server and all its processes on one core, the load client on another. A run in which either uses more than 0.9 of its
core is saturated and left out of the medians. `server`, `client`, `others` are cores: what the two took, and the most
that strangers took of the server's. `whole`: every client got every message once, in order.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from bench import report, wsload
from bench.ceiling import climb
from bench.report import Row
from bench.server import Server, engine
from bench.turns import Subject, in_turns
from bench.wsload import NATIVE, Load

IDLE_CONNECTIONS = 5000
SETTLE = 3.0  # s for an idle engine to come to rest
SLOW_RATE = 20  # events/s that meet an idle engine
SHARED_RATES = (100, 1000, 5000)  # events/s at which one worker is compared with two


class Options(argparse.Namespace):
    """The command line."""

    what: list[str]
    rates: list[int]
    clients: int
    workers: int
    seconds: float
    repeat: int
    json: bool


def rates(options: Options) -> list[Row]:
    """CPU per delivery and latency at given rates."""
    subject = Subject("heliograph", lambda: engine(options.workers), NATIVE)
    loads = in_turns([subject], options.rates, clients=options.clients, seconds=options.seconds, repeat=options.repeat)
    return [{"msg/s": rate, **report.summary(loads[subject.name, rate])} for rate in options.rates]


def ceiling(options: Options) -> list[Row]:
    """The highest rate that is wholly delivered, in steps of a quarter; each has ``--repeat`` tries."""
    subject = Subject("heliograph", lambda: engine(options.workers), NATIVE)
    return climb(subject, clients=options.clients, seconds=options.seconds, repeat=options.repeat)


def memory(options: Options) -> list[Row]:
    """PSS of idle subscribed connections, and of an engine with two workers and nobody there."""
    with engine(2) as server:
        time.sleep(SETTLE)
        idle = server.pss()
        processes = len(server.processes)
    with engine(options.workers) as server:
        load = _connect(server)
    return [
        {"what": f"idle engine, two workers, {processes} processes", "PSS": f"{idle:.1f} MB"},
        {
            "what": f"each of {load.open:,} idle subscribed connections",
            "PSS": f"{load.connection_kib:.2f} KiB",
        },
    ]


def connect(options: Options) -> list[Row]:
    """CPU of a connect: TCP, handshake, subscription."""
    rows: list[Row] = []
    for _ in range(options.repeat):
        with engine(options.workers) as server:
            load = _connect(server)
            rows.append({"connects": load.open, "failed": load.failed, "us CPU each": load.connect_us})
    return rows


def _connect(server: Server) -> Load:
    return wsload.run(server.port, server.pids, clients=IDLE_CONNECTIONS, seconds=0.1, warm=0, settle=SETTLE)


def latency(options: Options) -> list[Row]:
    """One event at a time through an idle engine, from the publisher's write to the client's read."""
    rows: list[Row] = []
    for _ in range(options.repeat):
        with engine(options.workers) as server:
            load = wsload.run(server.port, server.pids, clients=1, rate=SLOW_RATE, seconds=max(options.seconds, 5.0))
            rows.append({"p50 ms": load.p50, "p99 ms": load.p99, "worst ms": load.worst, "whole": load.whole})
    return rows


def two_workers(options: Options) -> list[Row]:
    """The same work by one worker and by two on the same core, in turns, and how the clients are shared."""
    loads: dict[tuple[int, int], list[Load]] = {}
    least = 1.0
    for _ in range(options.repeat):
        for workers in (1, 2):
            with engine(workers) as server:
                for rate in SHARED_RATES:
                    run = wsload.Run(
                        server.port, server.pids, clients=options.clients, rate=rate, seconds=options.seconds
                    )
                    if workers == 2:
                        time.sleep(1.0 + options.seconds / 2)  # all are connected: look who is where
                        least = min(least, _least_share(server))
                    loads.setdefault((rate, workers), []).append(run.wait())
    rows: list[Row] = []
    for rate in SHARED_RATES:
        one, two = (report.summary(loads[rate, workers]) for workers in (1, 2))
        rows.append(
            {
                "msg/s": rate,
                "us, one worker": one["us each"],
                "us, two": two["us each"],
                "ratio": two["us each"] / one["us each"],
                "runs": f"{one['runs']}, {two['runs']}",
                "p99 ms, two": two["p99 ms"],
                "least share": f"{least:.0%}",
                "whole": one["whole"] and two["whole"],
            }
        )
    return rows


def _least_share(server: Server) -> float:
    workers = [server.named("worker-0"), server.named("worker-1")]
    counts = [server.clients_of(worker) for worker in workers if worker is not None]
    return min(counts) / sum(counts)


MODES: dict[str, Callable[[Options], list[Row]]] = {
    "rates": rates,
    "ceiling": ceiling,
    "memory": memory,
    "connect": connect,
    "latency": latency,
    "two-workers": two_workers,
}


def numbers(text: str) -> list[int]:
    """``100,1000``."""
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.fanout", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", choices=[*MODES, "all", []], metavar="WHAT", help="default: rates")
    parser.add_argument("--rates", type=numbers, default=[100, 1000, 5000], help="messages per second")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    what = list(MODES) if "all" in options.what else options.what or ["rates"]
    report.show(MODES, what, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
