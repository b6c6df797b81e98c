"""Do feeds come back from everything, and never storm? Each of ``--feeds`` goes through every fault, over and over.

    python -m bench.feed_storm [--feeds 20] [--seconds 60] [--phase 0.4]

Each feed has a mock exchange of its own that alternates between a fault and a healthy phase, times scaled to fractions
of a second. A third of them resume, a third see by numbers what they missed, a third know only that they were away.
Checked: those who resume get every message exactly once, the numbered ones each in order or named by a gap, the others
a gap for each reconnect; each attempt was waited for as announced, attempts are within the policy's bound; afterwards
no task, thread or descriptor is left.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import psutil  # type: ignore[import-untyped]
import uvloop
from websockets.asyncio.client import connect

from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.failure import POLICIES, FailureKind
from actors.feed import FeedSpec
from actors.feed_protocol import MappedProtocol, ProtocolSpec
from actors.feed_supervisor import FeedSupervisor, GetFeeds
from actors.mapping import FeedMap
from actors.recovery import RecoveryPolicy
from actors.token import TokenSource
from bench import report
from bench.report import Row
from engine.mock_exchange import MockExchange
from engine.mock_faults import Fault, Phase
from transport.messages import Publish

RATE = 50.0  # ticks a second of each exchange
SETTLE_S = 20.0  # for all feeds to be back after the last fault
BACKOFF = BackoffPolicy(first_s=0.02, cap_s=0.2, jitter=False, stable_s=0.3)
BREAKER = BreakerPolicy(failures=5, successes=3, open_s=0.25, open_max_s=1.0)
KINDS = ("resumes", "numbered", "unnumbered")
OPTIONS: dict[Fault, dict[str, Any]] = {
    Fault.THROTTLED: {"retry_after": 0.2},
    Fault.UNAVAILABLE: {"retry_after": 0.2},
    Fault.HUGE: {"size": 1 << 20},
    Fault.SLOW: {"bytes_per_second": 2_000},
}
HANDSHAKE = {
    *(Fault.HANG, Fault.SLOW_HANDSHAKE, Fault.UNAUTHORIZED, Fault.FORBIDDEN),
    *(Fault.NOT_FOUND, Fault.THROTTLED, Fault.UNAVAILABLE, Fault.NOT_WEBSOCKET),
}
CUT_S = 0.02
EARLY_S = 0.005  # by which a timer of the loop may ring before its time
MESSAGE_BYTES = 1 << 16


class Recorder:
    """The hub: keeps what each feed published, and the time of what it said of itself."""

    def __init__(self) -> None:
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.notices: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}

    def publish(self, batch: list[Publish]) -> None:
        now = time.monotonic()
        for event in batch:
            if event.topic.startswith("system.feeds."):
                name = event.topic.removeprefix("system.feeds.")
                self.notices.setdefault(name, []).append((now, event.type, json.loads(event.data)))
            else:
                self.events.setdefault(event.topic.split(".")[0], []).append(
                    {"key": event.key, **json.loads(event.data)}
                )

    @property
    def is_writable(self) -> bool:
        return True

    async def writable(self) -> None:
        """Always."""


def script(seed: int, phase_s: float) -> list[Phase]:
    """Every fault once, in an order of its own, each followed by a healthy phase."""
    faults = [fault for fault in Fault if fault is not Fault.NONE]
    random.Random(seed).shuffle(faults)
    phases = []
    for fault in faults:
        if fault in HANDSHAKE:
            phases.append(Phase(Fault.ABORT, CUT_S))  # it troubles only those who connect
        phases += [Phase(fault, phase_s, OPTIONS.get(fault, {})), Phase(Fault.NONE, phase_s)]
    return phases


def spec(name: str, kind: str, exchange: MockExchange) -> FeedSpec:
    """A feed with times that fit the phases, and a new token for each attempt."""
    numbered = kind != "unnumbered"
    feed_map = FeedMap(
        topic=f"{name}.{{symbol}}",
        key="s",
        sequence="n" if numbered else None,
        data={"n": "n", "price": "p"},
        types={"price": "number"},
        filter={"e": "tick"},
    )
    options: dict[str, Any] = {
        "maps": (feed_map,),
        "subscribe": ({"method": "SUBSCRIBE", "params": ["*"], "id": 1},),
        "heartbeat": {"method": "PING"},
    }
    if kind == "resumes":
        again = ({"method": "RESUME", "params": {"symbol": "{counter}", "since": "{number}"}},)
        options |= {"resume": again, "resync": again}
    tokens = itertools.count()
    return FeedSpec(
        name,
        (exchange.url,),
        ProtocolSpec(MappedProtocol, options),
        token=TokenSource(function=lambda: f"token-{next(tokens)}"),
        recovery=RecoveryPolicy(BACKOFF, BREAKER),
        connect_timeout_s=0.5,
        handshake_timeout_s=0.3,
        idle_timeout_s=0.3,
        close_timeout_s=0.2,
        ping_interval_s=0.2,
        ping_timeout_s=0.2,
        heartbeat_interval_s=0.1,
        message_bytes=MESSAGE_BYTES,
    )


async def storm(feeds: int, seconds: float, phase_s: float) -> list[Row]:
    """The whole run; one row per feed, with ``fine`` and what is wrong where it is not."""
    me = psutil.Process()
    async with MockExchange() as exchange, connect(exchange.url, proxy=None):
        await asyncio.to_thread(int)  # what stays: the pool of threads, the loop's spare descriptor
    tasks, descriptors, threads = len(asyncio.all_tasks()), me.num_fds(), threading.active_count()
    hub = Recorder()
    async with AsyncExitStack() as stack:
        kinds = [KINDS[i % len(KINDS)] for i in range(feeds)]
        exchanges = [
            await stack.enter_async_context(MockExchange(rate=RATE, resume=kind == "resumes", seed=i))
            for i, kind in enumerate(kinds)
        ]
        names = [f"feed{i}" for i in range(feeds)]
        specs = [spec(name, kind, exchange) for name, kind, exchange in zip(names, kinds, exchanges, strict=True)]
        began = time.monotonic()
        supervisor: Any = FeedSupervisor.start(hub, specs)
        for i, exchange in enumerate(exchanges):
            exchange.play(script(i, phase_s), loop=True)
        await asyncio.sleep(seconds)
        for exchange in exchanges:
            exchange.fault = Fault.NONE
        lasted_s = time.monotonic() - began
        await _settle(supervisor, exchanges, hub, names)
        snapshots = await supervisor.ask_async(GetFeeds())
        rows = [
            _judge(name, kind, exchange, hub, snapshots[name], lasted_s)
            for name, kind, exchange in zip(names, kinds, exchanges, strict=True)
        ]
        await supervisor.stop_async(timeout=10)
    left = await _leftovers(tasks, descriptors, threads)
    return [
        {**row, "fine": row["fine"] and not left, "wrong": "; ".join(filter(None, (row["wrong"], left)))}
        for row in rows
    ]


async def _settle(supervisor: Any, exchanges: list[MockExchange], hub: Recorder, names: list[str]) -> None:
    """Until every feed is connected and has the last tick of each symbol."""
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        feeds = await supervisor.ask_async(GetFeeds())
        if all(feed["state"] == "connected" for feed in feeds.values()):
            break
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    for exchange in exchanges:
        exchange.rate = 0
        exchange.tick(len(exchange.symbols))
    while time.monotonic() < deadline and not all(
        _numbers(hub, name, symbol)[-1:] == [exchange.ticks[symbol]]
        for name, exchange in zip(names, exchanges, strict=True)
        for symbol in exchange.symbols
    ):
        await asyncio.sleep(0.02)


def _numbers(hub: Recorder, name: str, symbol: str) -> list[int]:
    return [event["n"] for event in hub.events.get(name, ()) if event["key"] == symbol]


def _judge(name: str, kind: str, exchange: MockExchange, hub: Recorder, feed: dict[str, Any], lasted_s: float) -> Row:
    wrong: list[str] = []
    notices = hub.notices[name]
    gaps = [data for _, type_, data in notices if type_ == "feed_gap"]
    for symbol in exchange.symbols:
        wrong += _missing(symbol, kind, _numbers(hub, name, symbol), gaps, exchange.ticks[symbol])
    if kind == "unnumbered" and len(gaps) != feed["reconnects"]:
        wrong.append(f"{len(gaps)} gaps told, {feed['reconnects']} reconnects")
    waits = _waits(notices)
    wrong += waits.wrong
    bound = 2 + int((lasted_s + SETTLE_S) / BACKOFF.first_s)
    if not feed["attempts"] <= min(bound, 1 + waits.announced):
        wrong.append(f"{feed['attempts']} attempts, {waits.announced} announced, at most {bound}")
    if feed["state"] != "connected":
        wrong.append(f"{feed['state']}: {feed['reason']}")
    return {
        "feed": name,
        "kind": kind,
        "attempts": feed["attempts"],
        "bound": min(bound, 1 + waits.announced),
        "connections": feed["reconnects"] + 1,
        "breaker opened": feed["breaker"]["opens"],
        "failures of": ",".join(sorted(waits.kinds)),
        "messages": feed["messages"],
        "published": feed["published"],
        "bad": sum(feed["bad"].values()),
        "repeated": feed["repeated"],
        "gaps": feed["gaps"],
        "missing": feed["missing"],
        "fine": not wrong,
        "wrong": "; ".join(wrong),
    }


def _missing(symbol: str, kind: str, numbers: list[int], gaps: list[dict[str, Any]], last: int) -> list[str]:
    """What is neither delivered nor named, or both, or out of order."""
    if kind == "unnumbered":  # repetitions cannot be told there, so only order within what is new
        return [] if numbers[-1:] == [last] else [f"{symbol}: ends at {numbers[-1:]}, not {last}"]
    wrong = []
    told = Counter(numbers)
    if kind == "numbered":  # those who resume get late what was skipped
        if any(b <= a for a, b in itertools.pairwise(numbers)):
            wrong.append(f"{symbol}: out of order or twice")
        told.update(n for gap in gaps if gap["counter"] == symbol for n in range(gap["first"], gap["last"] + 1))
    expected = range(min(told, default=1), last + 1)
    if told != Counter(expected):
        lost = [n for n in expected if n not in told]
        twice = [n for n, times in told.items() if times > 1]
        wrong.append(
            f"{symbol}: {len(lost)} lost without a word {lost[:3]}, {len(twice)} delivered and named {twice[:3]}"
        )
    return wrong


class _Waits:
    def __init__(self) -> None:
        self.announced = 0
        self.kinds: set[str] = set()
        self.wrong: list[str] = []


def _waits(notices: list[tuple[float, str, dict[str, Any]]]) -> _Waits:
    """Whether each attempt came no earlier than announced, and no wait was shorter than its failure's policy."""
    waits = _Waits()
    due: float | None = None
    for at, kind, data in notices:
        if kind != "feed_state":
            continue
        if data["state"] == "reconnecting":
            waits.announced += 1
            if data["kind"] is not None:
                waits.kinds.add(data["kind"])
                least = min(BACKOFF.first_s * POLICIES[FailureKind(data["kind"])].patience, BREAKER.open_s)
                if data["retry_in"] < least - EARLY_S:
                    waits.wrong.append(f"a wait of {data['retry_in']:.3f} s after {data['kind']}")
            due = at + data["retry_in"]
        elif data["state"] == "connecting" and due is not None:
            if at < due - EARLY_S:
                waits.wrong.append(f"an attempt {due - at:.3f} s early")
            due = None
    return waits


async def _leftovers(tasks: int, descriptors: int, threads: int) -> str:
    """What is there now and was not before; given a moment to go."""
    deadline = time.monotonic() + 3.0
    while True:
        gc.collect()
        more = {
            "tasks": len(asyncio.all_tasks()) - tasks,
            "descriptors": psutil.Process().num_fds() - descriptors,
            "threads": max(0, threading.active_count() - threads - POOL_THREADS),
        }
        left = {what: count for what, count in more.items() if count > 0}
        if not left or time.monotonic() > deadline:
            return ", ".join(f"{count} {what} left" for what, count in left.items())
        await asyncio.sleep(0.05)


POOL_THREADS = 32
"""asyncio's pool grows up to so many for the token functions, and keeps them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every feed is fine."""
    parser = argparse.ArgumentParser(prog="python -m bench.feed_storm", description=__doc__.split("\n")[0])
    parser.add_argument("--feeds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--phase", type=float, default=0.4)
    options = parser.parse_args(arguments)
    rows = uvloop.run(storm(options.feeds, options.seconds, options.phase))
    print(report.table(rows))
    return 0 if all(row["fine"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
