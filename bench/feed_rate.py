"""What does a message of an upstream feed cost? One iteration is ``--rate`` messages a second for ``--seconds``.

    python -m bench.feed_rate [--rate 10000 --rate 50000] [--seconds 10] [--bad 0.01] [--repeat 3]

The upstream numbers its valid messages; a share of the others is no JSON, lacks a field or has one of a wrong type.
µs are CPU time of the feeds process per message received: read, parsed, mapped, its number checked, published to the
hub. One subscriber checks that every valid message arrives once, in order, with its digits.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from bench import report
from bench.report import Row
from bench.server import Server
from bench.wsload import CLIENT_CORE, pin
from transport.frames import text_frame

GOAL_US = 20.0  # at 10,000 a second
TURN = 0.005  # s between writes of the upstream
SETTLE = 5.0  # s for the last messages to arrive
WRITE_LIMIT = 1 << 20  # bytes that wait; an engine that is behind by more is not sent more meanwhile
CONFIG = """
[feeds.bench]
url = "{url}"
subscribe = [{{op = "subscribe"}}]

[feeds.bench.map]
topic = "price.{{symbol}}"
type = "price_update"
key = "s"
time = "T"
time_unit = "ms"
sequence = "n"
data = {{price = "p", quantity = "q"}}
types = {{price = "number", quantity = "number"}}
filter = {{e = "tick"}}
"""
BAD = (
    b'{"e":"tick","s":"BTC-USD","p":"68900.12345678",',
    b'{"e":"tick","s":"BTC-USD","q":"0.01000000","T":1700000000000}',
    b'{"e":"tick","s":"BTC-USD","p":true,"q":"0.01000000","T":1700000000000}',
)
REASONS = ("not_json", "missing", "wrong_type")


class Upstream:
    """Sends to whoever subscribes, and counts."""

    def __init__(self, rate: int, seconds: float, bad: float) -> None:
        self._rate, self._seconds = rate, seconds
        self._every = round(1 / bad) if bad else 0
        self.sent = self.valid = 0
        self.took = 1.0  # s
        self.go, self.done = asyncio.Event(), asyncio.Event()

    async def serve(self, connection: ServerConnection) -> None:
        await connection.recv()
        await self.go.wait()
        transport, began, kinds = connection.transport, time.perf_counter(), cycle(BAD)
        while (elapsed := time.perf_counter() - began) < self._seconds:
            if transport.get_write_buffer_size() < WRITE_LIMIT:
                due = int(elapsed * self._rate)
                transport.write(b"".join([text_frame(self._next(kinds)) for _ in range(due - self.sent)]))
            await asyncio.sleep(TURN)
        self.took = time.perf_counter() - began
        self.done.set()
        await connection.wait_closed()

    def _next(self, kinds: Any) -> bytes:
        self.sent += 1
        if self._every and self.sent % self._every == 0:
            return next(kinds)  # type: ignore[no-any-return]
        self.valid += 1
        cents = self.valid % 100_000
        return b'{"e":"tick","s":"BTC-USD","p":"68900.%08d","q":"0.01000000","T":%d,"n":%d}' % (
            cents, time.time_ns() // 1_000_000, self.valid,
        )  # fmt: skip


class Check:
    """What the subscriber saw."""

    def __init__(self) -> None:
        self.seen = self.wrong = 0

    async def run(self, url: str, ready: asyncio.Event) -> None:
        decode = msgspec.json.Decoder(type=dict[str, Any]).decode
        async with connect(url, compression=None, max_queue=None, proxy=None) as socket:
            await socket.send('{"op":"subscribe","id":1,"topics":["price.>"]}')
            while True:
                raw = await socket.recv(decode=False)
                if not raw.startswith(b'{"op":"event"'):
                    if b'"op":"ok"' in raw:
                        ready.set()
                    continue
                event = decode(raw)
                self.seen += 1
                if event["offset"] != self.seen or b'"price":68900.%08d,' % (self.seen % 100_000) not in raw:
                    self.wrong += 1


async def measure(rate: int, seconds: float, bad: float) -> Row:
    """One engine, one feed, one subscriber."""
    upstream, check, ready = Upstream(rate, seconds, bad), Check(), asyncio.Event()
    async with serve(upstream.serve, "127.0.0.1", 0, compression=None) as listening:
        url = f"ws://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}/"
        with tempfile.TemporaryDirectory() as directory:
            config = Path(directory, "feed.toml")
            config.write_text(CONFIG.format(url=url))
            options = ["--config", str(config), "--port", "0", "--admin-port", "0", "--workers", "1"]
            command = [sys.executable, "-m", "engine", "run", *options]
            with await asyncio.to_thread(Server, command) as server:
                return await _measure(server, upstream, check, ready, rate)


async def _measure(server: Server, upstream: Upstream, check: Check, ready: asyncio.Event, rate: int) -> Row:
    checking = asyncio.create_task(check.run(f"ws://127.0.0.1:{server.port}/ws", ready))
    await ready.wait()
    feeds, hub = server.named("feeds"), server.named("hub")
    assert feeds is not None
    assert hub is not None
    before, hub_before = feeds.cpu_times(), hub.cpu_times()
    upstream.go.set()
    await upstream.done.wait()
    deadline = time.perf_counter() + SETTLE
    while check.seen < upstream.valid and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    after, hub_after = feeds.cpu_times(), hub.cpu_times()
    expected = upstream.sent - upstream.valid
    while (bad := _bad(feed := _feed(server))) < expected and time.perf_counter() < deadline:
        await asyncio.sleep(0.1)  # the figures come once a second
    checking.cancel()
    us = 1e6 * (after.user + after.system - before.user - before.system) / upstream.sent
    return {
        "messages/s": rate,
        "sent/s": round(upstream.sent / upstream.took),
        "us a message": us,
        "goal": f"{GOAL_US:g}" if rate == 10_000 else "",
        "hub, us": 1e6 * (hub_after.user + hub_after.system - hub_before.user - hub_before.system) / upstream.sent,
        "sent": upstream.sent,
        "valid": upstream.valid,
        "arrived": check.seen,
        "wrong": check.wrong,
        "bad, counted": f"{bad} of {expected}",
        "reconnects": feed["reconnects"],
        "whole": check.seen == upstream.valid and not check.wrong and bad == expected,
    }


def _feed(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin_port}/api/feeds", timeout=5) as answer:
        feed: dict[str, Any] = msgspec.json.decode(answer.read())["feeds"]["bench"]
    return feed


def _bad(feed: dict[str, Any]) -> int:
    return sum(feed["bad"].get(reason, 0) for reason in REASONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if every valid message arrived once and in order, and every bad one was counted."""
    parser = argparse.ArgumentParser(prog="python -m bench.feed_rate", description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--bad", type=float, default=0.01)
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args(arguments)
    pin({CLIENT_CORE})()
    rows = [
        uvloop.run(measure(rate, options.seconds, options.bad))
        for rate in options.rate or (10_000, 50_000)
        for _ in range(options.repeat)
    ]
    print(report.table(rows))
    return 0 if all(row["whole"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
