from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.mapping import DEMO_MAP, BadMessage, FeedMap, Mapped, Mapper, MappingError, Row
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


def rows(raw: str | bytes, *maps: FeedMap) -> Sequence[Row | MappingError]:
    return Mapper(maps).map(raw).rows


def events(raw: str | bytes, *maps: FeedMap) -> list[Publish]:
    found = rows(raw, *maps)
    assert all(isinstance(row, Row) for row in found), found
    return [row.event for row in found if isinstance(row, Row)]


def mapped(raw: str | bytes, **fields: Any) -> Publish:
    (event,) = events(raw, FeedMap(**fields))
    return event


def refusal(raw: str | bytes, **fields: Any) -> MappingError:
    (error,) = rows(raw, FeedMap(**fields))
    assert isinstance(error, MappingError)
    return error


def test_a_quote_of_the_replay_exchange() -> None:
    assert events(TICK, DEMO_MAP) == [
        Publish(0, "price.EUR_USD", "price_update", b'{"bid":1.121200,"ask":1.121720}', "EUR_USD", None, 1577898000.065)
    ]


def test_a_trade_of_the_replay_exchange() -> None:
    (event,) = events(TRADE.decode(), DEMO_MAP)
    assert (event.topic, event.source_ts) == ("price.XBT_USDT", 1762795433.971)
    assert event.data == b'{"price":105433.60000,"quantity":0.00027625,"side":"buy"}'


@pytest.mark.parametrize("answer", ['{"result":null,"id":1}', '{"error":{"code":2,"msg":"no"},"id":1}', "[]", "1"])
def test_what_the_filter_does_not_meet_is_not_for_us(answer: str) -> None:
    assert Mapper((DEMO_MAP,)).map(answer) == Mapped(None, ())


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
def test_whatever_arrives_nothing_is_raised(raw: bytes) -> None:
    message = Mapper((DEMO_MAP, FeedMap(each="a.*.b", key="$.c", data={"v": "0"}))).map(raw)
    assert all(isinstance(row, (Row, MappingError)) for row in message.rows)


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
    [
        ("s", "1700000000.5", 1700000000.5),
        ("s", "1534614057.321597", 1534614057.321597),
        ("ms", "1700000000500", 1700000000.5),
        ("us", "1700000000500000", 1700000000.5),
        ("ns", "1700000000500000000", 1700000000.5),
        ("ns", "5e8", 0.5),
    ],
)
def test_units_of_time(unit: Any, value: str, seconds: float) -> None:
    for written in (value, f'"{value}"'):
        assert mapped(f'{{"T":{written}}}', topic="t", time="T", time_unit=unit).source_ts == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01", 1.0),
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01 00:00:01.5", 1.5),
        ("1970-01-01T01:00:01.25+01:00", 1.25),
        ("1970-01-01T01:00:01+0100", 1.0),
        ("1970-01-01T00:00:01.123456789Z", 1.123456),
        ("1970-01-01 00:00:01.000000000+00:00", 1.0),
        ("1970-01-02", 86_400.0),
    ],
)
def test_iso_times(text: str, seconds: float) -> None:
    assert mapped(f'{{"T":"{text}"}}', topic="t", time="T", time_unit="iso").source_ts == seconds


@pytest.mark.parametrize("value", ['""', '"1_000"', '" 1"', '"\u0661"', '"nan"', "true", "null", "[1]", "{}", "1e999"])
def test_what_is_no_time(value: str) -> None:
    for unit in ("s", "iso"):
        error = refusal(f'{{"T":{value}}}', topic="t", time="T", time_unit=unit, data={"v": "T?"})
        assert error.reason in (BadMessage.BAD_TIME, BadMessage.NOT_FINITE)


def test_filters_tell_booleans_numbers_and_text_apart() -> None:
    def meets(wanted: Any, value: str) -> bool:
        return bool(rows(f'{{"v":{value}}}', FeedMap(topic="t", filter={"v": wanted})))

    assert meets(1, "1")
    assert meets(1, "1.0")
    assert not any(meets(1, other) for other in ('"1"', "true", "2", "1.5", "null", "[1]", "1e999999999999999999999"))
    assert meets(1.5, "1.50")
    assert not meets(True, "1")
    assert meets(("a", 1), '"a"')
    assert meets(("a", 1), "1")
    assert not meets("a", "1")


def test_a_filter_can_ask_whether_something_is_there() -> None:
    there, absent = (FeedMap(topic="t", filter={"v.w": {"exists": exists}}) for exists in (True, False))
    assert rows('{"v":{"w":null}}', there)
    assert not rows('{"v":{}}', there)
    assert rows('{"v":{}}', absent)
    assert not rows('{"v":{"w":0}}', absent)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"topic": "price.{}"}, "map.topic"),
        ({"topic": "price.{symbol"}, "map.topic"),
        ({"topic": "price.{symbol:>9}"}, "map.topic"),
        ({"topic": "price.*"}, "map.topic"),
        ({"topic": "system.{symbol}"}, "map.topic"),
        ({"data": {"bid": "data..b"}}, "map.data.bid"),
        ({"data": {"bid": "l.*.b"}}, "map.data.bid"),
        ({"time": "."}, "map.time"),
        ({"key": "$."}, "map.key"),
        ({"each": "data."}, "map.each"),
        ({"each": "data?"}, "map.each"),
        ({"types": {"bid": "number"}}, "map.types.bid"),
        ({"symbol_replace": {"": "_"}}, "map.symbol_replace"),
        ({"filter": {"a..b": 1}}, "map.filter.a..b"),
        ({"filter": {"a": {"exist": True}}}, "map.filter.a"),
    ],
)
def test_a_map_that_cannot_work_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mapper((FeedMap(**fields),))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("maps", "sequence", "field"),
    [
        ((), None, "map"),
        ((FeedMap(),), "a..b", "sequence"),
        ((FeedMap(filter={"e": 1}), FeedMap(time=".")), None, "map[1].time"),
        ((FeedMap(filter={"e": 1}), FeedMap(), FeedMap(key="k")), None, "map[2]"),  # the one before takes all
    ],
)
def test_several_maps_are_told_apart_in_errors(maps: tuple[FeedMap, ...], sequence: str | None, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mapper(maps, sequence)
    assert caught.value.field == field


def test_maps_with_other_rows_do_not_take_from_each_other() -> None:
    raw = '{"b":[["1.10","5"]],"a":[["1.20","7"],["1.30","0"]]}'
    side = {name: FeedMap(each=name, topic=f"book.{name}", data={"price": "0", "size": "1"}) for name in "ab"}
    assert [(event.topic, event.data) for event in events(raw, side["b"], side["a"])] == [
        ("book.b", b'{"price":1.10,"size":5}'),
        ("book.a", b'{"price":1.20,"size":7}'),
        ("book.a", b'{"price":1.30,"size":0}'),
    ]


def test_the_first_map_that_wants_a_row_takes_it() -> None:
    maps = [FeedMap(each="l", topic=f"t.{kind}", filter={"e": kind}) for kind in ("trade", "tick")]
    maps.append(FeedMap(each="l", topic="t.other"))
    raw = '{"l":[{"e":"tick"},{"e":"trade"},{"e":"x"},{"e":"tick"}]}'
    assert [event.topic for event in events(raw, *maps)] == ["t.tick", "t.trade", "t.other", "t.tick"]


@pytest.mark.parametrize(
    ("each", "raw", "found"),
    [
        ("data", '{"data":[1,2]}', ["1", "2"]),
        ("data", '{"data":{"a":1}}', ['{"a":1}']),
        ("data", '{"data":[]}', []),
        ("data", '{"other":1}', []),
        ("data", "[]", []),
        ("1", "[340,[[1],[2]]]", ["[1]", "[2]"]),
        ("1.*", "[340,[[1],[2]]]", ["[1]", "[2]"]),
        ("*", "[1,[2]]", ["1", "[2]"]),
        ("*", '{"a":1}', []),
        ("*.l", '[{"l":[1,2]},{"m":3},{"l":4},5]', ["1", "2", "4"]),
        ("e.*.l.*.m", '{"e":[{"l":[{"m":[1]},{"m":2}]},{"l":3}]}', ["1", "2"]),
        ("*.*", "[[1,2],3,[[4]]]", ["1", "2", "[4]"]),
        ("$.data", '{"data":[1.50]}', ["1.50"]),
    ],
)
def test_each_leads_to_rows(each: str, raw: str, found: list[str]) -> None:
    one = FeedMap(each=each, topic="t")
    assert [event.data.decode() for event in events(raw, one)] == found
    explained = Mapper((one,)).explain(raw)
    assert len(explained.rows) == len(found)
    assert bool(explained.nowhere) == (not found)


def test_a_bad_row_takes_no_good_one_along() -> None:
    one = FeedMap(each="l", key="s", data={"v": "v"}, types={"v": "number"})
    raw = '{"l":[{"s":"A","v":"1.0"},{"s":"B"},{"s":"C","v":"x"},{"s":null,"v":1},{"s":"D","v":1e400},{"s":"E","v":2}]}'
    found = rows(raw, one)
    assert [row.reason if isinstance(row, MappingError) else row.event.key for row in found] == [
        "A",
        BadMessage.MISSING,
        BadMessage.WRONG_TYPE,
        BadMessage.NOT_TEXT,
        BadMessage.NOT_FINITE,
        "E",
    ]
    assert Mapper((one,)).explain(raw).bad == 4


def test_a_number_that_nobody_can_read_spoils_only_events_that_hold_it() -> None:
    raw = '{"s":"A","v":1,"other":1e400}'
    assert mapped(raw, key="s", data={"v": "v"}).data == b'{"v":1}'
    assert refusal(raw, key="s").reason is BadMessage.NOT_FINITE
    assert not rows(raw, FeedMap(filter={"s": "B"}))
    assert refusal(raw + "}", key="s").reason is BadMessage.NOT_JSON


@pytest.mark.parametrize(
    ("type", "good", "bad"),
    [
        ("number", {'"1.50"': "1.50", "1.50": "1.50", "7": "7"}, ['"x"', '""', "true", "null", "[1]", "{}", '"1_0"']),
        ("text", {'"1.50"': '"1.50"', '"x"': '"x"'}, ["1", "1.5", "true", "null", '["a"]']),
        ("bool", {"true": "true", "false": "false"}, ["1", '"true"', "null"]),
    ],
)
def test_types(type: Any, good: dict[str, str], bad: list[str]) -> None:
    for fields in ({"data": {"v": "v"}}, {"data": {"v": "v", "w": "v"}, "topic": "t"}):  # one by one, and all at once
        fields = {"topic": "t", "types": dict.fromkeys(fields["data"], type), **fields}
        for written, becomes in good.items():
            assert mapped(f'{{"v":{written}}}', **fields).data.decode().startswith(f'{{"v":{becomes}')
        for written in bad:
            error = refusal(f'{{"v":{written}}}', **fields)
            assert (error.reason, error.path) == (BadMessage.WRONG_TYPE, "v")


literals = st.from_regex(r"-?(0|[1-9][0-9]{0,14})\.[0-9]{1,20}", fullmatch=True)


@given(st.lists(literals, min_size=1, max_size=5), st.sampled_from([None, "number"]), st.booleans())
def test_every_digit_of_every_row_is_kept(numbers: list[str], type: Any, as_text: bool) -> None:
    quote = '"' if as_text else ""
    raw = f'{{"rows":[{",".join(f"[{quote}{number}{quote},0]" for number in numbers)}]}}'
    types = {"v": type} if type else {}
    one = FeedMap(each="rows", topic="t", data={"v": "0"}, types=types)
    assert [event.data.decode() for event in events(raw, one)] == [f'{{"v":{number}}}' for number in numbers]


def test_a_row_has_the_number_of_its_key() -> None:
    one = FeedMap(each="l", key="s", sequence="n", symbols={"XBT": "BTC"})
    found = rows('{"l":[{"s":"XBT","n":7},{"s":"ETH","n":"00012"},{"s":"ETH","n":1.5},{"s":"ETH"}]}', one)
    numbered = [(row.event.key, row.counter, row.number) for row in found if isinstance(row, Row)]
    assert numbered == [("BTC", "XBT", 7), ("ETH", "ETH", 12)]
    assert [row.reason for row in found if isinstance(row, MappingError)] == [BadMessage.WRONG_TYPE, BadMessage.MISSING]


def test_without_a_key_the_counter_is_empty_and_without_sequence_there_is_no_number() -> None:
    assert rows('{"n":1}', FeedMap(topic="t", sequence="n"))[0][1:] == ("", 1, "n")  # type: ignore[index]
    assert rows('{"n":1}', FeedMap(topic="t", sequence="m?"))[0][1:] == ("", None, "m?")  # type: ignore[index]
    assert rows('{"n":1}', FeedMap(topic="t"))[0][1:] == ("", None, "")  # type: ignore[index]


@pytest.mark.parametrize(
    ("raw", "number"),
    [
        ('{"n":5,"e":1}', 5),
        ('{"n":"5","e":2}', 5),
        ('{"e":1}', None),
        ('{"n":null,"e":1}', None),
        ('{"n":"x"}', None),
        ('{"n":true}', None),
        ('{"n":"\u0661"}', None),
        ('{"n":' + "9" * 40 + "}", None),
        ('{"n":' + "1" * 5000 + "}", None),
        ('{"n":6,"e":1,"v":1e400}', 6),
        ("nope", None),
    ],
)
def test_a_message_has_its_number_also_if_it_is_not_for_us(raw: str, number: int | None) -> None:
    assert Mapper((FeedMap(topic="t", filter={"e": 1}),), "n").map(raw).number == number


def test_symbols_are_renamed_exactly_or_by_parts() -> None:
    one = {"key": "s", "symbols": {"XBT/USD": "gold"}, "symbol_replace": {"XBT": "BTC", "/": "_", "-": "_"}}
    for upstream, ours in (("XBT/USD", "gold"), ("XBT/EUR", "BTC_EUR"), ("BTC-USD", "BTC_USD"), ("A", "A")):
        event = mapped(json.dumps({"s": upstream}), **one)
        assert (event.topic, event.key) == (f"price.{ours}", ours)
    event = mapped('{"s":"XBT-USD","x":"a/b"}', topic="{x}.y", **one)  # also where the key is not in the topic
    assert (event.topic, event.key) == ("a_b.y", "BTC_USD")


def test_replacements_follow_one_another() -> None:
    replace = {"live_trades_": "", "btc": "BTC_", "usd": "USD"}
    assert mapped('{"c":"live_trades_btcusd"}', key="c", symbol_replace=replace).key == "BTC_USD"


def test_key_and_time_may_lead_nowhere_if_they_say_so() -> None:
    event = mapped("{}", topic="t", key="s?", time="T?")
    assert (event.key, event.source_ts) == (None, None)
    event = mapped('{"s":1,"T":2}', topic="t", key="s?", time="T?")
    assert (event.key, event.source_ts) == ("1", 2.0)


def test_a_name_has_bounds() -> None:
    assert refusal('{"s":"' + "A" * 2_000 + '"}', topic="t", key="s").reason is BadMessage.BAD_TOPIC


def test_a_key_that_differs_each_time_leaves_the_topic_alone() -> None:
    mapper = Mapper((FeedMap(topic="t.{s}", key="id"),))
    for i in range(3):
        (row,) = mapper.map(f'{{"s":"A","id":{i}}}').rows
        assert isinstance(row, Row)
        assert (row.event.topic, row.event.key) == ("t.A", str(i))
