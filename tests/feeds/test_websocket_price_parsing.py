"""The seed's phase 5.1, parsing: what becomes of the exchange's messages and frames, to the byte, over real sockets."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec

from actors.feed_state import FeedState
from actors.mapping import FeedMap
from engine.mock_exchange import MockExchange
from engine.mock_faults import BadFrame, Fault
from tests.feeds.harness import (
    Running,
    decimals,
    exchange_and_feed,
    numbers,
    on_still_clock,
    on_uvloop,
    prices_sent,
    skip,
    until,
)


def tick(number: int, price: str = '"1.50"', **instead: str) -> str:
    """A tick as JSON, each value of which is literal JSON; an empty one is left out."""
    fields = {"e": '"tick"', "s": '"BTC-USD"', "p": price, "q": '"2"', "T": "1700000000000", "n": str(number)}
    return "{" + ",".join(f'"{name}":{value}' for name, value in (fields | instead).items() if value) + "}"


async def among_valid(exchange: MockExchange, running: Running, bad: list[str]) -> None:
    """Send each of them between two valid ticks: those come, and nothing else; the connection is the first one."""
    first = running.feed.published + 1
    for i, text in enumerate(bad):
        exchange.send(tick(first + i, f'"{first + i}.50"'))
        exchange.send(text)
    last = first + len(bad)
    exchange.send(tick(last, f'"{last}.50"'))
    await running.published(last)
    assert running.hub.texts[first - 1 :] == [f"{number}.50" for number in range(first, last + 1)]
    assert sum(running.feed.bad.values()) == len(bad)
    assert (exchange.attempts, running.state, running.feed.gaps) == (1, FeedState.CONNECTED, 0)


@on_uvloop
async def test_valid_price_message_parsing() -> None:
    async with exchange_and_feed() as (exchange, running):
        exchange.send('{"T":1700000000123,"e":"tick","n":1,"p":"68900.12345678","q":"0.01000000","s":"BTC-USD"}')
        exchange.send(tick(2, "68900.5", q="3", more='{"of":["no",1,"concern"]}'))
        exchange.send('{"e":"trade","s":"BTC-USD","p":"1"}')  # not for us, and no error
        exchange.send(tick(3, '"-0.00000001"', s='"ETH/USD"', T="1700000000456"))
        await running.published(3)
        shown = [(e.topic, e.type, e.key, e.data.decode(), e.source_ts) for e in running.hub.prices]
        assert shown == [
            (
                "price.BTC-USD",
                "price_update",
                "BTC-USD",
                '{"price":68900.12345678,"quantity":0.01000000}',
                1700000000.123,
            ),
            ("price.BTC-USD", "price_update", "BTC-USD", '{"price":68900.5,"quantity":3}', 1700000000.0),
            ("price.ETH/USD", "price_update", "ETH/USD", '{"price":-0.00000001,"quantity":2}', 1700000000.456),
        ]
        feed = running.feed
        assert (feed.messages, feed.published, feed.ignored, dict(feed.bad)) == (5, 3, 2, {})


@on_uvloop
async def test_malformed_json_handling() -> None:
    bad = [
        "not json at all",
        "",
        "{",
        tick(1)[:-1],
        tick(1) + "}",
        tick(1) + tick(2),
        "{'e':'tick'}",
        '{"e":"tick","s":"BTC-USD","p":1.2.3}',
        '{"e":"tick","s":"BTC-USD","p":01}',
        '{"e":"tick","s":"BTC-USD","p":NaN}',
        '{"e":"tick",}',
        "[" * 100_000,
        "\x00",
    ]
    async with exchange_and_feed() as (exchange, running):
        await among_valid(exchange, running, bad)
        assert dict(running.feed.bad) == {"not_json": len(bad)}
        assert str(running.feed.last_bad).startswith("not_json")
        exchange.send("[" * 1_000_000)
        exchange.send(tick(100))
        await running.published(running.feed.published + 1)
        assert len(str(running.feed.last_bad)) < 600  # the sample is one
        assert '"last_bad":"not_json' in msgspec.json.encode(running.feed.snapshot()).decode()


@on_uvloop
async def test_missing_required_fields() -> None:
    bad = [tick(1, p=""), tick(1, s=""), tick(1, T=""), tick(1, q=""), tick(1, n=""), '{"e":"tick"}']
    async with exchange_and_feed() as (exchange, running):
        await among_valid(exchange, running, bad)
        assert dict(running.feed.bad) == {"missing": len(bad)}
        for field, text in zip("psTqn", bad, strict=False):
            exchange.send(text)
            await until(lambda field=field: str(running.feed.last_bad).startswith(f"missing: {field}: "))  # type: ignore[misc]

    optional = FeedMap(
        topic="price.{symbol}", type="t", key="s", filter={"e": "tick"}, data={"price": "p", "quantity": "q?"}
    )
    async with exchange_and_feed(feed_map=optional) as (exchange, running):
        exchange.send('{"e":"tick","s":"A","p":"1.10"}')
        exchange.send('{"e":"tick","s":"A","p":"1.10","q":"7.0"}')
        exchange.send('{"e":"tick","s":"A","q":"7.0"}')
        exchange.send('{"e":"tick","s":"A","p":"1.20"}')
        await running.published(3)
        data = [event.data.decode() for event in running.hub.prices]
        assert data == ['{"price":1.10}', '{"price":1.10,"quantity":7.0}', '{"price":1.20}']
        assert dict(running.feed.bad) == {"missing": 1}


@on_uvloop
async def test_price_type_validation() -> None:
    wrong = ["true", "null", "{}", "[]", '["1"]', '"abc"', '""', '"1,5"', '" 1"', '"0x10"', '"1."', '".5"', '"+1"']
    endless = ['"NaN"', '"Infinity"', '"-inf"', '"1e999"', "1e999"]
    async with exchange_and_feed() as (exchange, running):
        await among_valid(exchange, running, [tick(1, price) for price in wrong + endless])
        assert dict(running.feed.bad) == {"wrong_type": len(wrong), "not_finite": len(endless)}
        published = running.feed.published
        valid = ["1", "-1", "1.5", '"1"', '"0.10"', '"-0.5"', "1e3", '"1E-8"', "0", '"123456789012345678901234567890"']
        for i, price in enumerate(valid):
            exchange.send(tick(published + 1 + i, price))
        await running.published(published + len(valid))
        assert running.hub.texts[published:] == [price.strip('"') for price in valid]


@on_uvloop
async def test_decimal_precision_preservation() -> None:
    exact = [
        "0.00000001",
        "68900.12345678",
        "1.10000000",  # the source's zeros say how exact it is
        "0.1",
        "100",
        "100.00",
        "0.123456789012345678",
        "123456789.123456789123456789",  # a float would end at 123456789.12345679
        "0.30000000000000004",
        "9007199254740993",  # 2**53 + 1
        "9007199254740993.00000001",
        "1e-8",
        "1.230E+5",
        "0.00000000",
        "-0.0",
    ]
    async with exchange_and_feed() as (exchange, running):
        for i, price in enumerate(exact):
            exchange.send(tick(2 * i + 1, f'"{price}"', q=f'"{price}"'))  # as text, as most exchanges do
            exchange.send(tick(2 * i + 2, price, q=price))  # as number
        await running.published(2 * len(exact))
        both = [price for price in exact for _ in range(2)]
        assert [e.data.decode() for e in running.hub.prices] == [f'{{"price":{p},"quantity":{p}}}' for p in both]
        decoded = [json.loads(e.data, parse_float=Decimal, parse_int=Decimal) for e in running.hub.prices]
        assert [str(data["price"]) for data in decoded] == [str(Decimal(price)) for price in both]
        assert dict(running.feed.bad) == {}
    async with exchange_and_feed() as (exchange, running):
        exchange.tick(200)
        await running.published(200)
        assert running.hub.texts == prices_sent(exchange)
        assert {decimals(text) for text in running.hub.texts} == {8}


@on_still_clock
async def test_invalid_message_handling() -> None:
    async with exchange_and_feed() as (exchange, running):
        frames = list(BadFrame)
        for i, frame in enumerate(frames, 1):
            exchange.tick()  # before it: delivered
            await running.published(2 * i - 1)
            exchange.inject(Fault.BAD_FRAMES, bad_frame=frame)
            await running.waiting(i)
            code = 1007 if frame is BadFrame.UTF8 else 1002
            assert str(running.feed.reason).startswith(f"protocol: closed by us with {code}"), frame
            exchange.fault = Fault.NONE
            await skip(running.hub.waits()[-1])
            await running.connected()
            await exchange.wait_request("SUBSCRIBE", i + 1)
            exchange.tick()  # after it: delivered
            await running.published(2 * i)
        assert running.hub.kinds() == ["protocol"] * len(frames)
        assert numbers(exchange) == list(range(1, 2 * len(frames) + 1))
        assert running.hub.texts == prices_sent(exchange)
        assert (running.feed.reconnects, running.feed.gaps, dict(running.feed.bad)) == (len(frames), 0, {})
        assert running.feed.recovery.breaker.failures == 0  # each had delivered: that is no failed attempt

    async with exchange_and_feed(max_invalid=3) as (exchange, running):  # where so configured, enough is enough
        for text in ("one", "two", tick(1), "one", "two", "three"):
            exchange.send(text)
        await running.waiting(1)
        assert str(running.feed.reason).startswith("invalid: 3 messages in a row; the last: not_json")
        assert (len(running.hub.prices), running.feed.bad["not_json"]) == (1, 5)
        await skip(0.1)
        await running.connected()


@on_uvloop
async def test_frame_buffering() -> None:
    async with exchange_and_feed() as (exchange, running):
        exchange.fault = Fault.FRAGMENTED  # several frames each, in TCP pieces of 1 to 40 bytes
        exchange.tick(60)
        long = f"7.{'0' * 3_000}1"
        exchange.send(tick(61, f'"{long}"'))
        exchange.send("not json, and in pieces too")
        await running.published(61)
        assert running.hub.texts == [*prices_sent(exchange)[:60], long]
        exchange.fault = Fault.NONE
        exchange.send(tick(62, '"8.50"'))
        await running.published(62)
        assert running.hub.texts[61] == "8.50"
        feed = running.feed
        assert (feed.messages, feed.ignored, dict(feed.bad)) == (1 + 63, 1, {"not_json": 1})
        assert (exchange.attempts, feed.gaps, feed.repeated) == (1, 0, 0)


@on_still_clock
async def test_large_message_handling() -> None:
    limit = 1 << 20
    whole = FeedMap(topic="price.{symbol}", type="t", key="s", sequence="n", filter={"e": "tick"})
    async with exchange_and_feed(feed_map=whole, message_bytes=limit) as (exchange, running):
        sizes = (65 << 10, (64 << 10) + 1, 256 << 10, limit)
        for i, size in enumerate(sizes, 1):
            exchange.inject(Fault.HUGE, size=size)
            exchange.tick()
            await running.published(i)
        assert [len(event.data) for event in running.hub.prices] == list(sizes)  # all of it, as it came
        ticks = [json.loads(event.data) for event in running.hub.prices]
        assert [(tick["n"], len(set(tick["pad"]))) for tick in ticks] == [(1, 1), (2, 1), (3, 1), (4, 1)]
        assert exchange.attempts == 1

        exchange.inject(Fault.HUGE, size=10 << 20)
        exchange.tick()
        await running.waiting(1)
        assert str(running.feed.reason).startswith("too_big: closed by us with 1009")
        assert running.hub.kinds() == ["too_big"]
        exchange.fault = Fault.NONE
        await skip(0.1)
        await running.connected()
        await exchange.wait_request("SUBSCRIBE", 2)
        exchange.tick()
        await running.published(5)
        assert json.loads(running.hub.prices[-1].data)["n"] == 6
        gap = {"reason": "sequence", "counter": "BTC-USD", "first": 5, "last": 5}
        assert running.hub.told("feed_gap") == [gap]  # what was too big is missing, and that is said
        snapshot = running.feed.snapshot()
        assert (snapshot["reconnects"], snapshot["failures"], snapshot["missing"]) == (1, 1, 1)

    async with exchange_and_feed(feed_map=whole, message_bytes=limit) as (exchange, running):
        exchange.inject(Fault.HUGE, size=limit + 1)  # the limit is one
        exchange.tick()
        await running.waiting(1)
        assert running.hub.kinds() == ["too_big"]
