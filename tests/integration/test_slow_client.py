"""A client that stops reading: what it costs the engine and the others, and what it is told.

Nobody here waits for a clock: the publisher goes on when all healthy clients have what came before, so that this
process is never the bottleneck. The issue's numbers (200 others, 2,000 msg/s) are for ``bench/``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psutil

from tests.integration.harness import EngineProcess, RawClient, followed

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

HEALTHY = 10
EVENTS = 10_000
PAYLOAD = "x" * 2_100  # so that 21 MB are meant for the client that is stuck
BURST = 100  # events between looks at the healthy ones: a fifth of an outbox, as they may become slow for a moment
MEMORY = 10_000_000  # bytes that the worker may grow by: outbox and buffers have 1.1 MB, the bus some more
CUT = 15.0  # s until a client that does not even read its close frame is gone
TOPIC = "t"


class Stage:
    """An engine of one worker with healthy clients; publishes as fast as they read."""

    def __init__(self, engine: EngineProcess, stack: AsyncExitStack, eventually: Eventually) -> None:
        self.engine, self.stack, self.eventually = engine, stack, eventually
        self.healthy: list[RawClient] = []
        self.published = 0
        self.memory: list[int] = []  # of the worker, one figure a burst

    async def client(self) -> RawClient:
        """A subscribed client."""
        client = await self.stack.enter_async_context(RawClient(self.engine.url))
        await client.subscribe(TOPIC)
        return client

    async def publish(self, count: int) -> None:
        """Publish, each burst when everybody healthy has got the one before."""
        publisher = self.healthy[0]
        for _ in range(count // BURST):
            for _ in range(BURST):
                publisher.send("publish", topic=TOPIC, data=PAYLOAD)
            self.published += BURST
            await self.eventually(lambda: all(len(c.offsets(TOPIC)) == self.published for c in self.healthy), 10)
            self.memory.append(self.engine.memory("worker-0"))

    def figure(self, line: str) -> float:
        """A metric by its name and labels; 0 if it is not there."""
        text: bytes = self.engine.admin("/metrics")[1]
        return next((float(row.split()[-1]) for row in text.decode().splitlines() if row.startswith(line + " ")), 0)

    def check_healthy(self) -> None:
        """They have everything and were told of nothing."""
        for client in self.healthy:
            assert client.offsets(TOPIC) == list(range(1, self.published + 1))
            assert client.closed is None
            assert not client.of("gap") and not client.of("slow")


def on_stage(engine: EngineProcess, eventually: Eventually, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    """Run ``scenario`` with the healthy clients there."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            stage = Stage(engine, stack, eventually)
            for _ in range(HEALTHY):
                stage.healthy.append(await stage.client())
            await stage.publish(2 * BURST)  # what the worker needs for all this is there before memory counts
            await scenario(stage)

    asyncio.run(main())


def test_a_stuck_client_is_bounded_costs_the_others_nothing_and_is_told_what_it_missed(
    engine_process: Start, eventually: Eventually
) -> None:
    engine = engine_process(workers=1, server__heartbeat_interval=0.2)

    async def scenario(stage: Stage) -> None:
        stuck = await stage.client()
        first = stage.published + 1
        before = stage.memory[-1]
        stuck.stop_reading()
        await stage.publish(EVENTS)
        stage.check_healthy()
        assert max(stage.memory) - before < MEMORY, [size - before for size in stage.memory]
        await eventually(lambda: stage.figure("heliograph_slow_sessions") == 1)
        await eventually(lambda: 0 < stage.figure("heliograph_outbox_bytes") <= 1_048_576)

        stuck.read_on()
        await eventually(lambda: _end(stuck) == stage.published, 10)
        got = followed(stuck.messages, TOPIC)  # fails where a gap does not say exactly what is missing
        gaps = stuck.of("gap")
        assert got[0][1] == first
        assert len(got) + sum(gap["to"] - gap["from"] + 1 for gap in gaps) == EVENTS
        assert {gap["reason"] for gap in gaps} == {"slow"}
        slow = stuck.of("slow")
        assert slow and slow[0]["limit"] == 1_048_576
        await eventually(
            lambda: stage.figure('heliograph_events_dropped_total{reason="slow"}') == EVENTS - len(got),
        )

        # It is as fast as the others again.
        await eventually(lambda: stage.figure("heliograph_slow_sessions") == 0)
        await stage.publish(BURST)
        await eventually(lambda: _end(stuck) == stage.published)
        assert len(stuck.of("gap")) == len(gaps)
        followed(stuck.messages, TOPIC)
        stage.check_healthy()

    on_stage(engine, eventually, scenario)


def test_with_the_policy_disconnect_a_stuck_client_is_sent_away_or_cut(
    engine_process: Start, eventually: Eventually
) -> None:
    engine = engine_process(workers=1, delivery__slow_policy="disconnect", server__heartbeat_interval=0.2)

    async def scenario(stage: Stage) -> None:
        comes_back, stays_away = await stage.client(), await stage.client()
        sockets = _sockets(engine)
        for client in (comes_back, stays_away):
            client.stop_reading()
        while stage.figure('heliograph_disconnects_total{code="4008"}') < 2:
            await stage.publish(BURST)
            assert stage.published < 2 * EVENTS
        assert stage.figure('heliograph_connections{transport="websocket"}') == HEALTHY
        comes_back.read_on()
        await eventually(lambda: comes_back.closed is not None)
        assert comes_back.closed == 4008
        bye = comes_back.messages[-1]
        assert {name: bye[name] for name in ("op", "code", "reason", "reconnect")} == {
            "op": "bye",
            "code": 4008,
            "reason": "slow",
            "reconnect": True,
        }
        assert bye["reconnect_in"] >= 0
        followed(comes_back.messages, TOPIC)  # nothing is missing in what did come
        await eventually(lambda: _sockets(engine) == sockets - 2, CUT)
        stays_away.read_on()
        await eventually(lambda: stays_away.closed is not None)
        stage.check_healthy()

    on_stage(engine, eventually, scenario)


def _end(client: RawClient) -> int:
    """The last offset that the client has heard of."""
    last: dict[str, Any] = next(message for message in reversed(client.messages) if "topic" in message)
    end: int = last["offset"] if last["op"] == "event" else last["to"]
    return end


def _sockets(engine: EngineProcess) -> int:
    """TCP connections of the worker."""
    worker = psutil.Process(engine.children()["worker-0"])
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in worker.net_connections("tcp"))
