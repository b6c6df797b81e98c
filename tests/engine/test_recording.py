from __future__ import annotations

import csv
import itertools
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.recording import (
    AS_RECORDED,
    DEMO_PACE,
    LAP_GAP_S,
    Instrument,
    Pace,
    Quote,
    Trade,
    instruments,
    merge,
    packaged_files,
)
from transport.errors import ConfigError

SYMBOLS = ["EUR_USD", "GBP_USD", "USD_JPY", "XBT_USDT"]


def quotes(symbol: str, *times_ms: int) -> Instrument:
    return Instrument(symbol, lambda: (Quote(symbol, time, "1.0", "1.1") for time in times_ms))


def test_the_packaged_recordings_are_played_whole_and_in_their_own_order() -> None:
    played = [record for _, record in merge(instruments())]
    assert Counter(record.symbol for record in played) == dict(zip(SYMBOLS, (9500, 3000, 1000, 1000), strict=True))
    for name, symbol in (("eurusd-ticks.csv", "EUR_USD"), ("usdjpy-ticks.csv", "USD_JPY")):
        path = next(file for file in packaged_files() if file.name == name)
        with path.open(newline="") as lines:
            expected = [(row["bid"], row["ask"]) for row in csv.DictReader(lines)]
        assert [(r.bid, r.ask) for r in played if isinstance(r, Quote) and r.symbol == symbol] == expected


def test_bars_are_quotes_of_the_closes_of_both_sides() -> None:
    gbp = next(instrument for instrument in instruments() if instrument.symbol == "GBP_USD")
    assert list(itertools.islice(gbp.records(), 2)) == [
        Quote("GBP_USD", 1328054400000, "1.57576", "1.57585"),
        Quote("GBP_USD", 1328054460000, "1.57543", "1.57552"),
    ]


def test_trades_keep_the_text_of_the_source() -> None:
    xbt = next(instrument for instrument in instruments() if instrument.symbol == "XBT_USDT")
    assert next(xbt.records()) == Trade("XBT_USDT", 1762795433971, "105433.60000", "0.00027625", "buy", "10218208")


def test_every_instrument_starts_at_zero_and_loops_by_itself() -> None:
    play = merge([quotes("A", 5_000, 7_000), quotes("B", 90_000, 95_000)], loop=True)
    assert [(due, record.symbol) for due, record in itertools.islice(play, 7)] == [
        (0, "A"),
        (0, "B"),
        (2, "A"),
        (2 + LAP_GAP_S, "A"),
        (4 + LAP_GAP_S, "A"),
        (5, "B"),
        (4 + 2 * LAP_GAP_S, "A"),
    ]


def test_an_empty_recording_ends_even_when_it_loops() -> None:
    assert list(merge([quotes("A")], loop=True)) == []


@given(
    st.lists(st.lists(st.integers(0, 10**12), max_size=20), max_size=4),
    st.floats(0.01, 1e4),
    st.none() | st.floats(0.01, 10),
)
def test_due_never_falls_and_nothing_is_lost(times: list[list[int]], speed: float, longest: float | None) -> None:
    play = [quotes(str(i), *each) for i, each in enumerate(times)]
    timeline = list(merge(play, Pace(speed, longest)))
    assert len(timeline) == sum(map(len, times))
    dues = [due for due, _ in timeline]
    assert dues == sorted(dues)
    for i, each in enumerate(times):
        assert [record.time_ms for _, record in timeline if record.symbol == str(i)] == each


def test_at_the_demo_pace_every_instrument_ticks_within_two_seconds() -> None:
    last = dict.fromkeys(SYMBOLS, 0.0)
    for due, record in merge(instruments(), DEMO_PACE, loop=True):
        assert due - last[record.symbol] <= 2.0
        last[record.symbol] = due
        if due > 4_000:  # beyond the longest recording at this pace
            break


def test_the_recorded_pace_keeps_the_recorded_gaps() -> None:
    (a, _), (b, _) = itertools.islice(instruments()[0].timeline(AS_RECORDED, False), 2)
    assert (a, b) == (0.0, 10.382)


def test_memory_does_not_grow_with_the_recording() -> None:
    play = merge(instruments(), loop=True)
    for _ in itertools.islice(play, 100):
        pass
    tracemalloc.start()
    try:
        for _ in itertools.islice(play, 20_000):
            pass
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


QUOTES = "timestamp,bid,ask\n2020-01-01 17:00:00+00:00,1.10,1.11\n"
BARS = "timestamp,open,high,low,close\n2020-01-01 00:00:00,1,1,1,1.5\n2020-01-01 00:02:00,1,1,1,1.6\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "symbol"),
    [("eurusd-ticks.csv", "EUR_USD"), ("kraken-xbtusdt-trades.csv", "XBT_USDT"), ("EUR_GBP.csv", "EUR_GBP")],
)
def test_the_name_of_a_file_tells_the_instrument(tmp_path: Path, name: str, symbol: str) -> None:
    assert [i.symbol for i in instruments([write(tmp_path / name, QUOTES)])] == [symbol]


def test_a_file_of_any_name_plays_as_the_instrument_that_is_said(tmp_path: Path) -> None:
    (instrument,) = instruments([f"ABC={write(tmp_path / 'mine.csv', QUOTES)}"])
    assert list(instrument.records()) == [Quote("ABC", 1577898000000, "1.10", "1.11")]


def test_a_minute_that_one_side_lacks_is_left_out(tmp_path: Path) -> None:
    bid = write(tmp_path / "gbpusd-bid.csv", BARS)
    ask = write(tmp_path / "gbpusd-ask.csv", BARS.replace("00:02", "00:01") + "2020-01-01 00:02:00,1,1,1,1.7\n")
    (gbp,) = instruments([bid, ask])
    assert [(r.bid, r.ask) for r in gbp.records() if isinstance(r, Quote)] == [("1.5", "1.5"), ("1.6", "1.7")]


@pytest.mark.parametrize(
    ("name", "text", "line", "why"),
    [
        ("eurusd.csv", "a,b\n", 1, "unknown header"),
        ("eurusd.csv", "", 1, "unknown header"),
        ("unknown.csv", QUOTES, None, "SYMBOL=FILE"),
        ("eurusd-bid.csv", BARS, None, "the ask file of EUR_USD is missing"),
        ("eurusd.csv", QUOTES + "2020-01-01,1.1\n", 3, "2 columns instead of 3"),
        ("eurusd.csv", QUOTES + "yesterday,1.1,1.2\n", 3, "'yesterday' is not an ISO 8601 time"),
        ("eurusd.csv", QUOTES + "2020-01-01,nan,1.2\n", 3, "'nan' is not a number"),
        ("eurusd.csv", QUOTES + "2020-01-01,1.1,cheap\n", 3, "'cheap' is not a number"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, name: str, text: str, line: int | None, why: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(ConfigError) as caught:
        list(merge(instruments([path])))
    assert (caught.value.field, caught.value.line) == (str(path), line)
    assert why in caught.value.message


def test_a_missing_file_and_a_second_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        instruments([tmp_path / "eurusd.csv"])
    with pytest.raises(ConfigError, match="second file with EUR_USD"):
        instruments([write(tmp_path / "eurusd.csv", QUOTES), write(tmp_path / "eurusd-2.csv", QUOTES)])
