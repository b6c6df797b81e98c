"""Does everybody get what they asked for, and nothing else, while hundreds of users come, go and change their minds?

    python -m bench.churn [--users 500] [--seconds 60] [--rate 100] [--workers 2]

Users join, subscribe (exact topics, wildcards, overlapping, with filters, windows, rates, batches, snapshots), replace
and drop subscriptions, several requests at a time, and leave, politely or not. Each delivery is held against what was
published (:mod:`bench.churn_log`): nothing missing, nothing extra, order per topic and priority, every answer at its
place among the events. Afterwards nothing may be left: sessions, subscriptions, the workers' interest at the hub, and
the workers' memory, compared with that after the second of two rounds of a quarter of the time, in which all sizes are
met that stay. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import uvloop

from bench import report
from bench.churn_client import Item, Message, Socket
from bench.churn_log import Hold, Log, Published, Subscribed, Trail, Unsubscribed, Wrong
from bench.server import Server

SYMBOLS = [f"S{i}" for i in range(8)]
TIERS = ["daily", "weekly", "monthly"]
TOPICS = [
    *(f"price.{symbol}" for symbol in SYMBOLS),
    *(f"alert.{tier}.{symbol}" for tier in TIERS for symbol in SYMBOLS[:3]),
    *("board.a", "board.b", "rush.a", "rush.b", "calm"),
]
PATTERNS = [*TOPICS, "price.*", "price.>", "alert.>", "alert.*.S1", "alert.daily.*", "*.a", "rush.*", "board.>", ">"]
UNFILTERED = ["board.*"]
CONFIG = """
[topics."board.*"]
strategy = "broadcast_all"
[topics."rush.*"]
strategy = "priority_first"
[topics.calm]
window = 0.05
"""
PRIORITIES = [None, None, None, "low", "high", "critical"]
OPTIONS: list[dict[str, Any]] = [
    *({}, {}, {}, {}, {"snapshot": True}),
    *({"window": 0.02}, {"window": 0.1, "batch": True}, {"conflate": True}, {"max_rate": 20}, {"max_rate": 5}),
]
FILTERS = 500
CLASSES = 20  # confidences
PAUSE_S = 1.0
STAY = 12  # changes until a user leaves, on average
QUIET_S = 1.5  # without a message after the last event, then everything has had its time
SETTLE_S = 30.0  # longest wait for that, and for figures and memory to come to rest
LATE = 1_000  # events after everybody has left
MEMORY_MB = 4.0  # by which the workers may have more after the last round than after the one before


class Outcome(NamedTuple):
    """Of one round.

    Attributes:
        wrong: explanations; empty if all is well.
    """

    published: int
    sessions: int
    changes: int
    delivered: int
    wanted: int
    wrong: list[str]

    def row(self) -> dict[str, Any]:
        """For a table."""
        return {**self._asdict(), "wrong": len(self.wrong)}


def filters(rng: random.Random) -> list[Any]:
    """Random ``where``, of all operators."""

    def clause() -> dict[str, Any]:
        low = rng.randrange(CLASSES) / CLASSES
        parts: dict[str, Any] = {
            "symbol": rng.choice([rng.choice(SYMBOLS), rng.sample(SYMBOLS, 3), {"not": rng.choice(SYMBOLS)}]),
            "tier": rng.choice([rng.choice(TIERS), {"in": rng.sample(TIERS, 2)}, {"not": rng.sample(TIERS, 2)}]),
            "confidence": rng.choice([{"gte": low}, {"lt": low + 0.05}, {"gt": low, "lte": low + 0.4}]),
            "note": rng.choice([{"exists": True}, {"exists": False}, "x"]),
            "@type": rng.choice(["tick", ["tick", "alert"]]),
            "@key": rng.choice([{"exists": True}, {"exists": False}, rng.choice(SYMBOLS)]),
        }
        return {name: parts[name] for name in rng.sample(sorted(parts), rng.choice([1, 1, 2, 3]))}

    return [clause() if rng.random() < 0.8 else [clause(), clause()] for _ in range(FILTERS)]


class Session:
    """One connection of a user."""

    def __init__(self, log: Log) -> None:
        self.trail: Trail = []
        self.patterns: set[str] = set()  # asked for, or more
        self.delivered = 0
        self.heard = 0.0
        self.wrong: list[str] = []
        self.idle = asyncio.Event()  # no request waits for its answer
        self.idle.set()
        self._log = log
        self._requests: dict[int, dict[str, Any]] = {}
        self._last = 0

    async def open(self, host: str, port: int) -> None:
        """Connect."""
        self.socket = await Socket.connect(host, port, self._receive)

    def ask(self, **fields: Any) -> None:
        """Send a request."""
        self._last += 1
        self._requests[self._last] = fields
        self.idle.clear()
        self.socket.send(id=self._last, **fields)

    def _receive(self, message: Message) -> None:
        self.heard = time.monotonic()
        if message.op == "event":
            assert message.data is not None
            fields = message.topic, message.offset, message.epoch, message.data, message.type, message.key
            self._event(Item(*fields, message.priority))
        elif message.op == "events":
            for item in message.events:
                self._event(item)
        elif message.op == "ok":
            self._answered(self._requests.pop(message.id or 0), message)
        elif message.op not in ("welcome", "skipped", "position"):
            self.wrong.append(f"{message}")
        if not self._requests:
            self.idle.set()

    def _event(self, item: Item) -> None:
        self.delivered += 1
        n = item.data.n
        expected = self._log.events[n - 1]
        if (item.topic, item.offset, item.type, item.key, item.priority) != expected[:5]:
            self.wrong.append(f"{item} is not {expected}")
        self.trail.append(n)

    def _answered(self, request: dict[str, Any], message: Message) -> None:
        if request["op"] == "subscribe":
            place = int(message.position.rpartition(":")[2])
            topics = tuple(request["topics"])
            self.trail.append(Subscribed(place, topics, Hold.of(request), request.get("snapshot", False)))
        elif request["op"] == "unsubscribe":
            self.trail.append(Unsubscribed(len(self._log), tuple(message.topics)))


class Churn:
    """One round: users and a publisher against the engine at ``host`` and ``port``.

    Args:
        log: of all that was ever published there.
        pause_s: of a user between two changes, on average.
    """

    def __init__(
        self,
        host: str,
        port: int,
        log: Log,
        *,
        users: int,
        seconds: float,
        rate: float,
        seed: int = 0,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._pause_s = pause_s
        self._host, self._port, self._users, self._seconds, self._rate = host, port, users, seconds, rate
        self._seed = seed
        self._filters = filters(random.Random(seed))
        self.log, self._before = log, (len(log), log.wanted)
        self._wrong: list[str] = []
        self._counts: Counter[str] = Counter()
        self._here: set[Session] = set()

    async def run(self) -> Outcome:
        """The whole round; everybody has left when it returns."""
        publisher = Publisher(self.log, self._rate, self._seed)
        await publisher.open(self._host, self._port)
        async with asyncio.TaskGroup() as group:
            ended = asyncio.Event()
            for number in range(self._users):
                group.create_task(self._user(random.Random((self._seed << 20) + number), ended))
            group.create_task(publisher.run(ended))
            await asyncio.sleep(self._seconds)
            ended.set()
        self._wrong += publisher.wrong
        await self._settle()
        for session in list(self._here):
            self._gone(session, whole=True)
            session.socket.leave(abort=False)
        publisher.socket.leave(abort=False)
        await asyncio.gather(publisher.socket.closed, *(session.socket.closed for session in self._here))
        counts = self._counts
        published, wanted = len(self.log) - self._before[0], self.log.wanted - self._before[1]
        return Outcome(published, counts["sessions"], counts["changes"], counts["delivered"], wanted, self._wrong)

    async def _user(self, rng: random.Random, ended: asyncio.Event) -> None:
        await asyncio.sleep(rng.random() * min(self._pause_s, self._seconds / 4))
        while not ended.is_set():
            session = Session(self.log)
            await session.open(self._host, self._port)
            self._here.add(session)
            self._counts["sessions"] += 1
            self._change(session, rng)
            while not ended.is_set() and rng.random() > 1 / STAY:
                await asyncio.sleep(rng.expovariate(1 / self._pause_s))
                if session.socket.closed.done():
                    self._wrong.append(f"the server closed a session after {session.trail[-3:]}")
                    break
                for _ in range(rng.choice([1, 1, 1, 2, 3])):
                    self._change(session, rng)
            if ended.is_set():
                return
            if rng.random() < 0.5:
                await session.idle.wait()
            session.socket.leave(abort=rng.random() < 0.5)
            self._here.discard(session)
            self._gone(session, whole=False)

    def _change(self, session: Session, rng: random.Random) -> None:
        self._counts["changes"] += 1
        if session.patterns and rng.random() < 0.3:
            if rng.random() < 0.2:
                session.ask(op="unsubscribe", topics="*")
                session.patterns.clear()
            else:
                some = rng.sample(sorted(session.patterns), min(len(session.patterns), rng.choice([1, 1, 2])))
                session.ask(op="unsubscribe", topics=some)
                session.patterns.difference_update(some)
            return
        fields: dict[str, Any] = {"topics": rng.sample(PATTERNS, rng.choice([1, 1, 2, 3])), **rng.choice(OPTIONS)}
        if session.patterns and rng.random() < 0.3:  # other options for what it has
            fields["topics"] = [rng.choice(sorted(session.patterns))]
        if rng.random() < 0.7:
            fields["where"] = rng.choice(self._filters)
        session.patterns.update(fields["topics"])
        session.ask(op="subscribe", **fields)

    async def _settle(self) -> None:
        """Until all who are there have had time for everything."""
        deadline = time.monotonic() + SETTLE_S
        for session in self._here:
            session.ask(op="subscribe", topics=["settled"])
        for session in self._here:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + SETTLE_S):
                await session.idle.wait()
            mark = next(item for item in reversed(session.trail) if isinstance(item, Subscribed))
            if mark.place != len(self.log):
                self._wrong.append(f"the hub has {mark.place} events, not {len(self.log)}")
        while time.monotonic() < deadline:
            latest = max((session.heard for session in self._here), default=0.0)
            if time.monotonic() - latest > QUIET_S:
                return
            await asyncio.sleep(0.1)

    def _gone(self, session: Session, whole: bool) -> None:
        self._counts["delivered"] += session.delivered
        self._wrong += session.wrong
        try:
            missing = self.log.check(session.trail, whole)
        except Wrong as wrong:
            self._wrong.append(str(wrong))
        else:
            if missing:
                events = [self.log.events[n - 1] for n in missing[:3]]
                self._wrong.append(f"missing {len(missing)} events: {missing[:3]} {events}")


class Publisher:
    """Publishes at a rate, from a connection of its own, and checks the answers."""

    def __init__(self, log: Log, rate: float, seed: int) -> None:
        self.wrong: list[str] = []
        self._log, self._rate, self._rng = log, rate, random.Random(seed)
        self._unanswered: set[int] = set()

    async def open(self, host: str, port: int) -> None:
        """Connect."""
        self.socket = await Socket.connect(host, port, self._receive)

    def _receive(self, message: Message) -> None:
        if message.op == "welcome":
            return
        self._unanswered.discard(message.id or 0)
        event = self._log.events[(message.id or 0) - 1]
        if message.op != "ok" or message.offset != event.offset:
            self.wrong.append(f"{event} was answered by {message}")

    async def run(self, ended: asyncio.Event) -> None:
        """Until ``ended``, then until all is answered."""
        began = time.monotonic()
        count = 0
        while not ended.is_set():
            self.publish()
            count += 1
            await asyncio.sleep(began + count / self._rate - time.monotonic())
        await self.answered()

    async def answered(self) -> None:
        """Wait for the answers."""
        deadline = time.monotonic() + SETTLE_S
        while self._unanswered:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._unanswered)} publishes are not answered")
            await asyncio.sleep(0.01)

    def publish(self) -> None:
        """One event."""
        rng, log = self._rng, self._log
        topic, priority = rng.choice(TOPICS), rng.choice(PRIORITIES)
        symbol = rng.choice(SYMBOLS)
        fields: dict[str, Any] = {
            "symbol": symbol,
            "tier": rng.choice(TIERS),
            "confidence": rng.randrange(CLASSES) / CLASSES,
        }
        if rng.random() < 0.3:
            fields["note"] = rng.choice(["x", "y", None])
        key, kind = rng.choice([None, symbol]), rng.choice(["tick", "tick", "alert", "other"])
        offset = log.next_offset(topic)
        log.append(Published(topic, offset, kind, key, priority or "medium", tuple(fields.items())))
        n = len(log)
        options = {name: value for name, value in (("key", key), ("priority", priority)) if value is not None}
        self._unanswered.add(n)
        self.socket.send(op="publish", id=n, topic=topic, type=kind, data={"n": n, **fields}, **options)


class Admin:
    """What an engine says of itself.

    Args:
        interval_s: between two reports of its processes.
    """

    def __init__(self, port: int, interval_s: float = 1.0) -> None:
        self._port, self.interval_s = port, interval_s

    def get(self, path: str) -> bytes:
        """The body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def looked_up(self) -> float:
        """How often a worker looked for the receivers of an event."""
        lines = self.get("/metrics").decode().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("heliograph_match_seconds_count"))

    async def empty(self, others: Mapping[str, int] = MappingProxyType({})) -> dict[str, int]:
        """What is left of sessions and subscriptions when that has come to rest; the processes report once a second.

        Args:
            others: how much of each may stay, as it is none of the load's.
        """
        deadline = time.monotonic() + SETTLE_S
        names = ("connections", "subscriptions", "slow_sessions", "outbox_bytes")
        while True:
            stats = msgspec.json.decode(await asyncio.to_thread(self.get, "/stats"))
            left = {name: stats[name] for name in names if stats[name] > others.get(name, 0)}
            if not left or time.monotonic() > deadline:
                return left
            await asyncio.sleep(0.2)


async def nobody_listens(host: str, port: int, admin: Admin, log: Log) -> list[str]:
    """Publish when everybody has gone: no worker may want to know of it."""
    wrong = [f"{count} {name} are left" for name, count in (await admin.empty()).items()]
    before = await _at_rest(admin)
    publisher = Publisher(log, 0, 1)
    await publisher.open(host, port)
    for _ in range(LATE):
        publisher.publish()
    await publisher.answered()
    publisher.socket.leave(abort=False)
    await publisher.socket.closed
    wrong += publisher.wrong
    after = await _at_rest(admin)
    if after != before:
        wrong.append(f"workers were sent {after - before:.0f} events that nobody there wants")
    return wrong


async def _at_rest(admin: Admin) -> float:
    """The count of look-ups when two reports in a row agree."""
    last = -1.0
    while (now := await asyncio.to_thread(admin.looked_up)) != last:
        last = now
        await asyncio.sleep(2 * admin.interval_s)
    return now


def _memory(server: Server, workers: int) -> float:
    """MB of all workers."""
    found = [server.named(f"worker-{number}") for number in range(workers)]
    return sum(float(process.memory_full_info().pss) for process in found if process is not None) / 1e6


async def _bench(server: Server, options: argparse.Namespace) -> int:
    admin = Admin(server.admin_port)
    wrong: list[str] = []
    rows: list[dict[str, Any]] = []
    log = Log(UNFILTERED)
    for number, seconds in enumerate((options.seconds / 4, options.seconds / 4, options.seconds)):
        load = {"users": options.users, "seconds": seconds, "rate": options.rate, "seed": number}
        outcome = await Churn("127.0.0.1", server.port, log, **load).run()
        wrong += outcome.wrong + await nobody_listens("127.0.0.1", server.port, admin, log)
        rows.append({"seconds": seconds, **outcome.row(), "workers' MB": _memory(server, options.workers)})
    print(report.table(rows))
    grown = rows[2]["workers' MB"] - rows[1]["workers' MB"]
    if grown > MEMORY_MB:
        wrong.append(f"the workers have {grown:.1f} MB more after the last round than after the one before")
    for text in wrong[:20]:
        print(text, file=sys.stderr)
    print(f"{len(wrong)} things are wrong" if wrong else "all is well")
    return 1 if wrong else 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0, help="events per second")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "heliograph.toml")
        file.write_text(CONFIG)
        command = [sys.executable, "-m", "engine", "run", "--config", str(file), "--port", "0", "--admin-port", "0"]
        with Server([*command, "--workers", str(options.workers)]) as server:
            return uvloop.run(_bench(server, options))


if __name__ == "__main__":
    sys.exit(main())
