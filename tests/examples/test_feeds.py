"""The examples of feeds load, and make events of what these exchanges send."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.mapping import Mapper, Row
from engine import config

ROOT = Path(__file__).parents[2]
TOPICS = {
    "binance_agg_trade_stream": [],
    "binance_book_ticker_stream": ["price.BNBUSDT"],
    "binance_kline_stream_closed": ["bar.BTC_USDT.1m"],
    "binance_ticker_stream": [],
    "binance_trade_stream": ["trade.BTC_USDT"],
    "coinbase_candles": ["bar.BTC_USD.5m"],
    "coinbase_heartbeats": [],
    "coinbase_market_trades": ["trade.BTC_USD", "trade.BTC_USD"],
    "coinbase_subscriptions": [],
    "coinbase_ticker": ["price.BTC_USD"],
    "kraken_ohlc_update": ["bar.BTC_USD.1m"],
    "kraken_pong": [],
    "kraken_subscribe_response": [],
    "kraken_ticker_snapshot": ["price.BTC_USD"],
    "kraken_trade_update": ["trade.BTC_USD", "trade.BTC_USD"],
}


def topics(exchange: str, raw: bytes) -> list[str]:
    feed = config.load(ROOT / f"examples/feeds/{exchange}.toml", environ={}).feeds[exchange]
    rows = Mapper(feed.map, feed.sequence).map(raw).rows
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.event.topic for row in rows if isinstance(row, Row)]


@pytest.mark.parametrize("message", TOPICS)
def test_a_recorded_message(message: str) -> None:
    raw = (ROOT / f"tests/data/exchange_messages/{message}.json").read_bytes()
    assert topics(message.partition("_")[0], raw) == TOPICS[message]


def test_the_best_bid_and_ask_of_the_spot_market_have_no_name() -> None:
    raw = b'{"u":400900217,"s":"BTCUSDT","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}'
    assert topics("binance", raw) == ["price.BTC_USDT"]
    assert topics("binance", b'{"result":null,"id":1}') == []
