"""The seed's phase 5.1, the circuit breaker: a whole feed against an exchange that is down, hours in no time."""

from __future__ import annotations

import pytest

from actors.feed_state import FeedState
from engine.mock_exchange import MockExchange
from engine.mock_faults import Fault
from tests.feeds.harness import (
    Running,
    exchange_and_feed,
    feed_of,
    numbers,
    on_still_clock,
    prices_sent,
    skip,
    until,
)


async def open_breaker(running: Running) -> None:
    """From the first attempt, which fails as all do, to the opening."""
    await running.waiting(1)
    for _ in range(4):
        await running.next_attempt()
    assert running.hub.breaker() == ["open"]


async def half_open(exchange: MockExchange, running: Running) -> None:
    """On from there: the exchange is back, and the one connection stands."""
    exchange.fault = Fault.NONE
    asked = len(exchange.requests)
    await skip(running.hub.waits()[-1])
    await running.connected()
    await until(lambda: len(exchange.requests) > asked)
    assert "half_open" in running.hub.breaker()[-2:]  # then it may have delivered already what it had missed


async def publish(exchange: MockExchange, running: Running, count: int = 1) -> None:
    """So many ticks, each seen before the next."""
    for _ in range(count):
        published = running.feed.published
        exchange.tick()
        await running.published(published + 1)


@on_still_clock
async def test_circuit_opens_after_threshold() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await running.waiting(1)
            for _ in range(3):
                await running.next_attempt()
            assert (exchange.attempts, running.hub.breaker()) == (4, [])  # four are not five
            await running.next_attempt()
            assert running.hub.told("feed_breaker") == [{"from": "closed", "state": "open", "retry_in": 10.0}]
            assert (exchange.attempts, running.hub.waits()[-1]) == (5, 10.0)
            snapshot = running.feed.snapshot()
            assert (snapshot["state"], snapshot["failures"]) == ("reconnecting", 5)
            assert (snapshot["breaker"]["state"], snapshot["breaker"]["retry_in"]) == ("open", 10.0)

    async with MockExchange(rate=0) as exchange:  # in a row: a valid message in between begins the count anew
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await running.waiting(1)
            for _ in range(3):
                await running.next_attempt()
            exchange.fault = Fault.NONE
            await skip(running.hub.waits()[-1])
            await running.connected()
            await exchange.wait_request("SUBSCRIBE")
            await publish(exchange, running)
            exchange.fault = Fault.RESET  # the loss of what had delivered is none of the five
            await running.waiting(5)
            for _ in range(4):
                await running.next_attempt()
            assert running.hub.breaker() == []
            await running.next_attempt()
            assert running.hub.breaker() == ["open"]

    async with MockExchange(rate=0) as exchange, feed_of(exchange.url) as running:  # connected is not delivered
        for i in range(1, 6):
            await running.connected()
            await exchange.wait_request("SUBSCRIBE", i)
            assert running.hub.breaker() == []
            exchange.abort()
            await running.waiting(i)
            await skip(running.hub.waits()[-1] if i < 5 else 0)
        assert running.hub.breaker() == ["open"]
        assert (exchange.attempts, running.hub.states().count("connected")) == (5, 5)


@on_still_clock
async def test_circuit_half_open_after_timeout() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await open_breaker(running)
            exchange.fault = Fault.HANG
            await skip(9.9)
            assert (running.feed.attempts, running.hub.breaker()) == (5, ["open"])
            assert running.feed.snapshot()["breaker"]["retry_in"] == 0.1
            await skip(0.1)
            await until(lambda: exchange.attempts == 6)
            assert running.hub.told("feed_breaker")[-1] == {"from": "open", "state": "half_open", "retry_in": None}
            await skip(9.9)  # one connection at a time: while that one hangs there is no other
            assert (running.state, exchange.attempts) == (FeedState.CONNECTING, 6)
            await skip(0.1)
            await running.waiting(6)
            assert running.hub.breaker() == ["open", "half_open", "open"]
            assert running.hub.waits()[-1] == 20.0


@on_still_clock
async def test_circuit_closes_on_success() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await open_breaker(running)
            await half_open(exchange, running)
            await skip(60)
            assert running.hub.breaker() == ["open", "half_open"]  # connected alone is no success
            await publish(exchange, running, 2)
            exchange.send("not json")
            exchange.send('{"e":"not for us"}')
            await until(lambda: running.feed.bad and running.feed.ignored)
            assert running.hub.breaker() == ["open", "half_open"]  # nor is what nobody can use
            await publish(exchange, running)
            assert running.hub.told("feed_breaker")[-1] == {"from": "half_open", "state": "closed", "retry_in": None}

            exchange.fault = Fault.RESET  # and all is as at first
            await running.waiting(6)
            for _ in range(5):
                await running.next_attempt()
            assert running.hub.breaker() == ["open", "half_open", "closed", "open"]
            assert running.hub.waits()[-1] == 10.0


@on_still_clock
async def test_exponential_backoff_during_open() -> None:
    async with MockExchange(rate=0) as exchange:
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await open_breaker(running)
            for _ in range(5):
                await skip(running.hub.waits()[-1] - 1)
                attempts = exchange.attempts
                await skip(1)
                await running.waiting(attempts + 1)
                assert exchange.attempts == attempts + 1
            opened = [step["retry_in"] for step in running.hub.told("feed_breaker") if step["state"] == "open"]
            assert opened == running.hub.waits()[4:] == [10.0, 20.0, 40.0, 80.0, 80.0, 80.0]

            await half_open(exchange, running)  # a success that does not last as three do: on with 80 s
            await publish(exchange, running, 2)
            exchange.fault = Fault.RESET
            await running.waiting(11)
            assert running.hub.waits()[-1] == 80.0
            await half_open(exchange, running)
            await publish(exchange, running, 3)
            exchange.fault = Fault.RESET
            await running.waiting(12)
            for _ in range(5):
                await running.next_attempt()
            assert running.hub.waits()[-1] == 10.0  # it had closed: the open time is the first one again


@on_still_clock
async def test_circuit_metrics_collection() -> None:
    async with MockExchange(rate=0) as exchange, feed_of(exchange.url) as running:
        await running.connected()
        await exchange.wait_request("SUBSCRIBE")
        await skip(100)
        await publish(exchange, running, 7)
        exchange.fault = Fault.RESET
        await running.waiting(1)
        for _ in range(5):
            await running.next_attempt()
        await running.next_attempt()  # half-open, and open again
        await skip(5)
        breaker = running.feed.snapshot()["breaker"]
        closed = 100 + 0.1 + 0.2 + 0.4 + 0.8 + 1.6
        assert breaker["seconds"] == {"closed": pytest.approx(closed), "open": 15.0, "half_open": 0.0}
        shown = {name: breaker[name] for name in ("state", "failures", "successes", "opens", "retry_in")}
        assert shown == {"state": "open", "failures": 6, "successes": 7, "opens": 2, "retry_in": 15.0}
        exchange.fault = Fault.NONE
        await skip(15)
        await running.connected()
        await exchange.wait_request("SUBSCRIBE", 2)
        await skip(30)
        await publish(exchange, running, 3)
        await skip(50)
        breaker = running.feed.snapshot()["breaker"]
        assert breaker["seconds"] == {"closed": pytest.approx(closed + 50), "open": 30.0, "half_open": 30.0}
        shown = {name: breaker[name] for name in ("state", "failures", "successes", "opens", "retry_in")}
        assert shown == {"state": "closed", "failures": 6, "successes": 10, "opens": 2, "retry_in": None}
        exchange.disconnect(1001)  # counted by the feed, and not by the breaker
        await running.waiting(8)
        assert running.feed.recovery.breaker.failures == 6


@on_still_clock
async def test_mixed_valid_invalid_messages() -> None:
    async with exchange_and_feed() as (exchange, running):
        exchange.inject(Fault.MALFORMED, share=0.5)  # each tick after a bad message
        exchange.tick(70)
        await running.published(70)
        feed = running.feed
        assert feed.bad == {"not_json": 20, "missing": 20, "wrong_type": 10, "bad_time": 10, "not_finite": 10}
        sent = [sent.text for sent in exchange.sent[1:]]
        assert len(sent) == 140
        assert running.hub.texts == [text.split('"p":"')[1].split('"')[0] for text in sent[1::2]]
        breaker = feed.snapshot()["breaker"]
        assert (breaker["state"], breaker["failures"], breaker["successes"]) == ("closed", 0, 70)
        assert (exchange.attempts, running.state) == (1, FeedState.CONNECTED)

    # Only what is valid proves a connection.
    async with MockExchange(rate=0) as exchange, feed_of(exchange.url, max_invalid=10) as running:
        for i in range(1, 6):
            await running.connected()
            await exchange.wait_request("SUBSCRIBE", i)
            exchange.inject(Fault.MALFORMED, share=1)
            exchange.tick(10)
            await running.waiting(i)
            await skip(running.hub.waits()[-1] if i < 5 else 0)
        assert running.hub.kinds() == ["invalid"] * 5
        assert running.hub.breaker() == ["open"]
        await skip(10)
        await running.connected()
        await exchange.wait_request("SUBSCRIBE", 6)
        exchange.inject(Fault.MALFORMED, share=0.75)
        exchange.tick(3)  # after nine bad messages, three by three
        await running.published(3)
        assert running.hub.breaker() == ["open", "half_open", "closed"]

    async with MockExchange(rate=0) as exchange:  # or any message, where so configured
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url, any_message_proves=True) as running:
            await open_breaker(running)
            await half_open(exchange, running)  # the answer to the subscription is the first
            for _ in range(2):
                exchange.send('{"e":"not for us"}')
            await until(lambda: running.feed.ignored == 3)
            assert running.hub.breaker() == ["open", "half_open", "closed"]


@on_still_clock
async def test_message_ordering_preservation() -> None:
    async with exchange_and_feed(resume=True) as (exchange, running):
        ends = (Fault.RESET, Fault.ABORT, Fault.DISCONNECT, Fault.BAD_FRAMES, Fault.REFUSE)
        for i, fault in enumerate(ends, 1):
            exchange.tick(50)
            await running.published(100 * (i - 1) + 50)
            exchange.fault = fault
            await running.waiting(i)
            exchange.tick(30)  # while it is away
            exchange.fault = Fault.NONE
            await skip(running.hub.waits()[-1])
            await running.connected()
            await exchange.wait_request("RESUME", i)
            exchange.tick(20)
            await running.published(100 * i)
        exchange.fault = Fault.RESET  # through an open breaker too
        await running.waiting(6)
        for _ in range(5):
            await running.next_attempt()
        assert running.hub.breaker() == ["open"]
        exchange.tick(40)
        await half_open(exchange, running)
        exchange.tick(10)
        await running.published(550)
        assert running.hub.breaker() == ["open", "half_open", "closed"]
        assert len(set(numbers(exchange))) == 550
        assert running.hub.texts == prices_sent(exchange)
        assert (running.feed.gaps, running.feed.missing, running.feed.repeated) == (0, 0, 0)


@on_still_clock
async def test_connection_failure_handling() -> None:
    async with exchange_and_feed() as (exchange, running):  # it degrades, says so, and comes back by itself
        await publish(exchange, running, 3)
        exchange.fault = Fault.REFUSE
        await running.waiting(1)
        for _ in range(8):
            await running.next_attempt()
        assert running.hub.kinds() == ["abnormal", *["refused"] * 8]
        assert running.hub.waits() == [0.1, 0.2, 0.4, 0.8, 1.6, 10.0, 20.0, 40.0, 80.0]
        snapshot = running.feed.snapshot()
        assert (snapshot["state"], snapshot["kind"], snapshot["attempts"]) == ("reconnecting", "refused", 9)
        assert (snapshot["retry_in"], snapshot["breaker"]["state"]) == (pytest.approx(80, abs=5), "open")
        exchange.tick(5)
        await half_open(exchange, running)
        await publish(exchange, running, 4)
        assert running.hub.breaker()[-1] == "closed"
        gap = {"reason": "sequence", "counter": "BTC-USD", "first": 4, "last": 8}
        assert running.hub.told("feed_gap") == [gap]  # nobody can ask this one for what was missed: it is named
        snapshot = running.feed.snapshot()
        assert (snapshot["state"], snapshot["reconnects"], snapshot["missing"]) == ("connected", 1, 5)
        assert snapshot["last_error"].startswith("refused")

    async with MockExchange(rate=0) as exchange:  # an operator need not wait for the 10 s
        exchange.fault = Fault.RESET
        async with feed_of(exchange.url) as running:
            await open_breaker(running)
            exchange.fault = Fault.NONE
            snapshot = await running.reset()
            assert (snapshot["breaker"]["state"], snapshot["failures"]) == ("closed", 0)
            await running.connected()
            assert running.hub.breaker() == ["open", "closed"]
            exchange.abort()
            await running.waiting(6)
            assert running.hub.waits()[-1] == 0.1
