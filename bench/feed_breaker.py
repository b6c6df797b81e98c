"""Does a feed wait as its circuit breaker says, in real time? One iteration is one opening of the breaker.

    python -m bench.feed_breaker [--scale 0.05]

The mock exchange refuses; a feed's real connection, on uvloop, fails, and its breaker opens for 10, 20, 40, 80 and 80 s
times the scale. What is measured is the time from its opening until the next attempt begins.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import uvloop

from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.connection import FeedConnection
from actors.feed import Feed, FeedSpec
from actors.feed_protocol import MappedProtocol, ProtocolSpec
from actors.mapping import FeedMap
from actors.recovery import RecoveryPolicy
from bench import report
from bench.report import Row
from engine.mock_exchange import MockExchange
from engine.mock_faults import Fault
from transport.messages import Publish

EXPECTED_S = (10.0, 20.0, 40.0, 80.0, 80.0)
TOLERANCE = 0.5  # of the expected time
SPARE_S = 30.0  # beyond the expected times, until the run counts as hung
SMALLEST_SCALE = 0.001  # a hundredth of a second for the first


class Witness:
    """A publisher that notes when the breaker opened and when each attempt began."""

    def __init__(self) -> None:
        self.opened: list[float] = []
        self.tried: list[float] = []
        self.over = asyncio.Event()

    def publish(self, batch: list[Publish]) -> None:
        """Takes what a feed says of itself."""
        now = time.perf_counter()
        for event in batch:
            said: Mapping[str, Any] = msgspec.json.decode(event.data)
            if event.type == "feed_breaker" and said["state"] == "open":
                self.opened.append(now)
            elif event.type == "feed_state" and said["state"] == "connecting":
                self.tried.append(now)
                if len(self.opened) == len(EXPECTED_S):
                    self.over.set()

    @property
    def is_writable(self) -> bool:
        return True

    async def writable(self) -> None:
        """Always."""

    def open_times(self) -> list[float]:
        """From each opening until the first attempt after it, seconds."""
        return [min(at for at in self.tried if at > opened) - opened for opened in self.opened[: len(EXPECTED_S)]]


async def measure(scale: float) -> list[Row]:
    """See the module; one row for each opening."""
    breaker = BreakerPolicy(open_s=EXPECTED_S[0] * scale, open_max_s=EXPECTED_S[-1] * scale)
    backoff = BackoffPolicy(first_s=0.1 * scale, cap_s=scale, jitter=False)
    witness = Witness()
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.REFUSE
        protocol = ProtocolSpec(MappedProtocol, {"maps": (FeedMap(topic="t", data={"price": "p"}),)})
        spec = FeedSpec("mock", (exchange.url,), protocol, recovery=RecoveryPolicy(backoff, breaker))
        ref: Any = FeedConnection.start(Feed(spec, witness))
        try:
            await asyncio.wait_for(witness.over.wait(), sum(EXPECTED_S) * scale * (1 + TOLERANCE) + SPARE_S)
        finally:
            await ref.stop_async()
    return [row(expected * scale, seen) for expected, seen in zip(EXPECTED_S, witness.open_times(), strict=True)]


def row(expected: float, seen: float) -> Row:
    """One opening, judged."""
    off = seen / expected - 1
    return {"expected, s": expected, "open, s": seen, "off, %": 100 * off, "fine": abs(off) <= TOLERANCE}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all were as long as expected, give or take half, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.feed_breaker", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=0.05, help="of the times; 1 takes 4 minutes (default: 0.05)")
    options = parser.parse_args(arguments)
    if not options.scale >= SMALLEST_SCALE:
        parser.error(f"--scale: {SMALLEST_SCALE:g} or more, not {options.scale:g}")
    logging.disable(logging.WARNING)  # each failure otherwise
    rows = uvloop.run(measure(options.scale))
    print(report.table(rows))
    return 0 if all(row["fine"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
