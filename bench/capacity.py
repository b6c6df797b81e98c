"""What does one engine hold, against what it promises? One iteration is one run of the load client against a fresh
engine with all its processes on one core, the load client on another.

    python -m bench.capacity [stream windows memory] [--seconds 4] [--repeat 3] [--workers 1] [--json]

``stream``: 10,000 messages a second to one client, published by a connection of its own that waits for no answer:
*each alone*, at its own time, its latency counted from the time at which it was to be published; and *each ms*, ten in
one write, counted from that. ``windows``: 10,000 deliveries a second on a topic with ``window = 0.1``: 100 events/s to
100 clients, published one by one or ten at a time, or 10 to 1,000, where no two events share a write; all CPU time of
all processes, what it costs to publish included. ``memory``: by how much 1,000 subscribed connections make the engine
grow (PSS of all processes).

``met`` is *client busy* where the load client used more than 0.8 of its core, and *strangers* where others took more
than 0.1 of the server's: the figures are then theirs as well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bench import report, wsload
from bench.report import Row, note
from bench.server import engine
from bench.wsload import TOPIC, Load

RATE = 10_000  # messages, or deliveries, a second
MEAN_GOAL = 1.0  # ms
SHAPES = ((100, 1), (100, 10), (1_000, 1))  # clients that share the deliveries; events published at a time
WINDOW = 0.1  # s
CPU_GOAL = 0.05  # of a core
CONNECTIONS = 1_000
MEMORY_GOAL = 32.0  # MB
CLIENT_ROOM = 0.8  # of a core; above it a latency would be the load client's own
STRANGERS = 0.1  # of the server's core
SETTLE = 3.0  # s until connections have come to rest


class Options(argparse.Namespace):
    """The command line."""

    what: list[str]
    seconds: float
    repeat: int
    workers: int
    json: bool


def stream(options: Options) -> list[Row]:
    """10,000 messages a second to one client."""
    rows: list[Row] = []
    for published, even in (("each alone", True), ("each ms", False)):
        loads = _runs(options, clients=1, rate=RATE, even=even)
        rows += [
            {
                "published": published,
                "delivered/s": load.delivered,
                "mean ms": load.mean,
                "p50 ms": load.p50,
                "p99 ms": load.p99,
                "worst ms": load.worst,
                **_of(load),
                "met": _verdict(load, load.mean < MEAN_GOAL and load.whole),
            }
            for load in _with_median(loads, lambda load: load.mean)
        ]
    return rows


def windows(options: Options) -> list[Row]:
    """10,000 deliveries a second in windows of 100 ms."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "windows.toml")
        config.write_text(f'[topics."{TOPIC}"]\nwindow = {WINDOW}\n')
        rows: list[Row] = []
        for clients, burst in SHAPES:
            loads = _runs(options, config, clients=clients, rate=RATE // clients, burst=burst)
            rows += [
                {
                    "clients": clients,
                    "published": f"{burst} at a time",
                    "deliveries/s": load.delivered,
                    "us each": load.us,
                    "p50 ms": load.p50,
                    "p99 ms": load.p99,
                    **_of(load),
                    "met": _verdict(load, load.server < CPU_GOAL and load.whole),
                }
                for load in _with_median(loads, lambda load: load.server)
            ]
    return rows


def memory(options: Options) -> list[Row]:
    """What 1,000 subscribed connections add."""
    rows: list[Row] = []
    for _ in range(options.repeat):
        with engine(options.workers) as server:
            load = wsload.run(server.port, server.pids, clients=CONNECTIONS, seconds=0.1, warm=0, settle=SETTLE)
        grown = load.connection_kib * load.open * 1024 / 1e6
        met = grown < MEMORY_GOAL and load.open == CONNECTIONS
        rows.append({"connections": load.open, "MB": grown, "KiB each": load.connection_kib, "met": met})
    return rows


def _runs(
    options: Options, config: Path | None = None, *, clients: int, rate: int, even: bool = False, burst: int = 1
) -> list[Load]:
    loads = []
    for _ in range(options.repeat):
        with engine(options.workers, config=config) as server:
            load = wsload.run(
                server.port, server.pids, clients=clients, rate=rate, seconds=options.seconds, even=even, burst=burst
            )
        loads.append(load)
        note(f"{load.delivered:,.0f}/s, mean {load.mean:.2f} ms, p99 {load.p99:.1f} ms, {load.server:.3f} cores")
    return loads


def _with_median(loads: Sequence[Load], figure: Callable[[Load], float]) -> list[Load]:
    """The runs, the best first; of an odd number the median is the one in the middle."""
    note(f"median {median(map(figure, loads)):.3f}")
    return sorted(loads, key=figure)


def _of(load: Load) -> Row:
    return {"server": load.server, "client": load.client, "others": load.others, "whole": load.whole}


def _verdict(load: Load, met: bool) -> bool | str:
    if load.client > CLIENT_ROOM:
        return "client busy"
    if load.others > STRANGERS and not met:
        return "strangers"
    return met


MODES: dict[str, Callable[[Options], list[Row]]] = {"stream": stream, "windows": windows, "memory": memory}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[*MODES, []], metavar="WHAT", help=f"default: {' '.join(MODES)}")
    parser.add_argument("--seconds", type=float, default=4.0, help="measured per run")
    parser.add_argument("--repeat", type=int, default=3, help="runs per figure")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments, Options())
    report.show(MODES, options.what or list(MODES), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
