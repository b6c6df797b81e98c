"""Does an engine stay as small as it was, while clients come, ask, vanish and return, and a worker dies now and then?

    python -m bench.soak [--minutes 10] [--users 100] [--rate 300] [--workers 2] [--round 60]

In each round (seconds) ``--rate`` events a second are published, half of them on durable topics; users connect,
subscribe (filters, wildcards, windows, snapshots), publish, take part in a feed of recorded prices, leave politely or
just vanish, and come back for what they missed, by offsets or by position. In every other round the last worker is
killed. Then all leave, and what every process has is read: memory of its own, descriptors, threads, asyncio tasks,
sessions. What a process has after its last round is held against what it had after its second, in which it has met all
sizes that stay: history reaches back for less than a round. Exits with 1 if anything has grown beyond its bound, is
left, or did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from bench import report
from bench.churn import SETTLE_S, Admin
from bench.server import Server, engine

MEMORY_MB = 10.0  # by which a process may have more
DESCRIPTORS = 4
THREADS = 2
TASKS = 4
WARM = 2  # rounds of a process before what it has counts
DEMO = {"connections": 1, "subscriptions": 2}  # of its job, and of its alert rules
STAY_S = 2.0  # of a user, on average
RETRY_S = 0.2  # before a refused user tries again
TICK_S = 0.02  # between two lots of the publisher
UNANSWERED = 500  # publishes; with so many it waits
TOPICS = [*(f"soak.{n}.{kind}" for n in range(20) for kind in ("tick", "news")), "price.EUR_USD", "price.XBT_USDT"]
PATTERNS = [*TOPICS, "soak.*.tick", "soak.>", "price.*"]
OPTIONS: list[dict[str, Any]] = [
    *({}, {"snapshot": True}, {"where": {"n": {"gte": 50}}}, {"where": [{"k": ["a", "b"]}, {"n": 7}]}),
    *({"conflate": True}, {"window": 0.05, "batch": True}, {"max_rate": 10}),
]
CONFIG = """
[history]
age = {age}
size = 2000
durable_file = "{directory}/history.db"

[topics."soak.*.news"]
durable = true
"""


class Sample(NamedTuple):
    """What a process has after a round."""

    role: str
    memory_mb: float
    descriptors: int
    threads: int
    tasks: int


class Users:
    """Of one round, with a publisher; ``counts`` says what they did."""

    def __init__(self, port: int, count: int, rate: int, seed: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._count, self._rate, self._seed = count, rate, seed
        self.counts: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """All have gone when it returns."""
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._user(random.Random((self._seed << 20) + number), until))
            group.create_task(self._publisher(random.Random(self._seed), until))

    async def _publisher(self, rng: random.Random, until: float) -> None:
        """So many events a second as long as it is there; what its worker's death cost is not made up for."""
        while time.monotonic() < until:
            try:
                async with connect(self._url, compression=None, proxy=None, close_timeout=1.0) as socket:
                    answers = asyncio.create_task(self._answers(socket))
                    try:
                        await self._publish(socket, rng, until)
                    finally:
                        answers.cancel()
            except (OSError, TimeoutError, WebSocketException):
                self.counts["lost"] += 1
                await asyncio.sleep(RETRY_S)

    async def _publish(self, socket: ClientConnection, rng: random.Random, until: float) -> None:
        sent, began, answered = 0, time.monotonic(), self.counts["published"]
        while (now := time.monotonic()) < until:
            due = round((now - began) * self._rate) - sent
            for _ in range(min(due, UNANSWERED + self.counts["published"] - answered - sent)):
                await self._ask(socket, op="publish", topic=rng.choice(TOPICS[:-2]), data=_data(rng))
                sent += 1
            await asyncio.sleep(TICK_S)

    async def _answers(self, socket: ClientConnection) -> None:
        async for message in socket:
            op = json.loads(message)["op"]
            self.counts["published" if op == "ok" else f"publisher got {op}"] += 1

    async def _user(self, rng: random.Random, until: float) -> None:
        seen: dict[str, Any] = {}  # topic to where it is, and "" to the last position: for the next time
        while (left := until - time.monotonic()) > 0:
            try:
                async with connect(self._url, compression=None, proxy=None, close_timeout=1.0) as socket:
                    self.counts["sessions"] += 1
                    await self._talk(socket, rng, seen, min(left, rng.expovariate(1 / STAY_S)))
                    if rng.random() < 0.5:
                        self.counts["vanished"] += 1
                        socket.transport.abort()
            except (OSError, TimeoutError, WebSocketException):
                self.counts["lost"] += 1  # the worker that was killed
                await asyncio.sleep(RETRY_S)

    async def _talk(self, socket: ClientConnection, rng: random.Random, seen: dict[str, Any], seconds: float) -> None:
        position = seen.pop("", None)
        if position is not None and rng.random() < 0.5:
            self.counts["by position"] += 1
            await self._ask(socket, op="subscribe", topics=["soak.>"], since=position)
        elif seen:
            self.counts["by offsets"] += 1
            await self._ask(socket, op="subscribe", topics=list(seen), since=dict(seen))
        seen.clear()
        for _ in range(rng.randrange(1, 5)):
            topics = rng.sample(PATTERNS, rng.choice([1, 1, 3]))
            await self._ask(socket, op="subscribe", topics=topics, **rng.choice(OPTIONS))
        if rng.random() < 0.3:
            await self._ask(socket, op="unsubscribe", topics=rng.choice(["*", [rng.choice(TOPICS)]]))
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if rng.random() < 0.005:
                        await self._ask(socket, op="publish", topic=rng.choice(TOPICS[:-2]), data=_data(rng))
                    self._take(json.loads(await socket.recv()), seen)
        except TimeoutError:
            pass

    async def _ask(self, socket: ClientConnection, **fields: Any) -> None:
        self.counts[fields["op"]] += 1
        await socket.send(json.dumps({"id": self.counts.total(), **fields}))

    def _take(self, message: dict[str, Any], seen: dict[str, Any]) -> None:
        self.counts[f"got {message['op']}"] += 1
        if message["op"] == "position":
            seen[""] = message["position"]
        if message["op"] == "event" and message["topic"] in TOPICS:
            seen[message["topic"]] = {"epoch": message["epoch"], "offset": message["offset"]}


def _data(rng: random.Random) -> dict[str, Any]:
    return {"n": rng.randrange(100), "k": rng.choice("abc"), "text": "x" * rng.randrange(300)}


def _role(name: str, first: bool) -> str:
    if first:
        return "daemon"
    return name.removeprefix("helio-") if name.startswith("helio-") else "forkserver"


def samples(server: Server, tasks: dict[str, int]) -> dict[int, Sample]:
    """Of all processes, by their ids; ``tasks`` as they have reported them."""
    found = {}
    for process in server.processes:
        try:
            memory = process.memory_full_info().uss / 1e6
            role = _role(process.name(), process.pid == server.pids[0])
            found[process.pid] = Sample(role, memory, process.num_fds(), process.num_threads(), tasks.get(role, 0))
        except psutil.NoSuchProcess:
            pass
    return found


def grown(series: Sequence[Sample]) -> list[str]:
    """What one process has too much of."""
    if len(series) <= WARM:
        return []
    before, after = series[WARM - 1], series[-1]
    bounds = {"memory_mb": MEMORY_MB, "descriptors": DESCRIPTORS, "threads": THREADS, "tasks": TASKS}
    return [
        f"{after.role}: {name} {getattr(before, name):.1f} -> {getattr(after, name):.1f}, may grow by {bound}"
        for name, bound in bounds.items()
        if getattr(after, name) - getattr(before, name) > bound
    ]


async def soak(server: Server, rounds: int, seconds: float, users: int, rate: int, workers: int) -> list[str]:
    """All of it; what is wrong. Prints a table a round."""
    admin = Admin(server.admin_port)
    series: defaultdict[int, list[Sample]] = defaultdict(list)
    wrong: list[str] = []
    for number in range(rounds):
        load = Users(server.port, users, rate, number)
        running = asyncio.create_task(load.run(seconds))
        if number % 2 and workers > 1:
            await asyncio.sleep(seconds / 2)
            await _kill(server, f"worker-{workers - 1}")
        await running
        wrong += [f"round {number}: {count} {name} are left" for name, count in (await admin.empty(DEMO)).items()]
        wrong += [f"round {number}: {name} is not ok" for name in await _ailing(server)]
        tasks = json.loads(await asyncio.to_thread(admin.get, "/stats"))["tasks"]
        now = await asyncio.to_thread(samples, server, tasks)
        for pid, sample in now.items():
            series[pid].append(sample)
        print(f"round {number}: {dict(sorted(load.counts.items()))}")
        print(report.table([sample._asdict() for sample in now.values()]), flush=True)
        if not load.counts["got event"]:
            wrong.append(f"round {number}: nobody got an event")
    alive = {process.pid for process in server.processes}
    return wrong + [text for pid in alive for text in grown(series[pid])]


@contextmanager
def soaked(workers: int, seconds: float) -> Iterator[Server]:
    """An engine whose history reaches back for less than a round of so many seconds."""
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "soak.toml")
        config.write_text(CONFIG.format(age=seconds / 2, directory=directory))
        with engine(workers, demo=True, config=config) as server:
            yield server


async def _kill(server: Server, name: str) -> None:
    process = await asyncio.to_thread(server.named, name)
    if process is not None:
        process.send_signal(signal.SIGKILL)


async def _ailing(server: Server) -> list[str]:
    """Processes that do not say that they are well, when they have had the time to come back."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        health = await asyncio.to_thread(server.health)
        ailing = [name for name, part in health["components"].items() if part["status"] != "ok"]
        if not ailing or time.monotonic() > deadline:
            return ailing
        await asyncio.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--rate", type=int, default=300, help="events a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--round", type=float, default=60.0, help="seconds")
    options = parser.parse_args(arguments)
    rounds = max(WARM + 1, round(options.minutes * 60 / options.round))
    with soaked(options.workers, options.round) as server:
        wrong = uvloop.run(soak(server, rounds, options.round, options.users, options.rate, options.workers))
    for text in wrong:
        print(text, file=sys.stderr)
    print(f"{len(wrong)} things are wrong" if wrong else "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
