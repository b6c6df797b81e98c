"""What does a delivery cost, and how many are there to be had? One iteration is one run of the load client against a
fresh server: subscribers on one topic, a publisher on a connection of its own, ``--seconds`` measured after 1 s.

    python -m bench.fanout [rates ceiling memory connect latency two-workers | all] [--peers] [--json]

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
from bench.peers import PEERS, NodePeer, Peer
from bench.report import Row, note
from bench.server import Server, engine
from bench.wsload import NATIVE, Dialect, Load

SMALL = 16  # bytes of filler, to find the ceiling
CEILING_P99 = 20.0  # ms
CEILING_CLIENT = 0.8  # of the load client's core; above it the ceiling would be its own
CEILING_SECONDS = 10.0
CLIMB = 1.25  # from a rate that was delivered to the next
IDLE_CONNECTIONS = 5000
SETTLE = 3.0  # s for an idle engine to come to rest
SLOW_RATE = 20  # events/s that meet an idle engine
SHARED_RATES = (100, 1000, 5000)  # events/s at which one worker is compared with two


Subject = tuple[Callable[[], Server], Sequence[tuple[str, Dialect]]]
"""A server, and the kinds of clients that it is measured with, by name."""


class Turns(argparse.Namespace):
    """What runs that take turns have in common."""

    rates: list[int]
    clients: int
    seconds: float
    repeat: int


class Options(Turns):
    """The command line."""

    what: list[str]
    workers: int
    peers: bool
    json: bool


def rates(options: Options) -> list[Row]:
    """CPU per delivery and latency at given rates; engine and peers take turns."""
    subjects: list[Subject] = [(lambda: engine(options.workers), [("heliograph", NATIVE)])]
    if options.peers:
        subjects += [(peer.start, [(peer.name, peer.dialect)]) for peer in PEERS if not peer.missing]
    loads = in_turns(subjects, options)
    rows: list[Row] = [
        {"who": name, "msg/s": rate, **report.summary(loads[name, rate])}
        for rate in options.rates
        for _, dialects in subjects
        for name, _ in dialects
    ]
    if options.peers:
        for peer in PEERS:
            if peer.missing:
                print(missing(peer))
    return rows


def in_turns(subjects: Sequence[Subject], options: Turns) -> dict[tuple[str, int], list[Load]]:
    """Runs of each subject at each rate, ``--repeat`` times, in turns; by name and rate."""
    loads: dict[tuple[str, int], list[Load]] = {}
    for _ in range(options.repeat):
        for start, dialects in subjects:
            with start() as server:
                for rate in options.rates:
                    for name, dialect in dialects:
                        load = wsload.run(
                            server.port,
                            server.pids,
                            dialect=dialect,
                            clients=options.clients,
                            rate=rate,
                            seconds=options.seconds,
                        )
                        loads.setdefault((name, rate), []).append(load)
                        note(f"{name} {rate}/s: {load.us:.3f} us, {load.server:.2f} cores, p99 {load.p99:.1f} ms")
    return loads


def missing(peer: Peer | NodePeer) -> str:
    """Said instead of a peer's figures."""
    return f"{peer.name}: missing ({', '.join(peer.missing)} not installed)"


def ceiling(options: Options) -> list[Row]:
    """The highest rate that is wholly delivered, in steps of a quarter; each has ``--repeat`` tries."""
    rows: list[Row] = []
    rate = max(100, 2_000_000 // options.clients)
    while True:
        for _ in range(options.repeat):
            load = _try(options, rate)
            limit = _limit(load)
            note(f"{rate}/s: {load.delivered / 1e6:.2f} M/s, p99 {load.p99:.1f} ms, {limit or 'delivered'}")
            if limit is None:
                break
        rows.append(
            {
                "msg/s": rate,
                "M deliveries/s": load.delivered / 1e6,
                "us each": load.us,
                "server": load.server,
                "client": load.client,
                "others": load.others,
                "p99 ms": load.p99,
                "verdict": limit or "delivered",
            }
        )
        if limit is not None:
            return rows
        rate = int(rate * CLIMB)


def _try(options: Options, rate: int) -> Load:
    with engine(options.workers) as server:
        return wsload.run(
            server.port,
            server.pids,
            clients=options.clients,
            rate=rate,
            seconds=max(options.seconds, CEILING_SECONDS),
            filler=SMALL,
        )


def _limit(load: Load) -> str | None:
    if not load.whole:
        return "not whole"
    if load.client >= CEILING_CLIENT:
        return "load client at its limit"
    return "p99 too high" if load.p99 > CEILING_P99 else None


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
    parser = argparse.ArgumentParser(prog="python -m bench.fanout", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[*MODES, "all", []], metavar="WHAT", help="default: rates")
    parser.add_argument("--rates", type=numbers, default=[100, 1000, 5000], help="messages per second")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure")
    parser.add_argument("--peers", action="store_true", help="also other servers, at the same rates")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    what = list(MODES) if "all" in options.what else options.what or ["rates"]
    report.show(MODES, what, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
