from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.mapping import DEMO_MAP, BadMessage, FeedMap, Mapper, MappingError
from transport.errors import ConfigError
from transport.messages import Publish

TICK = (
    b'{"stream":"EUR_USD@tick","data":{"e":"tick","s":"EUR_USD","b":"1.121200","a":"1.121720",'
    b'"T":1577898000065,"E":1700000000000,"n":1}}'
)
TRADE = (
    b'{"stream":"XBT_USDT@trade","data":{"e":"trade","s":"XBT_USDT","t":"10218208","p":"105433.60000",'
    b'"q":"0.00027625","side":"buy","T":1762795433971,"E":1700000000000,"n":1}}'
)
# As the exchanges send them.
BINANCE = (
    b'{"e":"bookTicker","u":400900217,"E":1568014460893,"T":1568014460891,"s":"BNBUSDT",'
    b'"b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000","st":1,"ps":"BNBUSDT"}'
)
KRAKEN = (
    b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":93512.40,'
    b'"qty":0.00010000,"trade_id":7,"timestamp":"2023-09-25T07:49:37.708706Z"}]}'
)


def mapped(raw: str | bytes, **fields: Any) -> Publish:
    event = Mapper(FeedMap(**fields)).map(raw)
    assert event is not None
    return event


def refusal(raw: str | bytes, **fields: Any) -> MappingError:
    with pytest.raises(MappingError) as caught:
        Mapper(FeedMap(**fields)).map(raw)
    return caught.value


def test_a_quote_of_the_replay_exchange() -> None:
    assert Mapper(DEMO_MAP).map(TICK) == Publish(
        0, "price.EUR_USD", "price_update", b'{"bid":1.121200,"ask":1.121720}', "EUR_USD", None, 1577898000.065
    )


def test_a_trade_of_the_replay_exchange() -> None:
    event = Mapper(DEMO_MAP).map(TRADE.decode())
    assert event is not None
    assert (event.topic, event.source_ts) == ("price.XBT_USDT", 1762795433.971)
    assert event.data == b'{"price":105433.60000,"quantity":0.00027625,"side":"buy"}'


@pytest.mark.parametrize("answer", ['{"result":null,"id":1}', '{"error":{"code":2,"msg":"no"},"id":1}', "[]", "1"])
def test_what_the_filter_does_not_meet_is_not_for_us(answer: str) -> None:
    assert Mapper(DEMO_MAP).map(answer) is None


def test_a_binance_book_ticker() -> None:
    event = mapped(
        BINANCE,
        key="s",
        time="E",
        time_unit="ms",
        symbols={"BNBUSDT": "BNB_USDT"},
        data={"bid": "b", "ask": "a"},
        filter={"e": "bookTicker", "st": 1},
    )
    assert (event.topic, event.key, event.source_ts) == ("price.BNB_USDT", "BNB_USDT", 1568014460.893)
    assert event.data == b'{"bid":25.35190000,"ask":25.36520000}'


def test_a_kraken_trade_in_a_list_with_an_iso_time() -> None:
    event = mapped(
        KRAKEN,
        topic="price.{data.0.symbol}.{side}",
        time="data.0.timestamp",
        time_unit="iso",
        data={"price": "data.0.price", "quantity": "data.0.qty", "side": "data.0.side"},
    )
    assert event.topic == "price.BTC/USD.sell"
    assert event.data == b'{"price":93512.40,"quantity":0.00010000,"side":"sell"}'
    assert event.source_ts == 1695628177.708706
    assert event.key is None


def test_symbol_is_in_data_before_it_is_the_key() -> None:
    raw = '{"a":"A","b":"B"}'
    assert mapped(raw, key="b", data={"symbol": "a"}).topic == "price.A"
    assert mapped(raw, key="b").topic == "price.B"
    assert mapped('{"symbol":"C"}').topic == "price.C"


def test_without_data_the_message_is_the_payload_as_it_came() -> None:
    raw = b'{ "symbol" : "A", "p" : 1.50 }'
    assert mapped(raw).data == raw
    assert mapped(raw.decode()).data == raw


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=12))
def test_a_number_keeps_its_digits_as_text_and_as_number(number: Decimal) -> None:
    literal = format(number, "f")
    for written in (f'"{literal}"', literal):
        event = mapped(f'{{"v":{written},"in":{{"v":[{written}]}}}}', topic="t", data={"v": "v", "in": "in?"})
        assert event.data.startswith(b'{"v":' + literal.encode() + b",")
    assert b"[" + literal.encode() + b"]" in event.data  # a number deep inside what is passed on whole


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_value_is_passed_on(value: Any) -> None:
    raw = msgspec.json.encode({"v": [value]}) if abs_fits(value) else b'{"v":[]}'
    assert json.loads(mapped(raw, topic="t", data={"v": "v"}).data) == json.loads(raw)


def abs_fits(value: Any) -> bool:
    if isinstance(value, list):
        return all(abs_fits(item) for item in value)
    return not isinstance(value, int) or abs(value) < 2**63


@given(st.binary() | st.text().map(str.encode))
def test_whatever_arrives_is_an_event_nothing_or_a_mapping_error(raw: bytes) -> None:
    with suppress(MappingError):
        Mapper(DEMO_MAP).map(raw)


@pytest.mark.parametrize("text", ["buy", "01.5", "1.", ".5", "+1", "1_000", "0x10", "", "-", "1e", "1 ", "١"])
def test_text_that_is_no_json_number_stays_text(text: str) -> None:
    event = mapped(json.dumps({"v": text}), topic="t", data={"v": "v"})
    assert json.loads(event.data) == {"v": text}


@pytest.mark.parametrize("value", ['"NaN"', '"-Infinity"', '"inf"', '"1e400"', "1e400", "1e99999999999999999999"])
def test_what_is_not_finite_is_refused(value: str) -> None:
    assert refusal(f'{{"v":{value}}}', topic="t", data={"v": "v"}).reason is BadMessage.NOT_FINITE


@pytest.mark.parametrize(
    ("raw", "fields", "reason", "path"),
    [
        (b"", {}, BadMessage.NOT_JSON, ""),
        (b'{"symbol":"A"', {}, BadMessage.NOT_JSON, ""),
        (b'{"symbol":"\xff"}', {}, BadMessage.NOT_JSON, ""),
        (b"[" * 100_000, {}, BadMessage.NOT_JSON, ""),
        (b"{}", {}, BadMessage.MISSING, "symbol"),
        (b'{"symbol":"A"}', {"data": {"bid": "data.b"}}, BadMessage.MISSING, "data.b"),
        (b'{"symbol":"A"}', {"time": "T"}, BadMessage.MISSING, "T"),
        (b'{"l":[1]}', {"topic": "t", "data": {"v": "l.1"}}, BadMessage.MISSING, "l.1"),
        (b'{"symbol":null}', {}, BadMessage.NOT_TEXT, "symbol"),
        (b'{"symbol":true}', {}, BadMessage.NOT_TEXT, "symbol"),
        (b'{"symbol":""}', {}, BadMessage.BAD_TOPIC, ""),
        (b'{"symbol":"' + b"A" * 300 + b'"}', {}, BadMessage.BAD_TOPIC, ""),
        (b'{"symbol":"system"}', {"topic": "{symbol}.x"}, BadMessage.BAD_TOPIC, ""),
        (b'{"symbol":"A","T":"soon"}', {"time": "T"}, BadMessage.BAD_TIME, "T"),
        (b'{"symbol":"A","T":"inf"}', {"time": "T"}, BadMessage.BAD_TIME, "T"),
        (b'{"symbol":"A","T":1}', {"time": "T", "time_unit": "iso"}, BadMessage.BAD_TIME, "T"),
    ],
)
def test_a_message_that_lacks_something_names_what(
    raw: bytes, fields: dict[str, Any], reason: BadMessage, path: str
) -> None:
    error = refusal(raw, **fields)
    assert (error.reason, error.path) == (reason, path)


def test_a_symbol_cannot_make_tokens_or_wildcards() -> None:
    assert mapped('{"symbol":"a.b*>"}').topic == "price.a%2Eb%2A%3E"


@pytest.mark.parametrize(
    ("unit", "value", "seconds"),
    [("s", "1700000000.5", 1700000000.5), ("us", "1700000000500000", 1700000000.5), ("ns", "5e8", 0.5)],
)
def test_units_of_time(unit: Any, value: str, seconds: float) -> None:
    for written in (value, f'"{value}"'):
        assert mapped(f'{{"T":{written}}}', topic="t", time="T", time_unit=unit).source_ts == seconds


def test_an_iso_time_without_a_zone_is_utc() -> None:
    assert mapped('{"T":"1970-01-01T00:00:01"}', topic="t", time="T", time_unit="iso").source_ts == 1.0


def test_filters_tell_booleans_numbers_and_text_apart() -> None:
    mapper = Mapper(FeedMap(topic="t", filter={"v": 1}))
    assert mapper.map('{"v":1}')
    assert mapper.map('{"v":1.0}')
    assert not any(mapper.map(f'{{"v":{other}}}') for other in ('"1"', "true", "2", "1.5", "null", "[1]"))
    assert Mapper(FeedMap(topic="t", filter={"v": 1.5})).map('{"v":1.50}')
    assert not Mapper(FeedMap(topic="t", filter={"v": True})).map('{"v":1}')


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"topic": "price.{}"}, "topic"),
        ({"topic": "price.{symbol"}, "topic"),
        ({"topic": "price.{symbol:>9}"}, "topic"),
        ({"topic": "price.*"}, "topic"),
        ({"topic": "system.{symbol}"}, "topic"),
        ({"data": {"bid": "data..b"}}, "data.bid"),
        ({"time": "."}, "time"),
    ],
)
def test_a_map_that_cannot_work_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mapper(FeedMap(**fields))
    assert caught.value.field == field
