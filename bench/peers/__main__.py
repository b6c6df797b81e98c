"""What does the same work cost other servers? One iteration is one run of the load client against a fresh server:
500 subscribers on one topic, a publisher on a connection of its own, published messages of 123 bytes.

    python -m bench.peers [--only NAME…] [--rates 100,1000,5000] [--connections 10000] [--ceiling] [--json]

A server and all its processes are on one core, the load client on another; they take turns, and figures are medians
of three unsaturated runs (`runs`: how many of how many). `x` is the CPU time per delivery, as a multiple of
heliograph's. `KiB each`, `connects/s` and `connect us` (CPU time) are of 10,000 subscribed connections without traffic,
opened as fast as the server takes them, 200 at a time. `state` is *saturated* where no run had room: server (or load
client) at more than 0.9 of its core, the figure is what a core did and not what it can; and *overloaded* where not
everybody got everything, or deliveries fell behind the rate. Of each server that is not installed it is said how to
get it. All of it takes a quarter of an hour.

``--ceiling``: instead, how many deliveries a second heliograph and NATS get done, with 16 bytes of filler.
"""

from __future__ import annotations

import argparse
import math
import resource
import sys
from collections.abc import Sequence
from statistics import median

import msgspec

from bench import report, wsload
from bench.ceiling import SMALL, climb
from bench.fanout import numbers
from bench.peers import HELIOGRAPH, NATS, PEERS, Peer, nats
from bench.report import Row, note
from bench.turns import Subject, in_turns
from bench.wsload import Load

SETTLE = 3.0  # s for connections to come to rest
KEPT = 0.95  # of the deliveries asked for; below it a server falls behind, even if all comes in the end
SPARE = 500  # descriptors that a process has for other things


class Options(argparse.Namespace):
    """The command line."""

    only: list[str]
    rates: list[int]
    clients: int
    connections: int
    seconds: float
    repeat: int
    ceiling: bool
    json: bool


def compare(peers: Sequence[Peer], options: Options) -> list[Row]:
    """A row per rate and server."""
    subjects = [Subject(peer.name, peer.start, peer.dialect) for peer in peers]
    loads = in_turns(subjects, options.rates, clients=options.clients, seconds=options.seconds, repeat=options.repeat)
    idle: dict[str, list[Load]] = {subject.name: [] for subject in subjects}
    for _ in range(options.repeat):
        for subject in subjects:
            idle[subject.name] += _connections(subject, options.connections)
    rows: list[Row] = []
    for rate in options.rates:
        summaries = {peer.name: report.summary(loads[peer.name, rate]) for peer in peers}
        ours = summaries.get(HELIOGRAPH.name, {}).get("us each", math.nan)
        for name, summary in summaries.items():
            rows.append(
                {
                    "who": name,
                    "msg/s": rate,
                    "deliveries/s": summary["delivered/s"],
                    "us each": summary["us each"],
                    "x": summary["us each"] / ours if ours else math.nan,
                    "p50 ms": summary["p50 ms"],
                    "p99 ms": summary["p99 ms"],
                    "KiB each": _middle([load.connection_kib for load in idle[name]]),
                    "connects/s": _middle([load.connects for load in idle[name]]),
                    "connect us": _middle([load.connect_us for load in idle[name]]),
                    "server": summary["server"],
                    "bytes each": summary["bytes each"],
                    "runs": summary["runs"].split()[0],
                    "state": _state(summary, rate * options.clients),
                }
            )
    return rows


def _connections(subject: Subject, connections: int) -> list[Load]:
    """One run with nothing published; none if it failed, or not all got in."""
    try:
        with subject.start() as server:
            load = wsload.run(
                server.port,
                server.pids,
                dialect=subject.dialect,
                clients=connections,
                seconds=0.1,
                warm=0,
                settle=SETTLE,
            )
    except (RuntimeError, ValueError) as error:
        note(f"{subject.name}: {error}")
        return []
    note(f"{subject.name}: {load.open} connections, {load.connects:,.0f}/s, {load.connection_kib} KiB each")
    return [load] if load.open == connections else []


def _middle(figures: Sequence[float]) -> float:
    return median(figures) if figures else math.nan


def _state(summary: Row, asked: float) -> str:
    if math.isnan(summary["us each"]):
        return "failed"
    if not summary["whole"] or summary["delivered/s"] < KEPT * asked:
        return "overloaded"
    return "saturated" if "saturated" in summary["runs"] else "whole"


def ceilings(peers: Sequence[Peer], options: Options) -> list[Row]:
    """Rates that heliograph and NATS deliver, climbing."""
    rows: list[Row] = []
    for peer in peers:
        dialect = nats(SMALL) if peer is NATS else peer.dialect
        rows += climb(
            Subject(peer.name, peer.start, dialect),
            clients=options.clients,
            seconds=options.seconds,
            repeat=options.repeat,
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__.split("\n")[0])
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--rates", type=numbers, default=[100, 1000, 5000], help="messages per second")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--connections", type=int, default=10_000, help="without traffic, for memory and connects")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure")
    parser.add_argument("--ceiling", action="store_true", help="instead, how many deliveries a second there are")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    most = _raise_descriptors() - SPARE
    if max(options.connections, options.clients) > most:
        parser.error(f"--connections, --clients: {most} at most, as a process may open so many files (ulimit -n)")
    asked = [HELIOGRAPH, NATS] if options.ceiling else PEERS
    asked = [peer for peer in asked if not options.only or peer.name in options.only]
    peers = [peer for peer in asked if not peer.absent()]
    missing = {peer.name: peer.absent() for peer in asked if peer.absent()}
    if (wrong := report.warning()) is not None:
        note(wrong)
    rows = (ceilings if options.ceiling else compare)(peers, options) if peers else []
    if options.json:
        print(msgspec.json.encode({"rows": rows, "missing": missing}).decode())
        return 0
    if rows:
        print(report.table(rows))
    for name, absent in missing.items():
        print(f"{name}: missing; install {absent}")
    return 0


def _raise_descriptors() -> int:
    """As many as this user may have, for servers that do not ask for them; how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


if __name__ == "__main__":
    sys.exit(main())
