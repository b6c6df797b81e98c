"""Messages as exchanges send them, mapped by configuration alone: nothing here is code but the expectation.

``tests/data/exchange_messages`` are recorded. The messages written out here have the forms that the exchanges document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.mapping import Mapper, Row
from engine.config import loads
from engine.feed_config import Feed

MESSAGES = Path(__file__).parents[1] / "data/exchange_messages"
BINANCE = """
[[map]]
topic = "trade.{symbol}"
type = "trade"
key = "s"
time = "T"
time_unit = "ms"
sequence = "a?"
symbol_replace = { USDT = "_USDT" }
data = { price = "p", quantity = "q", maker = "m" }
types = { price = "number", quantity = "number", maker = "bool" }
filter = { e = ["trade", "aggTrade"] }

[[map]]
topic = "price.{symbol}"
type = "price_update"
key = "s"
time = "E"
time_unit = "ms"
symbols = { BNBUSDT = "BNB_USDT" }
data = { bid = "b", ask = "a", bid_size = "B", ask_size = "A" }
filter = { e = "bookTicker" }

[[map]]
topic = "day.{symbol}"
type = "day"
key = "s"
time = "C"
time_unit = "ms"
symbol_replace = { USDT = "_USDT" }
data = { change = "p", percent = "P", last = "c", quote_volume = "q" }
filter = { e = "24hrTicker" }

[[map]]
topic = "bar.{symbol}.{k.i}"
type = "bar"
key = "k.s"
time = "k.t"
time_unit = "ms"
symbol_replace = { USDT = "_USDT" }
data = { open = "k.o", high = "k.h", low = "k.l", close = "k.c", volume = "k.v", trades = "k.n" }
filter = { e = "kline", "k.x" = true }
"""
COINBASE = """
sequence = "sequence_num"

[[map]]
each = "events.*.tickers"
key = "product_id"
type = "price_update"
time = "$.timestamp"
time_unit = "iso"
symbol_replace = { "-" = "_" }
data = { bid = "best_bid", ask = "best_ask", volume = "volume_24_h", kind = "type" }
filter = { "$.channel" = "ticker" }

[[map]]
each = "events.*.trades"
topic = "trade.{symbol}"
type = "trade"
key = "product_id"
time = "time"
time_unit = "iso"
symbol_replace = { "-" = "_" }
data = { price = "price", quantity = "size", id = "trade_id" }
types = { id = "text" }

[[map]]
each = "events.*.candles"
topic = "bar.{symbol}"
type = "bar"
key = "product_id"
time = "start"
symbol_replace = { "-" = "_" }
data = { open = "open", volume = "volume" }
"""
KRAKEN = """
[[map]]
each = "data"
key = "symbol"
type = "price_update"
time = "timestamp"
time_unit = "iso"
symbol_replace = { XBT = "BTC", "/" = "_" }
data = { bid = "bid", bid_size = "bid_qty", ask = "ask", change = "change" }
filter = { "$.channel" = "ticker" }

[[map]]
each = "data"
topic = "trade.{symbol}.{side}"
type = "trade"
key = "symbol"
time = "timestamp"
time_unit = "iso"
sequence = "trade_id"
symbol_replace = { XBT = "BTC", "/" = "_" }
data = { price = "price", quantity = "qty", side = "side" }
filter = { "$.channel" = "trade" }

[[map]]
each = "data"
topic = "bar.{symbol}.{interval}"
type = "bar"
key = "symbol"
time = "interval_begin"
time_unit = "iso"
symbol_replace = { XBT = "BTC", "/" = "_" }
data = { close = "close", volume = "volume", vwap = "vwap" }
filter = { "$.channel" = "ohlc" }
"""
KRAKEN_V1 = """
[[map]]
each = "1"
topic = "trade.{symbol}"
type = "trade"
key = "$.3"
time = "2"
symbol_replace = { XBT = "BTC", "/" = "_" }
data = { price = "0", quantity = "1", side = "3" }
filter = { "$.2" = "trade" }

[[map]]
key = "3"
type = "price_update"
symbol_replace = { XBT = "BTC", "/" = "_" }
data = { bid = "1.b.0", ask = "1.a.0" }
filter = { "2" = "ticker" }
"""
OKX = """
[[map]]
each = "data"
topic = "trade.{symbol}"
type = "trade"
key = "$.arg.instId"
time = "ts"
time_unit = "ms"
sequence = "tradeId"
symbol_replace = { "-" = "_" }
data = { price = "px", quantity = "sz", side = "side" }
filter = { "$.arg.channel" = "trades" }
"""
BYBIT = """
[[map]]
each = "data"
topic = "trade.{symbol}"
type = "trade"
key = "s"
time = "T"
time_unit = "ms"
symbol_replace = { USDT = "_USDT" }
data = { price = "p", quantity = "v", side = "S", id = "i" }
types = { id = "text" }
filter = { "$.topic" = ["publicTrade.BTCUSDT", "publicTrade.ETHUSDT"] }
"""
BITFINEX = """
[[map]]
topic = "trade.BTC_USD"
type = "trade"
time = "2.1"
time_unit = "ms"
data = { price = "2.3", quantity = "2.2" }
filter = { "1" = "te" } # codespell:ignore te

[[map]]
each = "1"
topic = "trade.BTC_USD"
type = "trade"
time = "1"
time_unit = "ms"
data = { price = "3", quantity = "2" }
filter = { "3" = { exists = true } }
"""
HTX = """
[[map]]
each = "tick.data"
topic = "trade.{symbol}"
type = "trade"
key = "$.ch"
time = "ts"
time_unit = "ms"
symbol_replace = { "market." = "", ".trade.detail" = "", btcusdt = "BTC_USDT" }
data = { price = "price", quantity = "amount", id = "id" }
"""
BITSTAMP = """
[map]
topic = "trade.{symbol}"
type = "trade"
key = "channel"
time = "data.microtimestamp"
time_unit = "us"
symbol_replace = { live_trades_ = "", btc = "BTC_", usd = "USD" }
data = { price = "data.price_str", quantity = "data.amount", side = "data.type" }
filter = { event = "trade" }
"""


def feed(text: str) -> Feed:
    """The lines of a feed, without the name that a file would give it."""
    head = '[feeds.x]\nurl = "ws://exchange.example"\n'
    return loads(head + text.replace("[map]", "[feeds.x.map]")).feeds["x"]


def found(text: str, raw: str | bytes) -> list[tuple[Any, ...]]:
    one = feed(text)
    out = []
    for row in Mapper(one.map, one.sequence).map(raw).rows:
        assert isinstance(row, Row), row
        event = row.event
        out.append((event.topic, event.type, event.key, event.data.decode(), event.source_ts))
    return out


RECORDED: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "binance_agg_trade_stream": (
        BINANCE,
        [("trade.BTC_USDT", "trade", "BTC_USDT", '{"price":0.001,"quantity":100,"maker":true}', 123456.785)],
    ),
    "binance_trade_stream": (
        BINANCE,
        [("trade.BTC_USDT", "trade", "BTC_USDT", '{"price":0.001,"quantity":100,"maker":true}', 123456.785)],
    ),
    "binance_book_ticker_stream": (
        BINANCE,
        [
            (
                "price.BNB_USDT",
                "price_update",
                "BNB_USDT",
                '{"bid":25.35190000,"ask":25.36520000,"bid_size":31.21000000,"ask_size":40.66000000}',
                1568014460.893,
            )
        ],
    ),
    "binance_ticker_stream": (
        BINANCE,
        [
            (
                "day.BTC_USDT",
                "day",
                "BTC_USDT",
                '{"change":-131.40000000,"percent":-0.786,"last":16584.60000000,"quote_volume":2036102085.69746400}',
                1672515782.136,
            )
        ],
    ),
    "binance_kline_stream_closed": (
        BINANCE,
        [
            (
                "bar.BTC_USDT.1m",
                "bar",
                "BTC_USDT",
                '{"open":0.0010,"high":0.0025,"low":0.0010,"close":0.0020,"volume":1000,"trades":100}',
                1638747660.0,
            )
        ],
    ),
    "coinbase_ticker": (
        COINBASE,
        [
            (
                "price.BTC_USD",
                "price_update",
                "BTC_USD",
                '{"bid":68900.00,"ask":68901.00,"volume":15328.12345678,"kind":"ticker"}',
                1775572203.0,
            )
        ],
    ),
    "coinbase_market_trades": (
        COINBASE,
        [
            (
                "trade.BTC_USD",
                "trade",
                "BTC_USD",
                '{"price":68900.50,"quantity":0.00150000,"id":"995098700"}',
                1775572202.789012,
            ),
            (
                "trade.BTC_USD",
                "trade",
                "BTC_USD",
                '{"price":68900.00,"quantity":0.05000000,"id":"995098701"}',
                1775572202.8,
            ),
        ],
    ),
    "coinbase_candles": (
        COINBASE,
        [("bar.BTC_USD", "bar", "BTC_USD", '{"open":68900.00,"volume":42.15000000}', 1775521800.0)],
    ),
    "coinbase_heartbeats": (COINBASE, []),
    "coinbase_subscriptions": (COINBASE, []),
    "kraken_ticker_snapshot": (
        KRAKEN,
        [
            (
                "price.BTC_USD",
                "price_update",
                "BTC_USD",
                '{"bid":105944.20,"bid_size":2.5,"ask":105944.30,"change":250.00}',
                1671960659.123456,
            )
        ],
    ),
    "kraken_trade_update": (
        KRAKEN,
        [
            (
                "trade.BTC_USD.buy",
                "trade",
                "BTC_USD",
                '{"price":105944.20,"quantity":0.00027625,"side":"buy"}',
                1696613755.440295,
            ),
            (
                "trade.BTC_USD.sell",
                "trade",
                "BTC_USD",
                '{"price":105910.50,"quantity":0.00012460,"side":"sell"}',
                1696613756.123456,
            ),
        ],
    ),
    "kraken_ohlc_update": (
        KRAKEN,
        [
            (
                "bar.BTC_USD.1",
                "bar",
                "BTC_USD",
                '{"close":106040.1,"volume":30927.68066226,"vwap":106039.6}',
                1696436700.0,
            )
        ],
    ),
    "kraken_pong": (KRAKEN, []),
    "kraken_subscribe_response": (KRAKEN, []),
}


def test_every_recorded_message_is_expected() -> None:
    assert {file.stem for file in MESSAGES.iterdir()} == RECORDED.keys()


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_message(name: str) -> None:
    text, expected = RECORDED[name]
    assert found(text, (MESSAGES / f"{name}.json").read_bytes()) == expected


def test_numbers_of_recorded_messages() -> None:
    def numbers(text: str, name: str) -> tuple[int | None, list[tuple[str, int | None]]]:
        one = feed(text)
        number, rows = Mapper(one.map, one.sequence).map((MESSAGES / f"{name}.json").read_bytes())
        return number, [(row.counter, row.number) for row in rows if isinstance(row, Row)]

    assert numbers(BINANCE, "binance_agg_trade_stream") == (None, [("BTCUSDT", 5933014)])
    assert numbers(COINBASE, "coinbase_market_trades") == (5, [("", None), ("", None)])
    assert numbers(COINBASE, "coinbase_heartbeats") == (0, [])
    assert numbers(KRAKEN, "kraken_trade_update") == (None, [("BTC/USD", 10218208), ("BTC/USD", 10218209)])


@pytest.mark.parametrize(
    ("text", "raw", "expected"),
    [
        pytest.param(
            KRAKEN_V1,
            '[340,[["5541.20000","0.15850568","1534614057.321597","s","l",""],'
            '["6060.00000","0.02455000","1534614057.324998","b","l",""]],"trade","XBT/USD"]',
            [
                (
                    "trade.BTC_USD",
                    "trade",
                    "BTC_USD",
                    '{"price":5541.20000,"quantity":0.15850568,"side":"s"}',
                    1534614057.321597,
                ),
                (
                    "trade.BTC_USD",
                    "trade",
                    "BTC_USD",
                    '{"price":6060.00000,"quantity":0.02455000,"side":"b"}',
                    1534614057.324998,
                ),
            ],
            id="kraken v1 trade: rows are lists in a list",
        ),
        pytest.param(
            KRAKEN_V1,
            '[340,{"a":["5525.40000",1,"1.000"],"b":["5525.10000",1,"1.000"]},"ticker","XBT/USD"]',
            [("price.BTC_USD", "price_update", "BTC_USD", '{"bid":5525.10000,"ask":5525.40000}', None)],
            id="kraken v1 ticker",
        ),
        pytest.param(KRAKEN_V1, '{"event":"heartbeat"}', [], id="kraken v1 heartbeat"),
        pytest.param(
            OKX,
            '{"arg":{"channel":"trades","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"130639474",'
            '"px":"42219.9","sz":"0.12060306","side":"buy","ts":"1630048897897","count":"3"}]}',
            [
                (
                    "trade.BTC_USDT",
                    "trade",
                    "BTC_USDT",
                    '{"price":42219.9,"quantity":0.12060306,"side":"buy"}',
                    1630048897.897,
                )
            ],
            id="okx trades",
        ),
        pytest.param(
            OKX,
            '{"event":"subscribe","arg":{"channel":"trades","instId":"BTC-USDT"},"connId":"a4d3ae55"}',
            [],
            id="okx answer to a subscription",
        ),
        pytest.param(
            BYBIT,
            '{"topic":"publicTrade.BTCUSDT","type":"snapshot","ts":1672304486868,"data":[{"T":1672304486865,'
            '"s":"BTCUSDT","S":"Buy","v":"0.001","p":"16578.50","L":"PlusTick","i":"7713","BT":false}]}',
            [
                (
                    "trade.BTC_USDT",
                    "trade",
                    "BTC_USDT",
                    '{"price":16578.50,"quantity":0.001,"side":"Buy","id":"7713"}',
                    1672304486.865,
                )
            ],
            id="bybit public trade",
        ),
        pytest.param(
            BYBIT, '{"success":true,"ret_msg":"pong","conn_id":"0970e817","op":"ping"}', [], id="bybit answer to a ping"
        ),
        pytest.param(
            BITFINEX,
            '[17470,"te",[401597395,1574694478808,0.005,7245.3]]',  # codespell:ignore te
            [("trade.BTC_USD", "trade", None, '{"price":7245.3,"quantity":0.005}', 1574694478.808)],
            id="bitfinex trade: a list",
        ),
        pytest.param(
            BITFINEX,
            "[17470,[[401597393,1574694475039,0.005,7244.9],[401597394,1574694475040,-0.0250,7244.90]]]",
            [
                ("trade.BTC_USD", "trade", None, '{"price":7244.9,"quantity":0.005}', 1574694475.039),
                ("trade.BTC_USD", "trade", None, '{"price":7244.90,"quantity":-0.0250}', 1574694475.04),
            ],
            id="bitfinex snapshot: a list of lists",
        ),
        pytest.param(BITFINEX, '[17470,"hb"]', [], id="bitfinex heartbeat"),
        pytest.param(BITFINEX, '{"event":"info","version":2}', [], id="bitfinex information"),
        pytest.param(
            HTX,
            '{"ch":"market.btcusdt.trade.detail","ts":1630994963175,"tick":{"id":137005445109,"ts":1630994963173,'
            '"data":[{"id":137005445109359286410323766,"ts":1630994963173,"tradeId":102523573486,"amount":0.006754,'
            '"price":52648.62,"direction":"buy"}]}}',
            [
                (
                    "trade.BTC_USDT",
                    "trade",
                    "BTC_USDT",
                    '{"price":52648.62,"quantity":0.006754,"id":137005445109359286410323766}',
                    1630994963.173,
                )
            ],
            id="htx trade: the symbol is a part of a name, the id has 27 digits",
        ),
        pytest.param(HTX, '{"ping":1492420473027}', [], id="htx ping"),
        pytest.param(
            HTX, '{"id":"id1","status":"ok","subbed":"market.btcusdt.trade.detail","ts":1489474081631}', [], id="htx ok"
        ),
        pytest.param(
            BITSTAMP,
            '{"data":{"id":229920023,"timestamp":"1650894842","amount":0.00127466,"amount_str":"0.00127466",'
            '"price":39245.1,"price_str":"39245.10","type":0,"microtimestamp":"1650894842378123"},'
            '"channel":"live_trades_btcusd","event":"trade"}',
            [
                (
                    "trade.BTC_USD",
                    "trade",
                    "BTC_USD",
                    '{"price":39245.10,"quantity":0.00127466,"side":0}',
                    1650894842.378123,
                )
            ],
            id="bitstamp trade: microseconds",
        ),
        pytest.param(
            BITSTAMP,
            '{"event":"bts:subscription_succeeded","channel":"live_trades_btcusd","data":{}}',
            [],
            id="bitstamp answer to a subscription",
        ),
    ],
)
def test_a_documented_message(text: str, raw: str, expected: list[tuple[Any, ...]]) -> None:
    assert found(text, raw) == expected
