"""The seed's phase 5.1, connections: our feed against an exchange, over real sockets."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection

from actors.connection import TOKEN_POLL_S, Connect
from actors.feed_state import FeedState, IllegalTransition
from actors.token import TokenSource
from engine.mock_exchange import MockExchange
from engine.mock_faults import Fault
from tests.feeds.harness import (
    Hub,
    deaf_port,
    exchange_and_feed,
    feed_of,
    on_still_clock,
    on_uvloop,
    skip,
    turns,
    until,
    upstream,
)
from transport.codes import ErrorCode
from transport.errors import RequestError


@on_uvloop
async def test_basic_websocket_connection() -> None:
    async with exchange_and_feed() as (exchange, running):
        assert running.hub.states() == ["connecting", "connected"]
        assert (exchange.attempts, exchange.connections, len(exchange.handshakes)) == (1, 1, 1)
        assert exchange.handshakes[0].path == "/ws"
        assert exchange.requests[0].message == {"method": "SUBSCRIBE", "params": ["*"], "id": 1}
        tick = msgspec.json.decode(exchange.tick()[0].text)
        await running.published(1)
        event = running.hub.prices[0]
        assert (event.topic, event.type, event.key) == ("price.BTC-USD", "price_update", "BTC-USD")
        assert event.data.decode() == f'{{"price":{tick["p"]},"quantity":{tick["q"]}}}'
        assert event.source_ts == tick["T"] / 1000
        snapshot = running.feed.snapshot()
        shown = {name: snapshot[name] for name in ("state", "address", "attempts", "reconnects", "failures", "reason")}
        assert shown == {
            "state": "connected",
            "address": exchange.url,
            "attempts": 1,
            "reconnects": 0,
            "failures": 0,
            "reason": None,
        }
        assert (snapshot["messages"], snapshot["published"], snapshot["ignored"]) == (2, 1, 1)  # one is the answer


@on_uvloop
async def test_multiple_concurrent_connections() -> None:
    hub = Hub()
    async with MockExchange(rate=0, symbols=("BTC-USD",)) as exchange, AsyncExitStack() as stack:
        feeds = [await stack.enter_async_context(feed_of(exchange.url, hub, name=f"f{i}")) for i in range(5)]
        await exchange.wait_connected(5)
        await exchange.wait_request("SUBSCRIBE", 5)
        for running in feeds:
            await running.connected()
        exchange.tick()
        await until(lambda: len(hub.prices) == 5)
        assert [running.feed.published for running in feeds] == [1] * 5
        await feeds[0].disconnect()
        await until(lambda: exchange.connections == 4)
        exchange.tick()
        await until(lambda: len(hub.prices) == 9)
        assert [running.feed.published for running in feeds] == [1, 2, 2, 2, 2]
        assert [hub.states(f"f{i}") for i in range(1, 5)] == [["connecting", "connected"]] * 4
        assert exchange.attempts == 5


@on_uvloop
async def test_concurrent_message_reading() -> None:
    rounds, burst, hub = 5, 40, Hub()
    symbols = ("BTC-USD", "ETH-USD", "SOL-USD")
    async with AsyncExitStack() as stack:
        exchanges = [
            await stack.enter_async_context(MockExchange(rate=0, symbols=(symbol,), seed=i))
            for i, symbol in enumerate(symbols)
        ]
        stuck = await stack.enter_async_context(MockExchange(rate=0))
        for symbol, exchange in zip(symbols, exchanges, strict=True):
            await stack.enter_async_context(feed_of(exchange.url, hub, name=symbol))
        await stack.enter_async_context(feed_of(stuck.url, hub, name="stuck", close_timeout_s=0.05))
        for exchange in (*exchanges, stuck):
            await exchange.wait_request("SUBSCRIBE")
        stuck.inject(Fault.SLOW, bytes_per_second=1)  # in the middle of a message all the time
        stuck.tick()
        sent: dict[str, list[str]] = {symbol: [] for symbol in symbols}
        for done in range(1, rounds + 1):  # all of them come along, none waits for another's end
            for symbol, exchange in zip(symbols, exchanges, strict=True):
                sent[symbol] += [msgspec.json.decode(tick.text)["p"] for tick in exchange.tick(burst)]
            await until(lambda done=done: len(hub.prices) == done * burst * len(symbols))  # type: ignore[misc]
        for symbol in symbols:
            own = [event.data.split(b",")[0] for event in hub.prices if event.key == symbol]
            assert own == [f'{{"price":{price}'.encode() for price in sent[symbol]]


def test_websocket_auth_validation(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    _auth()
    assert "s3cret" not in caplog.text


@on_still_clock
async def _auth() -> None:
    tokens = ["s3cret-old"]
    async with MockExchange(rate=0, token="s3cret") as exchange:
        right = TokenSource(text="s3cret")
        async with feed_of(exchange.url, token=right, headers={"X-Api-Key": "k3y", "User-Agent": "mine"}) as running:
            await running.connected()
            headers = exchange.handshakes[-1].headers
            assert (headers["Authorization"], headers["X-Api-Key"]) == ("Bearer s3cret", "k3y")
            assert headers.get_all("User-Agent") == ["mine"]

        for wrong in (TokenSource(text="s3cret-wrong"), TokenSource()):  # no token comes by itself: no use in trying on
            before = exchange.attempts
            async with feed_of(exchange.url, token=wrong) as running:
                await running.is_in(FeedState.FAILED)
                assert (running.hub.states(), running.hub.kinds()) == (["connecting", "failed"], ["unauthorized"])
                assert running.feed.reason == "unauthorized: HTTP 401; there is no other token to try"
                await skip(3_600)
                assert (exchange.attempts, running.state) == (before + 1, FeedState.FAILED)

        exchange.fault = Fault.FORBIDDEN
        async with feed_of(exchange.url, token=right) as running:
            await running.is_in(FeedState.FAILED)
            assert running.feed.reason == "unauthorized: HTTP 403; there is no other token to try"
        exchange.fault = Fault.NONE

        before = exchange.attempts
        async with feed_of(exchange.url, token=TokenSource(function=lambda: tokens[-1])) as running:
            await running.waiting(1)
            for _ in range(3):  # it looks for a new token, and troubles nobody with the refused one
                await running.next_attempt()
            assert exchange.attempts == before + 1
            assert running.hub.waits() == [0.1, TOKEN_POLL_S, TOKEN_POLL_S, TOKEN_POLL_S]
            tokens.append("s3cret")
            await skip(TOKEN_POLL_S)
            await running.connected()
            assert exchange.attempts == before + 2
            told = [event.data for event in running.hub.events]
            assert "s3cret" not in f"{told}{running.feed.snapshot()}{running.feed.spec}"


@on_still_clock
async def test_connection_timeout_handling() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.HANG
        async with feed_of(exchange.url, handshake_timeout_s=3.0) as running:
            await until(lambda: exchange.handshakes)  # TCP stands, the request is there, nobody answers
            await skip(2.9)
            assert running.state is FeedState.CONNECTING
            await skip(0.2)
            await running.waiting(1)
            assert (running.hub.kinds(), running.hub.waits()) == (["timeout"], [0.1])
            exchange.fault = Fault.NONE
            await skip(0.1)
            await running.connected()
            assert running.hub.states() == ["connecting", "reconnecting", "connecting", "connected"]
            assert running.feed.snapshot()["failures"] == 1

        exchange.inject(Fault.SLOW_HANDSHAKE, delay=2.0)  # slow is not too slow
        before = len(exchange.handshakes)
        async with feed_of(exchange.url, handshake_timeout_s=3.0) as running:
            await until(lambda: len(exchange.handshakes) > before)
            await skip(2.0)
            await running.connected()

    with deaf_port() as port:
        async with feed_of(f"wss://127.0.0.1:{port}/", connect_timeout_s=2.0) as running:
            await skip(1.9)  # TCP stands, but TLS never will
            assert running.state is FeedState.CONNECTING
            await skip(0.2)
            await running.waiting(1)
            assert running.hub.kinds() == ["timeout"]


@on_still_clock
async def test_connection_state_transitions() -> None:
    async with exchange_and_feed() as (exchange, running):
        hub, feed = running.hub, running.feed
        assert hub.states() == ["connecting", "connected"]
        exchange.abort()
        await running.waiting(1)
        lost = hub.told("feed_state")[-1]
        assert lost == {
            "from": "connected",
            "state": "reconnecting",
            "reason": "abnormal: ended without a close frame",
            "kind": "abnormal",
            "retry_in": 0.1,
        }
        assert feed.next_attempt_at == feed.since + 0.1
        await skip(0.1)
        await running.connected()
        await running.disconnect()
        await running.connect()
        await running.connected()
        exchange.token = "another"
        exchange.abort()
        await running.waiting(2)
        await skip(0.2)
        await running.is_in(FeedState.FAILED)
        exchange.token = None
        await running.connect()
        await running.connected()
        walk = "connecting connected reconnecting connecting connected disconnecting disconnected "
        walk += "connecting connected reconnecting connecting failed connecting connected"
        expected = walk.split()
        assert hub.states() == expected  # which has seen that each step is legal
        assert {step["retry_in"] for step in hub.told("feed_state") if step["state"] != "reconnecting"} == {None}

        for illegal in (FeedState.DISCONNECTED, FeedState.CONNECTING):
            with pytest.raises(IllegalTransition):
                feed.enter(illegal)
        assert (feed.state, hub.states()) == (FeedState.CONNECTED, expected)
    assert hub.states() == [*expected, "disconnecting", "disconnected"]


@on_still_clock
async def test_double_connection_prevention() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.HANG
        async with feed_of(exchange.url) as running:
            await until(lambda: exchange.handshakes)
            with pytest.raises(RequestError, match="connecting already") as refused:
                await running.connect()
            assert refused.value.code == ErrorCode.CONFLICT
            exchange.fault = Fault.NONE
            await skip(10)
            await running.waiting(1)
            await skip(0.1)
            await running.connected()
            answers = await asyncio.gather(
                *(running.ref.ask_async(Connect()) for _ in range(20)), return_exceptions=True
            )
            assert {(type(answer), str(answer)) for answer in answers} == {
                (RequestError, "conflict: mock is connected already")
            }
            await turns()
            assert (exchange.attempts, exchange.connections, running.state) == (2, 1, FeedState.CONNECTED)
            assert len(exchange.requests) == 1  # one subscription: that of the one connection


@on_uvloop
async def test_graceful_disconnect() -> None:
    closes: list[tuple[int | None, str | None]] = []

    async def play(connection: ServerConnection) -> None:
        await connection.recv()  # the subscription
        for number in range(1, 101):
            await connection.send(f'{{"e":"tick","s":"A","p":"{number}","q":"1","T":1,"n":{number}}}')
        await connection.wait_closed()
        closes.append((connection.close_code, connection.close_reason))

    async with upstream(play) as url:
        async with feed_of(url) as running:
            await running.published(100)
            snapshot = await running.disconnect()
            await until(lambda: closes)
            assert closes == [(1000, "")]  # the closing handshake was complete
            assert (snapshot["state"], snapshot["held"]) == ("disconnected", True)
            assert running.hub.states()[-2:] == ["disconnecting", "disconnected"]
            assert snapshot["reason"] == "disconnected by an operator"
            assert running.hub.texts == [str(number) for number in range(1, 101)]
            assert (snapshot["failures"], snapshot["breaker"]["failures"]) == (0, 0)  # that was no failure
            again = await running.disconnect()  # a second time: nothing left to do
            assert (again["state"], again["attempts"]) == ("disconnected", 1)
        assert len(closes) == 1

        async with feed_of(url) as running:
            await running.published(100)
        await until(lambda: len(closes) == 2)
        assert closes[1] == (1000, "")  # the end of the engine is no less polite
        assert running.hub.states()[-2:] == ["disconnecting", "disconnected"]
