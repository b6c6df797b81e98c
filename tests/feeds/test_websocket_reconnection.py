"""The seed's phase 5.1, reconnection: delays, limits and what survives, over real sockets and a clock that skips."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import msgspec
import pytest

from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy
from actors.connection import Connect, FeedConnection, Reset, Send
from actors.feed import PENDING, Feed
from actors.feed_state import FeedState
from engine.mock_exchange import MockExchange
from engine.mock_faults import BadFrame, Fault
from tests.feeds.harness import (
    BACKOFF,
    SUBSCRIBE,
    Hub,
    Running,
    exchange_and_feed,
    feed_of,
    numbers,
    on_still_clock,
    prices_sent,
    skip,
    until,
)
from transport.codes import ErrorCode
from transport.errors import RequestError

PATIENT = BreakerPolicy(failures=100)  # the backoff alone speaks


@on_still_clock
async def test_exponential_backoff_on_disconnect() -> None:
    async with exchange_and_feed(breaker=PATIENT, backoff=BackoffPolicy(0.1, 2.0, jitter=False)) as (exchange, running):
        hub = running.hub
        exchange.fault = Fault.RESET  # the connection, and all that follow
        await running.waiting(1)
        for _ in range(6):
            await running.next_attempt()
        assert hub.waits() == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
        assert exchange.attempts == 1 + 6
        steps = [(at, e.data) for at, e in zip(hub.times, hub.events, strict=True) if e.type == "feed_state"]
        lost = [at for at, data in steps if b'"state":"reconnecting"' in data]
        tried = [at for at, data in steps if b'"state":"connecting"' in data]
        waited = [began - ended for ended, began in zip(lost, tried[1:], strict=False)]
        assert waited == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0])  # it did what it said

    jittered = BackoffPolicy(first_s=0.1)
    async with exchange_and_feed(breaker=PATIENT, backoff=jittered, random=lambda: 0.25) as (exchange, running):
        exchange.fault = Fault.RESET
        await running.waiting(1)
        for _ in range(3):
            await running.next_attempt()
        assert running.hub.waits() == [0.025, 0.05, 0.1, 0.2]


@on_still_clock
async def test_max_retries_enforcement() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await running.waiting(1)
            for _ in range(4):
                await running.next_attempt()
            assert running.hub.waits() == [0.1, 0.2, 0.4, 0.8, 10.0]  # the fifth failure: now the breaker says
            assert (exchange.attempts, running.hub.breaker()) == (5, ["open"])
            await skip(9.9)
            assert (running.feed.attempts, running.state) == (5, FeedState.RECONNECTING)
            await skip(0.1)
            await running.waiting(6)
            assert exchange.attempts == 6

        before = exchange.attempts
        async with feed_of(exchange.url, give_up=True) as running:
            await running.waiting(1)
            for _ in range(3):
                await running.next_attempt()
            await skip(0.8)
            await running.is_in(FeedState.FAILED)
            assert running.hub.told("feed_state")[-1]["kind"] == "abnormal"
            await skip(86_400)
            assert (exchange.attempts - before, running.state) == (5, FeedState.FAILED)
            exchange.fault = Fault.NONE
            await running.reset()
            await running.connected()
            assert exchange.attempts - before == 6


@on_still_clock
async def test_backoff_reset_on_success() -> None:
    async with exchange_and_feed(breaker=PATIENT) as (exchange, running):

        async def lose(after_s: float) -> float:
            await running.connected()
            await skip(after_s)
            failed = len(running.hub.waits())
            exchange.abort()
            await running.waiting(failed + 1)
            wait = running.hub.waits()[-1]
            await skip(wait)
            return wait

        assert BACKOFF.stable_s == 10
        assert [await lose(0), await lose(1), await lose(9.9)] == [0.1, 0.2, 0.4]  # connected, but not for long
        assert [await lose(10), await lose(9)] == [0.1, 0.2]  # that was a success: the next failure is the first
        exchange.fault = Fault.RESET
        await running.waiting(6)
        assert running.hub.waits()[-1] == 0.4
        exchange.fault = Fault.NONE
        await running.reset()  # an operator's word is as good
        assert [await lose(0), await lose(0)] == [0.1, 0.2]
        await running.connected()


@on_still_clock
async def test_concurrent_reconnection_attempts() -> None:
    async with exchange_and_feed() as (exchange, running):
        exchange.abort()
        await running.waiting(1)
        waiting = await asyncio.gather(*(running.connect() for _ in range(10)))
        assert {answer["state"] for answer in waiting} == {"reconnecting"}  # left waiting: that attempt is this one
        await skip(0.1)
        await running.connected()
        await skip(60)
        assert (exchange.attempts, running.feed.attempts) == (2, 2)

        exchange.fault = Fault.RESET
        await running.waiting(2)
        exchange.fault = Fault.NONE
        before = exchange.attempts
        asks = [running.ref.ask_async(message()) for message in (Reset, Connect, Reset, Connect, Reset) * 4]
        answers: list[Any] = await asyncio.gather(*asks, return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, dict) or answer.code == ErrorCode.CONFLICT, answer
        await running.connected()
        await skip(60)
        assert (exchange.attempts - before, exchange.connections) == (1, 1)

        await running.disconnect()
        before = exchange.attempts
        first, *others = await asyncio.gather(*(running.connect() for _ in range(10)), return_exceptions=True)
        assert first["state"] == "connecting"
        assert {other.code for other in others} == {ErrorCode.CONFLICT}  # the first one's attempt has begun
        await running.connected()
        await skip(60)
        assert (exchange.attempts - before, exchange.connections) == (1, 1)

    async with exchange_and_feed(breaker=PATIENT) as (exchange, running):
        exchange.fault = Fault.RESET
        await running.waiting(1)
        for _ in range(2):
            await running.next_attempt()
        assert running.hub.waits() == [0.1, 0.2, 0.4]
        await running.reset()  # an attempt now, instead of the one in 0.4 s
        await running.waiting(4)
        for _ in range(2):
            await running.next_attempt()
        assert running.hub.waits()[3:] == [0.1, 0.2, 0.4]
        attempts = running.feed.attempts
        await skip(0.2)  # 0.5 s after the reset: the old one would have been
        assert (running.feed.attempts, running.state) == (attempts, FeedState.RECONNECTING)


@on_still_clock
async def test_connection_state_preservation() -> None:
    def order(number: int) -> str:
        return f'{{"method":"PING","id":{number}}}'

    async with exchange_and_feed(resume=True) as (exchange, running):
        await running.send(order(0))
        await exchange.wait_request("PING")
        exchange.tick(3)
        await running.published(3)
        exchange.fault = Fault.REFUSE
        await running.waiting(1)
        for number in range(1, 6):
            await running.send(order(number))
        await running.next_attempt()  # which fails, and loses nothing
        await running.send(order(6))
        exchange.tick(4)  # nobody hears them
        exchange.fault = Fault.NONE
        await skip(running.hub.waits()[-1])
        await running.connected()
        await exchange.wait_request("PING", 7)
        seen = [request.message for request in exchange.requests if request.connection == exchange.attempts]
        resume = {"method": "RESUME", "params": {"symbol": "BTC-USD", "since": 3}, "id": 2}
        assert seen == [resume, SUBSCRIBE, *({"method": "PING", "id": number} for number in range(1, 7))]
        exchange.tick(2)
        await running.published(9)
        assert running.hub.texts == prices_sent(exchange)  # each once, in order, those of the meantime included
        assert numbers(exchange) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        assert (running.feed.gaps, running.feed.repeated, len(running.feed.pending)) == (0, 0, 0)

        await running.disconnect()
        for number in range(PENDING):
            running.feed.send(order(number))
        with pytest.raises(RequestError) as full:
            await running.ref.ask_async(Send(order(PENDING)))
        assert full.value.code == ErrorCode.LIMIT_EXCEEDED


class Mode(NamedTuple):
    """A way to fail: what the exchange does, and what the feed should make of it."""

    fault: Fault
    options: dict[str, Any]
    kind: str
    wait: float | None = 0.1
    """Before the next attempt, with a backoff of 0.1 s; ``None``: there is none."""
    counts: bool = True
    """For the breaker."""
    reason: str = ""


def code(close_code: int, kind: str, wait: float = 0.1, counts: bool = True) -> Mode:
    return Mode(Fault.DISCONNECT, {"close_code": close_code}, kind, wait, counts, f"{kind}: closed with {close_code}")


MODES = (
    Mode(Fault.REFUSE, {}, "refused"),
    Mode(Fault.RESET, {}, "abnormal"),
    Mode(Fault.ABORT, {}, "abnormal", reason="abnormal: ended without a close frame"),
    Mode(Fault.UNAUTHORIZED, {}, "unauthorized", None),
    Mode(Fault.FORBIDDEN, {}, "unauthorized", None),
    Mode(Fault.NOT_FOUND, {}, "rejected", 1.0, reason="rejected: HTTP 404"),
    Mode(Fault.NOT_WEBSOCKET, {}, "rejected", 1.0, reason="rejected: HTTP 200"),
    Mode(Fault.THROTTLED, {"retry_after": 7}, "throttled", 7.0, reason="throttled: HTTP 429"),
    Mode(Fault.THROTTLED, {"retry_after": None}, "throttled", 1.0),
    Mode(Fault.UNAVAILABLE, {"retry_after": 3}, "unavailable", 3.0, reason="unavailable: HTTP 503"),
    Mode(Fault.UNAVAILABLE, {"retry_after": 0.05}, "unavailable", 0.2),
    code(1000, "closed"),
    code(1001, "going_away", counts=False),
    code(1008, "policy", 1.0),
    code(1009, "too_big"),
    code(1011, "internal", 0.2),
    code(1012, "restart", counts=False),
    code(1013, "try_later", 0.5),
    code(4000, "closed"),
    *(
        Mode(Fault.BAD_FRAMES, {"bad_frame": frame}, "protocol", reason="protocol: closed by us with 1002")
        for frame in BadFrame
        if frame is not BadFrame.UTF8  # a message like any other that cannot be read
    ),
)


LIVE = (Fault.RESET, Fault.ABORT, Fault.DISCONNECT, Fault.BAD_FRAMES)
"""Those that end a connection; the others let none begin."""


@asynccontextmanager
async def failed_with(mode: Mode) -> AsyncIterator[tuple[MockExchange, Running]]:
    """An exchange and a feed that has just failed in this way, for the first time."""
    async with MockExchange(rate=0) as exchange:
        if mode.fault not in LIVE:
            exchange.inject(mode.fault, **mode.options)
        async with feed_of(exchange.url) as running:
            if mode.fault in LIVE:
                await running.connected()
                exchange.inject(mode.fault, **mode.options)
            await running.is_in(FeedState.FAILED if mode.wait is None else FeedState.RECONNECTING)
            yield exchange, running


@on_still_clock
async def test_reconnection_failure_modes() -> None:
    for mode in MODES:
        async with failed_with(mode) as (exchange, running):
            assert running.hub.kinds() == [mode.kind], mode
            assert str(running.feed.reason).startswith(mode.reason or mode.kind), (mode, running.feed.reason)
            exchange.fault = Fault.NONE
            if mode.wait is None:
                await skip(3_600)
                assert running.feed.attempts == 1
                await running.connect()
            else:
                await skip(mode.wait)
            await running.connected()
            assert (running.feed.attempts, running.feed.failure) == (2, None)

    for url, kind in (("ws://exchange.invalid/ws", "dns"), (f"ws://127.0.0.1:{free_port()}/ws", "refused")):
        async with feed_of(url) as running:
            await running.waiting(1)
            assert (running.hub.kinds(), running.hub.states()) == ([kind], ["connecting", "reconnecting"])
    async with not_tls() as url, feed_of(url) as running:
        await running.waiting(1)
        assert running.hub.kinds() == ["tls"]

    async with exchange_and_feed(idle_timeout_s=4.0) as (exchange, running):
        exchange.fault = Fault.SILENT
        for _ in range(5):
            await skip(1.0)
        await running.waiting(1)
        assert running.feed.reason == "stale: no message for 4 s"
    async with exchange_and_feed(ping_interval_s=4.0, ping_timeout_s=2.0) as (exchange, running):
        exchange.fault = Fault.DEAD
        await skip(4.0)  # the ping
        for _ in range(4):
            await skip(0.5)  # no pong
        await running.waiting(1)
        assert running.feed.reason == "stale: no answer to a ping"


@on_still_clock
async def test_adaptive_backoff_strategy() -> None:
    for mode in MODES:
        async with failed_with(mode) as (_, running):
            assert running.hub.waits() == ([] if mode.wait is None else [mode.wait]), mode
            assert running.feed.recovery.breaker.failures == int(mode.counts), mode
    for url, wait in (("ws://exchange.invalid/ws", 0.2), (f"wss://127.0.0.1:{free_port()}/ws", 0.1)):
        async with feed_of(url) as running:
            await running.waiting(1)
            assert running.hub.waits() == [wait]
    async with not_tls() as url, feed_of(url) as running:
        await running.waiting(1)
        assert running.hub.waits() == [1.0]  # a certificate is not mended within 0.1 s

    async with MockExchange(rate=0) as exchange:  # Retry-After as a date, and against a longer backoff and breaker
        in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        exchange.inject(Fault.THROTTLED, retry_after=in_a_minute)
        async with feed_of(exchange.url) as running:
            await running.waiting(1)
            assert 0 < running.hub.waits()[0] <= 60
            exchange.inject(Fault.UNAVAILABLE, retry_after=0.5)
            await skip(60)
            await running.waiting(2)
            for _ in range(3):
                await running.next_attempt()
            assert running.hub.waits()[1:] == [0.5, 0.8, 1.6, 10.0]

    async with (
        MockExchange(rate=0) as first,
        MockExchange(rate=0) as second,
        feed_of((first.url, second.url), breaker=PATIENT) as running,
    ):

        async def lose(exchange: MockExchange, close_code: int) -> None:
            await running.connected()
            failed = len(running.hub.waits())
            exchange.disconnect(close_code)
            await running.waiting(failed + 1)
            await skip(running.hub.waits()[-1])

        await lose(first, 1012)  # it restarts and will be back: the same one again
        await lose(first, 1001)  # it goes: the next one
        await lose(second, 1013)  # and round
        await running.connected()
        assert (first.attempts, second.attempts) == (3, 1)
        assert running.hub.waits() == [0.1, 0.2, 2.0]
        assert running.feed.snapshot()["address"] == first.url


@on_still_clock
async def test_forced_disconnect() -> None:
    async with exchange_and_feed() as (exchange, running):

        async def stays_disconnected() -> None:
            await running.is_in(FeedState.DISCONNECTED)
            attempts = running.feed.attempts
            await skip(86_400)
            assert (running.state, running.feed.attempts) == (FeedState.DISCONNECTED, attempts)
            assert running.feed.snapshot()["held"]
            await until(lambda: exchange.connections == 0)

        await running.disconnect()  # while connected
        await stays_disconnected()
        await running.reset()  # which forgets failures, and does not connect what an operator disconnected
        await stays_disconnected()

        crashed = running.ref  # a successor of its actor holds to it
        await crashed.stop_async()
        running.ref = FeedConnection.start(running.feed)
        await stays_disconnected()

        restored = Feed(running.feed.spec, Hub())  # and so does the next process
        restored.restore(msgspec.json.decode(msgspec.json.encode(running.feed.snapshot())))
        assert restored.held

        await running.connect()
        await running.connected()
        exchange.disconnect(1008, "maintenance for you")  # forced by the upstream: that is a failure
        await running.waiting(1)
        assert running.feed.reason == "policy: closed with 1008 (maintenance for you)"
        await running.disconnect()  # while it waits
        await stays_disconnected()

        exchange.fault = Fault.HANG
        attempts = exchange.attempts
        await running.connect()
        await until(lambda: exchange.attempts == attempts + 1)
        await running.disconnect()  # while connecting
        exchange.fault = Fault.NONE
        await stays_disconnected()

        await running.connect()
        await running.connected()
        await exchange.wait_request("SUBSCRIBE", 3)
        exchange.tick()
        await running.published(1)
        assert not running.feed.snapshot()["held"]


def free_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@asynccontextmanager
async def not_tls() -> AsyncIterator[str]:
    """The URL of a server that is asked for TLS and answers in plain text."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
