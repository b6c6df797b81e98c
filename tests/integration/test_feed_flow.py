"""From an exchange over the engine to a client, for real: every tick, with the digits of the recording, also after the
exchange was away."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from itertools import islice
from pathlib import Path

import pytest

from engine.config import loads
from engine.recording import Pace, Quote, Record, instruments
from engine.replay import ReplayExchange
from heliograph import Client, Engine, Event, Fault, MockExchange
from tests.integration.harness import EngineProcess

Start = Callable[..., EngineProcess]
TOPICS = {"price.EUR_USD", "price.USD_JPY", "price.GBP_USD", "price.XBT_USDT"}
TICKS = 40  # of each instrument
FAST = Pace(speed=10_000.0, longest_gap_s=0.01)
TIMEOUT = 10.0
FEED = """
[feeds.fx]
url = "ws://127.0.0.1:{port}/ws"
subscribe = [{{ method = "SUBSCRIBE", params = ["*"], id = 1 }}]
backoff_initial = 0.02
backoff_max = 0.1
breaker_open = 0.1
breaker_open_max = 0.1

[feeds.fx.map]
topic = "price.{{symbol}}"
type = "price_update"
key = "data.s"
time = "data.T"
time_unit = "ms"
data = {{ bid = "data.b?", ask = "data.a?", price = "data.p?", quantity = "data.q?", side = "data.side?" }}
filter = {{ "data.e" = ["tick", "trade"] }}
"""
HEARTBEATS = {"server__heartbeat_interval": 0.1, "server__heartbeat_timeout": 2.0}
one_process_and_several = pytest.mark.parametrize("workers", [0, 2])


@pytest.fixture
def port() -> int:
    """One that is free now, for an exchange that will come later."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def exchange(port: int) -> ReplayExchange:
    return ReplayExchange(port=port, pace=FAST)


def recorded(count: int) -> dict[str, list[Record]]:
    """The first records of each instrument, by topic."""
    return {f"price.{one.symbol}": list(islice(one.records(), count)) for one in instruments()}


def payload(record: Record) -> bytes:
    """The event's data, written with the very text of the recording."""
    if isinstance(record, Quote):
        return f'{{"bid":{record.bid},"ask":{record.ask}}}'.encode()
    return f'{{"price":{record.price},"quantity":{record.quantity},"side":"{record.side}"}}'.encode()


async def collect(client: Client, ready: Callable[[dict[str, list[Event]]], bool]) -> dict[str, list[Event]]:
    """The events by topic from now on until it is enough."""
    found: dict[str, list[Event]] = {topic: [] for topic in TOPICS}
    async with asyncio.timeout(TIMEOUT), client.subscribe("price.>") as events:
        async for event in events:
            found[event.topic].append(event)
            if ready(found):
                break
    return found


async def component(engine: EngineProcess, status: str) -> dict[str, object]:
    """The feed's part of /health, once it has this status."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            code, health = await asyncio.to_thread(engine.admin, "/health")
            found: dict[str, object] = health["components"].get("feed:fx", {})
            if code == 200 and found.get("status") == status:
                assert health["status"] == status, "the feed is the only one that can be away"
                return found
            await asyncio.sleep(0.01)


@one_process_and_several
def test_every_tick_reaches_the_client_with_the_digits_of_the_recording(
    engine_process: Start, port: int, workers: int
) -> None:
    engine = engine_process(FEED.format(port=port), workers=workers)

    async def scenario() -> None:
        async with Client(engine.url) as client:
            # Subscribed before there is an exchange, so that not even the first tick is missed.
            collecting = asyncio.create_task(
                collect(client, lambda found: all(len(events) >= TICKS for events in found.values()))
            )
            while not (await client.subscriptions()):
                await asyncio.sleep(0.01)
            async with exchange(port):
                found = await collecting
        assert set(found) == TOPICS
        for topic, records in recorded(TICKS).items():
            events = found[topic][:TICKS]
            assert [event.payload for event in events] == [payload(record) for record in records]
            assert [event.offset for event in events] == list(range(1, TICKS + 1))
            assert [event.source_ts for event in events] == [record.time_ms / 1000 for record in records]
            assert {event.key for event in events} == {topic.removeprefix("price.")}
            assert {event.type for event in events} == {"price_update"}
            assert {event.epoch for event in events} == {events[0].epoch}

    asyncio.run(scenario())


@one_process_and_several
def test_an_exchange_that_goes_is_told_and_found_again(engine_process: Start, port: int, workers: int) -> None:
    engine = engine_process(FEED.format(port=port), workers=workers, **HEARTBEATS)

    async def scenario() -> None:
        assert (await component(engine, "degraded"))["reason"]
        async with Client(engine.url) as client:
            offsets, epochs = dict.fromkeys(TOPICS, 0), dict[str, str]()
            tried = 0.0
            for _ in range(3):
                async with exchange(port):
                    assert await component(engine, "ok") == {"status": "ok", "reason": None, "retry_in": None}
                    found = await collect(client, lambda found: all(found.values()))
                    for topic, events in found.items():
                        assert events[0].offset > offsets[topic], "offsets go on"
                        assert events[0].epoch == epochs.setdefault(topic, events[0].epoch), "in the same epoch"
                        offsets[topic] = events[-1].offset
                away = await component(engine, "degraded")
                assert away["reason"]
                assert (await asyncio.to_thread(engine.admin, "/ready"))[0] == 200, "clients are served all the same"
                _, metrics = await asyncio.to_thread(engine.admin, "/metrics")
                attempts = re.search(rb'heliograph_feed_attempts_total\{feed="fx"\} ([\d.]+)', metrics)
                assert attempts and float(attempts[1]) > tried, "each life begins with an attempt of its own"
                tried = float(attempts[1])
                assert b'heliograph_feed_state{feed="fx",state="connected"} 1.0' not in metrics
            await client.publish("t", 1)

    asyncio.run(scenario())


def test_an_embedded_engine_reads_a_feed_on_its_own_loop(port: int) -> None:
    async def scenario() -> None:
        settings = {"server.workers": 0, "server.port": 0, "admin.port": 0}
        async with exchange(port), Engine(loads(FEED.format(port=port), settings)) as engine, engine.client() as client:
            found = await collect(client, lambda found: all(found.values()))
            assert all(event.data for events in found.values() for event in events)

    asyncio.run(scenario())


@one_process_and_several
def test_a_reload_adds_and_removes_a_feed(engine_process: Start, port: int, workers: int) -> None:
    engine = engine_process("", workers=workers, **HEARTBEATS)
    file = Path(engine.runtime_dir).parent / "heliograph.toml"

    async def scenario() -> None:
        async with exchange(port) as upstream, Client(engine.url) as client:
            file.write_text(FEED.format(port=port))
            assert (await asyncio.to_thread(engine.admin, "/api/reload", "POST", {}))[0] == 200
            await component(engine, "ok")
            assert upstream.connections == 1
            await collect(client, lambda found: all(found.values()))
            file.write_text("")
            assert (await asyncio.to_thread(engine.admin, "/api/reload", "POST", {}))[0] == 200
            async with asyncio.timeout(TIMEOUT):
                while upstream.connections:
                    await asyncio.sleep(0.01)
                while "feed:fx" in (await asyncio.to_thread(engine.admin, "/health"))[1]["components"]:
                    await asyncio.sleep(0.01)

    asyncio.run(scenario())


MOCK = """
[feeds.mock]
url = "{url}"
subscribe = [{{ method = "SUBSCRIBE", params = ["*"], id = 1 }}]
backoff_initial = 0.02
backoff_max = 0.1

[feeds.mock.map]
topic = "large"
sequence = "n"
data = {{ n = "n", pad = "pad?" }}
filter = {{ e = "tick" }}
"""
LIMIT = 1 << 20


@one_process_and_several
def test_messages_up_to_a_mebibyte_reach_the_client_and_one_of_ten_costs_a_reconnect(
    engine_process: Start, workers: int
) -> None:
    async def scenario() -> None:
        async with MockExchange(rate=0, symbols=["X"]) as upstream:
            engine = await asyncio.to_thread(engine_process, MOCK.format(url=upstream.url), workers=workers)
            async with (
                asyncio.timeout(TIMEOUT),
                Client(engine.url) as client,
                client.subscribe(">") as events,
                client.subscribe("system.feeds.mock") as notices,
            ):
                await upstream.wait_request("SUBSCRIBE")
                for size in (1 << 16, 1 << 18, LIMIT - 1, LIMIT):
                    upstream.inject(Fault.HUGE, size=size)
                    upstream.tick()
                    event = await anext(aiter(events))
                    assert size - 200 < len(event.data["pad"]) < size
                upstream.inject(Fault.HUGE, size=10 * LIMIT)
                upstream.tick()
                await upstream.wait_disconnected()
                upstream.fault = Fault.NONE
                await upstream.wait_request("SUBSCRIBE", count=2)
                upstream.tick()
                assert (await anext(aiter(events))).data == {"n": 6}
                seen = [notice async for notice in _until_gap(notices)]
        assert [notice.data["kind"] for notice in seen if notice.data.get("kind")] == ["too_big"]
        assert "1009" in next(notice.data["reason"] for notice in seen if notice.data.get("kind"))
        assert (seen[-1].data["first"], seen[-1].data["last"]) == (5, 5)

    asyncio.run(scenario())


async def _until_gap(notices: AsyncIterator[Event]) -> AsyncIterator[Event]:
    async for notice in notices:
        yield notice
        if notice.type == "feed_gap":
            return
