from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.feed_map import FeedMap
from actors.mapping import Mapper, MappingError, Row
from actors.mapping_report import FieldReport, Report

QUOTE = FeedMap(
    key="s",
    time="T",
    time_unit="ms",
    sequence="n",
    symbols={"EURUSD": "EUR_USD"},
    data={"bid": "q.b", "side": "side?"},
    types={"bid": "number"},
    filter={"e": "tick"},
)


def explained(raw: Any, *maps: FeedMap, sequence: str | None = None) -> Report:
    return Mapper(maps, sequence).explain(raw if isinstance(raw, (str, bytes)) else json.dumps(raw))


def field(report: Report, name: str) -> FieldReport:
    (row,) = report.rows
    return next(field for field in row.fields if field.name == name)


def test_each_field_says_where_it_looked_what_it_found_and_what_it_became() -> None:
    raw = {"e": "tick", "s": "EURUSD", "T": 1568014460893, "n": "7", "q": {"b": "1.10"}, "id": 9}
    report = explained(raw, QUOTE, sequence="id")
    assert (report.mapped, report.bad, report.error) == (1, 0, None)
    assert report.sequence == FieldReport("sequence", "id", "9", "9")
    (row,) = report.rows
    assert (row.place, row.map) == ("", 0)
    assert list(row.fields) == [
        FieldReport("topic", "s", '"EURUSD"', "price.EUR_USD"),
        FieldReport("type", "", None, "message"),
        FieldReport("key", "s", '"EURUSD"', "EUR_USD"),
        FieldReport("time", "T", "1568014460893", "1568014460.893 (2019-09-09T07:34:20.893000+00:00)"),
        FieldReport("sequence", "n", '"7"', "7"),
        FieldReport("data.bid", "q.b", '"1.10"', "1.10"),
        FieldReport("data.side", "side", None, None),
    ]


def test_every_field_that_is_wrong_is_named_with_what_is_there() -> None:
    raw = {"e": "tick", "S": "EURUSD", "T": "soon", "n": 1.5, "q": {"bid": 1}}
    report = explained(raw, QUOTE)
    assert report.bad == 1
    wrong = {field.name: (field.error, field.hint) for field in report.rows[0].errors}
    assert wrong == {
        "topic {s}": ("missing", "there are: e, S, T, n, q"),
        "key": ("missing", "there are: e, S, T, n, q"),
        "time": ('bad_time: "soon" is no time in ms', None),
        "sequence": ("wrong_type: 1.5 is no whole number", None),
        "data.bid": ("missing", "in q there are: bid"),
    }


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({"q": {}}, "in q there is an empty map"),
        ({"q": [1, 2]}, "in q there is a list of 2"),
        ({"q": 1}, "in q there is a single value"),
        ({}, "there is an empty map"),
        ([5], "there is a list of 1"),
    ],
)
def test_a_path_that_leads_nowhere_says_where_it_ends(value: Any, hint: str) -> None:
    assert field(explained(value, FeedMap(topic="t", data={"b": "q.b"})), "data.b").hint == hint


def test_a_filter_says_what_it_wants_and_what_was_there() -> None:
    report = explained({"e": "book"}, FeedMap(filter={"e": ("tick", "trade")}), FeedMap(filter={"f": {"exists": True}}))
    assert (report.mapped, report.bad) == (0, 0)
    (row,) = report.rows
    assert [(kept.map, kept.path, kept.wanted, kept.found, kept.hint) for kept in row.kept_out] == [
        (0, "e", '"tick" or "trade"', '"book"', None),
        (1, "f", "anything", "nothing", "there are: e"),
    ]
    report = explained({"l": []}, FeedMap(each="l", filter={"$.e": {"exists": False}, "$.f": 1}))
    assert [(kept.path, kept.wanted, kept.found) for kept in report.kept_out] == [("$.f", "1", "nothing")]


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"other": 1}, "there are: other"),
        ({"data": {}}, "in data there is an empty map, no rows"),
        ({"data": {"tickers": 1}}, "in data there are: tickers, no rows"),
        ({"data": []}, "there is an empty list"),
        ({"data": [{"other": 1}]}, "in data there is a list of 1, no rows"),
        ([], "there is a list of 0"),
    ],
)
def test_rows_that_are_not_there(raw: Any, why: str) -> None:
    assert explained(raw, FeedMap(each="data.*.tickers")).nowhere == [(0, "data.*.tickers", why)]


def test_rows_are_named_by_their_place_and_map() -> None:
    maps = [FeedMap(each="e.*.l", topic=f"t.{kind}", filter={"k": kind}) for kind in "ab"]
    report = explained({"e": [{"l": [{"k": "b"}, {"k": "c"}]}, {"l": {"k": "a"}}]}, *maps)
    assert [(row.place, row.map, len(row.kept_out)) for row in report.rows] == [
        ("e.0.l.0", 1, 1),
        ("e.0.l.1", None, 2),
        ("e.1.l", 0, 0),
    ]


def test_a_time_that_is_hardly_meant_is_doubted() -> None:
    assert "time_unit" in (field(explained({"T": 1568014460893}, FeedMap(topic="t", time="T")), "time").hint or "")
    assert field(explained({"T": 1568014460}, FeedMap(topic="t", time="T")), "time").hint is None


def test_a_topic_of_several_names_shows_each() -> None:
    report = explained({"a": "x.y", "b": ["z"]}, FeedMap(topic="t.{a}.{b.0}", data={"v": "a"}))
    assert [(field.name, field.became) for field in report.rows[0].fields][:3] == [
        ("topic {a}", "x.y"),
        ("topic {b.0}", "z"),
        ("topic", "t.x%2Ey.z"),
    ]
    report = explained({"a": "", "b": ["z"]}, FeedMap(topic="t.{a}.{b.0}"))
    assert (field(report, "topic").error or "").startswith("bad_topic")


def test_a_message_that_is_no_json() -> None:
    report = explained("{nope", FeedMap())
    assert (report.bad, report.mapped) == (1, 0)
    assert (report.error or "").startswith("not_json")


def test_a_number_beyond_everything_is_shown_where_it_is() -> None:
    assert field(explained('{"a":[1e999]}', FeedMap(topic="t", data={"v": "a"})), "data.v").error == (
        "not_finite: 1e999"
    )
    assert field(explained('{"a":[1e999]}', FeedMap(topic="t")), "data").error == "not_finite: 1e999"
    assert field(explained('{"a":1}', FeedMap(topic="t")), "data").became == "all as it came"


def test_what_is_long_is_shortened() -> None:
    report = explained({"v": "x" * 1_000}, FeedMap(topic="t", data={"v": "v"}))
    assert len(field(report, "data.v").found or "") <= 60


names = st.sampled_from(["a", "b", "c"])
leaves = st.sampled_from([0, 1, "1.50", "x", "", None, True, 10**15])
documents = st.recursive(
    leaves, lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=12
)
paths = st.lists(st.sampled_from(["a", "b", "c", "0", "1"]), min_size=1, max_size=2).map(".".join)
any_path = st.builds("{}{}{}".format, st.sampled_from(["", "$."]), paths, st.sampled_from(["", "?"]))
each = st.none() | st.lists(st.sampled_from(["a", "b", "*", "0"]), min_size=1, max_size=3).map(".".join)
maps = st.builds(
    FeedMap,
    each=each,
    topic=st.sampled_from(["t", "t.{symbol}", "t.{a}.{$.b}"]),
    key=st.none() | any_path,
    time=st.none() | any_path,
    sequence=st.none() | any_path,
    data=st.dictionaries(names, any_path, max_size=3),
    filter=st.dictionaries(paths, st.sampled_from([1, "x", (1, "x"), {"exists": True}]), min_size=1, max_size=1),
)


@given(documents, st.lists(maps, min_size=1, max_size=2))
def test_what_is_explained_is_what_is_mapped(document: Any, maps: list[FeedMap]) -> None:
    mapper, raw = Mapper(maps), json.dumps(document)
    rows, report = mapper.map(raw).rows, mapper.explain(raw)
    taken = [row for row in report.rows if row.map is not None]
    assert len(taken) == len(rows)
    for row, shown in zip(rows, taken, strict=True):
        became = {field.name: field.became for field in shown.fields}
        if isinstance(row, MappingError):
            assert (row.reason, row.path) in {
                ((error.error or "").split(":")[0], error.path if row.path else "") for error in shown.errors
            }
        else:
            assert isinstance(row, Row)
            assert not shown.errors
            assert (became["topic"], became.get("key")) == (row.event.topic, row.event.key)
            assert became.get("sequence") == (None if row.number is None else str(row.number))
            if "data" not in became:
                shown_data = {name[5:]: value for name, value in became.items() if name.startswith("data.") and value}
                data = msgspec.json.decode(row.event.data, type=dict[str, msgspec.Raw])
                assert shown_data == {name: bytes(value).decode() for name, value in data.items()}
