"""What does one client that never reads cost the others? One iteration is a pair of runs on fresh engines, in turns:
``--clients`` readers of one topic at ``--rate`` events a second, with and without one more who subscribes and stops.

    python -m bench.stuck [--clients 499] [--rate 1000] [--seconds 6] [--pairs 60]

Prints the median of (p99 with / p99 without), publish to client, and its 95 % bootstrap interval. There are at least 9
pairs, then more until the interval is within ± 0.1, at most ``--pairs``. Before it is measured the stuck client's queue
is full, so that each event costs what it costs in the long run: one is queued, the oldest is dropped.

A pair does not count (`left out`) if a run lost something, if engine or load client used more than 0.9 of its core, or
if strangers took more than 0.1 of the engine's: a p99 is then theirs. `cost`: the same ratio of the CPU per delivery.
`growth`: of the worker's resident memory while the stuck client was there and measured, in MB, the most of all runs;
what is bounded does not grow.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any, NamedTuple

import msgspec

from bench import report, wsload
from bench.compare import STRANGERS, interval
from bench.report import Row, note
from bench.server import Server, engine
from bench.wsload import NATIVE, TOPIC, Load

GOAL = 1.1
WITHIN = 0.1  # half the width of the interval that is enough
LEAST_PAIRS = 9
FILL_BATCH = 500  # events in a request
FILL_BYTES = 100  # of an event, about as many as those of the load have
FILL_BATCHES = 40  # 4 MB: more than the sockets' and the engine's queues of one client hold
TIMEOUT = 20.0  # s for whatever should take milliseconds


class Run(NamedTuple):
    """One run's result."""

    load: Load
    dropped: int  # events that waited for the stuck client, those before the measurement included
    growth: float  # MB

    @property
    def counts(self) -> bool:
        """Whether its p99 is the engine's."""
        return self.load.whole and not self.load.saturated and self.load.others <= STRANGERS


def stats(server: Server) -> dict[str, Any]:
    """``GET /stats``."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/stats", timeout=TIMEOUT) as answer:
        return msgspec.json.decode(answer.read(), type=dict[str, Any])


@contextmanager
def stuck(port: int) -> Iterator[None]:
    """A client that has subscribed and reads no more."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET {NATIVE.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        message = NATIVE.subscribe[0].encode()
        assert len(message) < 126, "one byte of length"
        sock.sendall(bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message)
        said = b""
        while b'"ok"' not in said:
            chunk = sock.recv(4096)
            if not chunk:
                raise RuntimeError(f"the engine did not let the stuck client subscribe: {said!r}")
            said += chunk
        yield


def fill(server: Server) -> None:
    """Publish what no client could have in its queues."""
    connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=TIMEOUT)
    event = {"topic": TOPIC, "data": {"x": "x" * FILL_BYTES}}
    body = msgspec.json.encode([event] * FILL_BATCH)
    for _ in range(FILL_BATCHES):
        connection.request("POST", "/api/publish", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"the engine did not take events: {said!r}")
    connection.close()


def dropped(server: Server) -> int:
    """Events dropped from outboxes so far, as last reported."""
    return int(stats(server)["events_dropped"].get("slow", 0))


def measure(clients: int, rate: int, seconds: float, with_stuck: bool) -> Run:
    """One run on a fresh engine."""
    with engine(1) as server, ExitStack() as stack:
        worker = server.named("worker-0")
        assert worker is not None, "the engine is ready"
        if with_stuck:
            stack.enter_context(stuck(server.port))
        fill(server)
        deadline = time.monotonic() + TIMEOUT
        while with_stuck and not dropped(server):
            if time.monotonic() > deadline:
                raise RuntimeError("the stuck client's queue does not get full")
            time.sleep(0.1)
        before = worker.memory_info().rss
        load = wsload.run(server.port, server.pids, clients=clients, rate=rate, seconds=seconds)
        growth = (worker.memory_info().rss - before) / 1e6
        if with_stuck and stats(server)["slow_sessions"] != 1:
            raise RuntimeError("the stuck client was not there all the time: take fewer --seconds")
        return Run(load, dropped(server), growth)


def compare(clients: int, rate: int, seconds: float, most: int) -> tuple[Row, bool]:
    """Pairs until it is decided; the row, and whether the goal was met."""
    ratios: list[float] = []
    costs: list[float] = []
    runs: list[Run] = []
    left_out = 0
    for number in range(1, most + 1):
        order = (True, False) if number % 2 else (False, True)
        pair = {with_stuck: measure(clients, rate, seconds, with_stuck) for with_stuck in order}
        there, alone = pair[True], pair[False]
        runs += pair.values()
        counts = there.counts and alone.counts
        if counts:
            ratios.append(there.load.p99 / alone.load.p99)
            costs.append(there.load.us / alone.load.us)
        else:
            left_out += 1
        load = there.load
        note(
            f"pair {number}: p99 {alone.load.p99:.2f} -> {load.p99:.2f} ms, engine {load.server:.2f}, client"
            f" {load.client:.2f}, others {load.others:.2f} cores, {there.dropped} dropped, memory"
            f" {there.growth:+.1f} MB (without {alone.growth:+.1f}){'' if counts else ', left out'}"
        )
        if _narrow(ratios):
            break
    row: Row = {"clients": clients, "msg/s": rate, "pairs": len(ratios), "left out": left_out}
    if not ratios:
        return {**row, "ratio": "no run had room"}, False
    low, high = interval(ratios)
    loads = [run.load for run in runs if run.counts]
    row = {
        **row,
        "ratio": median(ratios),
        "from": low,
        "to": high,
        "narrow": _narrow(ratios),
        "cost": median(costs),
        "p99 ms": median(load.p99 for load in loads),
        "server": median(load.server for load in loads),
        "client": median(load.client for load in loads),
        "growth": max(run.growth for run in runs if run.dropped),
    }
    return row, median(ratios) <= GOAL and _narrow(ratios)


def _narrow(ratios: Sequence[float]) -> bool:
    if len(ratios) < LEAST_PAIRS:
        return False
    low, high = interval(ratios)
    middle = median(ratios)
    return middle - low <= WITHIN and high - middle <= WITHIN


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if the median ratio is at most 1.1 and the interval narrow enough, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.stuck", description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=499)
    parser.add_argument("--rate", type=int, default=1_000, help="events per second")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured per run")
    parser.add_argument("--pairs", type=int, default=60, help="at most")
    options = parser.parse_args(arguments)
    if (warning := report.warning()) is not None:
        note(warning)
    row, good = compare(options.clients, options.rate, options.seconds, options.pairs)
    print(report.table([row]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
