"""What was promised about overtaking, windows, conflation and rates, over real sockets.

Nothing here depends on how fast the machine is: what is asserted of times follows from when a client had sent an event
at the latest, and got one at the earliest.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from bench.churn_client import Message, Socket
from tests.integration.harness import EngineProcess, RawClient
from tests.integration.test_users import on_both_workers

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

PAYLOAD = "x" * 2_100
QUEUED = 20_000_000  # bytes of low events that wait when the critical one comes
BURST = 100
TIMER = 0.005  # s by which a timer of the loop may ring before its time


class _Stamped(list[dict[str, Any]]):
    """Messages, and when they came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def append(self, message: dict[str, Any]) -> None:
        self.times.append(time.monotonic())
        super().append(message)


def stamped(client: RawClient) -> RawClient:
    """``client``, which from now on remembers when messages came."""
    client.messages = _Stamped()
    return client


def arrivals(client: RawClient, topic: str) -> dict[int, float]:
    """When the events of a topic came, by offset."""
    assert isinstance(client.messages, _Stamped)
    pairs = zip(client.messages, client.messages.times, strict=True)
    return {m["offset"]: came for m, came in pairs if m["op"] == "event" and m["topic"] == topic}


def figure(engine: EngineProcess, line: str) -> float:
    """A metric by its name and labels; 0 if it is not there."""
    text: bytes = engine.admin("/metrics")[1]
    return next((float(row.split()[-1]) for row in text.decode().splitlines() if row.startswith(line + " ")), 0)


async def publish(client: RawClient, count: int, topic: str = "t", **fields: Any) -> list[int]:
    """Publish, never more than a burst ahead of the answers; the offsets."""
    offsets: list[int] = []
    while len(offsets) < count:
        burst = range(min(BURST, count - len(offsets)))
        answers = [client.send("publish", **{"topic": topic, "data": PAYLOAD, **fields}) for _ in burst]
        offsets += [(await asyncio.wait_for(answer, 10))["offset"] for answer in answers]
    return offsets


def test_critical_events_overtake_twenty_megabytes(engine_process: Start, eventually: Eventually) -> None:
    limits = {"delivery__outbox_bytes": 100_000_000, "delivery__outbox_events": 100_000}
    engine = engine_process(server__heartbeat_interval=0.2, **limits)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            slow, publisher = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(2)]
            await slow.subscribe("t", "other")
            slow.stop_reading()
            priorities: dict[int, str] = {}

            async def more(count: int, priority: str) -> list[int]:
                offsets = await publish(publisher, count, priority=priority)
                priorities.update(dict.fromkeys(offsets, priority))
                return offsets

            # First the kernel's buffers fill up; what the figure says then is no longer read by anybody.
            while await asyncio.to_thread(figure, engine, "heliograph_outbox_bytes") < QUEUED + 1_000_000:
                await more(1_000, "low")
                assert len(priorities) < 40_000
            low = set(priorities)
            urgent = [*await more(3, "high"), *await more(2, "medium"), *await more(2, "critical")]
            await publish(publisher, 1, "other", priority="critical")
            await more(100, "low")

            slow.read_on()
            await eventually(lambda: len(slow.offsets("t")) == len(priorities), 60)
            got = slow.offsets("t")
            assert not slow.of("gap")
            for priority in ("low", "medium", "high", "critical"):
                mine = [offset for offset in got if priorities[offset] == priority]
                assert mine == sorted(offset for offset, its in priorities.items() if its == priority)
            first = min(got.index(offset) for offset in urgent)
            assert got[first : first + len(urgent)] == [*urgent[5:], *urgent[:3], *urgent[3:5]]
            assert len(low.difference(got[:first])) * len(PAYLOAD) >= QUEUED
            # Priority counts over all topics.
            events = [(event["topic"], event.get("priority")) for event in slow.of("event")]
            assert events.index(("other", "critical")) < first + len(urgent)
            await eventually(lambda: figure(engine, "heliograph_slow_sessions") == 0, 10)

    asyncio.run(scenario())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_user_gets_the_limit_in_every_window(engine_process: Start, eventually: Eventually, workers: int) -> None:
    limit, window = 20, 0.5
    engine = engine_process(workers=workers, delivery__user_rate=limit, delivery__user_window=window)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            url = f"{engine.url}?user=alice"
            if workers == 1:
                alice = [await stack.enter_async_context(RawClient(url))]
            else:
                alice = [*await on_both_workers(stack, url)]
            bob = await stack.enter_async_context(RawClient(f"{engine.url}?user=bob"))
            anyone, publisher = [await stack.enter_async_context(RawClient(engine.url)) for _ in range(2)]
            for client in (*alice, bob, anyone):
                await stamped(client).subscribe("t")
            await bob.request("unsubscribe", topics="*")
            await bob.subscribe("t", where={"n": {"lt": limit}})

            sent: dict[int, float] = {}
            ends = time.monotonic() + 4 * window
            while (now := time.monotonic()) < ends:
                answer = await publisher.request("publish", topic="t", data={"n": len(sent)})
                sent[answer["offset"]] = now
            await eventually(lambda: len(anyone.offsets("t")) == len(sent), 10)
            assert len(sent) > 5 * limit, "else nobody is limited"
            assert not anyone.of("gap") and not bob.of("gap")
            assert len(bob.offsets("t")) == limit

            def told(client: RawClient) -> list[int]:
                gaps = client.of("gap")
                assert {gap["reason"] for gap in gaps} == {"rate_limited"}
                return [offset for gap in gaps for offset in range(gap["from"], gap["to"] + 1)]

            def whole(client: RawClient) -> bool:
                return sorted(client.offsets("t") + told(client)) == list(sent)

            await eventually(lambda: all(client.of("gap") and whole(client) for client in alice), 10)
            came: dict[int, float] = {}  # the first time that the user got it
            for client in alice:
                for offset, at in arrivals(client, "t").items():
                    came[offset] = min(at, came.get(offset, at))
            # It was let through after it was sent and before it came. Never above the limit:
            passed = sorted(came)
            for one in passed:  # not in the order of their offsets: of two workers one may be behind
                surely = [other for other in passed if sent[other] >= sent[one] and came[other] - sent[one] < window]
                assert len(surely) <= limit, (one, surely)
            # And, where nothing has to be shared, never below it while there is more:
            if workers == 1:
                for offset in told(alice[0]):
                    last = [one for one in passed if one < offset and came[one] > sent[offset] - window]
                    assert len(last) >= limit, (offset, last)

    asyncio.run(scenario())


class _Reads(Socket):
    """Counts what it reads of events: one write of the server is one read here, or part of one."""

    reads = 0

    def data_received(self, data: bytes) -> None:
        self.reads += b'"op":"event' in data
        super().data_received(data)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("where", [None, {"n": {"gte": 0}}])
def test_what_comes_in_a_window_is_one_write(
    engine_process: Start, eventually: Eventually, batch: bool, where: Any
) -> None:
    window, count = 0.25, 200
    engine = engine_process()

    async def scenario() -> None:
        messages: list[Message] = []
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: _Reads(messages.append), "127.0.0.1", engine.port)
        await client.open
        options = {"where": where} if where else {}
        client.send(op="subscribe", id=1, topics=["t"], window=window, batch=batch, **options)
        await eventually(lambda: any(message.op == "ok" for message in messages))
        async with RawClient(engine.url) as publisher:
            began = time.monotonic()
            for n in range(count):
                await publisher.request("publish", topic="t", data={"n": n})

        def numbers() -> list[int]:
            events = [[m] if m.op == "event" else m.events for m in messages if m.op.startswith("event")]
            return [event.data.n for some in events for event in some if event.data is not None]

        await eventually(lambda: len(numbers()) == count)
        assert numbers() == list(range(count))
        most = 1 + (time.monotonic() - began) / (window - TIMER)
        assert client.reads <= most < count / 2
        frames = sum(message.op.startswith("event") for message in messages)
        assert frames <= most if batch else frames == count
        client.leave(abort=False)
        await client.closed

    asyncio.run(scenario())


def test_a_rate_gives_the_newest_of_each_key_and_counts_the_others(
    engine_process: Start, eventually: Eventually
) -> None:
    rate, keys, count = 10, 4, 400
    engine = engine_process()

    async def scenario() -> None:
        async with RawClient(engine.url) as client, RawClient(engine.url) as publisher:
            await stamped(client).subscribe("t", max_rate=rate)
            sent: list[float] = []
            for n in range(count):
                sent.append(time.monotonic())
                await publisher.request("publish", topic="t", key=f"k{n % keys}", data=n)

            def complete() -> bool:
                skipped: int = sum(message["count"] for message in client.of("skipped"))
                return len(client.of("event")) + skipped == count

            await eventually(complete)
            got = [event["data"] for event in client.of("event")]
            assert got == sorted(got) and set(range(count - keys, count)) <= set(got)
            assert not client.of("gap")
            times = arrivals(client, "t")
            for key in range(keys):
                mine = [n for n in got if n % keys == key]
                for one, other in itertools.pairwise(mine):
                    assert times[other + 1] - sent[one] >= 1 / rate - TIMER, (one, other)

    asyncio.run(scenario())


def test_a_slow_client_that_conflates_gets_the_newest_and_no_gap(engine_process: Start, eventually: Eventually) -> None:
    keys = 10
    engine = engine_process(server__heartbeat_interval=0.2)

    async def scenario() -> None:
        async with RawClient(engine.url) as client, RawClient(engine.url) as publisher:
            await client.subscribe("t", conflate=True)
            client.stop_reading()
            count = 0
            while count < 8_000 or not await asyncio.to_thread(figure, engine, "heliograph_slow_sessions"):
                answers = [
                    publisher.send("publish", topic="t", key=f"k{n % keys}", data=[n, PAYLOAD])
                    for n in range(count, count + BURST)
                ]
                await asyncio.wait_for(asyncio.gather(*answers), 10)
                count += BURST
                assert count < 20_000
            assert figure(engine, "heliograph_outbox_bytes") <= keys * 2 * len(PAYLOAD)
            client.read_on()

            def complete() -> bool:
                skipped: int = sum(message["count"] for message in client.of("skipped"))
                return len(client.of("event")) + skipped == count

            await eventually(complete, 20)
            got = [event["data"][0] for event in client.of("event")]
            assert got == sorted(got) and got[-keys:] == list(range(count - keys, count))
            assert not client.of("gap")

    asyncio.run(scenario())
