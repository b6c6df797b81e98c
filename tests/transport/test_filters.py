"""The contract's `where`: what it means, how it is normalised, and what is refused, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import filters
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.filters import MISSING, Constraint, Filter, Truth, number, scalar


def of(event: dict[str, Any]) -> Callable[[str], Any]:
    return lambda name: event.get(name, MISSING)


def holds(where: Any, **event: Any) -> bool:
    return Filter.parse(where).holds(of(event))


@pytest.mark.parametrize(
    ("where", "yes", "no"),
    [
        ("daily", ["daily"], ["combo", MISSING, None, ["daily"], {"daily": 1}]),
        (["A", "B"], ["A", "B"], ["C", "", MISSING]),
        (1, [1, 1.0], [True, "1", 2, None]),
        (True, [True], [1, 1.0, "true", False]),
        (None, [None], [0, "", False, MISSING]),
        ({"eq": 0}, [0, 0.0, -0.0], [False, None]),
        ({"in": [1, "x"]}, [1.0, "x"], [2, MISSING]),
        ({"not": 1}, [2, True, "1", None, [1], {}], [1, 1.0, MISSING]),
        ({"not": ["A", "B"]}, ["C", None], ["A", "B", MISSING]),
        ({"gte": 0.8, "lt": 1}, [0.8, 0.9], [0.79, 1, "0.9", True, None, [0.9], MISSING]),
        ({"gt": 1}, [1.0000000000000002, math.inf], [1, 0]),
        ({"lte": 1}, [1, -5, -math.inf], [1.0000000000000002]),
        ({"gt": "2024-01", "lte": "2024-02"}, ["2024-01\0", "2024-02", "2024-01-31"], ["2024-01", "2024-02\0", 2024]),
        ({"gte": "é"}, ["é", "ê", "\U0001f600"], ["e", "z"]),
        ({"exists": True}, [None, False, [], {}], [MISSING]),
        ({"exists": False}, [MISSING], [None, 0, ""]),
        ({"exists": False, "not": 1}, [], [MISSING, 1, 2]),
        ({"eq": 1, "in": [1, 2]}, [1], [2]),
        ({"eq": 1, "in": [2]}, [], [1, 2]),
        ({"gt": 1, "gte": 2, "lt": 4, "lte": 3}, [2, 3], [1.5, 3.5]),
        ({"gte": 1, "not": 2}, [1, 3], [2, 0]),
        ({"gt": 2**53}, [2**53 + 2], [2**53, 2**53 + 1]),  # as float64: 2**53 + 1 is 2**53
        (2**53 + 1, [2**53 + 1], [2**53]),  # but whole numbers of 64 bits, as keys are, are told apart
        (2**70, [2**70, float(2**70), 2**70 + 1], [2**69]),
    ],
)
def test_what_a_field_must_be(where: Any, yes: list[Any], no: list[Any]) -> None:
    parsed = Filter.parse({"f": where})
    for value in yes:
        assert parsed.holds(lambda _, value=value: value), f"{value!r} should do"
        assert parsed.why_not(lambda _, value=value: value) is None
    for value in no:
        assert not parsed.holds(lambda _, value=value: value), f"{value!r} should not do"
        assert parsed.why_not(lambda _, value=value: value)


def test_a_map_is_all_a_list_is_any() -> None:
    assert holds({})
    assert holds({"a": 1, "b": 2}, a=1, b=2)
    assert not holds({"a": 1, "b": 2}, a=1)
    assert holds([{"a": 1}, {"b": 2}], b=2)
    assert not holds([{"a": 1}, {"b": 2}], a=2, b=1)
    assert holds([{"a": 1}, {}])


def test_why_not_says_the_first_failure_of_each_map() -> None:
    parsed = Filter.parse([{"confidence": {"exists": True, "gte": 0.8}}, {"tier": "daily", "note": {"exists": False}}])
    assert parsed.why_not(of({"confidence": 0.5})) == "confidence is 0.5, not gte 0.8; tier is absent"
    assert parsed.why_not(of({"tier": "daily", "note": "x"})) == "confidence is absent; note is present"
    assert parsed.why_not(of({"tier": "daily"})) is None
    assert Filter.parse({"s": {"not": "A"}}).why_not(of({"s": "A"})) == 's is "A", which `not` excludes'
    long = Filter.parse({"s": [f"S{n}" for n in range(500)]}).why_not(of({"s": "x" * 500}))
    assert long is not None
    assert len(long) < 200


def test_constraints_are_half_open() -> None:
    def constraint(spec: Any) -> Constraint:
        return Filter.parse({"f": spec}).clauses[0][0]

    assert constraint({"gt": 1}) == ("f", None, None, math.nextafter(1, 2), None, None)
    assert constraint({"lte": 1}).upper == math.nextafter(1, 2)
    assert constraint({"gt": "a"}).lower == "a\0"
    assert constraint({"gte": "a", "lt": "b"})[3:5] == ("a", "b")
    assert type(constraint({"gte": 1}).lower) is float
    assert constraint(["A", True, None]).accept == {"A", Truth.TRUE, None}
    assert constraint({"in": [1, 2], "eq": 1}).accept == {1}
    assert constraint({"eq": 1, "in": [2]}).accept == frozenset()
    assert constraint({"not": 1.5, "exists": True}) == ("f", None, {1.5}, None, None, True)


def test_it_keeps_its_json_and_no_more() -> None:
    where = [{"b.c": {"gte": Decimal("0.80")}, "@key": ["A"]}, {"a": None}]
    parsed = Filter.parse(where)
    assert parsed.source == b'[{"b.c":{"gte":0.80},"@key":["A"]},{"a":null}]'
    assert parsed.fields == ("@key", "a", "b.c")
    assert parsed == Filter(parsed.source)
    before = parsed.clauses
    filters._parsed.clear()
    assert parsed.clauses == before


def test_the_cache_of_clauses_is_bounded() -> None:
    for n in range(filters.CACHED + 50):
        Filter.parse({"f": n})
    Filter.parse({"f": ["x" * 50] * 100})
    assert len(filters._parsed) == filters.CACHED


def test_messagepack_decimals_are_numbers() -> None:
    ext = msgspec.msgpack.Ext(1, b"0.1")
    assert holds({"f": ext}, f=0.1)
    assert holds({"f": {"gte": ext}}, f=0.1)
    assert holds({"f": [Decimal("7")]}, f=7)
    assert Filter.parse({"f": ext}).source == b'{"f":0.1}'


INVALID = ErrorCode.INVALID_FILTER
LIMIT = ErrorCode.LIMIT_EXCEEDED


@pytest.mark.parametrize(
    ("where", "code", "field"),
    [
        ([], INVALID, "where"),
        ("x", INVALID, "where"),
        (None, INVALID, "where"),
        ([1], INVALID, "where[0]"),
        ([{}, [{}]], INVALID, "where[1]"),
        ({"tier": []}, INVALID, "where.tier"),
        ({"tier": {}}, INVALID, "where.tier"),
        ([{"a": 1}, {"tier": {"like": "x"}}], INVALID, "where[1].tier.like"),
        ({"tier": {"in": []}}, INVALID, "where.tier.in"),
        ({"tier": {"in": "x"}}, INVALID, "where.tier.in"),
        ({"tier": {"not": []}}, INVALID, "where.tier.not"),
        ({"tier": {"not": {"in": ["a"]}}}, INVALID, "where.tier.not"),
        ({"tier": {"not": ["a", []]}}, INVALID, "where.tier.not[1]"),
        ({"tier": {"eq": ["x"]}}, INVALID, "where.tier.eq"),
        ({"tier": {"eq": {"x": 1}}}, INVALID, "where.tier.eq"),
        ({"tier": {"exists": 1}}, INVALID, "where.tier.exists"),
        ({"tier": ["x", {"a": 1}]}, INVALID, "where.tier[1]"),
        ({"tier": {"in": ["x", ["y"]]}}, INVALID, "where.tier.in[1]"),
        ({"tier": b"x"}, INVALID, "where.tier"),
        ({"tier": [b"x"]}, INVALID, "where.tier[0]"),
        ({"tier": msgspec.msgpack.Ext(2, b"x")}, INVALID, "where.tier"),
        ({"tier": msgspec.msgpack.Ext(1, b"x")}, INVALID, "where.tier"),
        ({"tier": Decimal("NaN")}, INVALID, "where.tier"),
        ({"c": {"gte": math.nan}}, INVALID, "where.c.gte"),
        ({"c": {"lt": math.inf}}, INVALID, "where.c.lt"),
        ({"c": {"lt": 10**400}}, INVALID, "where.c.lt"),
        ({"c": Decimal("1e999")}, INVALID, "where.c"),
        ({"c": [10**400]}, INVALID, "where.c[0]"),
        ({"c": {"gte": True}}, INVALID, "where.c.gte"),
        ({"c": {"gte": None}}, INVALID, "where.c.gte"),
        ({"c": {"gte": "a", "lt": 1}}, INVALID, "where.c.lt"),
        ({"c": {"gt": 1, "gte": "a"}}, INVALID, "where.c.gte"),
        ({1: "x"}, INVALID, "where"),
        ({"": "x"}, INVALID, "where."),
        ({"a..b": "x"}, INVALID, "where.a..b"),
        ({".a": "x"}, INVALID, "where..a"),
        ({"a.": "x"}, INVALID, "where.a."),
        ({"@topic": "x"}, INVALID, "where.@topic"),
        ({"f": "\ud800"}, INVALID, "where"),
        ([{}] * 33, LIMIT, "where"),
        ([{str(n): 1 for n in range(33)}] * 2, LIMIT, "where[1]"),
        ({"f": ["x"] * 1001}, LIMIT, "where.f"),
        ({"f": {"not": list(range(1001))}}, LIMIT, "where.f.not"),
        ([{"f": ["x"] * 1000}] * 11, LIMIT, "where[10].f"),
        ({"é" * 128: 1}, LIMIT, "where"),
    ],
)
def test_refused_by_name(where: Any, code: ErrorCode, field: str) -> None:
    with pytest.raises(RequestError) as error:
        Filter.parse(where)
    assert (error.value.code, error.value.field) == (code, field)


def test_limits_are_within_reach() -> None:
    Filter.parse([{"a": 1, "b": 2}] * 32)
    Filter.parse([{"f": ["x"] * 1000}] * 10)
    Filter.parse({"é" * 127: 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("gt", "gte", "lt", "lte", "eq", "in", "not", "exists", "a", "@key", "@", "b.c")), inner
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_anything_is_a_filter_or_refused(where: Any) -> None:
    try:
        parsed = Filter.parse(where, "x")
    except RequestError as error:
        assert error.field is not None
        assert error.field.startswith("x")
    else:
        assert Filter.parse(msgspec.json.decode(parsed.source)) == parsed
        assert Filter(parsed.source).clauses == parsed.clauses
        parsed.why_not(lambda _: 1)


VALUES = st.sampled_from(
    [None, True, 0, 1, 1.5, math.nextafter(1.5, 2), 2, 2**64, "", "a", "a\0", "b", [], {}, MISSING]
)


@given(
    st.dictionaries(st.sampled_from(("gt", "gte", "lt", "lte")), st.sampled_from((0, 1, 1.5, 2)))
    | st.dictionaries(st.sampled_from(("gt", "gte", "lt", "lte")), st.sampled_from(("", "a", "b"))),
    VALUES,
)
def test_the_half_open_interval_is_what_the_operators_say(spec: dict[str, Any], value: Any) -> None:
    if not spec:
        return
    parsed = Filter.parse({"f": spec})
    lower: Any = parsed.clauses[0][0].lower
    upper: Any = parsed.clauses[0][0].upper
    kind = type(lower if upper is None else upper)
    if type(value) in (int, float):
        value = number(value)
    inside = type(value) is kind and (lower is None or lower <= value) and (upper is None or value < upper)
    assert parsed.holds(lambda _: value) is inside


def test_scalars_are_told_apart_as_json_does() -> None:
    assert len({scalar(v) for v in (None, True, False, 1, 0, 1.0, 0.0, "1", "")}) == 7
    assert scalar(2**64 - 1) == 2**64 - 1
    assert type(scalar(2**64)) is float
    assert (number(10**400), number(-(10**400))) == (math.inf, -math.inf)
    with pytest.raises(TypeError):
        scalar([])
