"""Does anybody notice that somebody connects ten thousand times a second? One iteration is a run on a fresh engine.

    python -m bench.flood [--rate 10000] [--processes 3] [--seconds 10] [--allowed 50] [--clients 50] [--events 200]
                          [--newcomers 10] [--workers 1]

All the time ``--clients`` clients read a topic on which ``--events`` events a second are published, and ``--newcomers``
clients a second come, ask and go; first undisturbed, then beside a flood of connections from one address, of which
``--allowed`` a second are let in (``limits.connect_rate``). `attempts/s` is what the flood has really made; of them
`429` have read that answer, `let in` were the allowed ones, `closed` and `unanswered` have got none. `late` are times
from publish to client, `in` those from a newcomer's connect to its answer, in ms; the load's processes have the machine
too, so on two cores they are mostly theirs. `refused us`: CPU time of the workers per refused connection, what they use
undisturbed taken off.

Exits with 1 if a client has lost its connection or an event, a newcomer was refused, or the flood was not the flood:
less than :data:`REACHED` of the rate, or the engine let in more than allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import uvloop

from bench import report
from bench.churn_client import Message, Socket
from bench.server import Server, engine

HOST = "127.0.0.1"
TOPIC = "flood.t"
REACHED = 0.9
NICE = 5  # of the flood, so that the clients that measure have what they need
ANSWER_S = 20.0  # longest wait for what should come at once
SETTLE_S = 0.5  # before times are taken


class Flood(NamedTuple):
    """What all its processes have made."""

    attempts: int
    seconds: float
    counts: Counter[str]

    @property
    def rate(self) -> float:
        """Attempts a second."""
        return self.attempts / self.seconds


class Times(NamedTuple):
    """Of a phase, in seconds."""

    late: list[float]
    came: list[float]


class Others:
    """Readers, a publisher and newcomers: those who shall notice nothing.

    Attributes:
        wrong: what they have noticed.
    """

    def __init__(self, port: int, clients: int) -> None:
        self._port, self._count = port, clients
        self.wrong: list[str] = []
        self._sent: list[float] = []  # by number
        self._accepted = 0
        self._got = [0] * clients
        self._times = Times([], [])

    async def __aenter__(self) -> Others:
        self._sockets = [await self._connect(self._reader(n)) for n in range(self._count)]
        self._publisher = await self._connect(self._answered)
        for socket in self._sockets:
            socket.send(op="subscribe", id=0, topics=[TOPIC])
        await asyncio.sleep(SETTLE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        for socket in (*self._sockets, self._publisher):
            socket.leave(abort=False)

    async def _connect(self, receive: Any) -> Socket:
        return await asyncio.wait_for(Socket.connect(HOST, self._port, receive), ANSWER_S)

    def _reader(self, number: int) -> Any:
        def receive(message: Message) -> None:
            if message.op == "event" and message.data is not None:
                self._times.late.append(time.monotonic() - self._sent[message.data.n])
                if message.data.n != self._got[number]:
                    self.wrong.append(f"client {number} got {message.data.n} where {self._got[number]} was due")
                self._got[number] = message.data.n + 1
            elif message.op in ("gap", "bye", "error"):
                self.wrong.append(f"client {number} was told {message.op}: {message.reason or message.code}")

        return receive

    def _answered(self, message: Message) -> None:
        if message.op == "ok":
            self._accepted += 1
        elif message.op != "welcome":
            self.wrong.append(f"the publisher was told {message.op}: {message.reason or message.code}")

    async def phase(self, seconds: float, events: float, newcomers: float) -> Times:
        """So long; what was measured in it."""
        self._times = times = Times([], [])
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish(seconds, events))
            group.create_task(self._come(seconds, newcomers, group))
        return times

    async def _publish(self, seconds: float, rate: float) -> None:
        began = time.monotonic()
        for n in range(int(seconds * rate)):
            await asyncio.sleep(began + n / rate - time.monotonic())
            self._sent.append(time.monotonic())
            self._publisher.send(op="publish", id=n, topic=TOPIC, data={"n": len(self._sent) - 1})

    async def _come(self, seconds: float, rate: float, group: asyncio.TaskGroup) -> None:
        began = time.monotonic()
        for n in range(int(seconds * rate)):
            await asyncio.sleep(began + n / rate - time.monotonic())
            group.create_task(self._newcomer())

    async def _newcomer(self) -> None:
        began = time.monotonic()
        answered = asyncio.Event()
        try:
            async with asyncio.timeout(ANSWER_S):
                socket = await Socket.connect(HOST, self._port, lambda m: answered.set() if m.op == "ok" else None)
                socket.send(op="ping", id=1)
                await answered.wait()
        except (OSError, TimeoutError) as error:
            self.wrong.append(f"a newcomer was not let in: {error!r}")
        else:
            self._times.came.append(time.monotonic() - began)
            socket.leave(abort=False)

    async def settle(self) -> None:
        """Wait until everything is there that was accepted; what is not is :attr:`wrong`."""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            if self._accepted == len(self._sent) and set(self._got) == {len(self._sent)}:
                return
            await asyncio.sleep(0.05)
        self.wrong.append(f"of {len(self._sent)} events {self._accepted} were accepted, clients got {set(self._got)}")


async def flood(port: int, rate: float, processes: int, seconds: float) -> Flood:
    """From one address, with so many processes."""
    command = [sys.executable, "-m", "bench.flooder", HOST, str(port), str(rate / processes), str(seconds)]
    made = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, preexec_fn=_give_way)
        for _ in range(processes)
    ]
    said = [msgspec.json.decode((await process.communicate())[0]) for process in made]
    counts = sum((Counter(one["counts"]) for one in said), Counter[str]())
    return Flood(counts.pop("attempts", 0), max(one["took"] for one in said), counts)


def _give_way() -> None:
    os.nice(NICE)


async def run(server: Server, options: argparse.Namespace) -> tuple[report.Row, list[str]]:
    """Both phases; the figures, and what is wrong but for the flood's own rate."""
    workers = [process for process in server.processes if process.name().startswith("helio-worker")]

    def cpu() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in workers)

    async with Others(server.port, options.clients) as others:
        began = cpu()
        calm = await others.phase(options.seconds, options.events, options.newcomers)
        idle, began = cpu() - began, cpu()
        storm = asyncio.create_task(flood(server.port, options.rate, options.processes, options.seconds))
        busy = await others.phase(options.seconds, options.events, options.newcomers)
        made = await storm
        used = cpu() - began - idle
        await others.settle()
        wrong = others.wrong
    row = {
        "attempts/s": made.rate,
        "429": made.counts["429"],
        "let in": made.counts["426"],
        "closed": made.counts["closed"],
        "unanswered": made.counts["unanswered"],
        "late p50 ms, before": _percentile(calm.late, 0.5),
        "late p50 ms, beside it": _percentile(busy.late, 0.5),
        "late p99 ms, before": _percentile(calm.late, 0.99),
        "late p99 ms, beside it": _percentile(busy.late, 0.99),
        "in p99 ms, before": _percentile(calm.came, 0.99),
        "in p99 ms, beside it": _percentile(busy.came, 0.99),
        "refused us": used / max(1, made.counts["429"]) * 1e6,
        "lost": len(wrong),
    }
    other = {name: count for name, count in made.counts.items() if not name.isdigit() and name.isupper()}
    if other:
        wrong.append(f"the flood could not connect: {other}")
    if made.counts["426"] > options.allowed * options.workers * (made.seconds + 2):
        wrong.append(f"{made.counts['426']} were let in")
    return row, wrong


def _percentile(values: list[float], share: float) -> float:
    """In ms."""
    return sorted(values)[int(len(values) * share)] * 1000 if values else 0.0


def flooded(options: argparse.Namespace) -> tuple[report.Row, list[str]]:
    """A run on an engine of its own."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "flood.toml")
        config.write_text(f"[limits]\nconnect_rate = {options.allowed}\n")
        with engine(options.workers, config=config) as server:
            return uvloop.run(run(server, options))


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=10_000, help="connects a second, of all processes")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="each: before, and beside the flood")
    parser.add_argument("--allowed", type=int, default=50, help="limits.connect_rate")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--events", type=float, default=200.0, help="a second")
    parser.add_argument("--newcomers", type=float, default=10.0, help="a second")
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args(given)


def main() -> int:
    """The command."""
    options = arguments()
    row, wrong = flooded(options)
    print(report.listing(row))
    if row["attempts/s"] < REACHED * options.rate:
        wrong.append("the flood has not reached its rate: take more --processes, or another machine")
    for text in wrong[:20]:
        print(text, file=sys.stderr)
    print(f"{len(wrong)} things are wrong" if wrong else "nobody else has noticed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
